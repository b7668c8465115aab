# SPDX-License-Identifier: Apache-2.0
"""What a container has written over its image: found by comparing both trees, and as a layer that says the same.

Its writable layer tells where to look: what is not in there is the image's still. What is in there is read from the
mounted root, where overlayfs has resolved whiteouts, renamed folders and files copied up without their data already.
The container's processes may swap folders for links meanwhile: every step goes by descriptor and follows no link.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack

from cri.images import overlay
from cri.images.model import IdMapping
from cri.images.rootfs import Rootfs
from cri.images.tarwriter import Links, Member, Writer, member_of, pieces
from runtime.linux import beneath
from runtime.linux.quick_dataclasses import dataclass, replace

ADDED, CHANGED, DELETED = "A", "C", "D"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOWHERE = -1  # instead of a folder of the writable layer: it does not tell which names to look at


@dataclass(frozen=True, slots=True)
class Change:
    """One path, as seen from the container's root."""

    kind: str
    path: str


def find(rootfs: Rootfs, mounted: str, made: Collection[str] = ()) -> Iterator[Change]:
    """Every change, a folder before what is in it. `mounted`: where the container's root is. `made`: paths that were
    added to mount something there, by whoever made the container."""
    with ExitStack() as stack:
        merged = _open(stack, mounted)
        upper = _NOWHERE if rootfs.copied else _open(stack, rootfs.upperdir)
        yield from _Comparison(made, _Owners(rootfs)).of_folder(upper, merged, _image(stack, rootfs), "")


def _open(stack: ExitStack, path: str, within: int | None = None) -> int:
    fd = os.open(path, _FOLDER, dir_fd=within)
    stack.callback(os.close, fd)
    return fd


def _image(stack: ExitStack, rootfs: Rootfs) -> int:
    """The image's files as they were."""
    if len(rootfs.lowerdirs) == 1:  # of which overlayfs makes nothing without a second
        return _open(stack, rootfs.lowerdirs[0])
    tree = stack.enter_context(overlay.make(rootfs.lowerdirs, scratch=rootfs.scratch))
    return _open(stack, ".", tree.fd)


class _Owners:
    """A container with a user namespace has its ids shifted on this machine; its image has not."""

    __slots__ = ("_gids", "_uids")

    def __init__(self, rootfs: Rootfs) -> None:
        self._uids = rootfs.uid_mappings
        self._gids = rootfs.gid_mappings

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        return _inside(uid, self._uids), _inside(gid, self._gids)


def _inside(number: int, mappings: Sequence[IdMapping]) -> int:
    for mapping in mappings:
        if mapping.host_id <= number < mapping.host_id + mapping.size:
            return mapping.container_id + number - mapping.host_id
    return number


class _Comparison:
    """Of the mounted root with the image; `made` is left out."""

    __slots__ = ("_made", "_owners")

    def __init__(self, made: Collection[str], owners: _Owners) -> None:
        self._made = frozenset(made)
        self._owners = owners

    def of_folder(self, upper: int, merged: int, image: int, path: str) -> Iterator[Change]:
        """One that is in both."""
        names = os.listdir(upper) if upper != _NOWHERE else {*os.listdir(merged), *os.listdir(image)}
        for name in sorted(names):
            place = f"{path}/{name}"
            now, before = _stat(name, merged), _stat(name, image)
            if now is None:
                if before is not None:
                    yield Change(DELETED, place)
            elif before is None:
                if place not in self._made:
                    yield Change(ADDED, place)
                    yield from _added(name, merged, now, place)
            elif stat.S_ISDIR(now.st_mode) and stat.S_ISDIR(before.st_mode):
                with ExitStack() as stack:
                    within = (_writable(stack, name, upper), _open(stack, name, merged), _open(stack, name, image))
                    inside = list(self.of_folder(*within, place))
                if inside or self._differ(now, before):
                    yield Change(CHANGED, place)
                yield from inside
            elif upper != _NOWHERE or self._differ(now, before):
                yield Change(CHANGED, place)
                yield from _added(name, merged, now, place)

    def _differ(self, now: os.stat_result, before: os.stat_result) -> bool:
        """A folder's size and time say only that something was made in it, perhaps by us."""
        if self._owners.inside(now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
            return True
        same_data = (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        return now.st_mode != before.st_mode or not (same_data or stat.S_ISDIR(now.st_mode))


def _stat(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _writable(stack: ExitStack, name: str, upper: int) -> int:
    """The folder of this name in the writable layer, if what is in there is all that there is to see: not in one that
    was moved here (overlay.redirect) or that hides what the image has (overlay.opaque)."""
    if upper == _NOWHERE:
        return _NOWHERE
    folder = _open(stack, name, upper)
    marks = os.listxattr(folder)
    return _NOWHERE if {"trusted.overlay.opaque", "trusted.overlay.redirect"} & {*marks} else folder


def _added(name: str, folder: int, now: os.stat_result, path: str) -> Iterator[Change]:
    """All that is in a folder that the image does not have."""
    if not stat.S_ISDIR(now.st_mode):
        return
    with ExitStack() as stack:
        within = _open(stack, name, folder)
        for inner in sorted(os.listdir(within)):
            if (seen := _stat(inner, within)) is not None:
                yield Change(ADDED, f"{path}/{inner}")
                yield from _added(inner, within, seen, f"{path}/{inner}")


def pack(rootfs: Rootfs, mounted: str, changes: Sequence[Change], write: Callable[[bytes], object]) -> None:
    """The changes as a layer: a tar stream in which a deleted file is an empty one called .wh.NAME."""
    owners, links, writer = _Owners(rootfs), Links(), Writer(write)
    root = os.open(mounted, _FOLDER)
    try:
        for change in changes:
            folder, _, name = change.path.rpartition("/")
            if change.kind == DELETED:
                writer.add(Member(os.fsencode(f"{folder}/.wh.{name}".lstrip("/"))))
                continue
            parent = beneath.open_beneath(root, folder.lstrip("/"), os.O_PATH | os.O_DIRECTORY)
            try:
                _pack_one(writer, f"/proc/self/fd/{parent}/{name}", change.path, links, owners)
            finally:
                os.close(parent)
    finally:
        os.close(root)
    writer.close()


def _pack_one(writer: Writer, place: str, path: str, links: Links, owners: _Owners) -> None:
    member, source = member_of(place, os.fsencode(path.lstrip("/")), os.lstat(place), links, None)
    if member is None:
        return
    uid, gid = owners.inside(member.uid, member.gid)
    writer.add(replace(member, uid=uid, gid=gid), pieces(source, member.size) if source else b"")
