# SPDX-License-Identifier: Apache-2.0
"""End a process with everything that it has started."""

import os
import signal


class Processes:
    """The process table as we see it now, through a descriptor: also after we have entered a container's mounts."""

    __slots__ = ("_proc",)

    def __init__(self) -> None:
        self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def kill_tree(self, root: int) -> None:
        """SIGKILL to root, a child of ours that has not been waited for, and to all its descendants.

        Everything found is stopped before anything is killed, and looked for again until nothing new appears: a process
        that forks meanwhile cannot slip away, because its child is found under it, or its parent is stopped first. root
        is a subreaper, so what its children orphan is still its descendant.
        """
        stopped: set[int] = set()
        while True:
            found = {pid for pid in self._descendants(root) if pid not in stopped}
            running = [pid for pid in stopped if self._state(pid) in (b"R", b"S", b"D")]
            if not found and not running:
                break
            for pid in found:
                _send(pid, signal.SIGSTOP)
            stopped |= found
            if running and not found:
                os.sched_yield()  # a stop takes effect on the way out of the kernel
        for pid in sorted(stopped, key=lambda pid: pid == root):
            _send(pid, signal.SIGKILL)

    def _descendants(self, root: int) -> list[int]:
        found = [root]
        for pid in found:
            found.extend(self._children(pid))
        return found

    def _children(self, pid: int) -> list[int]:
        """Of every thread: a child belongs to the thread that made it."""
        children: list[int] = []
        for thread in self._threads(pid):
            children += map(int, self._read(f"{pid}/task/{thread}/children").split())
        return children

    def _threads(self, pid: int) -> list[str]:
        try:
            fd = os.open(f"{pid}/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._proc)
        except (FileNotFoundError, ProcessLookupError):
            return []
        try:
            return os.listdir(fd)
        except (FileNotFoundError, ProcessLookupError):
            return []
        finally:
            os.close(fd)

    def _state(self, pid: int) -> bytes:
        text = self._read(f"{pid}/stat")
        return text[text.rindex(b")") + 2 :][:1] if text else b""

    def _read(self, path: str) -> bytes:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        except (FileNotFoundError, ProcessLookupError):
            return b""
        try:
            data = b""
            while more := os.read(fd, 65536):
                data += more
            return data
        except ProcessLookupError:
            return b""
        finally:
            os.close(fd)


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
