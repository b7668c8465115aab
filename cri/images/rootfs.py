# SPDX-License-Identifier: Apache-2.0
"""What a container stands on: a writable layer over an image's trees, or a read-only view as a volume.

prepare ──► rootfs/KEY/record.json (names the trees: they stay, whatever happens to the image)
            rootfs/KEY/{upper,work}    or   {top}    or   {copy} where overlayfs cannot stand
mount   ──► an overlay at the container's root, made detached and attached in one step
release ──► everything under KEY goes
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Sequence

from cri.images import overlay
from cri.images.errors import ImageError, NotFound, StoreFailed
from cri.images.layers import Layer, copy_root, root_of
from cri.images.layout import Layout, failures
from cri.images.model import IdMapping
from runtime.linux import beneath, durable, mounts, syscalls
from runtime.linux._core import lib
from runtime.linux.quick_dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}\Z")


@dataclass(frozen=True, slots=True)
class Rootfs:
    """What to mount for one container (or one image volume).

    An overlay of `lowerdirs` (uppermost first, as overlayfs wants them) with `upperdir` and `workdir`; without an
    upperdir it is read-only. Where overlay is impossible `copied` is the path of a complete copy to bind instead.
    `sub_path` narrows a volume to a part of the image, already checked to exist beneath it.
    """

    key: str
    image_id: str
    lowerdirs: tuple[str, ...]
    upperdir: str = ""
    workdir: str = ""
    options: tuple[str, ...] = ()
    copied: str = ""
    sub_path: str = ""
    read_only: bool = False
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    scratch: str = field(default="", repr=False)

    def tree(self, userns: str = "") -> mounts.Tree:
        """The mount, detached; whoever gets it attaches it. `userns`: the path of the container's user namespace."""
        descriptor = os.open(userns, os.O_RDONLY | os.O_CLOEXEC) if userns else -1
        try:
            with failures("cannot mount the image", self.image_id):
                whole = self._whole(descriptor)
                return whole if not self.sub_path else self._part(whole)
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def mount(self, target: str, userns: str = "") -> None:
        """Mount it at an existing directory (or file, for a sub_path that is one) of the caller's mount namespace."""
        with self.tree(userns) as tree, failures("cannot mount the image at", target):
            tree.attach(target)

    def unmount(self, target: str) -> None:
        """Take that mount down; a no-op if there is none."""
        mounts.detach(target)

    def _whole(self, userns: int) -> mounts.Tree:
        if self.copied:
            tree = mounts.clone(self.copied, recursive=False)
            if self.read_only:
                tree.set_attributes(set_=lib.MOUNT_ATTR_RDONLY)
            return tree
        return overlay.make(
            self.lowerdirs, self.upperdir, self.workdir, self.options, userns=userns, scratch=self.scratch
        )

    def _part(self, whole: mounts.Tree) -> mounts.Tree:
        """A mount of one path inside; the whole dissolves when its last part is gone."""
        with whole:
            fd = beneath.open_beneath(whole.fd, self.sub_path)
            try:
                return mounts.clone("", recursive=False, dirfd=fd)
            except syscalls.KernelError as error:
                if error.errno != errno.EINVAL:
                    raise
            finally:
                os.close(fd)
            return self._part_of_attached(whole)

    def _part_of_attached(self, whole: mounts.Tree) -> mounts.Tree:
        """Before 6.15 a part of a detached mount cannot be cloned: attach it for a moment."""
        target = os.path.join(self.scratch, f"part-{self.key}")
        os.makedirs(target, exist_ok=True)
        whole.attach(target)
        try:
            root = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fd = beneath.open_beneath(root, self.sub_path)
            finally:
                os.close(root)
            try:
                return mounts.clone("", recursive=False, dirfd=fd)
            finally:
                os.close(fd)
        finally:
            mounts.detach(target)
            os.rmdir(target)


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted under a key."""

    key: str
    image_id: str
    volume: bool = False
    sub_path: str = ""
    read_only: bool = False
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()


class RootfsFolder:
    """The writable layers and views of a store."""

    def __init__(self, layout: Layout, *, metacopy: bool, overlaid: bool = True) -> None:
        self._layout = layout
        self._overlaid = overlaid
        self._options = overlay.METACOPY if metacopy else overlay.PLAIN

    def folder(self, key: str) -> str:
        if not _KEY.match(key):
            raise ImageError(f"{key[:100]!r} cannot be the key of a root file system", hint="letters, digits and _.-")
        return os.path.join(self._layout.rootfs, key)

    def prepare(self, request: Request, layers: Sequence[Layer]) -> Rootfs:
        """Record which trees are needed, then lay the folders out. The caller's lease holds the trees meanwhile."""
        folder = self.folder(request.key)
        known = self.get(request.key)
        if known is not None:
            if known.image_id != request.image_id:
                raise ImageError(f"{request.key} already stands on {known.image_id[:19]}", hint="release it first")
            return known
        with failures("cannot prepare a root file system", folder), self._layout.adding():
            os.makedirs(folder, mode=0o711, exist_ok=True)
            self._lay_out(request, layers, folder)
            record = {
                "image_id": request.image_id,
                "layers": [layer.name for layer in layers],
                "volume": request.volume,
                "sub_path": request.sub_path,
                "read_only": request.read_only,
                "uid_mappings": [_line(m) for m in request.uid_mappings],
                "gid_mappings": [_line(m) for m in request.gid_mappings],
            }
            durable.replace(os.path.join(folder, "record.json"), json.dumps(record, indent=1).encode(), durable=False)
        return self._describe(request, tuple(layer.name for layer in layers))

    def _lay_out(self, request: Request, layers: Sequence[Layer], folder: str) -> None:
        if not self._overlaid:
            self._copy(request, layers, folder)
            return
        names = ("top",) if request.volume or request.read_only else ("upper", "work")
        for name in names:
            path = os.path.join(folder, name)
            beneath.remove_tree(path)  # of an attempt that never got its record
            os.mkdir(path, 0o755)
        # The root's attributes come from the uppermost directory of an overlay, which is this one.
        top = os.path.join(folder, names[0])
        copy_root(root_of(layers), top)
        seen = os.stat(top)
        os.chown(top, mapped(seen.st_uid, request.uid_mappings), mapped(seen.st_gid, request.gid_mappings))

    def _copy(self, request: Request, layers: Sequence[Layer], folder: str) -> None:
        """Native: a copy of the flat tree for a writable root; a read-only view binds the tree itself."""
        if request.uid_mappings or request.gid_mappings:
            raise StoreFailed(
                "user namespaces need overlayfs under the store", hint="put the store's root on ext4, xfs or btrfs"
            )
        target = os.path.join(folder, "copy")
        beneath.remove_tree(target)
        if request.volume or request.read_only:
            return
        if layers:
            from cri.images import copytree

            copytree.copy(layers[-1].path, target)
        else:
            os.mkdir(target, 0o755)

    def _describe(self, request: Request, names: Sequence[str]) -> Rootfs:
        folder = self.folder(request.key)
        # overlayfs refuses a layer that it has already (ELOOP); what a lower copy of it says the upper one says too.
        distinct = dict.fromkeys(reversed(names))
        lowers = [os.path.join(self._layout.layers, name, "fs") for name in distinct]
        writable = not (request.volume or request.read_only)
        copied = ""
        if not self._overlaid:
            empty = os.path.join(self._layout.root, "empty")
            copied = os.path.join(folder, "copy") if writable else (lowers[0] if lowers else empty)
        if not writable:
            lowers.insert(0, os.path.join(folder, "top"))
        elif not lowers:
            lowers.append(os.path.join(self._layout.root, "empty"))
        return Rootfs(
            key=request.key,
            image_id=request.image_id,
            lowerdirs=tuple(lowers),
            upperdir=os.path.join(folder, "upper") if writable else "",
            workdir=os.path.join(folder, "work") if writable else "",
            options=self._options if writable else overlay.PLAIN,
            copied=copied,
            sub_path=request.sub_path,
            read_only=not writable,
            uid_mappings=request.uid_mappings,
            gid_mappings=request.gid_mappings,
            scratch=self._layout.staging,
        )

    def get(self, key: str) -> Rootfs | None:
        """What was prepared under a key."""
        value = self._record(key)
        if value is None:
            return None
        request = Request(
            key,
            str(value["image_id"]),
            bool(value["volume"]),
            str(value["sub_path"]),
            bool(value["read_only"]),
            tuple(IdMapping(*m) for m in value["uid_mappings"]),
            tuple(IdMapping(*m) for m in value["gid_mappings"]),
        )
        return self._describe(request, value["layers"])

    def layers_of(self, key: str) -> tuple[str, ...]:
        value = self._record(key)
        return tuple(value["layers"]) if value is not None else ()

    def image_of(self, key: str) -> str:
        value = self._record(key)
        return str(value["image_id"]) if value is not None else ""

    def _record(self, key: str) -> dict[str, Any] | None:
        data = durable.read(os.path.join(self.folder(key), "record.json"))
        if data is None:
            return None
        try:
            value: dict[str, Any] = json.loads(data)
        except ValueError:
            raise ImageError(f"the record of {key} cannot be read", hint="release it and prepare it again") from None
        return value

    def all_keys(self) -> list[str]:
        return sorted(os.listdir(self._layout.rootfs))

    def release(self, key: str) -> None:
        """Delete everything under a key; a no-op if there is nothing."""
        with failures("cannot delete the writable layer", key):
            self._layout.discard(self.folder(key))

    def usage(self, key: str) -> tuple[int, int]:
        """Bytes and inodes of a writable layer."""
        for name in ("upper", "copy"):
            path = os.path.join(self.folder(key), name)
            if os.path.isdir(path):
                return disk_usage(path)
        return 0, 0

    def check_sub_path(self, rootfs: Rootfs) -> None:
        """A volume's sub_path must be there, beneath the image's root."""
        if not rootfs.sub_path:
            return
        if rootfs.sub_path.startswith("/") or ".." in rootfs.sub_path.split("/"):
            raise NotFound(f"sub_path {rootfs.sub_path!r} leads out of the image", hint="a relative path without '..'")
        try:
            rootfs.tree().close()
        except ImageError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in (errno.ENOENT, errno.ENOTDIR, errno.EXDEV, errno.ELOOP):
                raise NotFound(f"sub_path {rootfs.sub_path!r} is not in the image {rootfs.image_id[:19]}") from error
            raise


def _line(mapping: IdMapping) -> list[int]:
    return [mapping.container_id, mapping.host_id, mapping.size]


def mapped(number: int, mappings: Sequence[IdMapping]) -> int:
    """The host's id of a container's id; without mappings they are the same."""
    if not mappings:
        return number
    for mapping in mappings:
        if mapping.container_id <= number < mapping.container_id + mapping.size:
            return mapping.host_id + number - mapping.container_id
    return 65534


def disk_usage(path: str) -> tuple[int, int]:
    """Bytes on disk and inodes beneath a directory; a file with several names counts once."""
    total = inodes = 0
    seen: set[int] = set()
    todo = [path]
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    if found.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                        if found.st_ino in seen:
                            continue
                        seen.add(found.st_ino)
                    total += found.st_blocks * 512
                    inodes += 1
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        except FileNotFoundError:
            continue  # a container works in there
    return total, inodes
