# SPDX-License-Identifier: Apache-2.0
"""cp: files between a container and this machine; the container's paths are resolved inside it.

A running container is entered through /proc/PID/root, which shows its volumes too; of an ended one the root file system
is there. Its processes may swap folders for links while we copy, so every step inside goes by descriptor and follows no
link of theirs.
"""

from __future__ import annotations

import os
import stat
import sys
import tarfile

from cri.hand import look, untar
from cri.hand.errors import HandError, UsageError, need_root
from cri.hand.grammar import Arguments
from cri.hand.places import Places
from cri.hand.progress import Working
from runtime.linux import beneath, copy_up


def copy(arguments: Arguments, places: Places) -> int:
    """CONTAINER:PATH to a path, or the other way; - is a tar stream."""
    need_root()
    source, target = (_parted(word) for word in arguments.words)
    if bool(source[0]) == bool(target[0]):
        raise UsageError("cp: exactly one of the two must be CONTAINER:PATH")
    keep_owners = arguments.flag("archive")
    with Working(f"Copying {arguments.words[0]}", sys.stderr):
        if source[0]:
            _out(places, source[0], source[1], target[1], keep_owners=keep_owners)
        else:
            _in(places, source[1], target[0], target[1], keep_owners=keep_owners)
    return 0


def _parted(word: str) -> tuple[str, str]:
    """(container, path); a path of this machine may hold a colon if it begins with / or a dot."""
    name, colon, path = word.partition(":")
    if colon and not word.startswith(("/", ".")):
        return name, path or "/"
    return "", word


def _root(places: Places, name: str) -> int:
    seen = look.container(places, name)
    path = f"/proc/{seen.pid}/root" if seen.state() in ("running", "paused") else seen.rootfs
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise HandError(f"cannot look into container {name}: {e.strerror}") from None


def _open_inside(root: int, name: str, path: str, flags: int) -> int:
    try:
        return beneath.open_in_root(root, path, flags)
    except OSError as e:
        raise HandError(f"{name}:{path}: {e.strerror}") from None


# out of a container


def _out(places: Places, name: str, path: str, target: str, *, keep_owners: bool) -> None:
    root = _root(places, name)
    fd = _open_inside(root, name, path, os.O_PATH)
    os.close(root)
    base = os.path.basename(path.rstrip("/")) or name
    try:
        if target == "-":
            _stream_out(fd, base)
            return
        contents_only = path.endswith("/.")
        folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        place = os.path.join(target, base) if os.path.isdir(target) and not (folder and contents_only) else target
        _need_place(place, folder=folder)
        try:
            _copy_fd(fd, place, folder=folder)
            if not keep_owners:
                _own(place, os.getuid(), os.getgid())
        except OSError as e:
            raise HandError(f"cannot copy {name}:{path} to {place}: {e.strerror}") from None
    finally:
        os.close(fd)


def _need_place(place: str, *, folder: bool) -> None:
    """A folder is made, but not those above it, and a file whose name ends in / is none: docker's rules."""
    above = place if place.endswith("/") and not folder else os.path.dirname(place.rstrip("/"))
    if above and not os.path.isdir(above):
        above = above.rstrip("/")
        raise HandError(f"{above}: no such folder", hint=f"mkdir -p {above}")


def _copy_fd(fd: int, place: str, *, folder: bool) -> None:
    """What an O_PATH descriptor names, to a path of this machine."""
    if not folder:
        with open(f"/proc/self/fd/{fd}", "rb") as source, open(place, "wb") as target:
            os.fchmod(target.fileno(), stat.S_IMODE(os.fstat(fd).st_mode))
            while os.sendfile(target.fileno(), source.fileno(), None, 1 << 20):
                pass
        return
    os.makedirs(place, exist_ok=True)
    source_fd = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    target_fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _merge(source_fd, target_fd)
    finally:
        os.close(source_fd)
        os.close(target_fd)


def _merge(source: int, target: int) -> None:
    """copy_up into a folder that may hold some of the names already: those files are replaced, folders merged."""
    for name in os.listdir(source):
        kind = os.stat(name, dir_fd=source, follow_symlinks=False).st_mode
        try:
            there = os.stat(name, dir_fd=target, follow_symlinks=False).st_mode
        except FileNotFoundError:
            copy_up._copy_one(name, source, target)
            continue
        if stat.S_ISDIR(kind) and stat.S_ISDIR(there):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner, outer = os.open(name, flags, dir_fd=source), os.open(name, flags, dir_fd=target)
            try:
                _merge(inner, outer)
            finally:
                os.close(inner)
                os.close(outer)
        elif stat.S_ISDIR(there) or stat.S_ISDIR(kind):
            raise HandError(f"cannot replace a folder by a file, or a file by a folder: {name}")
        else:
            os.unlink(name, dir_fd=target)
            copy_up._copy_one(name, source, target)


def _own(path: str, uid: int, gid: int) -> None:
    os.chown(path, uid, gid, follow_symlinks=False)
    if os.path.isdir(path) and not os.path.islink(path):
        for here, folders, files in os.walk(path):
            for name in folders + files:
                os.chown(os.path.join(here, name), uid, gid, follow_symlinks=False)


def _stream_out(fd: int, base: str) -> None:
    sys.stdout.flush()
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            archive.add(f"/proc/self/fd/{fd}/.", base)
            return
        with open(f"/proc/self/fd/{fd}", "rb") as file:
            archive.addfile(archive.gettarinfo(arcname=base, fileobj=file), file)


# into a container


def _in(places: Places, source: str, name: str, path: str, *, keep_owners: bool) -> None:
    if source != "-" and not os.path.lexists(source):
        raise HandError(f"{source}: no such file or folder")
    root = _root(places, name)
    try:
        if source == "-":
            folder = _open_inside(root, name, path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                untar.into(folder, sys.stdin.buffer, keep_owners=True)
            finally:
                os.close(folder)
        elif os.path.isdir(source):
            target = path
            if not source.endswith("/.") and _is_folder(root, path):
                target = f"{path.rstrip('/')}/{os.path.basename(os.path.abspath(source))}"
            _folder_in(root, name, source, target, keep_owners=keep_owners)
        else:
            _file_in(root, name, source, path, keep_owners=keep_owners)
    finally:
        os.close(root)


def _is_folder(root: int, path: str) -> bool:
    try:
        os.close(beneath.open_in_root(root, path, os.O_RDONLY | os.O_DIRECTORY))
    except OSError:
        return False
    return True


def _folder_in(root: int, name: str, source: str, path: str, *, keep_owners: bool) -> None:
    """The contents of a folder into a folder of the container, made if it is not there."""
    try:
        target = beneath.make_directories(root, path)
    except OSError as e:
        raise HandError(f"{name}:{path}: {e.strerror}") from None
    here = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    into = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target)
    try:
        _merge(here, into)
        if not keep_owners:
            for entry in os.listdir(here):
                _own_inside(into, entry)
    finally:
        for fd in (target, here, into):
            os.close(fd)


def _own_inside(folder: int, name: str) -> None:
    """root's, as docker makes it; by descriptor all the way down."""
    os.chown(name, 0, 0, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            for entry in os.listdir(inner):
                _own_inside(inner, entry)
        finally:
            os.close(inner)


def _file_in(root: int, name: str, source: str, path: str, *, keep_owners: bool) -> None:
    if _is_folder(root, path):
        path = f"{path.rstrip('/')}/{os.path.basename(source)}"
    elif path.endswith("/"):
        raise HandError(f"{name}:{path}: no such folder")
    facts = os.stat(source)
    try:
        target = beneath.open_in_root(root, path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as e:
        raise HandError(f"{name}:{path}: {e.strerror}") from None
    try:
        with open(source, "rb") as file:
            while os.sendfile(target, file.fileno(), None, 1 << 20):
                pass
        os.fchmod(target, stat.S_IMODE(facts.st_mode))
        if keep_owners:
            os.fchown(target, facts.st_uid, facts.st_gid)
    finally:
        os.close(target)
