# SPDX-License-Identifier: Apache-2.0
"""Collections beside pulls and containers, from several processes: what is in use stays, what is not goes."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cri.images.catalogue import Catalogue
from cri.images.errors import ImageError, NotFound
from cri.images.layout import Layout
from cri.images.leases import Lease
from cri.images.patience import Backoff
from cri.images.store import ImageStore
from tests.support import images
from tests.support.images import layer, member
from tests.support.needs import needs
from tests.support.registry import OwnRegistry

pytestmark = needs("overlay")
SECONDS = float(os.environ.get("KETCH_RACE_SECONDS", "4"))
QUICK = Backoff(tries=3, first_seconds=0.01, longest_seconds=0.05)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[OwnRegistry]:
    """Three images that share their lowest layer."""
    shared = layer([member("./"), member("shared", b"s" * 50_000)])
    with OwnRegistry() as made:
        for name in "abc":
            top = layer([member("./"), member(name, name.encode() * 30_000)])
            images.layout(tmp_path / f"oci-{name}", [shared, top])
            made.serve_layout(tmp_path / f"oci-{name}", name)
        yield made


def _until(end: float, work: Callable[[random.Random], None], seed: int) -> int:
    """A process that works until the time is over; a failure is its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            chance = random.Random(seed)
            while time.monotonic() < end:
                work(chance)
            code = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    return pid


def test_a_collection_takes_nothing_from_pulls_and_containers_beside_it(registry: OwnRegistry, tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    end = time.monotonic() + SECONDS

    def opened() -> ImageStore:
        return ImageStore(root, auth_files=[], backoff=QUICK)

    def pull(chance: random.Random) -> None:
        store = opened()
        name = chance.choice("abc")
        image_id = store.pull(f"{registry.host}/x:{name}")
        found = store.find(image_id)  # another may have removed it
        assert found is None or found.id == image_id
        if chance.random() < 0.6:
            store.remove(image_id)
        store.close()

    def contain(chance: random.Random) -> None:
        store = opened()
        name, key = chance.choice("abc"), f"k{os.getpid()}"
        image_id = store.pull(f"{registry.host}/x:{name}")
        try:
            root = store.prepare_rootfs(image_id, key)
        except NotFound:
            store.close()
            return  # removed by another in between: said as it is
        for _ in range(20):  # it stands, whatever happens to the image
            with root.tree() as tree:
                found = os.open(name, os.O_RDONLY, dir_fd=tree.fd)
                assert os.fstat(found).st_size == 30_000
                os.close(found)
        store.release(key)
        store.close()

    def collect(_: random.Random) -> None:
        store = opened()
        store.collect(unused_images=True)
        store.close()

    pids = [_until(end, work, seed) for seed, work in enumerate((pull, pull, contain, contain, collect, collect))]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * len(pids)
    store = opened()
    assert store.verify(repair=False) == ()
    assert store.rootfs_keys() == ()
    for image in store.list():
        store.remove(image.id)
    store.collect()
    left = {
        name: os.listdir(f"{root}/{name}") for name in ("layers", "partial", "staging", "leases", "trash", "rootfs")
    }
    assert not any(left.values()), left
    assert store.fs_info().used_bytes == 0
    store.settle()
    store.close()


def test_five_that_remove_and_pull_one_image_at_once_leave_a_whole_store(registry: OwnRegistry, tmp_path: Path) -> None:
    store = ImageStore(str(tmp_path / "store"), auth_files=[], backoff=QUICK)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                store.remove(store.pull(f"{registry.host}/x:a"))
        except ImageError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.list() == ()
    assert store.verify(repair=False) == ()
    store.settle()
    store.close()


def test_a_tree_that_a_collection_takes_while_a_pull_looks_is_made_again(
    registry: OwnRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking for the trees of an image that is here and noting that they are needed."""
    root = str(tmp_path / "store")
    store = ImageStore(root, auth_files=[], backoff=QUICK)
    image_id = store.pull(f"{registry.host}/x:a")
    record = Catalogue(Layout(root)).records()[image_id]
    note = Lease.add

    def add(lease: Lease, *names: str) -> None:
        monkeypatch.undo()
        store.remove(image_id)
        note(lease, *names)

    with Lease(Layout(root)) as another:  # of a pull that has just begun: the blobs stay
        another.add(*record.blobs())
        monkeypatch.setattr(Lease, "add", add)
        assert store.pull(f"{registry.host}/x:a") == image_id
    assert store.verify(repair=False) == ()
    store.settle()
    store.close()
