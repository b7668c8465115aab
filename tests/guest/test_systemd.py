# SPDX-License-Identifier: Apache-2.0
"""Ketch as a service of systemd: ready, watched, delegated to, logging, replaced under running containers."""

import os
import signal
import time
from pathlib import Path

import pytest

from proto import cri_pb2 as pb
from runtime.linux import processes
from tests.guest.conftest import DROP_IN
from tests.guest.node import UNIT, Node, install, run
from tests.support.pod_driver import Container, wait_for


def running(node: Node) -> tuple[Container, int]:
    """A container that counts into its log, and the pid of its init."""
    container = node.run_pod().start("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.2; done")
    return container, int(container.info()["pid"])


def counts_on(container: Container) -> None:
    """The container writes on, and every number of its log follows the one before."""
    seen = len(container.lines())
    wait_for(lambda: len(container.lines()) > seen + 3, 10, container.output)
    numbers = [int(text) for _, _, text in container.lines()]
    assert numbers == list(range(1, len(numbers) + 1)), "lines are missing or doubled"


def test_the_unit_is_started_when_the_server_answers(node: Node) -> None:
    run("systemctl", "restart", "ketch-cri")
    node.reach()
    assert node.call("Version", deadline=2).runtime_name == "ketch"
    assert run("systemctl", "is-active", "ketch-cri").strip() == "active"


def test_containers_run_on_when_the_unit_is_stopped_and_started(node: Node) -> None:
    container, pid = running(node)
    began = processes.start_time(pid)
    run("systemctl", "stop", "ketch-cri")
    assert processes.start_time(pid) == began
    run("systemctl", "start", "ketch-cri")
    node.reach()
    assert container.status().state == pb.CONTAINER_RUNNING
    counts_on(container)


def test_a_killed_server_is_started_again_and_knows_its_containers(node: Node) -> None:
    container, pid = running(node)
    former = node.main_pid()
    os.kill(former, signal.SIGKILL)
    node.wait_for_another(former)
    assert container.status().state == pb.CONTAINER_RUNNING
    assert int(container.info()["pid"]) == pid
    counts_on(container)


def test_a_server_that_hangs_is_replaced_by_the_watchdog(node: Node) -> None:
    DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    DROP_IN.write_text("[Service]\nWatchdogSec=8\nTimeoutAbortSec=2\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", "ketch-cri")
    node.reach()
    container, _ = running(node)
    former = node.main_pid()
    time.sleep(10)  # a healthy server outlives the watchdog's time: this is the span itself
    assert node.main_pid() == former
    os.kill(former, signal.SIGSTOP)
    node.wait_for_another(former)
    assert "watchdog" in run("journalctl", "-u", "ketch-cri", "--no-pager").lower()
    counts_on(container)


def test_the_journal_has_what_the_server_says(node: Node) -> None:
    run("systemctl", "restart", "ketch-cri")
    said = run("journalctl", "-u", "ketch-cri", "--no-pager", f"_PID={node.main_pid()}")
    assert "serving /run/ketch/ketch.sock" in said, said


def test_the_groups_beneath_the_unit_are_ours(node: Node) -> None:
    assert run("systemctl", "show", "ketch-cri", "--property=Delegate", "--value").strip() == "yes"
    container, pid = running(node)
    group = Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::")
    assert container.id in group
    run("systemctl", "daemon-reload")  # systemd writes the limits of its own units again: ours must stay
    container.daemon.call(
        "UpdateContainerResources",
        container_id=container.id,
        linux=pb.LinuxContainerResources(memory_limit_in_bytes=64 << 20, cpu_quota=50000, cpu_period=100000),
    )
    run("systemctl", "daemon-reload")
    assert Path(f"/sys/fs/cgroup{group}/memory.max").read_text().strip() == str(64 << 20)
    assert Path(f"/sys/fs/cgroup{group}/cpu.max").read_text().split() == ["50000", "100000"]


def test_an_upgrade_in_place_touches_no_container(node: Node) -> None:
    """From the server of the checkout to an installed one, on the same state, under a container that counts."""
    container, pid = running(node)
    former, unit = node.main_pid(), UNIT.read_text()
    install()
    try:
        UNIT.unlink()
        run("systemctl", "daemon-reload")
        counts_on(container)
        run("systemctl", "restart", "ketch-cri")
        node.reach()
        assert node.main_pid() != former
        assert "/usr/local/lib/ketch" in Path(f"/proc/{node.main_pid()}/cmdline").read_text()
        assert int(container.info()["pid"]) == pid
        assert container.sh("echo by exec").strip() == "by exec"
        counts_on(container)
        node.run_pod().start("sleep", "1000")
        assert run("/usr/local/bin/ketch", "doctor", "--verify", check=False)
    finally:
        UNIT.write_text(unit)
        run("systemctl", "daemon-reload")


def test_a_containers_start_is_printed_beside_the_boot_of_its_guest(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    """No assertion on the ratio: the figures are for people, in vagrant/RESULTS.md."""
    pod = node.run_pod()
    container = pod.create("sleep", "1000")
    began = time.monotonic()
    container.start()
    took = time.monotonic() - began
    boot = run("systemd-analyze", "time").splitlines()[0]
    with capsys.disabled():
        print(f"\na container's start: {took * 1000:.0f} ms; {boot}")
    assert container.status().state == pb.CONTAINER_RUNNING
