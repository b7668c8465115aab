# SPDX-License-Identifier: Apache-2.0
"""A cgroup of its own in every hierarchy for one machine, which takes it for the root: nothing lands beside it.

Version 1 (also hybrid): one group per hierarchy; version 2: one group. Inside the machine's cgroup namespace the same
hierarchies are mounted again, so paths there are as on a plain node (/sys/fs/cgroup/cpuacct/kubepods).
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

MOUNTED = Path("/sys/fs/cgroup")

# In the machine: $1 lists the hierarchies, or is "unified".
MOUNT_INSIDE = """
umount -R /sys/fs/cgroup || umount -l /sys/fs/cgroup
if [ "$1" = unified ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control
    done
else
    mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
    for hierarchy in $1; do
        mkdir "/sys/fs/cgroup/$hierarchy"
        option=$hierarchy
        [ "$hierarchy" != systemd ] || option=none,name=systemd
        mount -t cgroup -o "$option" cgroup "/sys/fs/cgroup/$hierarchy"
    done
fi
"""


def is_unified() -> bool:
    return (MOUNTED / "cgroup.controllers").exists()


def hierarchies() -> list[str]:
    """The version 1 hierarchies of this host by their folder's name; links such as cpu -> cpu,cpuacct count once."""
    folders = [entry for entry in sorted(MOUNTED.iterdir()) if entry.is_dir() and not entry.is_symlink()]
    return [folder.name for folder in folders if (folder / "tasks").exists()]


def groups(name: str) -> list[Path]:
    """The machine's groups as the host sees them."""
    if is_unified():
        return [MOUNTED / name]
    return [MOUNTED / hierarchy / name for hierarchy in hierarchies()]


def create(name: str) -> list[Path]:
    """Make the groups ready for processes."""
    if is_unified():
        for controller in (MOUNTED / "cgroup.controllers").read_text().split():
            with contextlib.suppress(OSError):  # such as cpu, while a real-time process is outside the root
                (MOUNTED / "cgroup.subtree_control").write_text(f"+{controller}")
    made = groups(name)
    for group in made:
        group.mkdir(exist_ok=True)
        for inherited in ("cpuset.cpus", "cpuset.mems"):
            if (group / inherited).exists() and not is_unified():
                (group / inherited).write_text((group.parent / inherited).read_text())
    return made


def vacate(name: str) -> None:
    """Version 2 passes controllers on from an empty group alone, and the first processes had to be in it: they move.

    Seen from inside, the one that waits for the machine has no pid, so this is the host's to do.
    """
    if is_unified():
        root = MOUNTED / name
        first = root / "init.scope"  # by this name systemd knows that the group above is its own to divide
        first.mkdir()
        for pid in (root / "cgroup.procs").read_text().split():
            (first / "cgroup.procs").write_text(pid)


def remove(name: str, seconds: float = 20) -> None:
    """Remove the groups and all below them. The kernel lets go of a dead process's group a little later: try again."""
    end = time.monotonic() + seconds
    for group in groups(name):
        while group.exists():
            _remove_tree(group)
            if group.exists() and time.monotonic() > end:
                raise TimeoutError(f"cannot remove {group}: processes {_processes(group)} are still in it")
            if group.exists():
                time.sleep(0.05)


def _processes(group: Path) -> list[str]:
    return [pid for path, _, _ in os.walk(group) for pid in (Path(path) / "cgroup.procs").read_text().split()]


def _remove_tree(group: Path) -> None:
    for path, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(path)
        except OSError:
            return
