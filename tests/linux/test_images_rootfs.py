# SPDX-License-Identifier: Apache-2.0
"""What containers stand on: writable layers, owners mapped for user namespaces, volumes, and many images at once."""

import errno
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cri.images.errors import ImageError, InUse, NotFound
from cri.images.model import IdMapping
from cri.images.store import ImageStore
from runtime.linux import mounts
from runtime.linux.syscalls import KernelError
from tests.support import images
from tests.support.images import layer, link, member, symlink
from tests.support.needs import needs

pytestmark = needs("overlay")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    made = ImageStore(str(tmp_path / "store"), auth_files=[])
    yield made
    made.settle()
    made.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "mnt"
    path.mkdir()
    return path


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """This kernel, without what came with a release: the refusal is that of the older one, all else is real."""
    real = mounts.make

    def pretend(release: str) -> None:
        def make(kind: str, options: Sequence[tuple[str, str | None]] = (), **more: Any) -> mounts.Tree:
            for key, value in options:
                if kind == "overlay" and release == "6.1" and key == "lowerdir+":
                    raise KernelError(errno.EINVAL, "fsconfig", (key, value))
                if kind == "overlay" and "lowerdir" in key and (value or "").startswith("/proc/self/fd/"):
                    raise KernelError(errno.EINVAL, "fsconfig", ("lowerdir+", value))  # before 6.15: not attached
            return real(kind, options, **more)

        def clone(path: str, *, recursive: bool, dirfd: int = -100) -> mounts.Tree:
            if path == "" and dirfd not in attached(dirfd):
                raise KernelError(errno.EINVAL, "open_tree", (path,))
            return real_clone(path, recursive=recursive, dirfd=dirfd)

        monkeypatch.setattr(mounts, "make", make)
        monkeypatch.setattr(mounts, "clone", clone)

    real_clone = mounts.clone

    def attached(descriptor: int) -> tuple[int, ...]:
        """Whether its mount is in our mount table: before 6.15 no part of another one could be cloned."""
        found = next(
            line for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines() if "mnt_id" in line
        )
        here = {line.split()[0] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
        return (descriptor,) if found.split()[1] in here else ()

    return pretend


def _image(store: ImageStore, tmp_path: Path) -> str:
    lower = layer(
        [member("./", mode=0o750, uid=3), member("etc/"), member("etc/f", b"1", uid=5, gid=6), symlink("out", "/")]
    )
    upper = layer([member("etc/"), member("etc/g", b"2"), symlink("etc/escape", "../../../..")])
    images.layout(tmp_path / "oci", [lower, upper])
    return store.import_(str(tmp_path / "oci"), name="box")[0]


def test_what_a_container_writes_stays_in_its_own_layer(store: ImageStore, tmp_path: Path, target: Path) -> None:
    image_id = _image(store, tmp_path)
    for key in ("one", "two"):
        root = store.prepare_rootfs(image_id, key)
        assert store.prepare_rootfs(image_id, key) == root, "idempotent"
        root.mount(str(target))
        try:
            assert not (target / "mine").exists()
            assert oct(target.stat().st_mode & 0o7777) == "0o750"
            assert target.stat().st_uid == 3
            (target / "mine").write_text(key)
            (target / "etc/f").unlink()
        finally:
            root.unmount(str(target))
    assert store.rootfs_usage("one").inodes_used >= 3
    assert store.rootfs_keys() == ("one", "two")
    with pytest.raises(InUse, match="one, two"):
        store.remove(image_id, force=False)
    assert store.remove(image_id)
    again = store.rootfs("one")
    assert again is not None
    again.mount(str(target))
    try:
        assert (target / "etc/g").read_text() == "2", "the image is gone, its trees are not"
    finally:
        again.unmount(str(target))
    for key in store.rootfs_keys():
        store.release(key)
    store.release("one")
    store.collect()
    assert store.fs_info().used_bytes == 0


@needs("userns")
@pytest.mark.parametrize("release", ["", "6.12", "6.1"])
def test_owners_are_mapped_for_a_user_namespace(
    release: str, older: Callable[[str], None], store: ImageStore, tmp_path: Path
) -> None:
    if release:
        older(release)
    target = Path("/var/lib/mapped")  # pytest's folders are closed to a mapped root
    target.mkdir()
    image_id = _image(store, tmp_path)
    mapping = (IdMapping(0, 100_000, 65_536),)
    with subprocess.Popen(["unshare", "--user", "sleep", "60"]) as sleeper:
        namespace = f"/proc/{sleeper.pid}/ns/user"
        deadline = time.monotonic() + 10
        while os.readlink(namespace) == os.readlink("/proc/self/ns/user"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{sleeper.pid}/{kind}").write_text("0 100000 65536")
        root = store.prepare_rootfs(image_id, "mapped", uid_mappings=mapping, gid_mappings=mapping)
        root.mount(str(target), userns=namespace)
        try:
            seen = (target / "etc/f").stat()
            assert (seen.st_uid, seen.st_gid) == (100_005, 100_006)
            assert target.stat().st_uid == 100_003
            done = subprocess.run(
                ["nsenter", f"--user={namespace}", "--setuid=0", "--setgid=0", "sh", "-c",
                 f"cd {target}/etc && echo new > new && chmod 600 g && stat -c %u f new"],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.stdout.split() == ["5", "0"], done.stderr
        finally:
            root.unmount(str(target))
            target.rmdir()
            sleeper.kill()
    assert (Path(root.upperdir) / "etc/new").stat().st_uid == 100_000
    assert (Path(root.lowerdirs[-1]) / "etc/f").stat().st_uid == 5, "the shared tree is untouched"


@pytest.mark.parametrize("sub_path", ["", "etc", "etc/f"])
def test_a_volume_is_read_only_and_may_be_a_part(
    sub_path: str, store: ImageStore, tmp_path: Path, target: Path
) -> None:
    image_id = _image(store, tmp_path)
    volume = store.prepare_volume(image_id, "vol", sub_path=sub_path)
    where = target
    if sub_path.endswith("f"):
        where = tmp_path / "file"
        where.touch()
    volume.mount(str(where))
    try:
        found = {"": target / "etc/f", "etc": target / "f", "etc/f": where}[sub_path]
        assert found.read_text() == "1"
        with pytest.raises(OSError, match="Read-only"):
            found.write_text("2")
        line = next(text for text in Path("/proc/self/mountinfo").read_text().splitlines() if f" {where} " in text)
        assert "noexec" not in line
    finally:
        volume.unmount(str(where))


@pytest.mark.parametrize("sub_path", ["nope", "etc/f/x", "../etc", "/etc", "out/etc", "etc/escape"])
def test_a_sub_path_that_is_not_in_the_image_is_refused(sub_path: str, store: ImageStore, tmp_path: Path) -> None:
    image_id = _image(store, tmp_path)
    with pytest.raises(NotFound):
        store.prepare_volume(image_id, "vol", sub_path=sub_path)
    assert store.rootfs_keys() == ()


def test_a_key_that_is_a_path_is_refused(store: ImageStore, tmp_path: Path) -> None:
    image_id = _image(store, tmp_path)
    for key in ("../x", "", "a/b", ".", "x" * 300):
        with pytest.raises(ImageError):
            store.prepare_rootfs(image_id, key)


def test_two_images_share_what_they_share(store: ImageStore, tmp_path: Path) -> None:
    base = layer([member("./"), member("base", b"x" * 100_000)])
    for name in ("a", "b"):
        images.layout(tmp_path / name, [base, layer([member(name, name.encode())])])
        store.import_(str(tmp_path / name), name=name)
    assert len(os.listdir(tmp_path / "store/layers")) == 3
    first = store.find("a")
    assert first is not None
    store.remove("a")
    assert len(os.listdir(tmp_path / "store/layers")) == 2


def test_an_unsettled_tree_does_not_survive_a_boot(store: ImageStore, tmp_path: Path) -> None:
    image_id = _image(store, tmp_path)
    store.settle()
    names = sorted(os.listdir(tmp_path / "store/layers"))
    for name, settled in zip(names, (True, False), strict=True):
        path = tmp_path / "store/layers" / name
        record = json.loads((path / "layer.json").read_text())
        (path / "layer.json").write_text(json.dumps(record | {"boot_id": "another"}))
        if not settled:
            (path / "settled").unlink()
        (path / "fs" / "mark").write_text("old")
    root = store.prepare_rootfs(image_id, "k")
    marks = {Path(lower).parent.name: (Path(lower) / "mark").exists() for lower in root.lowerdirs}
    assert marks == {names[0]: True, names[1]: False}


def test_a_thousand_images_are_listed_in_10_ms(tmp_path: Path) -> None:
    store = ImageStore(str(tmp_path / "store"), auth_files=[])
    image_id = store.build_busybox("x")
    record = json.loads((tmp_path / "store/images" / f"{image_id.replace(':', '-')}.json").read_text())
    for number in range(1000):
        fake = f"sha256:{number:064x}"
        data = record | {"id": fake, "tags": {f"example.org/i{number}:1": fake}, "digests": []}
        (tmp_path / "store/images" / f"sha256-{number:064x}.json").write_text(json.dumps(data))
    store.tag("x", "y")
    assert len(store.list()) == 1001
    start = time.perf_counter()
    assert len(store.list()) == 1001
    assert time.perf_counter() - start < 0.01
    other = ImageStore(str(tmp_path / "store"), auth_files=[])
    assert len(other.list()) == 1001
    other.tag("x", "z")
    assert len(store.find("x").tags) == 3, "another process's change is seen"  # type: ignore[union-attr]
    store.settle()
    for one in (store, other):
        one.close()


def test_subscribers_hear_what_happens(store: ImageStore, tmp_path: Path) -> None:
    events = store.events()
    image_id = _image(store, tmp_path)
    store.tag("box", "other")
    store.untag("other")
    store.remove(image_id)
    store.close()
    assert [event.state for event in events] == ["imported", "tagged", "untagged", "removed", "collected"]


def test_where_overlayfs_cannot_stand_the_image_is_copied(tmp_path: Path, target: Path) -> None:
    from tests.linux.test_images_unpack import SHAPES

    native = ImageStore(str(tmp_path / "native"), auth_files=[], native=True)
    usual = ImageStore(str(tmp_path / "usual"), auth_files=[])
    for number, shape in enumerate(("an opaque directory", "a hard link across three layers", "deleted and made anew")):
        images.layout(tmp_path / str(number), SHAPES[shape]())
        found = []
        for store in (native, usual):
            (image_id,) = store.import_(str(tmp_path / str(number)), name=f"n{number}")
            root = store.prepare_rootfs(image_id, f"k{number}")
            root.mount(str(target))
            try:
                found.append({name: fact for name, fact in images.facts(target).items() if name != "."})
                (target / "written").write_text("x")
            finally:
                root.unmount(str(target))
        assert found[0] == found[1]
    volume = native.prepare_volume("n0", "vol", sub_path="etc")
    volume.mount(str(target))
    try:
        with pytest.raises(OSError, match="Read-only"):
            (target / "passwd").write_text("x")
    finally:
        volume.unmount(str(target))
    assert native.rootfs_usage("k0").inodes_used > 5
    for store in (native, usual):
        store.settle()
        store.close()


# -- older kernels ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("release", ["6.1", "6.12"])
@pytest.mark.parametrize("count", [2, 12])
def test_a_root_is_mounted_on_a_kernel_before(
    count: int, release: str, older: Callable[[str], None], store: ImageStore, tmp_path: Path, target: Path
) -> None:
    layers = [layer([member("./"), member("d/"), member(f"d/f{n}", b"%d" % n)]) for n in range(count)]
    layers.append(layer([member("d/"), link("d/linked", "d/f0")]))  # leans on what is beneath
    images.layout(tmp_path / "oci", layers)
    older(release)
    (image_id,) = store.import_(str(tmp_path / "oci"), name="x")
    root = store.prepare_rootfs(image_id, "k")
    root.mount(str(target))
    try:
        assert sorted(os.listdir(target / "d")) == sorted([*(f"f{n}" for n in range(count)), "linked"])
        (target / "d/new").write_text("x")
    finally:
        root.unmount(str(target))
    assert (Path(root.upperdir) / "d/new").read_text() == "x"


@pytest.mark.parametrize("sub_path", ["", "etc", "etc/f"])
def test_a_volume_is_mounted_on_a_kernel_before_6_15(
    sub_path: str, older: Callable[[str], None], store: ImageStore, tmp_path: Path, target: Path
) -> None:
    image_id = _image(store, tmp_path)
    older("6.12")
    volume = store.prepare_volume(image_id, "v", sub_path=sub_path)
    place = tmp_path / "file" if sub_path == "etc/f" else target
    place.touch() if sub_path == "etc/f" else None
    before = Path("/proc/self/mountinfo").read_text()
    volume.mount(str(place))
    try:
        found = place if sub_path == "etc/f" else place / ("f" if sub_path else "etc/f")
        assert found.read_text() == "1"
        with pytest.raises(OSError, match="Read-only"):
            found.write_text("x")
    finally:
        volume.unmount(str(place))
    assert Path("/proc/self/mountinfo").read_text() == before, "what was attached for a moment is gone"
