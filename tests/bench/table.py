# SPDX-License-Identifier: Apache-2.0
"""The results as one table for people and as JSON for machines."""

import statistics
from collections.abc import Sequence

from tests.bench.contest import Result

HEADER = ("suite", "mode", "step", "who", "median ms", "p95 ms", "CPU ms", "memory KiB", "to best peer")


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def rows(result: Result) -> list[dict[str, object]]:
    """One row per step and contender; the ratio is to the best contender that is not ours."""
    found: list[dict[str, object]] = []
    for step in dict.fromkeys(step for step, _ in result.samples):
        contenders = {who: costs for (s, who), costs in result.samples.items() if s == step}
        medians = {who: statistics.median(c.wall_ms for c in costs) for who, costs in contenders.items()}
        peers = [m for who, m in medians.items() if who not in result.ours]
        for who, costs in contenders.items():
            cpu = [c.cpu_ms for c in costs if c.cpu_ms is not None]
            memory = [c.memory_kib for c in costs if c.memory_kib is not None]
            found.append(
                {
                    "suite": result.suite,
                    "mode": result.mode,
                    "step": step,
                    "who": who,
                    "samples": len(costs),
                    "median_ms": round(medians[who], 3),
                    "p95_ms": round(percentile([c.wall_ms for c in costs], 0.95), 3),
                    "cpu_ms": round(statistics.median(cpu), 3) if cpu else None,
                    "memory_kib": round(statistics.median(memory)) if memory else None,
                    "ratio": round(medians[who] / min(peers), 3) if peers else None,
                }
            )
    return found


def text(found: list[dict[str, object]]) -> str:
    keys = ("suite", "mode", "step", "who", "median_ms", "p95_ms", "cpu_ms", "memory_kib", "ratio")
    lines = [HEADER, *(tuple(_cell(row[key]) for key in keys) for row in found)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    return "\n".join(
        "  ".join(
            c.ljust(w) if i < 4 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
