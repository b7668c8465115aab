# SPDX-License-Identifier: Apache-2.0
"""ketch-cri with many pods: lists and stats of all, memory of daemon, spawner and keepers, recovery after kill -9.

KETCH_PODS says how many (500). What is measured once is printed while the pods come up. containerd is not asked: it
needs 5 MiB and 0.2 s for each.
"""

import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bench.contest import Contender
from tests.bench.stopwatch import Cost
from tests.bench.suites import cri
from tests.support.pod_driver import Daemon

ROUNDS = 20
PODS = int(os.environ.get("KETCH_PODS", "500"))
LISTS = (
    *("ListPodSandbox", "ListContainers", "ListPodSandboxStats", "ListContainerStats", "ListPodSandboxMetrics"),
    *("Status", "ImageFsInfo"),
)


def contenders(work: Path) -> list[Contender]:
    """One, with all its pods up."""
    daemon = Daemon(Path("/run/bench-ketch"))
    cri.stock(daemon, cri.images(work))
    daemon.start()
    before = memory(daemon)
    started = time.monotonic()
    done = 0
    for goal in sorted({min(100, PODS), PODS}):
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(lambda number: one_pod(daemon, number), range(done, goal)))
        done = goal
        report(daemon, before, done, time.monotonic() - started)
    recovery(daemon)
    return [Contender("ketch-cri", asked(daemon), ours=True)]


def one_pod(daemon: Daemon, number: int) -> None:
    daemon.run_pod(f"scale-{number}").start("sleep", "100000")


def report(daemon: Daemon, before: dict[str, int], pods: int, seconds: float) -> None:
    """PSS in MiB; what the pods added is shared by spawner and keepers."""
    now = memory(daemon)
    added = sum(now.values()) - sum(before.values())
    each = "  ".join(f"{who} {kib / 1024:.1f}" for who, kib in now.items())
    print(
        f"{pods} pods with one container after {seconds:.1f} s; PSS MiB: {each}; {added / 1024 / pods:.3f} per pod",
        file=sys.stderr,
    )


def memory(daemon: Daemon) -> dict[str, int]:
    """PSS in KiB of everything of ours, by what it is."""
    from runtime.keep.client import Client

    assert daemon.process is not None
    spawner = int(Client(str(daemon.state)).ping()["pid"])
    children = Path(f"/proc/{spawner}/task/{spawner}/children").read_text().split()
    keepers = [int(pid) for pid in children if "keep" in Path(f"/proc/{pid}/comm").read_text()]
    return {
        "daemon": pss_kib(daemon.process.pid),
        "spawner": pss_kib(spawner),
        f"keepers({len(keepers)})": sum(pss_kib(pid) for pid in keepers),
    }


def pss_kib(pid: int) -> int:
    found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    return int(found[1]) if found else 0


def recovery(daemon: Daemon) -> None:
    """From the start of the process to its first answer, imports included."""
    taken = []
    for _ in range(3):
        daemon.kill()
        started = time.monotonic()
        daemon.start()
        taken.append(time.monotonic() - started)
    alive = len(daemon.call("ListContainers").containers)
    print(f"recovery of {alive} pods after kill -9: {statistics.median(taken):.2f} s", file=sys.stderr)


def asked(daemon: Daemon) -> Callable[[], Iterator[tuple[str, Cost]]]:
    def one() -> Iterator[tuple[str, Cost]]:
        for method in LISTS:
            begun = time.perf_counter()
            daemon.call(method)
            yield method, Cost((time.perf_counter() - begun) * 1e3, None, None)

    return one
