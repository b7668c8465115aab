# SPDX-License-Identifier: Apache-2.0
"""End a process with everything that it has started."""

import os
import signal

from runtime.linux import processes


def kill(root: int) -> None:
    """SIGKILL to root, a child of ours that has not been waited for, and to all its descendants.

    Everything found is stopped before anything is killed, and looked for again until nothing new appears: a process
    that forks meanwhile cannot slip away, because its child is found under it, or its parent is stopped first. root is
    a subreaper, so what its children orphan is still its descendant.
    """
    stopped: set[int] = set()
    while True:
        found = {pid for pid in _descendants(root) if pid not in stopped}
        running = [pid for pid in stopped if processes.state(pid) in ("R", "S", "D")]
        if not found and not running:
            break
        for pid in found:
            _send(pid, signal.SIGSTOP)
        stopped |= found
        if running and not found:
            os.sched_yield()  # a stop takes effect on the way out of the kernel
    for pid in sorted(stopped, key=lambda pid: pid == root):
        _send(pid, signal.SIGKILL)


def _descendants(root: int) -> list[int]:
    found = [root]
    for pid in found:
        found.extend(_children(pid))
    return found


def _children(pid: int) -> list[int]:
    """Of every thread: a child belongs to the thread that made it."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return []
    children: list[int] = []
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                children += map(int, file.read().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return children


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
