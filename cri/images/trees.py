# SPDX-License-Identifier: Apache-2.0
"""The trees of an image: found, or made from its blobs, the lowest first; and the record of an image that is here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from cri.images.cancel import Cancellation
from cri.images.catalogue import LayerRef, ManifestRef, Record
from cri.images.crew import Crew
from cri.images.digest import chain_ids
from cri.images.errors import ImageError
from cri.images.layers import Layer, alone_name, chained_name, flat_name
from cri.images.leases import Lease
from cri.images.parts import Parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cri.images import manifest as manifests
    from cri.images.model import ImageConfig


class in_layer:
    """Errors inside say which layer."""

    def __init__(self, index: int, ref: LayerRef) -> None:
        self._label = f"layer {index + 1} ({ref.digest[:19]})"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ImageError) and not str(error).startswith("layer "):
            error.args = (f"{self._label}: {error}",)


def blob_reader(parts: Parts, digest: str, stop: Cancellation | None) -> Callable[[], bytes]:
    pieces = parts.blobs.pieces(digest)

    def read() -> bytes:
        if stop is not None:
            stop.check(f"unpacking {digest}")
        return next(pieces, b"")

    return read


def build_chained(parts: Parts, refs: Sequence[LayerRef], lease: Lease, stop: Cancellation | None) -> list[Layer]:
    """Every tree of an image, the lowest first; those that are missing are made from their blobs."""
    chain = chain_ids(tuple(ref.diff_id for ref in refs))
    trees: list[Layer] = []
    for index, ref in enumerate(refs):
        lease.add(alone_name(ref.diff_id), chained_name(chain[index]))
        tree = parts.layers.find(ref.diff_id, chain[index])
        if tree is None:
            with in_layer(index, ref):
                tree = _build_one(parts, ref, chain[index], trees, stop)
        trees.append(tree)
    return trees


def _build_one(parts: Parts, ref: LayerRef, chain_id: str, below: list[Layer], stop: Cancellation | None) -> Layer:
    """Alone if that is possible, else on what is below; in a thread with a umask of its own."""
    made: list[Layer] = []

    def work() -> None:
        from cri.images import unpack

        unpack.private_umask()
        read = blob_reader(parts, ref.digest, stop)
        try:
            made.append(parts.layers.unpack_alone(ref.diff_id, ref.digest, read, first=not below, cancel=stop))
        except unpack.NeedsParents:
            read = blob_reader(parts, ref.digest, stop)
            made.append(parts.layers.unpack_chained(ref.diff_id, chain_id, ref.digest, read, below, stop))

    crew = Crew("unpack", None, lambda: None)
    try:
        crew.start(work, ref.digest[:19])
        crew.wait(f"unpacking {ref.digest}")
    finally:
        crew.close()
    return made[0]


def build(parts: Parts, refs: Sequence[LayerRef], lease: Lease, stop: Cancellation | None) -> list[Layer]:
    """The trees that a root file system of these layers is made from, as this store's file system allows."""
    return (build_chained if parts.overlay else build_flat)(parts, refs, lease, stop)


def build_flat(parts: Parts, refs: Sequence[LayerRef], lease: Lease, stop: Cancellation | None) -> list[Layer]:
    """One tree of all layers, where overlayfs cannot stand; made once per image, copied for every container."""
    if not refs:
        return []
    chain_id = chain_ids(tuple(ref.diff_id for ref in refs))[-1]
    lease.add(flat_name(chain_id))
    made: list[Layer] = []

    def work() -> None:
        from cri.images import unpack

        unpack.private_umask()
        sources = [(ref.diff_id, blob_reader(parts, ref.digest, stop)) for ref in refs]
        made.append(parts.layers.unpack_flat(chain_id, sources, stop))

    crew = Crew("flatten", None, lambda: None)
    try:
        crew.start(work, chain_id[:19])
        crew.wait("unpacking all layers")
    finally:
        crew.close()
    return made


def describe(
    parts: Parts,
    digest: str,
    size: int,
    manifest: manifests.Manifest,
    config: ImageConfig | None,
    refs: Sequence[LayerRef],
    indexes: dict[str, str],
    *,
    pinned: bool,
) -> Record:
    """The record of an image that is here, without a name yet."""
    sizes = [tree.bytes for tree in parts.trees(refs) if tree is not None] if config is not None else []
    return Record(
        id=manifest.config.digest if config is not None else digest,
        manifests=(ManifestRef(digest, size, manifest.media_type, manifest.config.size, tuple(refs)),),
        indexes=indexes,
        os=config.platform.os if config else "",
        architecture=config.platform.architecture if config else "",
        variant=config.platform.variant if config else "",
        user=config.user if config else "",
        labels=dict(config.labels) if config else {},
        pinned=pinned,
        artifact=config is None,
        created_at=time.time(),
        unpacked_size=sum(sizes),
    )
