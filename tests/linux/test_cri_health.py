# SPDX-License-Identifier: Apache-2.0
"""The daemon itself: deadlines and cancellation, the limit on calls, what it shows of itself, what it tells systemd."""

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from proto import cri_pb2 as pb
from runtime.keep import client as keep
from runtime.linux import durable
from tests.support.needs import needs
from tests.support.pod_driver import BUSYBOX, METHODS, NETWORK, TOP, Daemon, daemon, wait_for

pytestmark = needs("root", "overlay", "veth", "bridge", "nft", "busybox")
CYCLES = int(os.environ.get("KETCH_CYCLES", "60"))


@pytest.fixture
def cri(tmp_path: Path) -> Iterator[Daemon]:
    yield from daemon(tmp_path)


def ketch(cri: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    command = [TOP / ".venv/bin/ketch", "--state", cri.state, "--root", cri.root, *words]
    return subprocess.run(command, capture_output=True, text=True)


def future(cri: Daemon, method: str, deadline: float = 60, **fields: object) -> grpc.Future:
    """A call that somebody may cancel."""
    service, described = METHODS[method]
    kind = getattr(pb, described.input_type.name)
    stub = cri.channel.unary_unary(
        f"/{service.full_name}/{method}",
        request_serializer=kind.SerializeToString,
        response_deserializer=getattr(pb, described.output_type.name).FromString,
    )
    return stub.future(kind(**fields), timeout=deadline)


def running(cri: Daemon) -> str:
    return ketch(cri, "debug", "calls").stdout


def test_a_call_that_waits_for_a_lock_is_shown_and_gives_up_with_its_caller(cri: Daemon) -> None:
    pod = cri.run_pod()
    with durable.lock(str(cri.state / "pods" / pod.id)):
        waiting = future(cri, "StopPodSandbox", deadline=2, pod_sandbox_id=pod.id)
        wait_for(lambda: "StopPodSandbox" in running(cri), 5, lambda: running(cri))
        shown = ketch(cri, "debug", "stacks").stdout
        assert "StopPodSandbox, for" in shown
        assert "in lock" in shown[shown.index("StopPodSandbox, for") :]
        assert waiting.exception().code() == grpc.StatusCode.DEADLINE_EXCEEDED
        wait_for(lambda: running(cri) == "no call runs\n", 5, lambda: running(cri))
    assert pod.status().state == pb.SANDBOX_READY
    pod.stop()


def test_a_pod_that_nobody_waits_for_any_more_is_taken_back(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    slow = plugins / "slow"
    slow.write_text(
        "#!/bin/sh\nconfig=$(cat)\n"
        f'[ "$CNI_COMMAND" != ADD ] || {{ touch {tmp_path}/adding; sleep 3; }}\n'
        '[ "$CNI_COMMAND" != VERSION ] || '
        '{ echo \'{"cniVersion":"1.0.0","supportedVersions":["1.0.0","1.1.0"]}\'; exit; }\n'
        'echo \'{"cniVersion":"1.1.0","ips":[{"address":"10.9.9.9/24"}]}\'\n'
    )
    slow.chmod(0o755)
    network = json.loads(json.dumps(NETWORK))
    network["plugins"].append({"type": "slow"})
    made = daemon(tmp_path, network=network, config=f'plugin_dirs = ["{plugins}"]\n')
    cri = next(made)
    try:
        metadata = {"name": "p", "namespace": "n", "uid": "u"}
        call = future(cri, "RunPodSandbox", deadline=1.5, config=pb.PodSandboxConfig(metadata=metadata))
        assert call.exception().code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert (tmp_path / "adding").exists()
        wait_for(lambda: running(cri) == "no call runs\n", 10, lambda: running(cri))
        assert os.listdir(cri.state / "pods") == []
        assert os.listdir(tmp_path / "netns") == []
        assert not [n for n in os.listdir(tmp_path / "cni/networks/pods") if n.startswith("10.88")]
    finally:
        made.close()


def test_only_who_wants_to_change_what_is_gone_is_worth_a_warning(cri: Daemon) -> None:
    """A kubelet asks once more for what it has just removed."""
    container = cri.run_pod().create("true")
    container.remove()
    with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
        container.status()
    assert "WARNING" not in cri.log.read_text()
    with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
        container.start()
    assert "WARNING cri.boundary: StartContainer: NOT_FOUND" in cri.log.read_text()


def test_an_exec_dies_with_its_caller(cri: Daemon) -> None:
    container = cri.run_pod().start("sleep", "1000")
    call = future(cri, "ExecSync", container_id=container.id, cmd=["sleep", "777"])
    wait_for(lambda: "sleep 777" in container.sh("ps"), 5, lambda: container.sh("ps"))
    call.cancel()
    wait_for(lambda: "sleep 777" not in container.sh("ps"), 5, lambda: container.sh("ps"))


def test_a_stop_that_nobody_waits_for_does_not_wait_for_the_grace_period(cri: Daemon) -> None:
    container = cri.run_pod().start("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    call = future(cri, "StopContainer", container_id=container.id, timeout=1000)
    wait_for(lambda: "StopContainer" in running(cri), 5, lambda: running(cri))
    call.cancel()
    wait_for(lambda: running(cri) == "no call runs\n", 5, lambda: running(cri))
    assert container.status().state == pb.CONTAINER_RUNNING
    container.stop()


def test_what_comes_when_too_many_wait_is_refused(tmp_path: Path) -> None:
    made = daemon(tmp_path)
    cri = next(made)
    try:
        cri.stop()
        text = cri.config.read_text().replace("[cri]\n", "[cri]\nmax_concurrent_calls = 4\nmax_waiting_calls = 2\n")
        cri.config.write_text(text)
        cri.start()
        container = cri.run_pod().start("sleep", "1000")
        calls = [future(cri, "ExecSync", container_id=container.id, cmd=["sleep", "2"], timeout=20) for _ in range(12)]
        refused = [c.exception() for c in calls]
        codes = [error.code() for error in refused if error is not None]
        assert 6 <= len(codes) < 12
        assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert cri.call("Version").runtime_name == "ketch"
    finally:
        made.close()


def test_what_was_counted_is_there_for_prometheus_on_request_only(cri: Daemon) -> None:
    cri.run_pod().start("sleep", "1000")
    text = ketch(cri, "debug", "metrics").stdout
    assert 'ketch_calls_total{method="RunPodSandbox",code="OK"} 1' in text
    assert 'ketch_call_seconds_bucket{method="RunPodSandbox",le="+Inf"} 1' in text
    assert 'ketch_phase_seconds_count{method="RunPodSandbox",phase="network"} 1' in text
    assert 'ketch_containers{state="running"} 1' in text
    assert "process_resident_memory_bytes" in text
    cri.stop()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    cri.config.write_text(cri.config.read_text().replace("[cri]\n", f'[cri]\nmetrics_address = "{address}"\n'))
    cri.start()
    cri.call("Version")
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        assert 'ketch_calls_total{method="Version",code="OK"}' in answer.read().decode()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://{address}/stacks", timeout=5)


def test_the_sockets_are_roots_alone(cri: Daemon) -> None:
    for path in (cri.socket, cri.state / "debug.sock"):
        assert path.stat().st_mode & 0o777 == 0o600
        attempt = f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r})"
        done = subprocess.run(
            ["/usr/bin/python3", "-c", attempt], user=65534, group=65534, capture_output=True, text=True
        )
        assert "PermissionError" in done.stderr


def test_systemd_is_told_of_the_life_of_the_daemon(cri: Daemon, tmp_path: Path) -> None:
    cri.stop()
    name = f"\0ketch-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(name)
        told.settimeout(10)
        plain = cri.command
        cri.command = ["env", f"NOTIFY_SOCKET=@{name[1:]}", "WATCHDOG_USEC=400000", *plain]
        cri.start()
        assert told.recv(100) == b"READY=1"
        started = time.monotonic()
        assert [told.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        assert time.monotonic() - started < 5
        container = cri.run_pod().start("sleep", "1000")
        assert "NOTIFY_SOCKET" not in container.sh("env")
        cri.stop()
        heard = set()
        while b"STOPPING=1" not in heard:
            heard.add(told.recv(100))
        cri.command = plain
    cri.start()


def test_nobody_is_told_where_systemd_did_not_ask(cri: Daemon) -> None:
    assert "systemd" not in cri.log.read_text()


def test_a_reload_takes_over_what_it_can_and_names_what_needs_a_restart(cri: Daemon) -> None:
    container = cri.run_pod().start("sleep", "1000")
    image = cri.call("ImageStatus", image={"image": BUSYBOX}).image
    assert not image.pinned
    wanted = cri.config.read_text().replace("[cri]\n", '[cri]\nlog_level = "debug"\nmax_waiting_calls = 7\n')
    wanted += f'[images]\npinned = ["{BUSYBOX}"]\n[runtime.handlers.later]\n'
    cri.config.write_text("[cri]\nsokcet = 1\n")
    hang_up(cri, "not reloaded: ")
    assert "sokcet" in cri.log.read_text()
    with pytest.raises(grpc.RpcError, match="later"):
        cri.run_pod(handler="later")
    cri.config.write_text(wanted)
    hang_up(cri, "needs a restart: cri.max_waiting_calls")
    assert cri.call("ImageStatus", image={"image": BUSYBOX}).image.pinned
    assert "later" in {each.name for each in cri.call("Status").runtime_handlers}
    cri.run_pod(handler="later").start("sleep", "1000")
    assert container.status().state == pb.CONTAINER_RUNNING


def hang_up(cri: Daemon, answer: str) -> None:
    assert cri.process is not None
    cri.process.send_signal(signal.SIGHUP)
    wait_for(lambda: answer in cri.log.read_text(), 10, lambda: cri.log.read_text())


@pytest.mark.timeout(60 + 2 * CYCLES)
def test_nothing_of_ours_grows_with_the_pods_that_came_and_went(cri: Daemon) -> None:
    """By hand KETCH_CYCLES=3000 stands for a node's day. What fills caches comes first and does not count."""
    a_day_of_pods(cri, 60 + CYCLES // 10)
    before = ours(cri)
    a_day_of_pods(cri, CYCLES)
    after = ours(cri)
    print(f"{CYCLES} pods: {before} -> {after}")
    assert after.descriptors <= before.descriptors + 4
    assert after.threads <= before.threads + 4
    assert after.pss_kib <= before.pss_kib + 3072


def a_day_of_pods(cri: Daemon, number: int) -> None:
    """What a kubelet does around one pod: lists, status, probes, stats; four pods at a time."""

    def one(_: int) -> None:
        pod = cri.run_pod()
        container = pod.start("sleep", "1000")
        for _ in range(3):
            container.exec("true")
        for method in ("ListPodSandbox", "ListContainers", "ListContainerStats", "Status", "ListPodSandboxMetrics"):
            cri.call(method)
        container.status()
        container.stop()
        pod.stop()
        pod.remove()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(number)))


@dataclass(frozen=True, slots=True)
class Footprint:
    pss_kib: int
    descriptors: int
    threads: int


def ours(cri: Daemon) -> Footprint:
    """Daemon, spawner and keepers together."""
    assert cri.process is not None
    spawner = int(keep.Client(str(cri.state)).ping()["pid"])
    children = Path(f"/proc/{spawner}/task/{spawner}/children").read_text().split()
    places = [Path(f"/proc/{pid}") for pid in (cri.process.pid, spawner, *children)]
    pss = [re.search(r"^Pss:\s+(\d+)", (place / "smaps_rollup").read_text(), re.M) for place in places]
    return Footprint(
        pss_kib=sum(int(found[1]) for found in pss if found is not None),
        descriptors=sum(len(os.listdir(place / "fd")) for place in places),
        threads=sum(len(os.listdir(place / "task")) for place in places),
    )


def test_a_slow_call_is_named_in_the_log(cri: Daemon) -> None:
    cri.stop()
    cri.config.write_text(cri.config.read_text().replace("[cri]\n", "[cri]\nslow_call_seconds = 1.0\n"))
    cri.start()
    pod = cri.run_pod()
    with durable.lock(str(cri.state / "pods" / pod.id)):
        future(cri, "StopPodSandbox", deadline=4, pod_sandbox_id=pod.id).exception()
    assert "slow: StopPodSandbox" in cri.log.read_text()
