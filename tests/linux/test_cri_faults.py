# SPDX-License-Identifier: Apache-2.0
"""kill -9 of daemon, spawner and keepers at random moments, under pods that come and go: nothing is lost or left."""

import contextlib
import itertools
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import grpc
import pytest

from proto import cri_pb2 as pb
from runtime.keep.log_file import READ_BYTES
from tests.support.needs import needs
from tests.support.pod_driver import Container, Daemon, daemon, wait_for

pytestmark = needs("root", "overlay", "veth", "bridge", "nft", "busybox")
# By hand: KETCH_KILLS=300 KETCH_LOAD=20 pytest tests/linux/test_cri_faults.py
KILLS = int(os.environ.get("KETCH_KILLS", "12"))
LOAD = int(os.environ.get("KETCH_LOAD", "3"))
COUNT = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done"


@pytest.fixture
def cri(tmp_path: Path) -> Iterator[Daemon]:
    yield from daemon(tmp_path)


class Load(threading.Thread):
    """Pods that come and go, whoever dies meanwhile."""

    def __init__(self, cri: Daemon, number: int) -> None:
        super().__init__(name=f"load-{number}")
        self.cri = cri
        self.number = number
        self.done = threading.Event()
        self.cycles = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self.done.is_set():
            try:
                self.cycle()
                self.cycles += 1
            except (grpc.RpcError, ValueError):
                time.sleep(0.05)  # ValueError: the channel was closed under us

    def cycle(self) -> None:
        labels = {"load": str(self.number)}
        for left in self.cri.call("ListPodSandbox", filter=pb.PodSandboxFilter(label_selector=labels)).items:
            # of a cycle that was struck; a kubelet tries again, too
            self.cri.call("StopPodSandbox", pod_sandbox_id=left.id)
            self.cri.call("RemovePodSandbox", pod_sandbox_id=left.id)
        pod = self.cri.run_pod(f"load-{self.number}-{time.monotonic_ns()}", labels=labels)
        container = pod.start("sh", "-c", "exit 7")
        status = container.wait(5)
        if status.state == pb.CONTAINER_EXITED and status.exit_code != 7:
            self.wrong.append(f"exit code {status.exit_code} was invented: {status}")
        pod.stop()
        pod.remove()


def spawner_pid(cri: Daemon) -> int:
    """Of one that answers: who was killed last may still take a connection on a busy machine, and then say nothing."""
    from runtime.keep.client import Client, SpawnerGone

    client = Client(str(cri.state))
    for _ in range(10):
        try:
            return int(client.ping()["pid"])
        except SpawnerGone:
            time.sleep(0.1)
    return int(client.ping()["pid"])


def keepers() -> list[int]:
    """Also those whose spawner has died: this test has a PID namespace of its own."""
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/comm") if _read(path) == "ketch-keeper\n"]


def _read(path: Path) -> str:
    """Of a process, which may have ended."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        return path.read_text()
    return ""


def strike(cri: Daemon, chance: random.Random) -> tuple[str, float]:
    """Kill one of ours; returns whom and when."""
    whom = chance.choice(("daemon", "spawner", "keeper"))
    if whom == "daemon":
        cri.kill()
        cri.start()
        return whom, time.time()
    while True:
        victims = [spawner_pid(cri)] if whom == "spawner" else keepers()
        when = time.time()
        with contextlib.suppress(IndexError, ProcessLookupError):  # nobody keeps at this moment; it was about to end
            os.kill(chance.choice(victims), signal.SIGKILL)
            return whom, when
        spawner_pid(cri)  # it gives away what the last ones have left


@pytest.mark.timeout(300 + 20 * KILLS)
def test_nothing_is_lost_and_nothing_is_left_when_our_processes_are_killed(cri: Daemon) -> None:
    chance = random.Random(int(os.environ.get("KETCH_SEED", "5")))
    pod = cri.run_pod("steady")
    steady = [pod.start("sh", "-c", COUNT, name=f"steady-{i}") for i in range(3)]
    pids = [c.info()["pid"] for c in steady]
    load = [Load(cri, i) for i in range(LOAD)]
    for thread in load:
        thread.start()
    strikes = []
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.05, 0.6))
        strikes.append(strike(cri, chance))
    struck = [whom for whom, _ in strikes]
    for thread in load:
        thread.done.set()
    for thread in load:
        thread.join(120)
    assert not [w for thread in load for w in thread.wrong]
    cycles = sum(thread.cycles for thread in load)
    assert cycles > 0, struck
    cri.kill()
    cri.start()
    deaths = [when for whom, when in strikes if whom == "keeper"]
    lost: list[int] = []
    for container, pid in zip(steady, pids, strict=True):
        assert container.status().state == pb.CONTAINER_RUNNING, struck
        assert container.info()["pid"] == pid, struck
        for gap in gaps(container):
            dead = sum(gap.before < when < gap.behind for when in deaths)
            assert gap.byte_count <= dead * READ_BYTES, (gap, strikes)
            lost.append(gap.lines)
        before = len(numbered(container))
        wait_for(lambda c=container, n=before: len(numbered(c)) > n, 5, lambda: f"the log stands still: {strikes}")
    for left in cri.call("ListPodSandbox").items:
        if left.id != pod.id:
            for _ in range(2):
                cri.call("StopPodSandbox", pod_sandbox_id=left.id)
                cri.call("RemovePodSandbox", pod_sandbox_id=left.id)
    assert os.listdir(cri.state / "pods") == [pod.id]
    assert len(os.listdir(cri.state / "bundles")) == 3
    assert len(os.listdir(cri.folder / "netns")) == 1
    wait_for(lambda: len(os.listdir(cri.root / "images/rootfs")) == 3, 5, lambda: "writable layers are left")
    assert reserved(cri) == masqueraded() == {pod.status().network.ip}
    wait_for(lambda: len(list(Path("/sys/class/net").glob("veth*"))) == 1, 5, lambda: "links are left")
    assert standing() == {pod.id, *(c.id for c in steady)}
    kinds = ", ".join(f"{struck.count(whom)} {whom}s" for whom in ("daemon", "spawner", "keeper"))
    print(f"{KILLS} kills ({kinds}) under {LOAD} pods: {cycles} pod cycles went through, log lines lost: {lost}")


def reserved(cri: Daemon) -> set[str]:
    """The addresses that somebody holds."""
    return {name for name in os.listdir(cri.folder / "cni/networks/pods") if name.startswith("10.88.")}


def masqueraded() -> set[str]:
    """The pods' addresses that rules speak of."""
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"10\.88\.\d+\.\d+\b(?!/)", rules)) - {"10.88.0.1"}


def standing() -> set[str]:
    """The pods and containers that have a mount, a control group or a process."""
    traces = [Path("/proc/self/mountinfo").read_text()]
    traces += [str(path) for path in Path("/sys/fs/cgroup").rglob("*") if path.is_dir()]
    traces += [_read(path) for path in Path("/proc").glob("[0-9]*/cgroup")]
    return set(re.findall(r"\b[0-9a-f]{64}\b", "\n".join(traces)))


@dataclass(frozen=True, slots=True)
class Gap:
    """Lines that a log lacks: when those before and behind them were written, and what they held."""

    before: float
    behind: float
    lines: int
    byte_count: int


def numbered(container: Container) -> list[tuple[float, int]]:
    """When each line was written, and its number."""
    written = (line.split(" ", 3) for line in Path(container.status().log_path).read_text().splitlines())
    return [(datetime.fromisoformat(stamp).timestamp(), int(number)) for stamp, _, _, number in written]


def gaps(container: Container) -> Iterator[Gap]:
    """A line may only be missing where a keeper has died between its neighbours, and at most one buffer of them."""
    seen = numbered(container)
    assert [number for _, number in seen] == sorted({number for _, number in seen}), "a line twice, or out of order"
    for (before, last), (behind, following) in itertools.pairwise(seen):
        if following > last + 1:
            missing = range(last + 1, following)
            yield Gap(before, behind, len(missing), sum(len(f"{number}\n") for number in missing))


def test_an_exit_while_everything_of_ours_is_dead_is_unknown_and_not_invented(cri: Daemon) -> None:
    container = cri.run_pod().start("sh", "-c", "sleep 1; exit 5")
    spawner = spawner_pid(cri)
    cri.kill()
    os.kill(spawner, signal.SIGKILL)
    for pid in keepers():
        os.kill(pid, signal.SIGKILL)
    time.sleep(1.5)
    cri.start()
    status = container.wait(15)
    assert (status.state, status.exit_code) in ((pb.CONTAINER_UNKNOWN, 255), (pb.CONTAINER_EXITED, 5))
