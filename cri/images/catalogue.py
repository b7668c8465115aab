# SPDX-License-Identifier: Apache-2.0
"""Which images there are and what they are called: one small record per image, whole or absent.

Readers keep all records in memory and look at one number (`generation`) to know whether anything changed. A writer
makes it odd, changes records, makes it even again: who reads an odd number trusts no memory.
"""

import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from cri.images import digest as digests
from cri.images import reference as references
from cri.images.errors import BadReference
from cri.images.layout import Layout, failures
from cri.images.model import Image, Platform
from runtime.linux import durable
from runtime.linux.quick_dataclasses import asdict, dataclass, field, replace


@dataclass(frozen=True, slots=True)
class LayerRef:
    """One layer of a manifest: the blob, and the tree that it makes."""

    digest: str
    size: int
    media_type: str
    diff_id: str


@dataclass(frozen=True, slots=True)
class ManifestRef:
    """One manifest that leads to an image. Two may share a config: the same layers, compressed differently."""

    digest: str
    size: int
    media_type: str
    config_size: int
    layers: tuple[LayerRef, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """Everything known about one image. `tags` and `digests` map full names to the manifest or index they name."""

    id: str
    manifests: tuple[ManifestRef, ...]
    indexes: dict[str, str] = field(default_factory=dict)  # an index's digest -> the manifest chosen from it
    tags: dict[str, str] = field(default_factory=dict)
    digests: tuple[str, ...] = ()
    os: str = ""
    architecture: str = ""
    variant: str = ""
    user: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    pinned: bool = False
    artifact: bool = False
    created_at: float = 0.0
    unpacked_size: int = 0

    @property
    def manifest(self) -> ManifestRef:
        """The manifest that came last."""
        return self.manifests[-1]

    def blobs(self) -> Iterator[str]:
        """Every blob that the image needs."""
        yield self.id
        yield from self.indexes
        for manifest in self.manifests:
            yield manifest.digest
            for layer in manifest.layers:
                yield layer.digest

    def image(self) -> Image:
        found = self.manifest
        return Image(
            id=self.id,
            tags=tuple(sorted(self.tags)),
            digests=self.digests,
            size=found.size + found.config_size + sum(layer.size for layer in found.layers),
            unpacked_size=self.unpacked_size,
            platform=Platform(self.os, self.architecture, self.variant),
            user=self.user,
            pinned=self.pinned,
            created_at=self.created_at,
            labels=self.labels,
            manifest=found.digest,
        )


class Catalogue:
    """The records of a store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._generation_path = os.path.join(layout.images, "generation")
        self._lock_path = os.path.join(layout.images, "lock")
        self._memory = threading.Lock()
        self._seen: int | None = None
        self._records: dict[str, Record] = {}
        self._stamps: dict[str, tuple[int, int]] = {}
        self._images: tuple[Image, ...] | None = None
        self._by_name: dict[str, str] | None = None

    # -- reading ---------------------------------------------------------------------------------------------------
    def records(self) -> dict[str, Record]:
        """All records by image id; not to be changed."""
        with self._memory:
            self._refresh()
            return self._records

    def images(self) -> tuple[Image, ...]:
        """All images, newest first."""
        with self._memory:
            self._refresh()
            if self._images is None:
                made = [record.image() for record in self._records.values()]
                self._images = tuple(sorted(made, key=lambda image: (-image.created_at, image.id)))
            return self._images

    def _refresh(self) -> None:
        generation = self._generation()
        if generation == self._seen:
            return
        for _ in range(100):
            self._read_all()
            after = self._generation()
            if after == generation:
                break
            generation = after
        self._seen = generation if generation % 2 == 0 else None

    def _generation(self) -> int:
        data = durable.read(self._generation_path)
        return int(data) if data and data.isdigit() else 0

    def _read_all(self) -> None:
        """Read what is new; a record's file is replaced, never rewritten, so its inode and time tell."""
        records: dict[str, Record] = {}
        stamps: dict[str, tuple[int, int]] = {}
        with os.scandir(self._layout.images) as entries:
            for entry in entries:
                if not entry.name.endswith(".json"):
                    continue
                try:
                    seen = entry.stat()
                    stamp = (seen.st_ino, seen.st_mtime_ns)
                    image_id = _id_of(entry.name)
                    if self._stamps.get(image_id) == stamp:
                        records[image_id], stamps[image_id] = self._records[image_id], stamp
                        continue
                    data = durable.read(entry.path)
                except FileNotFoundError:
                    continue
                record = _parse(data) if data is not None else None
                if record is not None and record.id == image_id:
                    records[image_id], stamps[image_id] = record, stamp
        self._records, self._stamps = records, stamps
        self._images = self._by_name = None

    def find(self, name: str) -> Record | None:
        """By id, by an unambiguous prefix of it (at least 4 digits), by tag, by digest of a name."""
        with self._memory:
            self._refresh()
            record = self._records.get(name) or self._records.get(f"sha256:{name}")
            if record is not None:
                return record
            if self._by_name is None:
                self._by_name = {n: r.id for r in self._records.values() for n in (*r.tags, *r.digests)}
            return self._find_name(name) or self._find_prefix(name)

    def _find_name(self, name: str) -> Record | None:
        try:
            full = references.parse(name)
        except BadReference:
            return None
        names = [full.at(full.digest)] if full.digest else [full.with_default_tag().tagged]
        for candidate in names:
            found = (self._by_name or {}).get(candidate)
            if found is not None:
                return self._records[found]
        return None

    def _find_prefix(self, name: str) -> Record | None:
        prefix = name.removeprefix("sha256:")
        if len(prefix) < 4 or not all(c in "0123456789abcdef" for c in prefix):
            return None
        found = [record for image_id, record in self._records.items() if image_id.startswith(f"sha256:{prefix}")]
        return found[0] if len(found) == 1 else None

    # -- writing ---------------------------------------------------------------------------------------------------
    @contextmanager
    def changing(self) -> Iterator["Change"]:
        """The only way to write: everything read inside is current, everything put is seen by all at the end."""
        with failures("cannot record the image", self._layout.images), durable.lock(self._lock_path):
            generation = self._generation()
            odd = generation + 1 + generation % 2
            self._count(odd)
            with self._memory:
                self._seen = None
                self._read_all()
                change = Change(self, dict(self._records))
            try:
                yield change
            finally:
                self._count(odd + 1)
                with self._memory:
                    self._seen = None

    def _count(self, generation: int) -> None:
        durable.replace(self._generation_path, str(generation).encode(), 0o644, durable=False)

    def path(self, image_id: str) -> str:
        return os.path.join(self._layout.images, f"{image_id.replace(':', '-')}.json")


class Change:
    """Records as they are inside a change."""

    def __init__(self, catalogue: Catalogue, records: dict[str, Record]) -> None:
        self._catalogue = catalogue
        self.records = records

    def put(self, record: Record) -> None:
        """Write one record."""
        data = json.dumps(asdict(record), indent=1, sort_keys=True).encode()
        durable.replace(self._catalogue.path(record.id), data, 0o644)
        self.records[record.id] = record

    def drop(self, image_id: str) -> Record | None:
        """Forget one record."""
        durable.remove(self._catalogue.path(image_id))
        return self.records.pop(image_id, None)

    def take_names(self, names: Iterable[str], but: str) -> list[Record]:
        """A name moves: take it from every other image; returns who lost one."""
        wanted = set(names)
        losers = []
        for record in list(self.records.values()):
            if record.id != but and not wanted.isdisjoint(record.tags):
                kept = {name: target for name, target in record.tags.items() if name not in wanted}
                self.put(replace(record, tags=kept))
                losers.append(self.records[record.id])
        return losers


def _id_of(file_name: str) -> str:
    algorithm, _, value = file_name.removesuffix(".json").partition("-")
    return f"{algorithm}:{value}"


def _parse(data: bytes) -> Record | None:
    """A record; one that cannot be read counts as absent (`verify` reports it)."""
    try:
        value = json.loads(data)
        value["manifests"] = tuple(
            ManifestRef(**{**m, "layers": tuple(LayerRef(**layer) for layer in m["layers"])})
            for m in value["manifests"]
        )
        value["digests"] = tuple(value["digests"])
        record = Record(**value)
    except (ValueError, TypeError, KeyError):
        return None
    return record if record.manifests and digests.is_digest(record.id) else None


def merge(old: Record | None, new: Record) -> Record:
    """What is known of an image plus what a pull has brought."""
    if old is None:
        return new
    manifests = tuple(m for m in old.manifests if m.digest not in {n.digest for n in new.manifests}) + new.manifests
    return replace(
        new,
        manifests=manifests,
        indexes=old.indexes | new.indexes,
        tags=old.tags | new.tags,
        digests=tuple(sorted({*old.digests, *new.digests})),
        pinned=old.pinned or new.pinned,
        created_at=old.created_at or new.created_at,
    )
