# SPDX-License-Identifier: Apache-2.0
"""What the daemon has counted, in the text form that Prometheus reads. Pure, but for /proc/self."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping

from cri.boundary import BOUNDS, Call, Totals
from cri.engine.engine import Engine


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def sample(name: str, value: float, **labels: str) -> str:
    inside = ",".join(f"{key}={quoted(held)}" for key, held in labels.items())
    return f"{name}{{{inside}}} {value:g}" if inside else f"{name} {value:.10g}"


def heading(name: str, kind: str, meaning: str) -> list[str]:
    return [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]


def calls(totals: Mapping[str, Totals], running: list[Call]) -> Iterator[str]:
    """Per RPC: how many by outcome, how long, and how long in which phase."""
    yield from heading("ketch_calls_total", "counter", "Calls that have ended, by their status code.")
    for method, held in sorted(totals.items()):
        for code, count in sorted(held.codes.items()):
            yield sample("ketch_calls_total", count, method=method, code=code)
    yield from heading("ketch_call_seconds", "histogram", "How long a call took.")
    for method, held in sorted(totals.items()):
        yield from histogram(method, held)
    yield from heading("ketch_phase_seconds", "summary", "How long the phases of a call took.")
    for method, held in sorted(totals.items()):
        for phase, (count, seconds) in sorted(held.phases.items()):
            yield sample("ketch_phase_seconds_sum", seconds, method=method, phase=phase)
            yield sample("ketch_phase_seconds_count", count, method=method, phase=phase)
    yield from heading("ketch_calls_running", "gauge", "Calls that run now.")
    for method, count in sorted(Counter(call.method for call in running).items()):
        yield sample("ketch_calls_running", count, method=method)


def histogram(method: str, held: Totals) -> Iterator[str]:
    reached = 0
    for bound, count in zip(BOUNDS, held.within, strict=True):
        reached += count
        yield sample("ketch_call_seconds_bucket", reached, method=method, le=f"{bound:g}")
    total = sum(held.codes.values())
    yield sample("ketch_call_seconds_bucket", total, method=method, le="+Inf")
    yield sample("ketch_call_seconds_sum", held.seconds, method=method)
    yield sample("ketch_call_seconds_count", total, method=method)


def objects(engine: Engine) -> Iterator[str]:
    book = engine.book
    yield from heading("ketch_pods", "gauge", "Pods, by the phase of their life.")
    for phase, count in sorted(Counter(str(record.phase) for record in engine.pods()).items()):
        yield sample("ketch_pods", count, phase=phase)
    yield from heading("ketch_containers", "gauge", "Containers, by their state.")
    for state, count in sorted(Counter(str(book.state(record)) for record in engine.containers()).items()):
        yield sample("ketch_containers", count, state=state)


def process() -> Iterator[str]:
    """The daemon itself, under the names that every client library of Prometheus uses."""
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    times = os.times()
    for name, kind, meaning, value in (
        ("process_resident_memory_bytes", "gauge", "Resident memory of the daemon.", resident),
        ("process_open_fds", "gauge", "Open descriptors of the daemon.", len(os.listdir("/proc/self/fd")) - 1),
        ("process_threads", "gauge", "Threads of the daemon.", len(os.listdir("/proc/self/task"))),
        ("process_cpu_seconds_total", "counter", "CPU time of the daemon.", times.user + times.system),
    ):
        yield from heading(name, kind, meaning)
        yield sample(name, value)


def text(engine: Engine, totals: Mapping[str, Totals], running: list[Call]) -> str:
    return "\n".join((*calls(totals, running), *objects(engine), *process())) + "\n"
