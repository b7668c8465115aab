# SPDX-License-Identifier: Apache-2.0
"""Makes container images out of local files, the same bytes each time, and pushes them to a registry on loopback."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

_MADE_AT = "2026-01-01T00:00:00Z"
_MADE_AT_SECONDS = 1767225600


@dataclass(frozen=True, slots=True)
class Format:
    """The four media types that tell Docker's schema 2 from OCI."""

    manifest: str
    index: str
    config: str
    layer: str


OCI = Format(
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.oci.image.layer.v1.tar+gzip",
)
DOCKER = Format(
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
)


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Layer:
    """A tar archive under construction; each method adds one entry and returns the layer."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._archive = tarfile.TarFile(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)
        self._folders: set[str] = set()

    def _entry(self, name: str, mode: int, owner: tuple[int, int], kind: bytes) -> tarfile.TarInfo:
        self._parents(name)
        entry = tarfile.TarInfo(name)
        entry.mode, entry.mtime, entry.type = mode, _MADE_AT_SECONDS, kind
        entry.uid, entry.gid = owner
        return entry

    def _parents(self, name: str) -> None:
        parent = name.rstrip("/").rpartition("/")[0]
        if parent and parent not in self._folders:
            self.folder(parent)

    def folder(self, name: str, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> Self:
        if name not in self._folders:
            entry = self._entry(name, mode, owner, tarfile.DIRTYPE)
            self._folders.add(name)
            self._archive.addfile(entry)
        return self

    def file(self, name: str, content: bytes | str | Path, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> Self:
        data = content.read_bytes() if isinstance(content, Path) else content
        data = data.encode() if isinstance(data, str) else data
        entry = self._entry(name, mode, owner, tarfile.REGTYPE)
        entry.size = len(data)
        self._archive.addfile(entry, io.BytesIO(data))
        return self

    def link(self, name: str, target: str, *, hard: bool = False) -> Self:
        entry = self._entry(name, 0o777, (0, 0), tarfile.LNKTYPE if hard else tarfile.SYMTYPE)
        entry.linkname = target
        self._archive.addfile(entry)
        return self

    def done(self) -> Blob:
        self._archive.close()
        plain = self._buffer.getvalue()
        return Blob(gzip.compress(plain, 1, mtime=0), digest_of(plain))


@dataclass(frozen=True, slots=True)
class Blob:
    """A finished layer: what is stored, and the digest of what is in it."""

    data: bytes
    diff_id: str


@dataclass(frozen=True, slots=True)
class Image:
    """One image under the tags that a registry shall know it by; repository without the registry's host."""

    repository: str
    tags: tuple[str, ...]
    layers: tuple[Blob, ...]
    config: dict[str, Any] = field(default_factory=dict)
    format: Format = OCI
    foreign: tuple[Blob, ...] = ()  # with these, an index whose first entries are for other platforms

    def config_blob(self, architecture: str = "amd64", system: str = "linux") -> bytes:
        layers = self.layers if architecture == "amd64" and system == "linux" else self.foreign
        return _json(
            {
                "architecture": architecture,
                "os": system,
                "created": _MADE_AT,
                "config": self.config,
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
                "history": [{"created": _MADE_AT, "created_by": f"layer {n}"} for n, _ in enumerate(layers)],
            }
        )

    def manifest(self, architecture: str = "amd64", system: str = "linux") -> bytes:
        layers = self.layers if architecture == "amd64" and system == "linux" else self.foreign
        config = self.config_blob(architecture, system)
        return _json(
            {
                "schemaVersion": 2,
                "mediaType": self.format.manifest,
                "config": _descriptor(self.format.config, config),
                "layers": [_descriptor(self.format.layer, layer.data) for layer in layers],
            }
        )

    def index(self) -> bytes:
        """All platforms; ours comes last, so that a client must really choose."""
        platforms: list[dict[str, str]] = [
            {"architecture": "arm64", "os": "linux", "variant": "v8"},
            {"architecture": "amd64", "os": "windows", "os.version": "10.0.20348.2031"},
            {"architecture": "amd64", "os": "linux"},
        ]
        entries = [
            _descriptor(self.format.manifest, self.manifest(each["architecture"], each["os"])) | {"platform": each}
            for each in platforms
        ]
        return _json({"schemaVersion": 2, "mediaType": self.format.index, "manifests": entries})


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "size": len(data), "digest": digest_of(data)}


def write_layout(path: Path, image: Image, name: str) -> None:
    """An image of one platform as a tar of an OCI layout, for programs that import from a file."""
    manifest = image.manifest()
    named = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    entry = _descriptor(image.format.manifest, manifest) | {"annotations": named}
    layout = Layer().file("oci-layout", '{"imageLayoutVersion":"1.0.0"}')
    layout.file("index.json", _json({"schemaVersion": 2, "manifests": [entry]}))
    for blob in (manifest, image.config_blob(), *(layer.data for layer in image.layers)):
        layout.file(f"blobs/sha256/{digest_of(blob).removeprefix('sha256:')}", blob)
    path.write_bytes(gzip.decompress(layout.done().data))


class PushFailed(Exception):
    """The registry refused a part of an image; the message holds the request and the answer."""


class Pusher:
    """A client of the registry API that can only push."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=60)

    def _ask(self, method: str, path: str, data: bytes | None = None, media_type: str = "") -> tuple[int, str]:
        headers = {"Content-Type": media_type} if media_type else {}
        self._connection.request(method, path, data, headers)
        answer = self._connection.getresponse()
        said = answer.read()
        if answer.status >= 400 and not (method == "HEAD" and answer.status == 404):
            raise PushFailed(f"{method} {path}: {answer.status} {said[:300]!r}")
        return answer.status, answer.getheader("Location", "")

    def blob(self, repository: str, data: bytes) -> None:
        digest = digest_of(data)
        if self._ask("HEAD", f"/v2/{repository}/blobs/{digest}")[0] == 200:
            return
        _, location = self._ask("POST", f"/v2/{repository}/blobs/uploads/", b"")
        parts = urlsplit(location)
        separator = "&" if parts.query else "?"
        target = f"{parts.path}{'?' + parts.query if parts.query else ''}{separator}digest={digest}"
        self._ask("PUT", target, data, "application/octet-stream")

    def image(self, image: Image) -> None:
        for blob in {*image.layers, *image.foreign}:
            self.blob(image.repository, blob.data)
        platforms = [("arm64", "linux"), ("amd64", "windows")] if image.foreign else []
        for architecture, system in [*platforms, ("amd64", "linux")]:
            self.blob(image.repository, image.config_blob(architecture, system))
            manifest = image.manifest(architecture, system)
            self._manifest(image.repository, digest_of(manifest), image.format.manifest, manifest)
        for tag in image.tags:
            if image.foreign:
                self._manifest(image.repository, tag, image.format.index, image.index())
            else:
                self._manifest(image.repository, tag, image.format.manifest, image.manifest())

    def _manifest(self, repository: str, reference: str, media_type: str, data: bytes) -> None:
        self._ask("PUT", f"/v2/{repository}/manifests/{reference}", data, media_type)
