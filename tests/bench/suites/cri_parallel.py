# SPDX-License-Identifier: Apache-2.0
"""Ten pods at a time, each through its whole life: the time per pod, with ketch-cri and with containerd."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runtime.linux import beneath
from tests.bench.contest import Contender
from tests.bench.stopwatch import Cost, Failed
from tests.bench.suites import cri
from tests.support.pod_driver import Daemon

ROUNDS = 8
AT_ONCE = 10
CYCLES = 3


def contenders(work: Path) -> list[Contender]:
    """The same two as in the suite cri."""
    return [Contender(name, _together(daemon), ours=ours) for name, daemon, ours in cri.daemons(work)]


def _together(daemon: Daemon) -> Callable[[], Iterator[tuple[str, Cost]]]:
    names = iter(range(1_000_000))

    def several() -> None:
        for _ in range(CYCLES):
            name = f"parallel-{next(names)}"
            pod = daemon.run_pod(name)
            container = pod.start(*cri.OBEDIENT)
            cri.until_it_obeys(container)
            container.stop(30)
            pod.stop()
            pod.remove()
            if daemon.logs.joinpath(name).is_dir():
                beneath.remove_tree(str(daemon.logs / name))

    def one() -> Iterator[tuple[str, Cost]]:
        begun = time.perf_counter()
        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                for done in [pool.submit(several) for _ in range(AT_ONCE)]:
                    done.result()
        except Exception as e:
            raise Failed(f"{AT_ONCE} at once: {e}") from e
        taken = (time.perf_counter() - begun) * 1e3 / (AT_ONCE * CYCLES)
        yield f"one pod's life, {AT_ONCE} at once", Cost(taken, None, None)

    return one
