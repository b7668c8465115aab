# SPDX-License-Identifier: Apache-2.0
"""The short-lived process that makes one container and ends, so that the init falls to the keeper, a subreaper.

A process of its own, because hooks and slow file systems may take any time: the keeper must go on reading logs. Its
memory goes with it, so a config of 10 MB leaves nothing in the keeper.
"""

import signal
from typing import Any

from runtime.keep import foreign, native, oom, quick_start, standing, wire
from runtime.linux import processes


class Cancelled(Exception):
    """The keeper's patience is over (SIGTERM)."""


def main(request: dict[str, Any], state_dir: str, stdio: list[int], report: wire.Connection) -> int:
    """Make and start; tell the keeper how it went. stdio is empty for a container with a terminal."""
    signal.signal(signal.SIGTERM, _cancel)
    standing.give_back()
    if "undo" in request:
        quick_start.undo(request["undo"])  # what was prepared, and did not come to life the quick way
    if "late" in request:
        report.send({"error": f"it took longer than {request['timeout_seconds']:g} s"})
        return 0
    maker = foreign.Maker(request, state_dir) if request["handler"] else native.Maker(request, state_dir)
    try:
        pid = maker.create(stdio)
        cgroup = oom.memory_cgroup(pid)
        answer = {"pid": pid, "start_time": processes.start_time(pid) or 0, "memory_cgroup": cgroup}
        answer["oom_kills"] = oom.kills(cgroup)
        maker.start()
    except Exception as why:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        late = isinstance(why, Cancelled)
        sentence = f"it took longer than {request['timeout_seconds']:g} s" if late else str(why) or repr(why)
        report.send({"error": " (and ".join([sentence, *maker.undo()])})
        return 0
    report.send(answer, maker.descriptors())
    return 0


def _cancel(_number: int, _frame: object) -> None:
    raise Cancelled
