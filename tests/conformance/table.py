# SPDX-License-Identifier: Apache-2.0
"""Results of somebody else's suite beside what we expect of it: what does not pass needs a known reason."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """One spec or program: passed, failed or skipped, and what it said when it did not pass."""

    name: str
    outcome: str
    seconds: float = 0.0
    said: str = ""


def parse_expected(text: str) -> dict[str, str]:
    """Lines of `part | reason`; # begins a comment. A result whose name holds the part need not pass."""
    expected = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            part, _, reason = line.partition("|")
            expected[part.strip()] = reason.strip()
    return expected


def reason_for(result: Result, expected: Mapping[str, str]) -> str | None:
    return next((reason for part, reason in expected.items() if part in result.name), None)


def report(results: Iterable[Result], expected: Mapping[str, str], *, is_whole_suite: bool) -> tuple[str, int]:
    """The table to print, and the exit status: 1 for a failure without a reason, or a reason that no longer holds."""
    ordered = sorted(results, key=lambda result: result.name)
    counts = collections.Counter(result.outcome for result in ordered)
    lines = [f"{len(ordered)} run: " + ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items()))]
    status = 0
    for result in ordered:
        if result.outcome == "passed":
            continue
        reason = reason_for(result, expected)
        said = " ".join(result.said.split())
        lines.append(f"  {result.outcome:8} {result.name}\n           {reason or 'UNEXPECTED'}: {said[:400]}")
        if reason is None:
            status = 1
    if not ordered:
        return "nothing was run", 1
    if is_whole_suite:
        for part in expected:
            if not any(part in result.name and result.outcome != "passed" for result in ordered):
                lines.append(f"  passes now, take it off the list: {part}")
                status = 1
    return "\n".join(lines), status
