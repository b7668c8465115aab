# SPDX-License-Identifier: Apache-2.0
"""Images made on this machine, reproducibly and without a network: of a directory, of the host's static busybox.

(A builder for Dockerfiles would stand beside this: it too ends in `add_image`.)
"""

import hashlib
import os
import subprocess
import zlib
from collections.abc import Callable, Mapping, Sequence

from cri.images import digest as digests
from cri.images import manifest as manifests
from cri.images import platforms
from cri.images.catalogue import LayerRef, Record, merge
from cri.images.errors import ImageError, StoreFailed
from cri.images.leases import Lease
from cri.images.model import Descriptor, Platform
from cri.images.parts import Parts
from cri.images.reference import parse
from cri.images.tarwriter import Member, Writer, pack
from cri.images.trees import build, describe
from runtime.linux import durable
from runtime.linux.quick_dataclasses import replace

EPOCH = "1970-01-01T00:00:00Z"
_APPLET_SECONDS = 10.0
_ETC = {
    b"etc/passwd": (
        b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
        b"www-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n"
    ),
    b"etc/group": b"root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnogroup:x:65534:\n",
    b"etc/shadow": b"root:*:::::::\nnobody:*:::::::\n",
}


class LayerWriter:
    """A tar stream compressed into a blob that is named when it is complete."""

    def __init__(self, parts: Parts, *, compress: bool = True) -> None:
        self._parts = parts
        self._path = os.path.join(parts.layout.staging, f"blob-{os.urandom(6).hex()}")
        self._locked = durable.lock(f"{self._path}.lock")  # a collection takes what nobody holds
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._plain = hashlib.sha256(usedforsecurity=False)
        self._blob = hashlib.sha256(usedforsecurity=False)
        self._size = 0
        # gzip with a zeroed header (31 = gzip container): no name, no time, so equal trees give equal blobs.
        self._compressor = zlib.compressobj(6, zlib.DEFLATED, 31) if compress else None

    def write(self, data: bytes) -> None:
        self._plain.update(data)
        self._out(self._compressor.compress(data) if self._compressor is not None else data)

    def _out(self, data: bytes) -> None:
        self._blob.update(data)
        self._size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def close(self, lease: Lease) -> LayerRef:
        """Name the blob; the lease keeps it until an image does."""
        if self._compressor is not None:
            self._out(self._compressor.flush())
        digest = f"sha256:{self._blob.hexdigest()}"
        lease.add(digest)
        os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1
        os.chmod(self._path, 0o444)
        os.rename(self._path, self._parts.blobs.path(digest))
        self._unlock()
        media_type = f"{manifests.OCI_LAYER}+gzip" if self._compressor is not None else manifests.OCI_LAYER
        return LayerRef(digest, self._size, media_type, f"sha256:{self._plain.hexdigest()}")

    def abandon(self) -> None:
        """Leave nothing behind."""
        if self._fd >= 0:
            os.close(self._fd)
            os.unlink(self._path)
            self._unlock()

    def _unlock(self) -> None:
        os.unlink(f"{self._path}.lock")
        self._locked.close()


def write_layer(parts: Parts, lease: Lease, fill: Callable[[Callable[[bytes], object]], None]) -> LayerRef:
    """A layer of whatever `fill` writes as a tar stream."""
    writer = LayerWriter(parts)
    try:
        fill(writer.write)
        return writer.close(lease)
    except BaseException as error:
        writer.abandon()
        if not isinstance(error, OSError):
            raise
        raise StoreFailed(f"cannot write a layer: {error}") from error


def add_image(
    parts: Parts,
    lease: Lease,
    layers: Sequence[LayerRef],
    name: str,
    *,
    config: Mapping[str, object] | None = None,
    platform: Platform | None = None,
    created: str = EPOCH,
) -> str:
    """An image of layers that are here, under a name."""
    where = platforms.normal(platform or parts.platform)
    document = {
        "architecture": where.architecture,
        "os": where.os,
        "created": created,
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created": created, "created_by": "ketch"} for _ in layers],
    }
    if where.architecture == "arm":
        document["variant"] = where.variant
    return record_image(parts, lease, layers, name, document)


def record_image(
    parts: Parts, lease: Lease, layers: Sequence[LayerRef], name: str, document: Mapping[str, object]
) -> str:
    """Write config and manifest for layers that are here, unpack them, and record the image under a name."""
    data = manifests.to_json(document)
    image_id = digests.of(data)
    manifest = manifests.Manifest(
        manifests.OCI_MANIFEST,
        Descriptor(manifests.OCI_CONFIG, image_id, len(data)),
        tuple(Descriptor(layer.media_type, layer.digest, layer.size) for layer in layers),
        {},
    )
    encoded = encode(manifest)
    digest = digests.of(encoded)
    lease.add(image_id, digest)
    parts.blobs.add(data)
    parts.blobs.add(encoded)
    build(parts, layers, lease, None)
    parsed = manifests.config(data, name)
    record = describe(parts, digest, len(encoded), manifest, parsed, layers, {}, pinned=False)
    name_image(parts, record, name, digest)
    parts.bus.tell("created", image_id, name)
    return image_id


def encode(manifest: manifests.Manifest) -> bytes:
    """A manifest as the bytes that its digest is taken of."""
    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": manifest.media_type,
        "config": manifests.descriptor_json(manifest.config),
        "layers": [manifests.descriptor_json(layer) for layer in manifest.layers],
    }
    if manifest.annotations:
        document["annotations"] = dict(manifest.annotations)
    return manifests.to_json(document)


def name_image(parts: Parts, record: Record, name: str, target: str) -> Record:
    """Record an image under a name ('' for none); the name moves if it was another's."""
    reference = parse(name).with_default_tag() if name else None
    tags = {reference.tagged: target} if reference is not None and not reference.digest else {}
    names = {reference.at(target)} if reference is not None else set()
    with parts.layout.adding(), parts.catalogue.changing() as change:
        named = replace(record, tags=record.tags | tags, digests=tuple(sorted({*record.digests, *names})))
        merged = merge(change.records.get(record.id), named)
        change.take_names(tags, record.id)
        change.put(merged)
    return merged


def from_directory(parts: Parts, directory: str, name: str, config: Mapping[str, object] | None) -> str:
    """An image with one layer: this tree, its times set to the epoch."""
    if not os.path.isdir(directory):
        raise ImageError(f"{directory} is not a directory")
    with Lease(parts.layout) as lease:
        layer = write_layer(parts, lease, lambda write: pack(directory, write, mtime_ns=0))
        return add_image(parts, lease, [layer], name, config=config)


def from_busybox(parts: Parts, name: str, busybox: str) -> str:
    """The host's static busybox with its applets as hard links, users, groups and the usual directories."""
    applets = _applets(busybox)
    with Lease(parts.layout) as lease:
        layer = write_layer(parts, lease, lambda write: _busybox_tree(write, busybox, applets))
        config = {"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
        return add_image(parts, lease, [layer], name, config=config)


def _applets(busybox: str) -> list[bytes]:
    try:
        with open(busybox, "rb") as file:
            head = file.read(1 << 16)
        if b"ld-linux" in head or not head.startswith(b"\x7fELF"):
            raise ImageError(f"{busybox} is not a static program", hint="apt install busybox-static")
        done = subprocess.run([busybox, "--list"], capture_output=True, timeout=_APPLET_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ImageError(f"cannot make an image of {busybox}: {error}", hint="apt install busybox-static") from error
    return sorted({line.strip() for line in done.stdout.splitlines() if line.strip()} - {b"busybox"})


def _busybox_tree(write: Callable[[bytes], object], busybox: str, applets: Sequence[bytes]) -> None:
    writer = Writer(write)
    folders = {b"./": 0o755, b"tmp/": 0o1777, b"var/tmp/": 0o1777, b"root/": 0o700}
    plain = (
        b"bin/",
        b"dev/",
        b"etc/",
        b"home/",
        b"proc/",
        b"sys/",
        b"usr/",
        b"usr/bin/",
        b"usr/sbin/",
        b"sbin/",
        b"var/",
    )
    folders |= dict.fromkeys((*plain, b"var/www/", b"var/log/", b"run/"), 0o755)
    for folder in sorted(folders):
        writer.add(Member(folder, b"5", folders[folder]))
    with open(busybox, "rb") as file:
        program = file.read()
    writer.add(Member(b"bin/busybox", mode=0o755, size=len(program)), program)
    for applet in applets:
        writer.add(Member(b"bin/" + applet, b"1", 0o755, link=b"bin/busybox"))
    for path, text in sorted(_ETC.items()):
        writer.add(Member(path, mode=0o600 if path == b"etc/shadow" else 0o644, size=len(text)), text)
    writer.close()
