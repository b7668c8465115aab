# SPDX-License-Identifier: Apache-2.0
"""Odd-shaped images come out of our store exactly as umoci unpacks them."""

import io
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cri.images.store import ImageStore
from tests.support import images
from tests.support.images import T0, layer, link, member, symlink
from tests.support.needs import needs

CAPABILITY = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
ROOT = member("./", mode=0o755)
LONG = "n" * 255
DEEP = "/".join(["d" * 60] * 12)


def _base() -> bytes:
    return layer(
        [
            ROOT,
            member("etc/"),
            member("etc/passwd", b"root:x:0:0::/:/bin/sh\n"),
            member("etc/shadow", b"x", mode=0o600),
            member("usr/", uid=3, gid=4, mode=0o775, mtime=T0 + 0.123456),
            member("usr/bin/"),
            member("usr/bin/tool", b"#!/bin/sh\n", mode=0o755),
            member("usr/lib/"),
            symlink("lib", "usr/lib"),
            member("var/", mode=0o711),
            member("var/old/"),
            member("var/old/a", b"a"),
            member("var/old/b", b"b"),
            member("var/old/deep/"),
            member("var/old/deep/c", b"c"),
        ]
    )


def _many(count: int) -> bytes:
    files = [member(f"many/{i // 500}/f{i}", str(i).encode()) for i in range(count)]
    return layer([ROOT, member("many/"), *(member(f"many/{n}/") for n in range(count // 500 + 1)), *files])


def _sparse(work: Path, form: str) -> bytes:
    """Written by GNU tar itself, in its own form or in pax."""
    with open(work / "sparse", "wb") as file:
        file.seek(5 << 20)
        file.write(b"middle" * 1000)
        file.truncate(12 << 20)
    command = ["tar", "-C", str(work), "--sparse", "--owner=0", "--group=0", "--mtime=@1700000000"]
    return subprocess.run(
        [*command, f"--format={form}", "-cf", "-", "./sparse"], check=True, capture_output=True
    ).stdout


SHAPES: dict[str, Callable[[], list[bytes]]] = {
    "one file": lambda: [layer([ROOT, member("file", b"hello")])],
    "no root entry": lambda: [layer([member("file", b"hello")])],
    "odd root": lambda: [layer([member("./", mode=0o1711, uid=7, gid=8), member("f", b"")])],
    "root of the lower layer": lambda: [layer([member("./", mode=0o700, uid=5)]), layer([member("f", b"")])],
    "base alone": lambda: [_base()],
    "implied directories": lambda: [layer([ROOT, member("a/b/c/d", b"deep")])],
    "implied directories above a lower layer": lambda: [_base(), layer([member("usr/bin/new", b"n", mode=0o755)])],
    "through a lower symlink": lambda: [_base(), layer([member("lib/libc.so", b"ELF")])],
    "a file whiteout": lambda: [_base(), layer([member("etc/"), member("etc/.wh.shadow")])],
    "a directory whiteout": lambda: [_base(), layer([member("var/", mode=0o711), member("var/.wh.old")])],
    "a whiteout in an implied directory": lambda: [_base(), layer([member("var/old/.wh.a")])],
    "a whiteout of nothing": lambda: [_base(), layer([member("etc/"), member("etc/.wh.nothing")])],
    "an opaque directory": lambda: [
        _base(),
        layer(
            [member("var/", mode=0o711), member("var/old/"), member("var/old/.wh..wh..opq"), member("var/old/n", b"n")]
        ),
    ],
    "an opaque mark after the files": lambda: [
        _base(),
        layer(
            [member("var/", mode=0o711), member("var/old/"), member("var/old/n", b"n"), member("var/old/.wh..wh..opq")]
        ),
    ],
    "an opaque implied directory": lambda: [
        _base(),
        layer([member("var/old/.wh..wh..opq"), member("var/old/n", b"n")]),
    ],
    "deleted and made anew": lambda: [
        _base(),
        layer([member("var/", mode=0o711), member("var/.wh.old")]),
        layer([member("var/", mode=0o711), member("var/old/", mode=0o700), member("var/old/new", b"1")]),
    ],
    "a file becomes a directory": lambda: [
        _base(),
        layer([member("etc/"), member("etc/shadow/"), member("etc/shadow/x", b"x")]),
    ],
    "a directory becomes a file": lambda: [_base(), layer([member("var/", mode=0o711), member("var/old", b"file")])],
    "a symlink becomes a directory": lambda: [_base(), layer([member("lib/"), member("lib/x", b"x")])],
    "a directory becomes a symlink": lambda: [_base(), layer([member("var/", mode=0o711), symlink("var/old", "/etc")])],
    "hard links in a layer": lambda: [
        layer([ROOT, member("a", b"data", mode=0o755), link("b", "a"), member("d/"), link("d/c", "./a")])
    ],
    "a hard link across layers": lambda: [_base(), layer([member("etc/"), link("etc/also", "etc/passwd")])],
    "a hard link across three layers": lambda: [
        _base(),
        layer([member("mid", b"m")]),
        layer([link("usr/bin/tool2", "usr/bin/tool"), link("mid2", "mid")]),
    ],
    "a hard link to a symlink": lambda: [layer([ROOT, symlink("s", "nowhere"), link("s2", "s")])],
    "changed attributes": lambda: [
        _base(),
        layer([member("etc/", mode=0o750, uid=9), member("etc/passwd", b"new", mode=0o640, gid=42, mtime=T0 + 5)]),
    ],
    "set-id bits and sticky": lambda: [
        layer(
            [
                ROOT,
                member("su", b"x", mode=0o4755, uid=1),
                member("sg", b"x", mode=0o2755, gid=2),
                member("tmp/", mode=0o1777),
                member("shared/", mode=0o2775, gid=50),
                member("shared/f", b"f"),
                member("shared/d/"),
            ]
        )
    ],
    "file capabilities and user xattrs": lambda: [
        layer(
            [
                ROOT,
                member("ping", b"x", mode=0o755, uid=1, pax={"SCHILY.xattr.security.capability": CAPABILITY}),
                member("d/", pax={"SCHILY.xattr.user.colour": "blue"}),
                member("d/f", b"f", pax={"SCHILY.xattr.user.a": "1", "SCHILY.xattr.user.b": "zwei"}),
            ]
        )
    ],
    "devices and a fifo": lambda: [
        layer(
            [
                ROOT,
                member("dev/"),
                member("dev/null", kind=tarfile.CHRTYPE, device=(1, 3), mode=0o666),
                member("dev/disk", kind=tarfile.BLKTYPE, device=(8, 1), mode=0o660, gid=6),
                member("dev/pipe", kind=tarfile.FIFOTYPE, mode=0o622, uid=12),
            ]
        )
    ],
    "255-byte names (pax)": lambda: [
        layer([ROOT, member(f"{LONG}", b"1"), member(f"{DEEP}/f", b"2"), symlink("s", DEEP)])
    ],
    "255-byte names (GNU)": lambda: [
        layer([ROOT, member(f"{LONG}", b"1"), member(f"{DEEP}/f", b"2"), symlink("s", DEEP)], form=tarfile.GNU_FORMAT)
    ],
    "ustar prefixes": lambda: [
        layer([ROOT, member(f"{'p' * 90}/{'q' * 60}/{'r' * 90}", b"1")], form=tarfile.USTAR_FORMAT)
    ],
    "names that are not UTF-8": lambda: [layer([ROOT, member("caf\udce9", b"1"), member("tab\tnew\nline", b"2")])],
    "sub-second times": lambda: [
        layer([ROOT, member("f", b"", mtime=T0 + 0.5, pax={"mtime": "1700000000.123456789"}), member("old", mtime=-5)])
    ],
    "large owners": lambda: [layer([ROOT, member("f", b"", uid=3_000_000, gid=2_500_000), member("d/", uid=2**31)])],
    "the same name twice": lambda: [layer([ROOT, member("f", b"first"), member("f", b"second", mode=0o600)])],
    "an empty layer": lambda: [_base(), layer([])],
    "the same layer twice": lambda: [_base(), layer([member("x", b"1")]), layer([member("x", b"1")])],
    "twenty layers": lambda: [layer([ROOT]), *(layer([member(f"f{n}", b"x" * n)]) for n in range(20))],
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    made = ImageStore(str(tmp_path / "store"), auth_files=[])
    yield made
    made.settle()
    made.close()


def _ours(store: ImageStore, source: Path, target: Path) -> dict[str, tuple[object, ...]]:
    (image_id,) = store.import_(str(source))
    root = store.prepare_rootfs(image_id, "box", read_only=True)
    target.mkdir()
    root.mount(str(target))
    try:
        return images.facts(target)
    finally:
        root.unmount(str(target))
        store.release("box")


def _theirs(source: Path, bundle: Path) -> dict[str, tuple[object, ...]]:
    command = ["umoci", "unpack", "--image", f"{source}:latest", str(bundle)]
    subprocess.run(command, check=True, capture_output=True)
    return images.facts(bundle / "rootfs")


def _compare(store: ImageStore, tmp_path: Path, layers: list[bytes], how: str = "gzip") -> None:
    images.layout(tmp_path / "oci", layers, how=how)
    ours = _ours(store, tmp_path / "oci", tmp_path / "mnt")
    theirs = _theirs(tmp_path / "oci", tmp_path / "bundle")
    if not any(name.rstrip("/") in ("", ".") for name in _first_names(layers)):
        # Nobody says what the root is like: umoci's has the time of unpacking, and so has ours.
        ours["."], theirs["."] = _timeless(ours["."]), _timeless(theirs["."])
    _forget_times_of_the_moment(ours, theirs)
    assert ours == theirs


def _first_names(layers: list[bytes]) -> Iterator[str]:
    for data in layers:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            yield from archive.getnames()


def _timeless(fact: tuple[object, ...]) -> tuple[object, ...]:
    return (*fact[:5], 0, *fact[6:])


def _forget_times_of_the_moment(ours: dict[str, tuple[object, ...]], theirs: dict[str, tuple[object, ...]]) -> None:
    """A directory that no archive brings has the time of its unpacking with everybody."""
    for name in ours.keys() & theirs.keys():
        newest = max(ours[name][5], theirs[name][5])  # type: ignore[type-var, call-overload]
        if newest > (T0 + 86400) * 1_000_000_000:  # type: ignore[operator]
            ours[name], theirs[name] = _timeless(ours[name]), _timeless(theirs[name])


@needs("overlay", "umoci")
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_an_odd_image_unpacks_as_umoci_unpacks_it(shape: str, store: ImageStore, tmp_path: Path) -> None:
    _compare(store, tmp_path, SHAPES[shape]())


@needs("overlay")
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_verify_finds_nothing_wrong_with_an_odd_image(shape: str, store: ImageStore, tmp_path: Path) -> None:
    images.layout(tmp_path / "oci", SHAPES[shape]())
    store.import_(str(tmp_path / "oci"))
    assert store.verify(repair=False) == ()


@needs("overlay")
@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_a_sparse_file_of_gnu_tar_unpacks_as_tar_unpacks_it(form: str, store: ImageStore, tmp_path: Path) -> None:
    work, theirs = tmp_path / "work", tmp_path / "theirs"
    work.mkdir()
    theirs.mkdir()
    data = _sparse(work, form)
    subprocess.run(["tar", "-C", str(theirs), "-xf", "-"], input=data, check=True)
    images.layout(tmp_path / "oci", [data])
    ours = _ours(store, tmp_path / "oci", tmp_path / "mnt")
    assert ours["sparse"] == images.facts(theirs)["sparse"]
    tree = Path(store.prepare_rootfs(store.list()[0].id, "k").lowerdirs[0]) / "sparse"
    assert tree.stat().st_blocks * 512 < 1 << 20, "the holes are holes again"


@needs("overlay", "umoci")
@pytest.mark.parametrize("how", ["", "zstd"])
def test_compression_makes_no_difference(how: str, store: ImageStore, tmp_path: Path) -> None:
    layers = [_base(), layer([member("etc/"), member("etc/.wh.shadow"), member("n", b"n" * 300_000)])]
    images.layout(tmp_path / "oci", layers, how=how)
    ours = _ours(store, tmp_path / "oci", tmp_path / "mnt")
    images.layout(tmp_path / "gzip", layers, how="gzip")
    theirs = _theirs(tmp_path / "gzip", tmp_path / "bundle")
    ours["."], theirs["."] = _timeless(ours["."]), _timeless(theirs["."])
    assert ours == theirs


@needs("overlay", "umoci")
def test_fifty_thousand_small_files_unpack_as_umoci_unpacks_them(store: ImageStore, tmp_path: Path) -> None:
    _compare(store, tmp_path, [_many(50_000)])
