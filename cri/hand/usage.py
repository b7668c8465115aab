# SPDX-License-Identifier: Apache-2.0
"""stats: what containers use, from their cgroups, in docker's columns; on a terminal again every second."""

from __future__ import annotations

import os
import sys
import time

from cri.engine import usage
from cri.hand import look
from cri.hand.grammar import Arguments
from cri.hand.places import Places
from cri.hand.tables import print_rows, size
from runtime.linux import cgroup

COLUMNS = (
    ("CONTAINER ID", "ID"),
    ("NAME", "Name"),
    ("CPU %", "CPUPerc"),
    ("MEM USAGE / LIMIT", "MemUsage"),
    ("MEM %", "MemPerc"),
    ("NET I/O", "NetIO"),
    ("BLOCK I/O", "BlockIO"),
    ("PIDS", "PIDs"),
)


def stats(arguments: Arguments, places: Places) -> int:
    """Two looks a second apart make one line: processor use is a difference."""
    once = arguments.flag("no-stream") or not sys.stdout.isatty()
    layout = cgroup.layout()
    before = _looks(arguments, places, layout)
    while True:
        time.sleep(1.0 if not once else 0.5)  # the measuring interval itself, not a wait for something
        after = _looks(arguments, places, layout)
        rows = [_row(seen, before.get(seen.id, (seen, None))[1], now, arguments) for seen, now in after.values()]
        if not once:
            print("\x1b[2J\x1b[H", end="")
        print_rows(rows, COLUMNS, arguments.text("format"))
        sys.stdout.flush()
        if once:
            return 0
        before = after


Looks = dict[str, tuple[look.Seen, usage.Usage | None]]


def _looks(arguments: Arguments, places: Places, layout: cgroup.Layout) -> Looks:
    if arguments.words:
        chosen = [look.container(places, word) for word in arguments.words]
    else:
        chosen = [c for c in look.containers(places) if arguments.flag("all") or c.state() in ("running", "paused")]
    found: Looks = {}
    for seen in chosen:
        path = str(seen.record.get("cgroups_path", ""))
        group = cgroup.Group(layout.directories(path), v2=layout.v2)
        found[seen.id] = (seen, usage.look(group) if path and seen.state() in ("running", "paused") else None)
    return found


def _row(
    seen: look.Seen, before: usage.Usage | None, now: usage.Usage | None, arguments: Arguments
) -> dict[str, object]:
    memory = now.memory if now else None
    limit = memory.limit if memory and memory.limit else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    used = memory.working_set if memory else 0
    received, sent = _network(seen) if now else (0, 0)
    read = sum(device.read_bytes for device in now.devices) if now else 0
    written = sum(device.write_bytes for device in now.devices) if now else 0
    return {
        "ID": seen.id if arguments.flag("no-trunc") else seen.id[:12],
        "Container": seen.id[:12],
        "Name": seen.name,
        "CPUPerc": f"{_processor(before, now):.2f}%",
        "MemUsage": f"{size(used, binary=True)} / {size(limit, binary=True)}",
        "MemPerc": f"{100 * used / limit:.2f}%",
        "NetIO": f"{size(received)} / {size(sent)}",
        "BlockIO": f"{size(read)} / {size(written)}",
        "PIDs": str(now.processes or 0) if now else "0",
    }


def _processor(before: usage.Usage | None, now: usage.Usage | None) -> float:
    if before is None or now is None or before.cpu is None or now.cpu is None:
        return 0.0
    passed = now.time_ns - before.time_ns
    return 100.0 * (now.cpu.total_ns - before.cpu.total_ns) / passed if passed > 0 else 0.0


def _network(seen: look.Seen) -> tuple[int, int]:
    try:
        found = [i for i in usage.interfaces(seen.pid) if i.name != "lo"]
    except OSError:
        return 0, 0
    return sum(i.rx_bytes for i in found), sum(i.tx_bytes for i in found)
