# SPDX-License-Identifier: Apache-2.0
"""Look at every byte of the store, and mend what is damaged: blobs from a registry, trees from their blobs."""

import os
import time
from collections.abc import Iterator

from cri.images import compare, inflate, overlay, tar
from cri.images import digest as digests
from cri.images.cancel import Cancellation
from cri.images.catalogue import LayerRef, Record
from cri.images.errors import ImageError
from cri.images.fetch import fetch
from cri.images.layers import Layer
from cri.images.leases import Lease
from cri.images.model import Damage, Event
from cri.images.parts import Parts, Progress
from cri.images.reference import Reference, parse
from cri.images.trees import build
from runtime.linux import durable


def verify(parts: Parts, *, repair: bool, progress: Progress | None, cancel: Cancellation | None) -> tuple[Damage, ...]:
    """Check every image, newest first; returns what was wrong."""
    return Verification(parts, repair, progress, cancel or Cancellation()).run()


class Verification:
    """One pass over the store."""

    def __init__(self, parts: Parts, repair: bool, progress: Progress | None, cancel: Cancellation) -> None:  # noqa: FBT001
        self._parts = parts
        self._repair = repair
        self._progress = progress
        self._cancel = cancel
        self._found: list[Damage] = []
        self._good: set[str] = set()

    def run(self) -> tuple[Damage, ...]:
        self._unreadable()
        with Lease(self._parts.layout) as lease:
            for record in list(self._parts.catalogue.records().values()):
                lease.add(*record.blobs())
                self._image(record, lease)
        return tuple(self._found)

    def _unreadable(self) -> None:
        """Records that nobody can read."""
        known = {self._parts.catalogue.path(image_id) for image_id in self._parts.catalogue.records()}
        for name in sorted(os.listdir(self._parts.layout.images)):
            path = os.path.join(self._parts.layout.images, name)
            if not name.endswith(".json") or path in known:
                continue
            if self._repair:
                durable.remove(path)
            what = "the record cannot be read; pull the image again"
            self._found.append(Damage("", path, what, repaired=False))

    def _image(self, record: Record, lease: Lease) -> None:
        for manifest in record.manifests:
            sizes = {layer.digest: layer.size for layer in manifest.layers}
            for digest in (manifest.digest, *sizes):
                self._blob(record, digest, sizes.get(digest, -1))
        for digest in (record.id, *record.indexes):
            self._blob(record, digest, -1)
        if not record.artifact and self._parts.overlay:
            for manifest in record.manifests[-1:]:
                for index, layer in enumerate(manifest.layers):
                    self._tree(record, manifest.layers, index, layer, lease)

    # -- blobs -----------------------------------------------------------------------------------------------------
    def _blob(self, record: Record, digest: str, size: int) -> None:
        if digest in self._good:
            return
        self._cancel.check("verifying")
        self._tell(digest)
        blobs = self._parts.blobs
        here = blobs.has(digest, size)
        if here and blobs.check(digest, self._cancel):
            self._good.add(digest)
            return
        what = "damaged" if blobs.has(digest) else "missing"
        failure = self._mend(record, digest, size) if self._repair else ""
        repaired = self._repair and not failure
        if repaired:
            self._good.add(digest)
        self._report(record, digest, f"blob {what}" + (f"; {failure}" if failure else ""), repaired=repaired)

    def _mend(self, record: Record, digest: str, size: int) -> str:
        """Fetch a blob again from any place that the image came from; '' or why that was impossible."""
        if self._parts.blobs.has(digest):
            self._parts.layout.discard(self._parts.blobs.path(digest))
        failure = "no registry is known for it"
        for place in places(record):
            repository = self._parts.repository(place, None, self._cancel)
            try:
                if digest in record.indexes or any(digest == manifest.digest for manifest in record.manifests):
                    self._parts.blobs.add(repository.manifest(digest)[0], digest)
                else:
                    fetch(
                        repository,
                        self._parts.blobs,
                        digest,
                        size,
                        report=lambda *_: None,
                        cancel=self._cancel,
                        backoff=self._parts.backoff,
                    )
                return ""
            except ImageError as error:
                self._cancel.check("verifying")
                failure = str(error)
        return failure

    # -- trees -----------------------------------------------------------------------------------------------------
    def _tree(self, record: Record, layers: tuple[LayerRef, ...], index: int, layer: LayerRef, lease: Lease) -> None:
        chain = digests.chain_ids(tuple(ref.diff_id for ref in layers))
        tree = self._parts.layers.find(layer.diff_id, chain[index])
        if tree is not None and tree.name in self._good:
            return
        wrong: list[str] = ["missing"]
        if tree is not None:
            lease.add(tree.name)
            if layer.digest not in self._good:
                return  # comparing takes the archive
            self._tell(tree.name)
            wrong = self._look(tree, layers[:index], chain, layer.digest)
        if not wrong:
            self._good.add(tree.name if tree is not None else "")
            return
        repaired = False
        if self._repair and layer.digest in self._good:
            if tree is not None:
                self._parts.layers.discard(tree.name)
            build(self._parts, layers[: index + 1], lease, self._cancel)
            repaired = True
        self._report(record, layer.diff_id, f"unpacked layer: {'; '.join(wrong[:3])}", repaired=repaired)

    def _look(self, tree: Layer, below: tuple[LayerRef, ...], chain: tuple[str, ...], digest: str) -> list[str]:
        """Compare a tree that stands alone, or one that does not on top of what it leans on."""
        if not tree.chain_id:
            root = os.open(tree.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            return self._compare(root, digest, merged=False)
        found = [self._parts.layers.find(ref.diff_id, chain[i]) for i, ref in enumerate(below)]
        lowers = dict.fromkeys([tree.path, *(lower.path for lower in reversed(found) if lower is not None)])
        try:
            with overlay.make(list(lowers)) as view:
                root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=view.fd)
                return self._compare(root, digest, merged=True)
        except OSError as error:
            return [str(error)]

    def _compare(self, root: int, digest: str, *, merged: bool) -> list[str]:
        pieces = self._parts.blobs.pieces(digest)

        def read() -> bytes:
            self._cancel.check("verifying")
            return next(pieces, b"")

        try:
            return compare.differences(root, tar.Reader(inflate.plain(read)), merged=merged)
        except (ImageError, OSError) as error:
            self._cancel.check("verifying")
            return [str(error)]
        finally:
            os.close(root)

    # -- telling ---------------------------------------------------------------------------------------------------
    def _report(self, record: Record, subject: str, what: str, *, repaired: bool) -> None:
        name = next(iter(sorted(record.tags)), next(iter(record.digests), record.id))
        self._found.append(Damage(name, subject, what, repaired))
        self._parts.bus.tell("repaired" if repaired else "damaged", subject, name, what)

    def _tell(self, subject: str) -> None:
        if self._progress is not None:
            self._progress(Event("verifying", subject, time=time.time()))


def places(record: Record) -> Iterator[Reference]:
    """Repositories that an image was pulled from."""
    seen: set[str] = set()
    for name in (*record.digests, *record.tags):
        found = parse(name)
        if found.repository not in seen:
            seen.add(found.repository)
            yield found
