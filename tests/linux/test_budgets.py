# SPDX-License-Identifier: Apache-2.0
"""Budgets that must not rot, held on counts: modules a cold command imports, calls it makes, processes it forks."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support import instruments, kernel
from tests.support.hand import Ketch
from tests.support.needs import needs

BARE = [instruments.INTERPRETER, "-I", "-S", "-c", "pass"]


def slow(modules: list[str]) -> list[str]:
    return [m for m in modules if m in instruments.SLOW_MODULES or m.partition(".")[0] in instruments.SLOW_MODULES]


def test_the_version_costs_a_handful_of_modules_and_no_process() -> None:
    version = [instruments.command("ketch-runtime"), "--version"]
    modules = instruments.modules_imported(version)
    assert slow(modules) == []
    assert len(modules) <= 13, modules
    assert instruments.processes_forked(version) == 0
    beyond = sum(instruments.system_calls(version).values()) - sum(instruments.system_calls(BARE).values())
    assert beyond <= 120, beyond


@pytest.mark.parametrize("verb", [["state", "absent"], ["kill", "absent"], ["delete", "absent"], ["list"]])
def test_a_question_to_the_runtime_imports_nothing_slow(verb: list[str], tmp_path: Path) -> None:
    asked = [instruments.command("ketch-runtime"), "--root", str(tmp_path), *verb]
    assert slow(instruments.modules_imported(asked)) == []
    assert instruments.processes_forked(asked) == 0


def test_state_imports_fifteen_modules(tmp_path: Path) -> None:
    """Of ours and of the standard library, beyond those of a Python that does nothing. `os` alone would be six."""
    asked = [instruments.command("ketch-runtime"), "--root", str(tmp_path / "state")]
    for command, seconds in ((["run", "--detach"], "1000"), (["create"], "1001")):
        subprocess.run([*asked, *command, "--bundle", _bundle(tmp_path, "/bin/sleep", seconds), command[0]], check=True)
    try:
        assert len(modules := instruments.modules_imported([*asked, "state", "run"])) <= 15, modules
        # It is asked whether somebody listens on the start socket.
        created = instruments.modules_imported([*asked, "state", "create"])
        assert {*created} - {*modules} == {"_socket", "runtime.linux.fdpass"}
    finally:
        for name in ("run", "create"):
            subprocess.run([*asked, "delete", "--force", name], check=True)


def _bundle(top: Path, *command: str) -> str:
    from tests.bench.suites.oci import _config
    from tests.support.rootfs import make_rootfs

    bundle = top / command[-1].strip("/").replace("/", "-")
    bundle.mkdir()
    (bundle / "config.json").write_text(json.dumps(_config(make_rootfs(bundle / "rootfs"), list(command))))
    return str(bundle)


def test_run_and_exec_import_nothing_slow_and_fork_little(tmp_path: Path) -> None:
    asked = [instruments.command("ketch-runtime"), "--root", str(tmp_path / "state")]
    run = [*asked, "run", "--bundle", _bundle(tmp_path, "/bin/true"), "short"]
    found = instruments.modules_imported(run)
    assert slow(found) == []
    assert {"os", "struct", "runtime.create", "runtime.launch", "runtime.inside"} & {*found} == set()  # the long way
    assert len(found) <= 56, found
    assert instruments.processes_forked(run) == 2  # act.c, and the init that it gives birth to
    subprocess.run([*asked, "run", "--detach", "--bundle", _bundle(tmp_path, "/bin/sleep", "1000"), "long"], check=True)
    try:
        execute = [*asked, "exec", "long", "/bin/true"]
        assert slow(instruments.modules_imported(execute)) == []
        assert instruments.processes_forked(execute) == 2  # act.c, and the program
    finally:
        subprocess.run([*asked, "delete", "--force", "long"], check=True)


@needs("crun")
def test_run_makes_at_most_half_more_system_calls_than_crun(tmp_path: Path) -> None:
    from tests.bench.__main__ import _show_debians_crun_no_hybrid

    _show_debians_crun_no_hybrid()
    bundle = _bundle(tmp_path, "/bin/true")
    counts = {}
    for program in (instruments.command("ketch-runtime"), "crun"):
        run = [program, "--root", str(tmp_path / "state"), "run", "--bundle", bundle, "counted"]
        counts[program] = sum(instruments.system_calls(run).values())
    kernel.umount("/sys/fs/cgroup/unified/cgroup.controllers")
    ours, theirs = counts.values()
    assert ours <= 1.5 * theirs, counts


@needs("bridge", "veth")
def test_an_attachment_imports_nothing_slow(tmp_path: Path) -> None:
    network = {
        "cniVersion": "1.0.0",
        "name": "budget",
        "type": "bridge",
        "bridge": "budget0",
        "stateDir": str(tmp_path / "state"),
        "ipam": {"type": "host-local", "dataDir": str(tmp_path), "subnet": "10.1.0.0/24"},
    }
    subprocess.run(["ip", "netns", "add", "budget"], check=True)
    try:
        for verb in ("ADD", "DEL"):
            environment = {
                "CNI_COMMAND": verb,
                "CNI_CONTAINERID": "budget",
                "CNI_NETNS": "/run/netns/budget",
                "CNI_IFNAME": "eth0",
                "CNI_PATH": str(instruments.TOP / "build/cni/bin"),
            }
            data = json.dumps(network).encode()
            told = instruments.modules_imported([instruments.command("bridge")], stdin=data, environment=environment)
            assert "cni.plugins.bridge" in told
            assert slow(told) == []
    finally:
        subprocess.run(["ip", "netns", "del", "budget"], check=True)
        subprocess.run(["ip", "link", "del", "budget0"], check=True)
        kernel.umount("/run/netns")  # ip has made it and bound it on itself
        os.rmdir("/run/netns")


@needs("overlay", "bridge", "veth")
def test_a_container_by_hand_imports_no_registry_no_archive_and_no_dataclasses(tmp_path: Path) -> None:
    hand = Ketch(tmp_path)
    try:
        hand("image", "local")
        hand("run", "-d", "--name", "box", "busybox", "sleep", "60")
        for words, most in ((["run", "--rm", "busybox", "true"], 250), (["exec", "box", "true"], 215), (["ps"], 90)):
            command = [instruments.command("ketch"), *words]
            found = instruments.modules_imported(command, environment={**hand.environment})
            unwanted = {"dataclasses", "inspect", "ssl", "http.client", "logging", "cri.images.pull", "cri.images.tar"}
            assert unwanted & set(found) == set(), words
            assert len(found) <= most, (words, len(found), found)
    finally:
        hand.close()
