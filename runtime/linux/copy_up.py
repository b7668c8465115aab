# SPDX-License-Identifier: Apache-2.0
"""Copy a directory tree by descriptor: what a tmpfs with tmpcopyup takes over from the directory it covers."""

import os
import stat


def copy(source: int, target: int) -> None:
    """Copy everything in the directory source into the directory target, with owners and modes; follows no symlink."""
    facts = os.fstat(source)
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target)
    try:
        os.fchmod(fd, stat.S_IMODE(facts.st_mode))
        os.fchown(fd, facts.st_uid, facts.st_gid)
    finally:
        os.close(fd)
    with os.scandir(source) as listing:
        names = [entry.name for entry in listing]
    for name in names:
        _copy_one(name, source, target)


def _copy_one(name: str, source: int, target: int) -> None:
    facts = os.stat(name, dir_fd=source, follow_symlinks=False)
    kind = facts.st_mode
    if stat.S_ISDIR(kind):
        os.mkdir(name, 0o700, dir_fd=target)
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        new = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
        try:
            copy(inner, new)
        finally:
            os.close(inner)
            os.close(new)
        return
    if stat.S_ISLNK(kind):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif stat.S_ISREG(kind):
        _copy_file(name, source, target)
    else:
        os.mknod(name, kind, facts.st_rdev, dir_fd=target)
    os.chown(name, facts.st_uid, facts.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(kind):
        os.chmod(name, stat.S_IMODE(kind), dir_fd=target)


def _copy_file(name: str, source: int, target: int) -> None:
    old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    new = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target)
    try:
        while os.sendfile(new, old, None, 1 << 20):
            pass
    finally:
        os.close(old)
        os.close(new)
