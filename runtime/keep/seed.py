# SPDX-License-Identifier: Apache-2.0
"""A nearly empty mount namespace from which containers start: copying the host's costs 1.5 us per mount, twice.

The spawner makes it once. An init opens what it gets of the host, enters the seed, copies that (two mounts), and
attaches its root at rootfs.SEED_ROOT.
"""

import os
import sys

from runtime.keep import birth
from runtime.linux import mounts, syscalls
from runtime.linux._core import lib
from runtime.plan import rootfs

fd = -1
"""The namespace; -1 where none could be made, and containers copy the host's mounts."""


def plant(state_dir: str) -> None:
    """Make it."""
    global fd
    said, end = os.pipe2(os.O_CLOEXEC)
    wait, go = os.pipe2(os.O_CLOEXEC)

    def body() -> int:
        _make(state_dir)
        os.write(end, b"+")
        os.read(wait, 1)
        return 0

    child = birth.fork("ketch-seed", [end, wait], body)
    os.close(end)
    os.close(wait)
    if os.read(said, 1) == b"+":
        fd = os.open(f"/proc/{child}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    else:
        sys.stderr.write("no seed mount namespace: containers will start from a copy of the host's mounts\n")
    os.close(go)
    os.close(said)
    os.waitpid(child, 0)


def _make(state_dir: str) -> None:
    syscalls.unshare(lib.CLONE_NEWNS)
    mounts.set_propagation("/", lib.MS_PRIVATE, recursive=True)
    syscalls.mount(
        "none", state_dir, "tmpfs", lib.MS_NOSUID | lib.MS_NODEV | lib.MS_NOEXEC, "size=4k,nr_inodes=4,mode=555"
    )
    os.chdir(state_dir)
    os.mkdir("." + rootfs.SEED_ROOT, 0o555)
    syscalls.pivot_root(".", ".")
    syscalls.umount(".", lib.MNT_DETACH)
    os.chdir("/")
    syscalls.mount(None, "/", None, lib.MS_REMOUNT | lib.MS_BIND | lib.MS_RDONLY | lib.MS_NOSUID | lib.MS_NODEV)
