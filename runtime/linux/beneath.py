# SPDX-License-Identifier: Apache-2.0
"""Paths beneath a root that others may rewrite: opened with openat2, so that no symlink leads out of it."""

import _stat as stat  # stat is Python around it
import errno
import posix

from runtime.linux import syscalls
from runtime.linux._core import lib

# Symlinks are followed as a process chrooted there would; /proc magic links, which escape any root, are refused.
IN_ROOT = lib.RESOLVE_IN_ROOT | lib.RESOLVE_NO_MAGICLINKS
MAX_LINKS = 255


def open_in_root(root: int, path: str, flags: int = posix.O_PATH, mode: int = 0) -> int:
    """Open path as if root were /."""
    return syscalls.openat2(root, path or ".", flags, mode=mode, resolve=IN_ROOT)


def open_beneath(root: int, path: str, flags: int = posix.O_PATH, mode: int = 0) -> int:
    """Open path; one that leaves root is an error (EXDEV), not clamped."""
    return syscalls.openat2(
        root, path or ".", flags, mode=mode, resolve=lib.RESOLVE_BENEATH | lib.RESOLVE_NO_MAGICLINKS
    )


def read_file(root: int, path: str, limit: int = 1 << 20) -> bytes | None:
    """The first `limit` bytes of a regular file in the root; None when there is none."""
    try:
        # Not blocking: a FIFO placed there by an image must not hold us.
        fd = open_in_root(root, path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_NOCTTY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENXIO, errno.EXDEV):
            return None
        raise
    try:
        if not stat.S_ISREG(posix.fstat(fd).st_mode):
            return None
        parts = []
        while limit > 0 and (part := posix.read(fd, min(limit, 65536))):
            parts.append(part)
            limit -= len(part)
        return b"".join(parts)
    finally:
        posix.close(fd)


def make_directories(root: int, path: str, mode: int = 0o755, owner: tuple[int, int] | None = None) -> int:
    """mkdir -p beneath root, each step by descriptor; gives the last directory as an O_PATH descriptor.

    A symlink on the way is followed inside the root; where it dangles, its target is made.
    """
    try:
        return open_in_root(root, path, posix.O_PATH | posix.O_DIRECTORY)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    return _make_missing(root, path, mode, owner)


def _make_missing(root: int, path: str, mode: int, owner: tuple[int, int] | None) -> int:
    done: list[str] = []
    todo = [part for part in path.split("/") if part and part != "."][::-1]
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            del done[-1:]
            continue
        here = open_in_root(root, "/".join(done), posix.O_PATH | posix.O_DIRECTORY)
        try:
            if _make_one(here, part, mode, owner):
                done.append(part)
                continue
            target = posix.readlink(part, dir_fd=here)
        finally:
            posix.close(here)
        links += 1
        if links > MAX_LINKS:
            raise syscalls.KernelError(errno.ELOOP, "mkdir", (path,))
        if target.startswith("/"):
            done = []
        todo += [piece for piece in target.split("/") if piece and piece != "."][::-1]
    return open_in_root(root, "/".join(done), posix.O_PATH | posix.O_DIRECTORY)


def _make_one(here: int, part: str, mode: int, owner: tuple[int, int] | None) -> bool:
    """Make sure that a directory of this name is there; False when it is a symlink to be followed."""
    try:
        posix.mkdir(part, mode, dir_fd=here)
    except FileExistsError:
        kind = posix.stat(part, dir_fd=here, follow_symlinks=False).st_mode
        if stat.S_ISLNK(kind):
            return False
        if not stat.S_ISDIR(kind):
            raise syscalls.KernelError(errno.ENOTDIR, "mkdir", (part,)) from None
        return True
    if owner is not None:
        posix.chown(part, *owner, dir_fd=here, follow_symlinks=False)
    return True


def make_file(root: int, path: str, mode: int = 0o644) -> int:
    """An empty file (and its parents) to mount on, or what is there already; as an O_PATH descriptor."""
    try:
        return open_in_root(root, path)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    parent, _, name = path.rstrip("/").rpartition("/")
    directory = make_directories(root, parent)
    try:
        # O_EXCL: a dangling symlink in the last place must not make us create its target unseen.
        posix.close(
            posix.open(
                name,
                posix.O_CREAT | posix.O_EXCL | posix.O_WRONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC,
                mode,
                dir_fd=directory,
            )
        )
        return posix.open(name, posix.O_PATH | posix.O_NOFOLLOW | posix.O_CLOEXEC, dir_fd=directory)
    finally:
        posix.close(directory)


def remove_tree(path: str, *, dir_fd: int | None = None) -> None:
    """rm -rf that follows no symlink and crosses no mount point; a second time is a no-op."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC, dir_fd=dir_fd)
    except FileNotFoundError:
        return
    except (NotADirectoryError, OSError) as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        posix.unlink(path, dir_fd=dir_fd)
        return
    try:
        _empty(fd)
    finally:
        posix.close(fd)
    try:
        posix.rmdir(path, dir_fd=dir_fd)
    except FileNotFoundError:
        pass


def _empty(directory: int) -> None:
    with posix.scandir(directory) as listing:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in listing]
    for name, is_directory in entries:
        if is_directory:
            fd = syscalls.openat2(
                directory,
                name,
                posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW,
                resolve=lib.RESOLVE_NO_XDEV | lib.RESOLVE_NO_SYMLINKS | lib.RESOLVE_BENEATH,
            )
            try:
                _empty(fd)
            finally:
                posix.close(fd)
            posix.rmdir(name, dir_fd=directory)
        else:
            try:
                posix.unlink(name, dir_fd=directory)
            except FileNotFoundError:
                pass
