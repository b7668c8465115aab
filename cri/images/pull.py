# SPDX-License-Identifier: Apache-2.0
"""A pull, from a name to a record in the catalogue.

    name ──resolve──► manifest ──► config ──► layers, each:   registry ─► partial blob ─► blob
                                                                              └─follow─► tree (unpacked while it comes)
    when every blob and every tree is here and verified: record the image under its name

Nothing before the last step is visible to anyone; everything before it is kept for the next try.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing

from cri.images import manifest as manifests
from cri.images import unpack
from cri.images.blobs import Partial, Stopped
from cri.images.cancel import Cancellation
from cri.images.catalogue import LayerRef, ManifestRef, Record, merge
from cri.images.crew import Crew
from cri.images.digest import chain_ids
from cri.images.errors import Corrupt, HostileLayer, ImageError, NotFound, RegistryError
from cri.images.fetch import fetch
from cri.images.layers import Layer, alone_name
from cri.images.leases import Lease
from cri.images.model import Credentials, Descriptor, Event, ImageConfig, Platform
from cri.images.parts import Parts, Progress
from cri.images.reference import Reference
from cri.images.trees import blob_reader, build_chained, build_flat, describe, in_layer
from runtime.linux.quick_dataclasses import replace

DOWNLOADS = 4
_MAX_NESTED = 4  # an index may name indexes


class _Slot:
    """One layer of the image under way: what its two workers tell each other."""

    __slots__ = ("arrived", "index", "partial", "ref", "started", "tree")

    def __init__(self, index: int, ref: LayerRef) -> None:
        self.index = index
        self.ref = ref
        self.partial: Partial | None = None
        self.started = threading.Event()  # there is something to follow, or the blob is here
        self.arrived = threading.Event()  # the blob is here and right
        self.tree: Layer | None = None


class Pull:
    """One pull; `run` returns the image id."""

    def __init__(
        self,
        parts: Parts,
        reference: Reference,
        *,
        credentials: Credentials | None,
        platform: Platform | None,
        progress: Progress | None,
        cancel: Cancellation | None,
        pinned: bool,
        unpack_layers: bool,
    ) -> None:
        self._parts = parts
        self._reference = reference.with_default_tag()
        self._platform = platform or parts.platform
        self._progress = progress
        self._caller = cancel
        self._pinned = pinned
        self._unpack = unpack_layers
        self._lease = Lease(parts.layout)
        self._crew = Crew(f"pull {reference.path}", cancel, self._lease.close)
        with self._crew.unless_it_fails():
            self._repository = parts.repository(reference, credentials, self._crew.stop, self._notice)
        self._what = str(self._reference)

    def run(self) -> str:
        """Fetch, unpack, record. The work runs in threads, so that a cancelled caller can leave within 100 ms."""
        result: list[Record] = []
        try:
            self._crew.start(lambda: result.append(self._all()), "main")
            self._crew.wait(f"pulling {self._what}")
        finally:
            self._crew.close()
        self._tell("done", result[0].id)
        self._parts.bus.tell("pulled", result[0].id, self._what)
        return result[0].id

    def _all(self) -> Record:
        self._tell("resolving", self._what)
        target = self._reference.digest
        digest, media_type, _ = self._repository.resolve(target or self._reference.tag)
        present = self._present(digest)
        if present is not None:
            self._tell("exists", present.id)
            return self._record(present, digest)
        manifest_digest, data, manifest, indexes = self._manifest(digest, media_type)
        config, layers = self._config(manifest, manifest_digest)
        self._layers(layers)
        if self._unpack and config is not None and not self._parts.overlay:
            build_flat(self._parts, layers, self._lease, self._crew.stop)
        record = self._describe(manifest_digest, len(data), manifest, config, layers, indexes)
        return self._record(record, digest)

    # -- what is already here --------------------------------------------------------------------------------------
    def _present(self, digest: str) -> Record | None:
        """The image that this manifest or index names, if it is here with everything."""
        for record in self._parts.catalogue.records().values():
            chosen = self._choose_again(digest) if digest in record.indexes else digest
            for manifest in record.manifests:
                if manifest.digest == chosen and self._complete(record, manifest):
                    return record
        return None

    def _choose_again(self, digest: str) -> str:
        """What an index that is here names for the platform of this pull, which may not be that of an earlier one."""
        for _ in range(_MAX_NESTED):
            try:
                data = self._parts.blobs.read(digest, manifests.MAX_MANIFEST)
            except (NotFound, Corrupt):
                return ""
            parsed = manifests.parse(data, "", self._what)
            if isinstance(parsed, manifests.Manifest):
                return digest
            digest = manifests.choose(parsed, self._platform, self._what).digest
        return ""

    def _complete(self, record: Record, manifest: ManifestRef) -> bool:
        if not self._parts.overlay:
            return self._blobs_here(record, manifest)
        names = [tree.name for tree in self._parts.trees(manifest.layers) if tree is not None]
        self._lease.add(*record.blobs(), *names)
        # Looked for again, now that no collection can take them.
        if self._unpack and not record.artifact and None in self._parts.trees(manifest.layers):
            return False
        return self._blobs_here(record, manifest)

    def _blobs_here(self, record: Record, manifest: ManifestRef) -> bool:
        self._lease.add(*record.blobs())
        blobs = self._parts.blobs
        return all(blobs.has(layer.digest, layer.size) for layer in manifest.layers) and all(
            blobs.has(d) for d in (record.id, manifest.digest)
        )

    # -- documents -------------------------------------------------------------------------------------------------
    def _manifest(self, digest: str, media_type: str) -> tuple[str, bytes, manifests.Manifest, dict[str, str]]:
        """Follow indexes down to the manifest for our platform."""
        above: list[str] = []
        for _ in range(_MAX_NESTED):
            data, media_type = self._document(digest, media_type)
            parsed = manifests.parse(data, media_type, f"{self._what} ({digest[:19]})")
            if isinstance(parsed, manifests.Manifest):
                return digest, data, parsed, dict.fromkeys(above, digest)
            above.append(digest)
            chosen = manifests.choose(parsed, self._platform, self._what)
            digest, media_type = chosen.digest, chosen.media_type
        raise ImageError(f"{self._what}: indexes nested deeper than {_MAX_NESTED}")

    def _document(self, digest: str, media_type: str) -> tuple[bytes, str]:
        self._lease.add(digest)
        if self._parts.blobs.has(digest):
            try:
                return self._parts.blobs.read(digest, manifests.MAX_MANIFEST), media_type
            except Corrupt:
                self._parts.layout.discard(self._parts.blobs.path(digest))
        data, media_type = self._repository.manifest(digest)
        self._parts.blobs.add(data, digest)
        return data, media_type

    def _config(self, manifest: manifests.Manifest, digest: str) -> tuple[ImageConfig | None, list[LayerRef]]:
        """The configuration, and the layers with the trees they must become."""
        if not manifest.is_image:
            refs = [LayerRef(layer.digest, layer.size, layer.media_type, "") for layer in manifest.layers]
            self._blob(manifest.config, manifests.MAX_CONFIG)
            return None, refs
        for layer in manifest.layers:
            manifests.compression(layer)  # refuses what cannot be unpacked before anything is downloaded
        data = self._blob(manifest.config, manifests.MAX_CONFIG)
        config = manifests.config(data, f"{self._what}: config {manifest.config.digest[:19]}")
        if len(config.diff_ids) != len(manifest.layers):
            raise Corrupt(
                f"{self._what}: {len(manifest.layers)} layers in manifest {digest[:19]}, "
                f"{len(config.diff_ids)} in its config"
            )
        refs = [
            LayerRef(layer.digest, layer.size, layer.media_type, diff_id)
            for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
        ]
        return config, refs

    def _blob(self, wanted: Descriptor, limit: int) -> bytes:
        if wanted.size > limit:
            raise Corrupt(f"{self._what}: a config of {wanted.size} bytes", hint=f"at most {limit} are accepted")
        self._lease.add(wanted.digest)
        blobs = self._parts.blobs
        if blobs.has(wanted.digest, wanted.size):
            try:
                return blobs.read(wanted.digest, limit)
            except Corrupt:
                self._parts.layout.discard(blobs.path(wanted.digest))
        self._fetch(wanted.digest, wanted.size, None)
        return blobs.read(wanted.digest, limit)

    # -- layers ----------------------------------------------------------------------------------------------------
    def _layers(self, refs: Sequence[LayerRef]) -> None:
        """Download and unpack side by side; layers that lean on others come last, in order."""
        slots = {ref.digest: _Slot(index, ref) for index, ref in reversed(list(enumerate(refs)))}
        queue = sorted(slots.values(), key=lambda slot: slot.index)
        wants_trees = self._unpack and self._parts.overlay and all(ref.diff_id for ref in refs)
        crew = Crew(f"layers of {self._reference.path}", self._crew.stop, lambda: None)
        later: list[_Slot] = []
        try:
            downloads = _Turns(queue)
            for number in range(min(DOWNLOADS, len(queue))):
                crew.start(lambda: self._download_all(downloads, crew), f"download {number}")
            if wants_trees:
                unpacks = _Turns(queue)
                for number in range(min(_unpackers(), len(queue))):
                    crew.start(lambda: self._unpack_all(unpacks, later, refs, crew), f"unpack {number}")
            crew.wait(f"pulling {self._what}")
        finally:
            crew.close()
        if wants_trees:
            self._unpack_chained(refs)

    def _download_all(self, turns: "_Turns", crew: Crew) -> None:
        while (slot := turns.next()) is not None:
            crew.stop.check(f"pulling {self._what}")
            with in_layer(slot.index, slot.ref):
                self._lease.add(slot.ref.digest)
                self._fetch(slot.ref.digest, slot.ref.size, slot, crew.stop)
            slot.arrived.set()
            slot.started.set()

    def _fetch(self, digest: str, size: int, slot: _Slot | None, stop: Cancellation | None = None) -> None:
        def started(partial: Partial) -> None:
            if slot is not None:
                slot.partial = partial
                slot.started.set()

        def report(state: str, done: int, detail: str) -> None:
            self._tell(state, digest, done, size, detail)

        fresh = fetch(
            self._repository,
            self._parts.blobs,
            digest,
            size,
            report=report,
            cancel=stop or self._crew.stop,
            backoff=self._parts.backoff,
            started=started,
        )
        self._tell("downloaded" if fresh else "exists", digest, size, size)

    def _unpack_all(self, turns: "_Turns", later: list[_Slot], refs: Sequence[LayerRef], crew: Crew) -> None:
        unpack.private_umask()
        while (slot := turns.next()) is not None:
            with in_layer(slot.index, slot.ref):
                if self._find_tree(slot.index, refs) is not None:
                    continue
                try:
                    self._unpack_one(slot, crew.stop)
                except unpack.NeedsParents:
                    later.append(slot)

    def _unpack_one(self, slot: _Slot, stop: Cancellation) -> None:
        """Follow the download; if that has to start over, begin again from the finished blob."""
        while not slot.started.wait(0.05):
            stop.check(f"pulling {self._what}")
        if slot.partial is not None and not slot.arrived.is_set():
            try:
                with closing(slot.partial.follow(stop)) as follower:
                    self._unpack_from(slot.ref, follower, first=slot.index == 0, stop=stop)
                return
            except (Stopped, Corrupt, HostileLayer):
                # What is followed is not verified yet: only the finished blob tells whether this error is real.
                while not slot.arrived.wait(0.05):
                    stop.check(f"pulling {self._what}")
        self._unpack_from(slot.ref, blob_reader(self._parts, slot.ref.digest, stop), first=slot.index == 0, stop=stop)

    def _unpack_from(self, ref: LayerRef, read: Callable[[], bytes], *, first: bool, stop: Cancellation) -> None:
        self._tell("unpacking", ref.digest, 0, ref.size)
        self._lease.add(alone_name(ref.diff_id))  # before it is there: a collection may come the moment it is
        self._parts.layers.unpack_alone(ref.diff_id, ref.digest, read, first=first, cancel=stop)

    def _unpack_chained(self, refs: Sequence[LayerRef]) -> None:
        """What could not stand alone, on a view of everything beneath it."""
        trees = build_chained(self._parts, refs, self._lease, self._crew.stop)
        if len(trees) != len(refs):
            raise ImageError(f"{self._what}: a layer is missing after unpacking")

    def _find_tree(self, index: int, refs: Sequence[LayerRef]) -> Layer | None:
        chain = chain_ids(tuple(ref.diff_id for ref in refs))
        tree = self._parts.layers.find(refs[index].diff_id, chain[index])
        if tree is None:
            return None
        self._lease.add(tree.name)
        return self._parts.layers.get(tree.name)  # again, now that no collection can take it

    # -- the record ------------------------------------------------------------------------------------------------
    def _describe(
        self,
        digest: str,
        size: int,
        manifest: manifests.Manifest,
        config: ImageConfig | None,
        refs: Sequence[LayerRef],
        indexes: dict[str, str],
    ) -> Record:
        return describe(self._parts, digest, size, manifest, config, refs, indexes, pinned=self._pinned)

    def _record(self, record: Record, target: str) -> Record:
        """Give the image its name. A tag that was another image's moves."""
        reference = self._reference
        tags = {} if reference.digest else {reference.tagged: target}
        names = tuple(sorted({*record.digests, reference.at(target)}))
        with self._parts.layout.adding(), self._parts.catalogue.changing() as change:
            known = change.records.get(record.id)
            wanted = merge(known, _with(record, tags, names, pinned=self._pinned))
            if wanted != known:
                change.take_names(tags, record.id)
                change.put(wanted)
            return wanted

    # -- telling ---------------------------------------------------------------------------------------------------
    def _tell(self, state: str, subject: str, done: int = 0, total: int = 0, detail: str = "") -> None:
        if self._progress is not None:
            self._progress(Event(state, subject, self._what, done, total, detail, time.time()))

    def _notice(self, error: RegistryError) -> None:
        self._tell("retrying", self._what, detail=str(error))


class _Turns:
    """Hands out work to several threads, in order."""

    def __init__(self, slots: Sequence[_Slot]) -> None:
        self._slots = iter(slots)
        self._lock = threading.Lock()

    def next(self) -> _Slot | None:
        with self._lock:
            return next(self._slots, None)


def _unpackers() -> int:
    return max(1, min(4, len(os.sched_getaffinity(0))))


def _with(record: Record, tags: dict[str, str], names: tuple[str, ...], *, pinned: bool) -> Record:
    return replace(record, tags=record.tags | tags, digests=names, pinned=record.pinned or pinned)
