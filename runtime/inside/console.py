# SPDX-License-Identifier: Apache-2.0
"""The pseudo terminal of a container: allocated in its own devpts, by descriptors that are checked."""

import fcntl
import os
import stat

from runtime.linux import beneath, mounts, syscalls
from runtime.linux._core import lib


def allocate(root: int) -> tuple[int, int]:
    """Master and slave from /dev/pts/ptmx beneath root; by the host's when the container has no devpts."""
    try:
        ptmx = beneath.open_in_root(root, "dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        ptmx = beneath.open_in_root(root, "dev/ptmx", os.O_RDWR | os.O_NOCTTY)
    facts = os.fstat(ptmx)
    if syscalls.filesystem_type(ptmx) != lib.DEVPTS_SUPER_MAGIC and facts.st_rdev != os.makedev(5, 2):
        os.close(ptmx)
        raise ValueError("/dev/pts/ptmx of the container is not a pseudo terminal multiplexer")
    if not stat.S_ISCHR(facts.st_mode) or facts.st_rdev != os.makedev(5, 2):
        os.close(ptmx)
        raise ValueError("/dev/pts/ptmx of the container is not the device 5:2")
    fcntl.ioctl(ptmx, lib.TIOCSPTLCK, (0).to_bytes(4, "little"))
    # By ioctl, not by the name /dev/pts/N: that could have been exchanged for something of the host.
    slave = fcntl.ioctl(ptmx, lib.TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    return ptmx, slave


def bind_to_dev_console(root: int, slave: int) -> None:
    """Show the terminal as /dev/console."""
    target = beneath.make_file(root, "dev/console")
    try:
        with mounts.clone("", recursive=False, dirfd=slave) as tree:
            tree.attach("", target)
    finally:
        os.close(target)


def set_size(fd: int, rows: int, columns: int) -> None:
    """The size in characters."""
    size = rows.to_bytes(2, "little") + columns.to_bytes(2, "little") + bytes(4)
    fcntl.ioctl(fd, lib.TIOCSWINSZ, size)


def become_controlling(slave: int, uid: int) -> None:
    """Make it stdio and the controlling terminal of our session."""
    if uid:
        os.fchown(slave, uid, -1)
    fcntl.ioctl(slave, lib.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(slave, fd, inheritable=True)
    if slave > 2:
        os.close(slave)
