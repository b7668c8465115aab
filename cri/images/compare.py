# SPDX-License-Identifier: Apache-2.0
"""Whether a layer's tree is still what its archive says: every name, attribute and byte.

The archive is read again and compared with the tree member by member; then the tree is walked for what the archive
does not have. A tree that leans on those beneath it is compared as it looks on top of them, and not walked.
"""

import os
import stat

from cri.images import tar
from cri.images.unpack import OPAQUE, WHITEOUT, Limits, clean
from runtime.linux import beneath, syscalls

_KINDS = {
    tar.FILE: stat.S_IFREG,
    tar.SYMLINK: stat.S_IFLNK,
    tar.CHAR: stat.S_IFCHR,
    tar.BLOCK_DEVICE: stat.S_IFBLK,
    tar.DIRECTORY: stat.S_IFDIR,
    tar.FIFO: stat.S_IFIFO,
}
_MAX_DIFFERENCES = 20


def differences(root: int, reader: tar.Reader, *, merged: bool = False) -> list[str]:
    """What is wrong with the tree beneath the descriptor root; empty if nothing is. `merged`: root is a view of all."""
    contents: dict[bytes, str] = {}  # by name: of a name that the archive gives twice the last one counts
    known: dict[bytes, tar.Entry] = {}
    limits = Limits()
    for entry in reader:
        path = clean(entry.name, limits)
        name = path.rpartition(b"/")[2]
        if name.startswith(WHITEOUT):
            if name != OPAQUE and not name.startswith(WHITEOUT + WHITEOUT):
                known.setdefault(path[: len(path) - len(name)] + name[len(WHITEOUT) :], entry)
            continue
        known[path] = entry
        if entry.kind == tar.FILE:
            contents[path] = _content(root, path, entry, reader)
    wrong = [f"{path.decode(errors='replace')}: {fault}" for path, fault in contents.items() if fault]
    for path, entry in known.items():
        hidden = merged and entry.name.rpartition(b"/")[2].startswith(WHITEOUT)
        fault = _deleted(root, path) if hidden else _attributes(root, path, entry)
        if fault:
            wrong.append(f"{path.decode(errors='replace') or '/'}: {fault}")
    if not merged:
        extra = _strangers(root, {inode for path in known if (inode := _inode(root, path)) is not None})
        wrong += [f"{path.decode(errors='replace')}: not of this layer" for path in sorted(extra)]
    return wrong[:_MAX_DIFFERENCES]


def _content(root: int, path: bytes, entry: tar.Entry, reader: tar.Reader) -> str:
    """Compare a file with its bytes in the archive."""
    try:
        fd = beneath.open_in_root(root, os.fsdecode(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except syscalls.KernelError as error:
        return error.reason
    try:
        if entry.sparse is not None:
            return _sparse(fd, entry, reader)
        offset = 0
        while offset < entry.size:
            wanted = reader.take_data(min(1 << 18, entry.size - offset))
            if not wanted or os.pread(fd, len(wanted), offset) != wanted:
                return f"content differs near byte {offset}"
            offset += len(wanted)
        return ""
    finally:
        os.close(fd)


def _sparse(fd: int, entry: tar.Entry, reader: tar.Reader) -> str:
    for offset, length in entry.sparse or ():
        done = 0
        while done < length:
            wanted = reader.take_data(min(1 << 18, length - done))
            if not wanted or os.pread(fd, len(wanted), offset + done) != wanted:
                return f"content differs near byte {offset + done}"
            done += len(wanted)
    return ""


def _attributes(root: int, path: bytes, entry: tar.Entry) -> str:
    above, _, name = path.rpartition(b"/")
    try:
        parent = beneath.open_in_root(root, os.fsdecode(above), os.O_PATH | os.O_DIRECTORY)
    except syscalls.KernelError as error:
        return error.reason
    try:
        seen = os.stat(name or b".", dir_fd=parent, follow_symlinks=False)
        if entry.kind == tar.SYMLINK and os.readlink(name, dir_fd=parent) != entry.link:
            return "points elsewhere"
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.close(parent)
    if entry.name.rpartition(b"/")[2].startswith(WHITEOUT):
        return "" if seen.st_rdev == 0 or stat.S_ISDIR(seen.st_mode) else "not a whiteout"
    if entry.kind == tar.LINK:
        return ""
    if stat.S_IFMT(seen.st_mode) != _KINDS[entry.kind]:
        return "another type of file"
    if entry.kind != tar.SYMLINK and stat.S_IMODE(seen.st_mode) != entry.mode:
        return f"mode {stat.S_IMODE(seen.st_mode):o} instead of {entry.mode:o}"
    if (seen.st_uid, seen.st_gid) != (entry.uid, entry.gid):
        return f"owner {seen.st_uid}:{seen.st_gid} instead of {entry.uid}:{entry.gid}"
    if entry.kind == tar.FILE and seen.st_size != entry.size:
        return f"{seen.st_size} bytes instead of {entry.size}"
    return "" if seen.st_mtime_ns == entry.mtime_ns else "another time"


def _deleted(root: int, path: bytes) -> str:
    """In a merged view a whiteout is nothing at all."""
    above, _, name = path.rpartition(b"/")
    try:
        parent = beneath.open_in_root(root, os.fsdecode(above), os.O_PATH | os.O_DIRECTORY)
    except syscalls.KernelError:
        return ""
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return ""
    finally:
        os.close(parent)
    return "should be deleted"


def _inode(root: int, path: bytes) -> int | None:
    try:
        fd = beneath.open_in_root(root, os.fsdecode(path), os.O_PATH | os.O_NOFOLLOW)
    except syscalls.KernelError:
        return None
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def _strangers(root: int, known: set[int]) -> set[bytes]:
    """What is in the tree and of no member; by inode, for a member's name may go through a symlink.

    Directories that lead to something are there because of it, whether or not the archive names them.
    """
    found: set[bytes] = set()
    todo = [b""]
    while todo:
        path = todo.pop()
        fd = beneath.open_in_root(root, os.fsdecode(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            empty = True
            with os.scandir(fd) as entries:
                for entry in entries:
                    empty = False
                    inner = (path + b"/" if path else b"") + os.fsencode(entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(inner)
                    elif entry.inode() not in known:
                        found.add(inner)
            if empty and path and os.fstat(fd).st_ino not in known:
                found.add(path)
        finally:
            os.close(fd)
    return found
