# SPDX-License-Identifier: Apache-2.0
"""Layers made to break out, to fill the disk or to confuse the reader change nothing outside the layer."""

import gzip
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.images.errors import Corrupt, HostileLayer, ImageError
from cri.images.store import ImageStore
from cri.images.unpack import Limits
from runtime.linux import beneath
from tests.support import images
from tests.support.images import layer, link, member, symlink
from tests.support.needs import needs

ROOT = member("./")
OUTSIDE = "/var/lib/victim"  # a tmpfs of this test's own world


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    made = ImageStore(str(tmp_path / "store"), auth_files=[], limits=Limits(entries=5000, bytes=64 << 20))
    yield made
    made.settle()
    made.close()


@pytest.fixture
def victim() -> Iterator[Path]:
    path = Path(OUTSIDE)
    path.mkdir()
    (path / "secret").write_text("untouched")
    (path / "secret").chmod(0o600)
    before = images.facts(path)
    yield path
    after = images.facts(path)
    beneath.remove_tree(OUTSIDE)
    assert after == before


def _take(store: ImageStore, tmp_path: Path, *layers: bytes, how: str = "gzip") -> str:
    images.layout(tmp_path / "oci", layers, how=how)
    return store.import_(str(tmp_path / "oci"))[0]


UP = "../" * 12
REFUSED = {
    "dot dot in a name": [ROOT, member(f"{UP}var/lib/victim/new", b"x")],
    "dot dot in the middle": [ROOT, member("a/"), member(f"a/{UP}var/lib/victim/secret", b"x")],
    "a hard link to dot dot": [ROOT, link("stolen", f"{UP}var/lib/victim/secret")],
    "a hard link to an absolute path": [ROOT, link("stolen", f"{OUTSIDE}/secret")],
    "a hard link through a symlink": [ROOT, symlink("out", OUTSIDE), link("stolen", "out/secret")],
    "a whiteout of dot dot": [ROOT, member("d/"), member("d/.wh...")],
    "a whiteout of dot": [ROOT, member("d/"), member("d/.wh..")],
    "a whiteout of nothing": [ROOT, member("d/"), member("d/.wh.")],
    "overlay's own whiteout": [ROOT, member("w", kind=tarfile.CHRTYPE, device=(0, 0))],
    "a root that is a file": [member("./", b"", kind=tarfile.REGTYPE), member(".", kind=tarfile.SYMTYPE, link="/etc")],
    "a hard link to the root": [ROOT, link("root", ".")],
    "a hard link to a directory": [ROOT, member("d/"), link("d2", "d")],
    "too deep": [ROOT, member("/".join("d" * 1000), b"")],
    "a component of 256 bytes": [ROOT, member("n" * 256, b"")],
    "a path of 5000 bytes": [ROOT, member("/".join(["p" * 200] * 25), b"")],
    "too many entries": [ROOT, *(member(f"f{n}", b"") for n in range(5001))],
    "too many bytes": [ROOT, member("big", bytes(65 << 20))],
    "symlinks in a circle": [ROOT, symlink("a", "b"), symlink("b", "a"), member("a/f", b"x")],
}


@needs("overlay")
@pytest.mark.parametrize("attack", sorted(REFUSED))
def test_an_attack_is_refused_and_nothing_is_left(attack: str, store: ImageStore, victim: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        _take(store, tmp_path, layer(REFUSED[attack]))
    assert isinstance(caught.value, (HostileLayer, Corrupt)), caught.value
    assert store.list() == ()
    store.collect()
    assert not os.listdir(tmp_path / "store" / "layers")
    assert not os.listdir(tmp_path / "store" / "staging")


CONTAINED = {
    "an absolute name": [ROOT, member(f"{OUTSIDE}/secret", b"x")],
    "a write through an absolute symlink": [ROOT, symlink("out", OUTSIDE), member("out/new", b"x")],
    "a write through a relative symlink": [ROOT, symlink("out", f"{UP}var/lib/victim"), member("out/new", b"x")],
    "a write onto a symlink": [ROOT, symlink("out", f"{OUTSIDE}/secret"), member("out", b"replaced")],
    "a directory over a symlink": [ROOT, symlink("out", OUTSIDE), member("out/", mode=0o777)],
    "attributes through a symlink": [ROOT, symlink("out", f"{OUTSIDE}/secret"), member("out", mode=0o777, uid=99)],
    "a device": [ROOT, member("disk", kind=tarfile.BLKTYPE, device=(254, 0), mode=0o666)],
    "set-id with a capability": [
        ROOT,
        member("su", b"x", mode=0o6755, pax={"SCHILY.xattr.security.capability": "\x01\x00\x00\x02" + "\x00" * 16}),
    ],
    "overlay's own marks": [
        ROOT,
        member("d/", pax={"SCHILY.xattr.trusted.overlay.redirect": "/var", "SCHILY.xattr.trusted.overlay.opaque": "y"}),
    ],
    "a whiteout through a symlink": [ROOT, symlink("out", OUTSIDE), member("out/.wh.secret")],
    "an opaque mark through a symlink": [ROOT, symlink("out", OUTSIDE), member("out/.wh..wh..opq")],
    "a proc link": [ROOT, symlink("out", "/proc/self/root/var/lib/victim"), member("out/new", b"x")],
}


@needs("overlay")
@pytest.mark.parametrize("above", [False, True], ids=["alone", "above a layer"])
@pytest.mark.parametrize("attack", sorted(CONTAINED))
def test_what_is_odd_but_possible_stays_inside(
    attack: str, above: bool, store: ImageStore, victim: Path, tmp_path: Path
) -> None:
    layers = [layer([ROOT, member("base", b"")])] if above else []
    try:
        image_id = _take(store, tmp_path, *layers, layer(CONTAINED[attack]))
    except (HostileLayer, Corrupt):
        return
    root = store.prepare_rootfs(image_id, "box")
    marks = [
        name
        for lower in root.lowerdirs
        for path, _, _ in os.walk(lower)
        for name in os.listxattr(path)
        if name.startswith("trusted.overlay.redirect")
    ]
    assert not marks


@needs("overlay")
def test_a_bomb_is_stopped_at_the_limit_and_memory_stays_flat(store: ImageStore, tmp_path: Path) -> None:
    import resource

    zeros = layer([ROOT, *(member(f"z{n}", bytes(16 << 20)) for n in range(8))])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(HostileLayer, match="too large"):
        _take(store, tmp_path, zeros)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 << 10


@pytest.mark.parametrize("cut", [1, 511, 700, 1024, 1500])
def test_a_truncated_layer_is_corrupt(cut: int, store: ImageStore, tmp_path: Path) -> None:
    data = layer([ROOT, member("f", b"x" * 600)])[:cut]
    with pytest.raises(Corrupt):
        _take(store, tmp_path, data, how="")


def test_a_header_with_a_wrong_checksum_is_corrupt(store: ImageStore, tmp_path: Path) -> None:
    data = bytearray(layer([ROOT, member("f", b"x")]))
    data[513] ^= 1
    with pytest.raises(Corrupt, match="checksum"):
        _take(store, tmp_path, bytes(data))


def test_a_huge_pax_header_is_refused(store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(HostileLayer, match="header"):
        _take(store, tmp_path, layer([ROOT, member("f", b"x", pax={"comment": "c" * (2 << 20)})]))


def test_a_layer_that_is_not_what_the_config_says_is_corrupt(store: ImageStore, tmp_path: Path) -> None:
    good, other = layer([ROOT, member("f", b"good")]), layer([ROOT, member("f", b"evil")])
    images.layout(tmp_path / "oci", [good])
    manifest = next(
        path for path in (tmp_path / "oci/blobs/sha256").iterdir() if path.read_bytes()[:2] == gzip.compress(b"")[:2]
    )
    wrong = gzip.compress(other, 1, mtime=0)
    for path in (tmp_path / "oci/blobs/sha256").iterdir():
        text = path.read_bytes()
        if manifest.name.encode() in text:
            size = str(manifest.stat().st_size).encode()
            new = text.replace(manifest.name.encode(), images.digest(wrong)[7:].encode()).replace(
                b'"size": ' + size, b'"size": ' + str(len(wrong)).encode()
            )
            (path.parent / images.digest(new)[7:]).write_bytes(new)
            index = (tmp_path / "oci/index.json").read_text()
            index = index.replace(path.name, images.digest(new)[7:]).replace(
                f'"size": {len(text)}', f'"size": {len(new)}'
            )
            (tmp_path / "oci/index.json").write_text(index)
    (manifest.parent / images.digest(wrong)[7:]).write_bytes(wrong)
    with pytest.raises(Corrupt, match="the image says"):
        store.import_(str(tmp_path / "oci"))
