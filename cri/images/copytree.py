# SPDX-License-Identifier: Apache-2.0
"""Copy a tree with everything that makes it what it is: the way to a root file system where overlayfs cannot stand.

Blocks are shared where the file system can (copy_file_range reflinks on btrfs and xfs), hard links stay hard links.
"""

import errno
import fcntl
import os
import stat

_FICLONE = 0x40049409  # <linux/fs.h>: share all blocks of another file


def copy(source: str, target: str) -> None:
    """Copy the directory source to target, which must not exist."""
    links: dict[int, str] = {}
    os.mkdir(target, 0o700)
    _children(source, target, links)
    _attributes(source, target, os.lstat(source))


def _children(source: str, target: str, links: dict[int, str]) -> None:
    with os.scandir(source) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        old, new = os.path.join(source, name), os.path.join(target, name)
        seen = os.lstat(old)
        if stat.S_ISDIR(seen.st_mode):
            os.mkdir(new, 0o700)
            _children(old, new, links)
        elif seen.st_nlink > 1 and seen.st_ino in links:
            os.link(links[seen.st_ino], new, follow_symlinks=False)
            continue
        else:
            links[seen.st_ino] = new
            _leaf(old, new, seen)
        _attributes(old, new, seen)


def _leaf(old: str, new: str, seen: os.stat_result) -> None:
    if stat.S_ISLNK(seen.st_mode):
        os.symlink(os.readlink(old), new)
    elif stat.S_ISREG(seen.st_mode):
        _file(old, new)
    else:
        os.mknod(new, seen.st_mode, seen.st_rdev)


def _file(old: str, new: str) -> None:
    with open(old, "rb", buffering=0) as reader, open(new, "xb", buffering=0) as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL):
                raise
        size = os.fstat(reader.fileno()).st_size
        _data(reader.fileno(), writer.fileno(), size)
        os.ftruncate(writer.fileno(), size)


def _data(reader: int, writer: int, size: int) -> None:
    """Only what is not a hole; in the kernel, so that no byte passes through us."""
    offset = 0
    while offset < size:
        try:
            begin = os.lseek(reader, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            raise
        offset = os.lseek(reader, begin, os.SEEK_HOLE)
        os.lseek(writer, begin, os.SEEK_SET)
        while begin < offset:
            sent = os.sendfile(writer, reader, begin, offset - begin)
            if sent == 0:
                return
            begin += sent


def _attributes(old: str, new: str, seen: os.stat_result) -> None:
    os.chown(new, seen.st_uid, seen.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(seen.st_mode):
        os.chmod(new, stat.S_IMODE(seen.st_mode))
    for name in os.listxattr(old, follow_symlinks=False):
        os.setxattr(new, name, os.getxattr(old, name, follow_symlinks=False), follow_symlinks=False)
    os.utime(new, ns=(seen.st_atime_ns, seen.st_mtime_ns), follow_symlinks=False)
