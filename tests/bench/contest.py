# SPDX-License-Identifier: Apache-2.0
"""The same work through us and through the peers: interleaved, in rotating order, cold and hot, on a quiet machine."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.stopwatch import Cost, Failed

COLD_IDLE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who can do the work. one() does it once and says what each step cost, in order."""

    name: str
    one: Callable[[], Iterator[tuple[str, Cost]]]
    ours: bool = False


@dataclass(slots=True)
class Result:
    """All samples of one suite in one mode."""

    suite: str
    mode: str  # cold: idle before each sample, so latency; hot: back to back, so throughput
    samples: dict[tuple[str, str], list[Cost]] = field(default_factory=dict)  # (step, contender)
    refused: dict[str, str] = field(default_factory=dict)  # contender -> why it is not in the table
    ours: set[str] = field(default_factory=set)


def hold(suite: str, contenders: list[Contender], *, rounds: int, mode: str) -> Result:
    """Let each contender do the work once per round; who begins changes every round."""
    result = Result(suite, mode, ours={c.name for c in contenders if c.ours})
    standing = [c for c in contenders if _warm_up(c, result)]
    for number in range(rounds):
        turn = number % len(standing) if standing else 0
        for contender in standing[turn:] + standing[:turn]:
            if mode == "cold":
                time.sleep(COLD_IDLE_SECONDS)
            for step, cost in contender.one():
                result.samples.setdefault((step, contender.name), []).append(cost)
    return result


def _warm_up(contender: Contender, result: Result) -> bool:
    """One run that does not count; who cannot do the work is refused by name."""
    try:
        for _ in contender.one():
            pass
    except Failed as e:
        result.refused[contender.name] = str(e)
        return False
    return True


def wait_for_quiet(limit_seconds: float = 60.0, *, busy_share: float = 0.15) -> float:
    """Wait until the processors are mostly idle for half a second; returns the share that was busy at the end."""
    deadline = time.monotonic() + limit_seconds
    while True:
        busy = _busy_share(0.5)
        if busy <= busy_share or time.monotonic() > deadline:
            return busy


def _busy_share(seconds: float) -> float:
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    total = sum(after) - sum(before)
    idle = (after[3] + after[4]) - (before[3] + before[4])
    return 1 - idle / total if total else 0.0


def _ticks() -> list[int]:
    return [int(v) for v in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
