# SPDX-License-Identifier: Apache-2.0
"""The cgroups of one root test: made, entered, removed, and swept up after a run that was killed.

Whoever is in a group holds a shared lock on its directory; one that can be locked alone belongs to nobody. Its name's
pid would not tell: it may be of another PID namespace, or in use again.
"""

import fcntl
import os
import re
import time
from pathlib import Path

_UNIFIED = "/sys/fs/cgroup"  # where version 2 is mounted when it is alone
_NAME = re.compile(r"ketch-(test|bench)-\d+")


class Groups:
    """The cgroups of one test, one in each hierarchy that the machine has mounted; the test sees them as the roots."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.hierarchies = list(_mounted_hierarchies())
        self._locks: list[int] = []

    def enter(self) -> None:
        for path, kind, _ in self.hierarchies:
            if path == _UNIFIED:
                _pass_controllers_on(path)
            own = os.path.join(path, self.name)
            self._locks.append(_make_and_lock(own))
            for file in ("cpuset.cpus", "cpuset.mems"):  # a new v1 cpuset is empty and admits nobody
                if kind == "cgroup" and os.path.exists(f"{own}/{file}"):
                    Path(own, file).write_text(Path(path, file).read_text())
            # One thread written to `tasks` spares the wait for RCU that cgroup.procs has on v1.
            Path(own, "tasks" if kind == "cgroup" else "cgroup.procs").write_text("0")

    def enter_leaf(self) -> None:
        """From version 2's root of the test to a group beneath it.

        A group with both processes and controllers for its children makes these invalid (EOPNOTSUPP when a process
        enters). The machine's own root is free of that rule, and the test takes its group for the root.
        """
        if any(path == _UNIFIED for path, _, _ in self.hierarchies):
            leaf = os.path.join(_UNIFIED, self.name, "test")
            os.makedirs(leaf, exist_ok=True)
            Path(leaf, "cgroup.procs").write_text("0")

    def leave_the_lock(self) -> None:
        """For a child of the one that entered."""
        for fd in self._locks:
            os.close(fd)
        self._locks.clear()

    def remove(self) -> None:
        """Deepest first; what the kernel is still emptying gets a second."""
        deadline = time.monotonic() + 1
        for path, _, _ in self.hierarchies:
            for directory, _, _ in os.walk(os.path.join(path, self.name), topdown=False):
                while True:
                    try:
                        os.rmdir(directory)
                        break
                    except FileNotFoundError:
                        break
                    except OSError:
                        if time.monotonic() > deadline:
                            raise
                        time.sleep(0.005)


def sweep() -> list[str]:
    """Remove what killed runs have left, and nothing that anybody is in; returns what was removed."""
    removed = []
    for path, _, _ in _mounted_hierarchies():
        for name in filter(_NAME.fullmatch, os.listdir(path)):
            own = os.path.join(path, name)
            if _is_abandoned(own):
                removed.append(own)
    return removed


def _is_abandoned(own: str) -> bool:
    """Whether nobody was in the group; it is removed then, under the lock."""
    try:
        fd = os.open(own, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if any(Path(directory, "cgroup.procs").read_text() for directory, _, _ in os.walk(own)):
            return False
        for directory, _, _ in os.walk(own, topdown=False):
            os.rmdir(directory)
    except OSError:  # locked; or another sweep is at it, or a dying process is still inside: the next run comes by
        return False
    finally:
        os.close(fd)
    return True


def _pass_controllers_on(root: str) -> None:
    """A test's group has only the controllers that the root passes on; systemd passes on what its own units use."""
    for controller in Path(root, "cgroup.controllers").read_text().split():
        try:
            Path(root, "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:
            continue  # such as cpu, while a real-time process is outside the root


def _make_and_lock(own: str) -> int:
    """A sweep may remove the directory between mkdir and flock: then it is made again."""
    while True:
        os.makedirs(own, exist_ok=True)
        try:
            fd = os.open(own, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(fd, fcntl.LOCK_SH)
        try:
            if os.path.samestat(os.fstat(fd), os.stat(own)):
                return fd
        except FileNotFoundError:
            pass
        os.close(fd)


def _mounted_hierarchies() -> list[tuple[str, str, str]]:
    """(mount point, type, options to mount the same hierarchy again); the options of v1 say which one it is."""
    found = {}  # by mount point: a later mount hides an earlier one
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, (kind, _, options) = line.split(" "), line.split(" - ", 1)[1].split(" ")
        if kind not in ("cgroup", "cgroup2") or not fields[4].startswith("/sys/fs/cgroup"):
            continue
        chosen = [o for o in options.split(",") if o not in ("rw", "ro", "xattr", "clone_children")]
        if any(o.startswith("name=") for o in chosen):
            chosen = ["none", *chosen]
        found[fields[4]] = (fields[4], kind, ",".join(chosen) if kind == "cgroup" else "")
    return list(found.values())
