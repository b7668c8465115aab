# SPDX-License-Identifier: Apache-2.0
"""Images for tests, written by Python's tarfile (nothing of ours), and trees as comparable facts."""

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

T0 = 1_700_000_000


def member(
    name: str,
    data: bytes | None = None,
    *,
    kind: bytes = tarfile.REGTYPE,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: float = T0,
    link: str = "",
    device: tuple[int, int] = (0, 0),
    pax: dict[str, str] | None = None,
) -> tuple[tarfile.TarInfo, bytes]:
    """One tar member; a name that ends in a slash is a directory."""
    info = tarfile.TarInfo(name.rstrip("/") or name)
    info.type = tarfile.DIRTYPE if name.endswith("/") and kind == tarfile.REGTYPE else kind
    info.mode = 0o755 if info.type == tarfile.DIRTYPE and mode == 0o644 else mode
    info.uid, info.gid, info.mtime, info.linkname = uid, gid, mtime, link
    info.devmajor, info.devminor = device
    info.size = len(data or b"")
    info.pax_headers = dict(pax or {})
    return info, data or b""


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, kind=tarfile.LNKTYPE, link=target)


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, kind=tarfile.SYMTYPE, link=target, mode=0o777)


def layer(members: Iterable[tuple[tarfile.TarInfo, bytes]], *, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A layer's tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def compressed(data: bytes, how: str) -> bytes:
    if how == "gzip":
        return gzip.compress(data, 1, mtime=0)
    if how == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=1).compress(data)
    return data


def layout(
    path: Path,
    layers: Sequence[bytes],
    *,
    tag: str = "latest",
    how: str = "gzip",
    config: dict[str, object] | None = None,
) -> str:
    """An OCI layout with one image; returns the config's digest, which is the image's id."""
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> dict[str, object]:
        found = digest(data)
        (blobs / found.removeprefix("sha256:")).write_bytes(data)
        return {"digest": found, "size": len(data)}

    suffix = f"+{how}" if how else ""
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": config or {},
        "rootfs": {"type": "layers", "diff_ids": [digest(data) for data in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **put(json.dumps(document).encode())},
        "layers": [
            {"mediaType": f"application/vnd.oci.image.layer.v1.tar{suffix}", **put(compressed(data, how))}
            for data in layers
        ],
    }
    found = put(json.dumps(manifest).encode())
    entry = {
        "mediaType": manifest["mediaType"],
        **found,
        "annotations": {"org.opencontainers.image.ref.name": tag},
    }
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return str(manifest["config"]["digest"])  # type: ignore[index]


def facts(root: str | Path, *, times: bool = True) -> dict[str, tuple[object, ...]]:
    """Every path beneath root with all that makes it what it is; hard links by the first of their names."""
    found: dict[str, tuple[object, ...]] = {}
    first: dict[int, str] = {}
    base = os.fsencode(root)
    todo = [base]
    while todo:
        path = todo.pop()
        seen = os.lstat(path)
        name = os.fsdecode(os.path.relpath(path, base))
        xattrs = {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
            if not key.startswith("trusted.overlay.")
        }
        kind = stat.S_IFMT(seen.st_mode)
        content: object = ""
        if stat.S_ISLNK(seen.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(seen.st_mode):
            content = _hash(path)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            content = seen.st_rdev
        group = first.setdefault(seen.st_ino, name) if seen.st_nlink > 1 and kind != stat.S_IFDIR else ""
        size = seen.st_size if kind == stat.S_IFREG else 0
        when = seen.st_mtime_ns if times else 0
        mode = stat.S_IMODE(seen.st_mode)
        found[name] = (
            oct(kind),
            oct(mode),
            seen.st_uid,
            seen.st_gid,
            size,
            when,
            content,
            group,
            tuple(sorted(xattrs.items())),
        )
        if kind == stat.S_IFDIR:
            todo += sorted((os.path.join(path, child) for child in os.listdir(path)), reverse=True)
    return found


def _hash(path: bytes) -> str:
    hashed = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            hashed.update(piece)
    return hashed.hexdigest()
