# SPDX-License-Identifier: Apache-2.0
"""Unpacked layers: trees that appear whole or not at all, shared by every image that has them.

    blob ──unpack──► staging/ID (flock) ──digest right, rename──► layers/ID ──syncfs──► settled

A tree is thousands of files; syncing each would cost more than unpacking. So a layer carries the boot id under which it
was made until a syncfs(2) has settled it: after a power cut an unsettled layer counts as absent and is unpacked again
from its blob, which is on disk for sure.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence

from cri.images.cancel import Cancellation
from cri.images.errors import Corrupt, ImageError
from cri.images.layout import Layout, failures, wait_lock
from runtime.linux import beneath, durable, syscalls
from runtime.linux.quick_dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cri.images import unpack

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_DIGITS = 24  # of a name: 96 bits; the full digest is in layer.json and compared


@dataclass(frozen=True, slots=True)
class Layer:
    """One unpacked layer. `chain_id` is set where the tree depends on what is beneath."""

    name: str
    path: str
    diff_id: str
    chain_id: str
    bytes: int
    entries: int
    root_given: bool
    boot_id: str = ""
    blob: str = ""


def boot_id() -> str:
    with open(_BOOT_ID, encoding="ascii") as file:
        return file.read().strip()


def alone_name(diff_id: str) -> str:
    return "d" + diff_id.partition(":")[2][:_DIGITS]


def chained_name(chain_id: str) -> str:
    return "c" + chain_id.partition(":")[2][:_DIGITS]


def flat_name(chain_id: str) -> str:
    return "f" + chain_id.partition(":")[2][:_DIGITS]


class Layers:
    """The unpacked layers of a store."""

    def __init__(self, layout: Layout, limits: unpack.Limits | None = None) -> None:
        self._layout = layout
        self._limits = limits
        self._boot_id = boot_id()

    def get(self, name: str) -> Layer | None:
        """A layer by its name; one that a power cut may have damaged counts as absent."""
        path = os.path.join(self._layout.layers, name)
        data = durable.read(os.path.join(path, "layer.json"))
        if data is None:
            return None
        try:
            value = json.loads(data)
            layer = Layer(name, os.path.join(path, "fs"), **value)
        except (ValueError, TypeError):
            return None
        if layer.boot_id != self._boot_id and not os.path.exists(os.path.join(path, "settled")):
            return None
        return layer

    def find(self, diff_id: str, chain_id: str) -> Layer | None:
        """The tree of a layer at its place in an image."""
        alone = self.get(alone_name(diff_id))
        if alone is not None and alone.diff_id == diff_id:
            return alone
        chained = self.get(chained_name(chain_id))
        return chained if chained is not None and chained.chain_id == chain_id else None

    def names(self) -> list[str]:
        return sorted(os.listdir(self._layout.layers))

    def discard(self, name: str) -> None:
        self._layout.discard(os.path.join(self._layout.layers, name))

    # -- making ----------------------------------------------------------------------------------------------------
    def unpack_alone(
        self, diff_id: str, blob: str, read: Callable[[], bytes], *, first: bool, cancel: Cancellation | None = None
    ) -> Layer:
        """Lay a layer down by itself; raises NeedsParents where that is impossible. Only in a thread of `workers`."""
        name = alone_name(diff_id)

        def fill(folder: str) -> unpack.Unpacked:
            os.mkdir(os.path.join(folder, "fs"), 0o755)
            root = os.open(os.path.join(folder, "fs"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return self._fill(root, diff_id, read, merged=False, first=first)
            finally:
                os.close(root)

        return self._make(name, diff_id, "", blob, fill, cancel)

    def unpack_chained(
        self,
        diff_id: str,
        chain_id: str,
        blob: str,
        read: Callable[[], bytes],
        parents: Sequence[Layer],
        cancel: Cancellation | None = None,
    ) -> Layer:
        """Lay a layer down on a view of its parents (the lowest first); what it changes becomes its tree."""

        def fill(folder: str) -> unpack.Unpacked:
            upper, work = os.path.join(folder, "fs"), os.path.join(folder, "work")
            os.mkdir(upper, 0o755)
            os.mkdir(work, 0o700)
            from cri.images import overlay

            lowers = list(dict.fromkeys(layer.path for layer in reversed(parents)))  # overlayfs refuses doubles
            copy_root(root_of(parents), upper)
            with overlay.make(lowers, upper, work, scratch=folder) as tree:
                root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree.fd)
                try:
                    done = self._fill(root, diff_id, read, merged=True, first=False)
                finally:
                    os.close(root)
            beneath.remove_tree(work)
            return done

        return self._make(chained_name(chain_id), diff_id, chain_id, blob, fill, cancel)

    def unpack_flat(
        self, chain_id: str, sources: Sequence[tuple[str, Callable[[], bytes]]], cancel: Cancellation | None = None
    ) -> Layer:
        """A whole image as one tree, layer upon layer by plain copying: for file systems without overlayfs."""

        def fill(folder: str) -> unpack.Unpacked:
            tree = os.path.join(folder, "fs")
            os.mkdir(tree, 0o755)
            root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                done = [self._fill(root, diff_id, read, merged=True, first=False) for diff_id, read in sources]
            finally:
                os.close(root)
            from cri.images import unpack

            return unpack.Unpacked(sum(d.entries for d in done), sum(d.bytes for d in done), root_given=True)

        return self._make(flat_name(chain_id), sources[-1][0], chain_id, "", fill, cancel)

    def _fill(
        self, root: int, diff_id: str, read: Callable[[], bytes], *, merged: bool, first: bool
    ) -> unpack.Unpacked:
        """Unpack and compare: the digest of what was unpacked must be the one that the image's config promises."""
        import hashlib

        from cri.images import inflate, tar, unpack  # only here: who starts a container of a present image needs none

        plain = inflate.plain(read)
        found = hashlib.new(diff_id.partition(":")[0], usedforsecurity=False)

        def hashed() -> bytes:
            piece = plain()
            found.update(piece)
            return piece

        done = unpack.Unpacker(root, merged=merged, first=first, limits=self._limits).unpack(tar.Reader(hashed))
        if found.hexdigest() != diff_id.partition(":")[2]:
            raise Corrupt(
                f"the unpacked layer has the digest {found.hexdigest()[:12]}..., the image says {diff_id[:19]}...",
                hint="the image itself is broken; ask whoever built it",
            )
        return done

    def _make(
        self,
        name: str,
        diff_id: str,
        chain_id: str,
        blob: str,
        fill: Callable[[str], unpack.Unpacked],
        cancel: Cancellation | None,
    ) -> Layer:
        folder = os.path.join(self._layout.staging, name)
        with wait_lock(f"{folder}.lock", cancel, f"waiting for another unpacking of {diff_id}"):
            try:
                there = self.get(name)
                if there is not None:
                    return there
                with failures("cannot unpack layer", diff_id):
                    beneath.remove_tree(folder)  # what a killed attempt left
                    self.discard(name)  # one that a power cut may have damaged
                    os.mkdir(folder, 0o711)
                    done = fill(folder)
                    record = {
                        "diff_id": diff_id,
                        "chain_id": chain_id,
                        "bytes": done.bytes,
                        "entries": done.entries,
                        "root_given": done.root_given,
                        "boot_id": self._boot_id,
                        "blob": blob,
                    }
                    durable.replace(
                        os.path.join(folder, "layer.json"), json.dumps(record, indent=1).encode(), durable=False
                    )
                    os.rename(folder, os.path.join(self._layout.layers, name))
            except BaseException:
                beneath.remove_tree(folder)
                raise
            finally:
                os.unlink(f"{folder}.lock")  # while held: whoever waits for it sees that and makes a new one
        made = self.get(name)
        if made is None:
            raise ImageError(f"layer {name} went away as it was made", hint="is another program cleaning up the store?")
        return made

    # -- durability ------------------------------------------------------------------------------------------------
    def unsettled(self) -> list[str]:
        """Layers of this boot that a power cut would still take."""
        return [
            name
            for name in self.names()
            if not os.path.exists(os.path.join(self._layout.layers, name, "settled")) and self.get(name) is not None
        ]

    def settle(self) -> None:
        """Bring all unpacked layers to disk with one syncfs(2), then say so in each."""
        names = self.unsettled()
        if not names:
            return
        root = os.open(self._layout.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syscalls.syncfs(root)
        finally:
            os.close(root)
        for name in names:
            try:
                os.close(
                    os.open(
                        os.path.join(self._layout.layers, name, "settled"),
                        os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC,
                        0o644,
                    )
                )
            except FileNotFoundError:
                pass  # collected meanwhile

    def all(self) -> Iterator[Layer]:
        for name in self.names():
            layer = self.get(name)
            if layer is not None:
                yield layer


def root_of(layers: Sequence[Layer]) -> str:
    """The directory whose owner, mode and attributes the root of these layers (the lowest first) has.

    overlayfs takes them from the uppermost layer, but that one's archive may not have said anything about the root.
    """
    for layer in reversed(layers):
        if layer.root_given:
            return layer.path
    return ""


def copy_root(source: str, target: str) -> None:
    """Give target the attributes of source ('' means root's, 0755)."""
    if not source:
        return
    seen = os.stat(source)
    os.chown(target, seen.st_uid, seen.st_gid)
    os.chmod(target, seen.st_mode & 0o7777)
    for name in os.listxattr(source):
        if not name.startswith("trusted.overlay."):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(seen.st_atime_ns, seen.st_mtime_ns))
