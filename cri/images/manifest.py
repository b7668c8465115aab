# SPDX-License-Identifier: Apache-2.0
"""Manifests, indexes and image configurations: their JSON read once, strictly, into frozen types."""

import json
from collections.abc import Mapping

from cri.images import digest as digests
from cri.images import platforms
from cri.images.errors import Corrupt, ImageError, NotFound, Unsupported
from cri.images.model import Descriptor, ImageConfig, Platform
from runtime.linux.quick_dataclasses import dataclass

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_SCHEMA1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))
MAX_MANIFEST = 8 << 20
MAX_CONFIG = 16 << 20

# media type of a layer -> its compression. Docker's name without a suffix is an uncompressed tar; the encrypted and
# foreign ones are missing on purpose.
LAYERS = {
    OCI_LAYER: "",
    f"{OCI_LAYER}+gzip": "gzip",
    f"{OCI_LAYER}+zstd": "zstd",
    DOCKER_LAYER: "",
    f"{DOCKER_LAYER}.gzip": "gzip",
    f"{DOCKER_LAYER}.zstd": "zstd",
}
FOREIGN = ("application/vnd.docker.image.rootfs.foreign.diff.tar", "application/vnd.oci.image.layer.nondistributable.")


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image: a configuration and layers, the lowest first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str]
    subject: Descriptor | None = None
    artifact_type: str = ""

    @property
    def is_image(self) -> bool:
        """Whether containers can be made of it; else it is an artifact (a chart, a signature, a model, ...)."""
        return self.config.media_type in (OCI_CONFIG, DOCKER_CONFIG) and not self.artifact_type


@dataclass(frozen=True, slots=True)
class Index:
    """A list of manifests, one per platform."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str]


class Reader:
    """A JSON value with the path that led to it, so that an error can say where."""

    __slots__ = ("path", "value")

    def __init__(self, value: object, path: str) -> None:
        self.value = value
        self.path = path

    def get(self, key: str) -> "Reader":
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        return Reader(self.value.get(key), f"{self.path}.{key}")

    def items(self) -> "list[Reader]":
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        return [Reader(item, f"{self.path}[{i}]") for i, item in enumerate(self.value)]

    def text(self, default: str | None = None) -> str:
        if self.value is None and default is not None:
            return default
        if not isinstance(self.value, str):
            raise self.wrong("a string")
        return self.value

    def texts(self) -> tuple[str, ...]:
        return tuple(item.text() for item in self.items())

    def size(self) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or self.value < 0:
            raise self.wrong("a size")
        return self.value

    def text_map(self) -> dict[str, str]:
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        return {key: Reader(value, f"{self.path}.{key}").text() for key, value in self.value.items()}

    def members(self) -> tuple[str, ...]:
        if self.value is None:
            return ()
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        return tuple(self.value)

    def wrong(self, expected: str) -> Corrupt:
        return Corrupt(f"{self.path}: expected {expected}, got {repr(self.value)[:80]}")


def _load(data: bytes, what: str) -> Reader:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{what}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Corrupt(f"{what}: not a JSON object")
    return Reader(value, what)


def parse(data: bytes, media_type: str, what: str) -> Manifest | Index:
    """Read a manifest or an index; `media_type` is what the registry called it, the document's own word wins."""
    reader = _load(data, what)
    own = reader.get("mediaType").text("")
    declared = media_type.partition(";")[0].strip()
    if own and declared in (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST) and own != declared:
        raise Corrupt(f"{what}: sent as {declared}, calls itself {own}")
    kind = own or declared
    if kind in DOCKER_SCHEMA1 or reader.get("schemaVersion").value == 1:
        raise Unsupported(f"{what} is a docker schema 1 manifest", hint="push the image again with a current tool")
    has_index, has_manifest = "manifests" in reader.members(), "layers" in reader.members()
    if has_index and has_manifest:
        raise Corrupt(f"{what}: both a manifest and an index")  # CVE-2021-41190: two readers, two images
    if kind in (OCI_INDEX, DOCKER_LIST) or (kind not in (OCI_MANIFEST, DOCKER_MANIFEST) and has_index):
        return Index(
            kind if kind in (OCI_INDEX, DOCKER_LIST) else OCI_INDEX,
            tuple(descriptor(item) for item in reader.get("manifests").items()),
            reader.get("annotations").text_map(),
        )
    if kind not in (OCI_MANIFEST, DOCKER_MANIFEST) and not has_manifest:
        raise Unsupported(f"{what}: {kind or 'unknown media type'} is not an image")
    subject = reader.get("subject")
    return Manifest(
        kind if kind in (OCI_MANIFEST, DOCKER_MANIFEST) else OCI_MANIFEST,
        descriptor(reader.get("config")),
        tuple(descriptor(item) for item in reader.get("layers").items()),
        reader.get("annotations").text_map(),
        descriptor(subject) if subject.value is not None else None,
        reader.get("artifactType").text(""),
    )


def descriptor(reader: Reader) -> Descriptor:
    """One descriptor, its digest checked."""
    platform = reader.get("platform")
    digest = reader.get("digest").text()
    try:
        digests.split(digest)
    except ImageError as error:
        raise Corrupt(f"{reader.path}.digest: {error}") from None
    return Descriptor(
        reader.get("mediaType").text(""),
        digest,
        reader.get("size").size(),
        _platform(platform) if platform.value is not None else None,
        reader.get("annotations").text_map(),
        reader.get("urls").texts(),
        reader.get("artifactType").text(""),
    )


def _platform(reader: Reader) -> Platform:
    return Platform(reader.get("os").text(""), reader.get("architecture").text(""), reader.get("variant").text(""))


def choose(index: Index, wanted: Platform, what: str) -> Descriptor:
    """The manifest of an index that runs best on `wanted`; attestations are no images."""
    usable = [
        (platforms.normal(d.platform) if d.platform else None, d)
        for d in index.manifests
        if d.annotations.get("vnd.docker.reference.type") != "attestation-manifest"
        and d.media_type in (OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST, "")
    ]
    for candidate in platforms.candidates(wanted):
        for platform, found in usable:
            if platform == candidate:
                return found
    without = [d for platform, d in usable if platform is None]
    if len(without) == 1 and len(usable) == 1:
        return without[0]  # an index of one that names no platform; its config will tell
    offered = ", ".join(sorted({str(p) for p, _ in usable if p and p.os != "unknown"})) or "nothing"
    raise NotFound(f"{what}: no image for {wanted}", hint=f"it offers {offered}")


def compression(layer: Descriptor) -> str:
    """How a layer is compressed: '', 'gzip' or 'zstd'; foreign and unknown layers are refused."""
    if layer.media_type.startswith(FOREIGN):
        raise Unsupported(
            f"layer {layer.digest} is a foreign layer ({layer.media_type})",
            hint="it is not in the registry; ask for an image without non-distributable layers",
        )
    if layer.media_type not in LAYERS:
        raise Unsupported(f"layer {layer.digest}: {layer.media_type!r} is not a file system layer")
    return LAYERS[layer.media_type]


def config(data: bytes, what: str) -> ImageConfig:
    """An image configuration; accepts docker's and OCI's, which differ only in what they add."""
    reader = _load(data, what)
    inner = Reader(reader.get("config").value or {}, f"{what}.config")
    rootfs = Reader(reader.get("rootfs").value or {}, f"{what}.rootfs")
    diff_ids = rootfs.get("diff_ids").texts()
    for diff_id in diff_ids:
        if not digests.is_digest(diff_id):
            raise Corrupt(f"{what}.rootfs.diff_ids: {diff_id[:100]!r} is not a digest")
    history = tuple(item.value for item in reader.get("history").items() if isinstance(item.value, dict))
    health = inner.get("Healthcheck").value
    return ImageConfig(
        platform=_platform(reader),
        user=inner.get("User").text(""),
        env=inner.get("Env").texts(),
        entrypoint=_command(inner.get("Entrypoint")),
        cmd=_command(inner.get("Cmd")),
        working_dir=inner.get("WorkingDir").text(""),
        stop_signal=inner.get("StopSignal").text(""),
        labels=inner.get("Labels").text_map(),
        exposed_ports=inner.get("ExposedPorts").members(),
        volumes=inner.get("Volumes").members(),
        shell=_command(inner.get("Shell")),
        created=reader.get("created").text(""),
        author=reader.get("author").text(""),
        diff_ids=diff_ids,
        history=history,
        healthcheck=health if isinstance(health, dict) else None,
        raw=reader.value if isinstance(reader.value, dict) else {},
    )


def _command(reader: Reader) -> tuple[str, ...]:
    """A command; images of 2014 wrote it as one string."""
    return (reader.value,) if isinstance(reader.value, str) else reader.texts()


def to_json(value: object) -> bytes:
    """The one way in which we write documents: what a digest is taken of must not depend on a dict's order."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def descriptor_json(found: Descriptor) -> dict[str, object]:
    """A descriptor as JSON, empty members left out."""
    value: dict[str, object] = {"mediaType": found.media_type, "digest": found.digest, "size": found.size}
    if found.platform is not None:
        shape = {"os": found.platform.os, "architecture": found.platform.architecture}
        value["platform"] = shape | ({"variant": found.platform.variant} if found.platform.variant else {})
    if found.annotations:
        value["annotations"] = dict(found.annotations)
    if found.urls:
        value["urls"] = list(found.urls)
    if found.artifact_type:
        value["artifactType"] = found.artifact_type
    return value
