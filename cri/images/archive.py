# SPDX-License-Identifier: Apache-2.0
"""Images in files: OCI layouts (a directory or a tar of one) and docker archives, in and out.

Coming in, an archive is read once from front to back: blobs go into the store as they pass, checked against the digest
that their name claims; what the archive says about names is small and decided at the end.
"""

import json
import os
import posixpath
import time
from collections.abc import Callable, Iterator, Sequence

from cri.images import digest as digests
from cri.images import inflate, local, tar
from cri.images import manifest as manifests
from cri.images.catalogue import LayerRef, Record
from cri.images.errors import BadReference, Corrupt, ImageError, Unsupported
from cri.images.layout import failures
from cri.images.leases import Lease
from cri.images.manifest import Reader
from cri.images.model import Descriptor, Event
from cri.images.parts import Parts, Progress
from cri.images.reference import parse
from cri.images.tarwriter import Member, Writer
from cri.images.trees import build, describe
from runtime.linux.quick_dataclasses import replace

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
FORMS = ("oci", "oci-archive", "docker-archive")
_SMALL = 16 << 20
_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"
_PIECE = 1 << 18
_MAX_NESTED = 4


# -- in ------------------------------------------------------------------------------------------------------------
def take(parts: Parts, path: str, *, name: str, progress: Progress | None) -> tuple[str, ...]:
    """Every image of an archive, under the names that it gives or under `name`; returns the ids."""
    with Lease(parts.layout) as lease, failures("cannot read the archive", path):
        taken = Taking(parts, lease, path, progress)
        if os.path.isdir(path):
            taken.directory()
        else:
            taken.stream()
        return taken.finish(name)


class Taking:
    """One archive on its way in."""

    def __init__(self, parts: Parts, lease: Lease, path: str, progress: Progress | None) -> None:
        self._parts = parts
        self._lease = lease
        self._path = path
        self._progress = progress
        self._small: dict[str, bytes] = {}  # documents by their name in the archive
        self._layers: dict[str, LayerRef] = {}  # docker's layers by their name in the archive
        self._links: dict[str, str] = {}

    def directory(self) -> None:
        """An OCI layout: only index.json is read here, blobs when they are asked for."""
        for name in ("oci-layout", "index.json", "manifest.json"):
            try:
                with open(os.path.join(self._path, name), "rb") as file:
                    self._small[name] = file.read(_SMALL)
            except FileNotFoundError:
                pass
        if "index.json" not in self._small:
            raise ImageError(f"{self._path} is no OCI layout", hint="a directory with index.json and blobs/")
        blobs = os.path.join(self._path, "blobs")
        for algorithm in sorted(os.listdir(blobs)):
            for value in sorted(os.listdir(os.path.join(blobs, algorithm))):
                digest = f"{algorithm}:{value}"
                if digests.is_digest(digest):
                    blob = os.path.join(blobs, algorithm, value)
                    self._blob(digest, os.stat(blob).st_size, _file_pieces(blob))

    def stream(self) -> None:
        """A tar, perhaps compressed."""
        with open(self._path, "rb", buffering=0) as file:
            source = inflate.plain(lambda: file.read(_PIECE))
            try:
                reader = tar.Reader(source)
                for entry in reader:
                    self._member(entry, reader)
            except Corrupt as error:
                raise Corrupt(f"{self._path}: {error}", hint="is it an image archive?") from None

    def _member(self, entry: tar.Entry, reader: tar.Reader) -> None:
        name = posixpath.normpath(os.fsdecode(entry.name)).lstrip("/")
        if entry.kind in (tar.SYMLINK, tar.LINK):
            base = posixpath.dirname(name) if entry.kind == tar.SYMLINK else ""
            self._links[name] = posixpath.normpath(posixpath.join(base, os.fsdecode(entry.link)))
            return
        if entry.kind != tar.FILE:
            return
        parts = name.split("/")
        digest = f"{parts[1]}:{parts[2]}" if len(parts) == 3 and parts[0] == "blobs" else ""
        if digests.is_digest(digest):
            self._blob(digest, entry.size, _entry_pieces(entry, reader))
        elif name.endswith((".tar", ".tar.gz", ".tar.zst")):
            self._docker_layer(name, entry, reader)
        elif entry.size <= _SMALL:
            self._small[name] = reader.take_data(entry.size)

    def _blob(self, digest: str, size: int, pieces: Iterator[bytes]) -> None:
        self._lease.add(digest)
        self._tell("downloading", digest, 0, size)
        partial = None if self._parts.blobs.has(digest, size) else self._parts.blobs.partial(digest, size)
        if partial is None:
            return
        try:
            partial.restart()
            for piece in pieces:
                partial.append(piece)
            partial.finish(self._parts.blobs.path(digest))
        finally:
            partial.close()
        self._tell("downloaded", digest, size, size)

    def _docker_layer(self, name: str, entry: tar.Entry, reader: tar.Reader) -> None:
        """A layer whose digest nobody tells: it is stored plain and hashed as it passes."""
        writer = local.LayerWriter(self._parts, compress=False)
        try:
            pieces = _entry_pieces(entry, reader)
            plain = inflate.plain(lambda: next(pieces, b""))
            while piece := plain():
                writer.write(piece)
            self._layers[name] = writer.close(self._lease)
        except BaseException:
            writer.abandon()
            raise
        self._tell("downloaded", self._layers[name].digest, entry.size, entry.size)

    # -- what is in it -----------------------------------------------------------------------------------------------
    def finish(self, name: str) -> tuple[str, ...]:
        """Names and manifests, now that all blobs are here."""
        if "index.json" in self._small:
            return self._oci(name)
        if "manifest.json" in self._small:
            return self._docker(name)
        raise ImageError(f"{self._path} holds no image", hint="an OCI layout or a docker archive")

    def _oci(self, name: str) -> tuple[str, ...]:
        index = manifests.parse(self._small["index.json"], manifests.OCI_INDEX, f"{self._path}: index.json")
        if not isinstance(index, manifests.Index):
            raise Corrupt(f"{self._path}: index.json is not an index")
        entries = [d for d in index.manifests if d.annotations.get("vnd.docker.reference.type") is None]
        if not entries:
            raise ImageError(f"{self._path} holds no image")
        if name and len(entries) > 1:
            raise ImageError(f"{self._path} holds {len(entries)} images, one name is not enough", hint="give none")
        return tuple(dict.fromkeys(self._oci_image(entry, name) for entry in entries))

    def _oci_image(self, entry: Descriptor, name: str) -> str:
        digest, media_type = entry.digest, entry.media_type
        above: list[str] = []
        for _ in range(_MAX_NESTED):
            data = self._parts.blobs.read(digest, manifests.MAX_MANIFEST)
            parsed = manifests.parse(data, media_type, f"{self._path}: {digest[:19]}")
            if isinstance(parsed, manifests.Manifest):
                record = self._record(digest, data, parsed, dict.fromkeys(above, digest))
                return self._named(record, name or _oci_name(entry), entry.digest)
            above.append(digest)
            chosen = manifests.choose(parsed, self._parts.platform, self._path)
            digest, media_type = chosen.digest, chosen.media_type
        raise ImageError(f"{self._path}: indexes nested deeper than {_MAX_NESTED}")

    def _record(self, digest: str, data: bytes, manifest: manifests.Manifest, indexes: dict[str, str]) -> Record:
        refs: list[LayerRef]
        config = None
        if manifest.is_image:
            for layer in manifest.layers:
                manifests.compression(layer)
            raw = self._parts.blobs.read(manifest.config.digest, manifests.MAX_CONFIG)
            config = manifests.config(raw, f"{self._path}: config {manifest.config.digest[:19]}")
            if len(config.diff_ids) != len(manifest.layers):
                raise Corrupt(f"{self._path}: {len(manifest.layers)} layers, {len(config.diff_ids)} diff ids")
            pairs = zip(manifest.layers, config.diff_ids, strict=True)
            refs = [LayerRef(layer.digest, layer.size, layer.media_type, diff_id) for layer, diff_id in pairs]
            build(self._parts, refs, self._lease, None)
        else:
            refs = [LayerRef(layer.digest, layer.size, layer.media_type, "") for layer in manifest.layers]
        return describe(self._parts, digest, len(data), manifest, config, refs, indexes, pinned=False)

    def _docker(self, name: str) -> tuple[str, ...]:
        try:
            images = Reader(json.loads(self._small["manifest.json"]), f"{self._path}: manifest.json").items()
        except ValueError as error:
            raise Corrupt(f"{self._path}: manifest.json: {error}") from None
        if name and len(images) != 1:
            raise ImageError(f"{self._path} holds {len(images)} images, one name is not enough", hint="give none")
        return tuple(dict.fromkeys(self._docker_image(image, name) for image in images))

    def _docker_image(self, image: Reader, name: str) -> str:
        data = self._document(image.get("Config").text())
        image_id = digests.of(data)
        self._lease.add(image_id)
        self._parts.blobs.add(data)
        refs = [replace(self._layer(path), media_type=manifests.DOCKER_LAYER) for path in image.get("Layers").texts()]
        manifest = manifests.Manifest(
            manifests.DOCKER_MANIFEST,
            Descriptor(manifests.DOCKER_CONFIG, image_id, len(data)),
            tuple(Descriptor(ref.media_type, ref.digest, ref.size) for ref in refs),
            {},
        )
        encoded = local.encode(manifest)
        digest = digests.of(encoded)
        self._lease.add(digest)
        self._parts.blobs.add(encoded)
        record = self._record(digest, encoded, manifest, {})
        names = (name,) if name else image.get("RepoTags").texts()
        for one in names:
            self._named(record, one, digest)
        return record.id if names else self._named(record, "", digest)

    def _document(self, path: str) -> bytes:
        path = posixpath.normpath(path)
        path = self._links.get(path, path)
        if path in self._small:
            return self._small[path]
        parts = path.split("/")
        if len(parts) == 3 and parts[0] == "blobs":
            return self._parts.blobs.read(f"{parts[1]}:{parts[2]}", manifests.MAX_CONFIG)
        raise Corrupt(f"{self._path}: {path!r} is missing")

    def _layer(self, path: str) -> LayerRef:
        path = posixpath.normpath(path)
        path = self._links.get(path, path)
        if path in self._layers:
            return self._layers[path]
        parts = path.split("/")
        if len(parts) == 3 and parts[0] == "blobs":
            digest = f"{parts[1]}:{parts[2]}"
            size = self._parts.blobs.size(digest)
            if size is not None:
                return LayerRef(digest, size, manifests.DOCKER_LAYER, digest)
        raise Corrupt(f"{self._path}: layer {path!r} is missing")

    def _named(self, record: Record, name: str, target: str) -> str:
        local.name_image(self._parts, record, name, target)
        self._parts.bus.tell("imported", record.id, name)
        return record.id

    def _tell(self, state: str, subject: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(Event(state, subject, self._path, done, total, time=time.time()))


def _oci_name(entry: Descriptor) -> str:
    """The full name that an index entry carries; a bare tag (skopeo's layouts have those) is not one."""
    for key in (_NAME, _REF_NAME):
        name = entry.annotations.get(key, "")
        if name and ("/" in name or ":" in name):
            try:
                parse(name)
            except BadReference:
                continue
            return name
    return ""


def _file_pieces(path: str) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            yield piece


def _entry_pieces(entry: tar.Entry, reader: tar.Reader) -> Iterator[bytes]:
    left = entry.size
    while left > 0:
        piece = reader.take_data(min(left, _PIECE))
        if not piece:
            raise Corrupt("the archive ends in the middle of a file")
        left -= len(piece)
        yield piece


# -- out -----------------------------------------------------------------------------------------------------------
def give(parts: Parts, images: Sequence[tuple[Record, str]], path: str, *, form: str) -> None:
    """Write images to `path`, which appears when it is complete."""
    if form not in FORMS:
        raise Unsupported(f"{form!r} is no form of archive", hint=", ".join(FORMS))
    with Lease(parts.layout) as lease, failures("cannot write the archive", path):
        for record, _ in images:
            lease.add(*record.blobs())
        if form == "oci":
            _give_directory(parts, images, path)
            return
        temporary = f"{path}.{os.getpid()}.tmp"
        try:
            with open(temporary, "xb") as file:
                writer = Writer(file.write)
                (_give_oci if form == "oci-archive" else _give_docker)(parts, images, writer)
                writer.close()
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise


def _index(images: Sequence[tuple[Record, str]]) -> bytes:
    entries = []
    for record, name in images:
        manifest = record.manifest
        annotations = {}
        if not digests.is_digest(name) and not record.id.startswith(f"sha256:{name}"):
            reference = parse(name).with_default_tag()
            annotations = {_NAME: str(reference), _REF_NAME: reference.tag or str(reference)}
        found = Descriptor(manifest.media_type, manifest.digest, manifest.size, annotations=annotations)
        entries.append(manifests.descriptor_json(found))
    return manifests.to_json({"schemaVersion": 2, "mediaType": manifests.OCI_INDEX, "manifests": entries})


def _content(parts: Parts, images: Sequence[tuple[Record, str]]) -> list[str]:
    """The blobs of an export: manifest, config and layers of each image, each once."""
    wanted: dict[str, None] = {}
    for record, _ in images:
        manifest = record.manifest
        data = parts.blobs.read(manifest.digest, manifests.MAX_MANIFEST)
        parsed = manifests.parse(data, manifest.media_type, record.id)
        config = parsed.config.digest if isinstance(parsed, manifests.Manifest) else record.id
        wanted |= dict.fromkeys((manifest.digest, config, *(layer.digest for layer in manifest.layers)))
    for digest in wanted:
        if not parts.blobs.has(digest):
            raise ImageError(f"blob {digest} is not in the store", hint="`verify` fetches it again")
    return list(wanted)


def _give_directory(parts: Parts, images: Sequence[tuple[Record, str]], path: str) -> None:
    os.makedirs(os.path.join(path, "blobs", "sha256"), exist_ok=True)
    for digest in _content(parts, images):
        target = os.path.join(path, "blobs", *digests.split(digest))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            for piece in parts.blobs.pieces(digest):
                file.write(piece)
    for name, data in (("oci-layout", LAYOUT), ("index.json", _index(images))):
        with open(os.path.join(path, name), "wb") as file:
            file.write(data)


def _give_oci(parts: Parts, images: Sequence[tuple[Record, str]], writer: Writer) -> None:
    for name, data in ((b"oci-layout", LAYOUT), (b"index.json", _index(images))):
        writer.add(Member(name, size=len(data)), data)
    for folder in (b"blobs/", b"blobs/sha256/"):
        writer.add(Member(folder, b"5", 0o755))
    for digest in _content(parts, images):
        name = os.fsencode("/".join(("blobs", *digests.split(digest))))
        writer.add(Member(name, size=parts.blobs.size(digest) or 0), parts.blobs.pieces(digest))


def _give_docker(parts: Parts, images: Sequence[tuple[Record, str]], writer: Writer) -> None:
    """What `docker load` of any age reads: a config, plain layers named by their diff ids, manifest.json."""
    entries = []
    written: set[str] = set()
    for record, name in images:
        if record.artifact:
            raise Unsupported(f"{name} is an artifact, docker archives hold images only", hint="use oci-archive")
        config = os.fsencode(record.id.partition(":")[2] + ".json")
        if record.id not in written:
            data = parts.blobs.read(record.id, manifests.MAX_CONFIG)
            writer.add(Member(config, size=len(data)), data)
            written.add(record.id)
        paths = []
        for layer in record.manifest.layers:
            path = layer.diff_id.partition(":")[2] + ".tar"
            paths.append(path)
            if layer.diff_id not in written:
                written.add(layer.diff_id)
                _give_layer(parts, layer, path, writer)
        entries.append({"Config": config.decode(), "RepoTags": sorted(record.tags), "Layers": paths})
    data = manifests.to_json(entries)
    writer.add(Member(b"manifest.json", size=len(data)), data)


def _give_layer(parts: Parts, layer: LayerRef, path: str, writer: Writer) -> None:
    """A tar member needs its size first: inflate once to count, once to write, rather than keep a copy."""
    size = sum(len(piece) for piece in _plain(parts, layer.digest))
    writer.add(Member(os.fsencode(path), size=size), _plain(parts, layer.digest))


def _plain(parts: Parts, digest: str) -> Iterator[bytes]:
    pieces = parts.blobs.pieces(digest)
    read: Callable[[], bytes] = inflate.plain(lambda: next(pieces, b""))
    while piece := read():
        yield piece
