# SPDX-License-Identifier: Apache-2.0
"""Registries that break, lie and stall, disks that are full, processes that are killed: the store stays whole."""

import http.server
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cri.images.blobs import Blobs, Stopped
from cri.images.cancel import Cancellation
from cri.images.errors import (
    Cancelled,
    Corrupt,
    DeadlineExceeded,
    ImageError,
    Missing,
    RateLimited,
    StoreFailed,
    Unreachable,
)
from cri.images.layout import Layout
from cri.images.patience import Backoff, Patience
from cri.images.store import ImageStore
from tests.support import images, kernel
from tests.support.images import layer, member
from tests.support.needs import needs
from tests.support.registry import OwnRegistry

pytestmark = needs("overlay")
MS_RDONLY, MS_REMOUNT = 1, 32
Handler = http.server.BaseHTTPRequestHandler
QUICK = Backoff(tries=4, first_seconds=0.01, longest_seconds=0.05)
PATIENT = Patience(connect_seconds=2, idle_seconds=0.3, window_seconds=0.4, least_bytes=10_000)


def _layers() -> list[bytes]:
    chance = random.Random(5)
    return [
        layer([member("./"), member("big", chance.randbytes(700_000)), member("d/"), member("d/a", b"a")]),
        layer([member("d/"), *(member(f"d/f{n}", chance.randbytes(2000)) for n in range(100))]),
    ]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[OwnRegistry]:
    with OwnRegistry() as made:
        images.layout(tmp_path / "oci", _layers())
        made.serve_layout(tmp_path / "oci", "1")
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    made = ImageStore(str(tmp_path / "store"), auth_files=[], backoff=QUICK, patience=PATIENT)
    yield made
    made.settle()
    made.close()


def _big(registry: OwnRegistry) -> str:
    return max(registry.blobs, key=lambda digest: len(registry.blobs[digest]))


def _whole(store: ImageStore) -> None:
    """Consistent: everything that an image needs is there and right, nothing half-done is visible."""
    assert store.verify(repair=False) == ()


def _break_off(digest: str, registry: OwnRegistry, at: int, times: int) -> Callable[[Handler, str], bool]:
    left = [times]

    def before(handler: Handler, path: str) -> bool:
        if not path.endswith(digest) or handler.command == "HEAD" or left[0] == 0:
            return False
        left[0] -= 1
        data = registry.blobs[digest]
        begin = int((handler.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        handler.send_response(206 if begin else 200)
        handler.send_header("Content-Length", str(len(data) - begin))
        if begin:
            handler.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        handler.end_headers()
        handler.wfile.write(data[begin : begin + at])
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True
        return True

    return before


def test_a_broken_transfer_goes_on_where_it_stopped(registry: OwnRegistry, store: ImageStore) -> None:
    big = _big(registry)
    registry.before = _break_off(big, registry, 200_000, 2)
    store.pull(f"{registry.host}/x:1")
    ranges = [span for _, path, span in registry.requests if path.endswith(big)]
    assert ranges == ["", "bytes=200000-", "bytes=400000-"]
    _whole(store)


def test_nobody_follows_a_download_that_has_ended(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "store"))
    layout.create()
    partial = Blobs(layout).partial("sha256:" + "a" * 64, 10)
    assert partial is not None
    partial.close()
    with (
        (tmp_path / "another").open("w"),
        pytest.raises(Stopped, match="has ended"),
    ):  # may have its descriptor's number
        partial.follow()


def test_a_registry_that_dies_leaves_what_the_next_pull_goes_on_from(registry: OwnRegistry, store: ImageStore) -> None:
    big = _big(registry)
    registry.before = _break_off(big, registry, 200_000, 1)

    def dead_after_the_first(handler: Handler, path: str) -> bool:
        if first(handler, path):
            registry.before = lambda h, p: p.endswith(big) and _hang_up(h)
            return True
        return False

    first = registry.before
    registry.before = dead_after_the_first
    with pytest.raises(Unreachable, match=r"layer 1 .*are kept for the next try") as caught:
        store.pull(f"{registry.host}/x:1")
    assert "200000 of" in str(caught.value)
    assert store.list() == ()
    _whole(store)
    registry.before = lambda _h, _p: False
    registry.requests.clear()
    store.pull(f"{registry.host}/x:1")
    assert [span for _, path, span in registry.requests if path.endswith(big)] == ["bytes=200000-"]
    fetched = {
        path.rpartition("/")[2] for method, path, _ in registry.requests if "/blobs/" in path and method == "GET"
    }
    assert big in fetched, "only what is missing comes again"
    _whole(store)


def _hang_up(handler: Handler) -> bool:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True
    return True


def test_a_server_without_ranges_is_read_from_the_start(registry: OwnRegistry, store: ImageStore) -> None:
    big = _big(registry)
    cut = _break_off(big, registry, 300_000, 1)

    def before(handler: Handler, path: str) -> bool:
        if cut(handler, path):
            return True
        if path.endswith(big):
            registry.send(handler, 200, registry.blobs[big], {})
            return True
        return False

    registry.before = before
    store.pull(f"{registry.host}/x:1")
    _whole(store)


@pytest.mark.parametrize("lie", ["content", "longer", "shorter"])
def test_a_blob_with_other_content_is_refused_and_nothing_of_it_stays(
    lie: str, registry: OwnRegistry, store: ImageStore, tmp_path: Path
) -> None:
    big = _big(registry)
    good = registry.blobs[big]
    registry.blobs[big] = {"content": b"x" + good[1:], "longer": good + b"x", "shorter": good[:-1]}[lie]
    with pytest.raises((Corrupt, Unreachable), match=rf"layer 1 .*{big[:30]}"):
        store.pull(f"{registry.host}/x:1")
    assert store.list() == ()
    registry.blobs[big] = good
    store.pull(f"{registry.host}/x:1")
    _whole(store)


def test_a_manifest_with_other_content_is_refused(registry: OwnRegistry, store: ImageStore) -> None:
    data, media_type = registry.manifests["1"]
    real = images.digest(data)
    registry.manifests[real] = (data.replace(b"sha256", b"sha257", 1), media_type)
    with pytest.raises(ImageError, match="other content"):
        store.pull(f"{registry.host}/x:1")


def test_a_stalling_server_is_given_up(registry: OwnRegistry, store: ImageStore) -> None:
    stop = threading.Event()

    def silent(handler: Handler, path: str) -> bool:
        if "/blobs/" in path and handler.command == "GET":
            handler.send_response(200)
            handler.send_header("Content-Length", "1000000")
            handler.end_headers()
            stop.wait(20)
            return True
        return False

    registry.before = silent
    start = time.monotonic()
    with pytest.raises(Unreachable):
        store.pull(f"{registry.host}/x:1")
    assert time.monotonic() - start < 10
    stop.set()


def test_a_server_that_drips_bytes_is_given_up(registry: OwnRegistry, store: ImageStore) -> None:
    big = _big(registry)
    stop = threading.Event()

    def drip(handler: Handler, path: str) -> bool:
        if not path.endswith(big):
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(registry.blobs[big])))
        handler.end_headers()
        for byte in registry.blobs[big]:
            if stop.wait(0.02):
                break
            handler.wfile.write(bytes((byte,)))
            handler.wfile.flush()
        return True

    registry.before = drip
    start = time.monotonic()
    with pytest.raises(Unreachable, match=r"stalls"):
        store.pull(f"{registry.host}/x:1")
    assert time.monotonic() - start < 10
    stop.set()


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_busy_registry_is_asked_again_after_a_while(status: int, registry: OwnRegistry, store: ImageStore) -> None:
    left = [2]

    def busy(handler: Handler, path: str) -> bool:
        if "/blobs/" not in path or left[0] == 0:
            return False
        left[0] -= 1
        registry.send(handler, status, b"{}", {"Retry-After": "0"})
        return True

    registry.before = busy
    store.pull(f"{registry.host}/x:1")
    _whole(store)


def test_a_registry_that_stays_busy_says_so(registry: OwnRegistry, store: ImageStore) -> None:
    registry.before = lambda handler, _path: registry.send(handler, 429, b"{}", {}) is None
    with pytest.raises(RateLimited, match="overloaded"):
        store.pull(f"{registry.host}/x:1")


def test_what_is_not_there_is_not_asked_for_again_and_again(registry: OwnRegistry, store: ImageStore) -> None:
    with pytest.raises(Missing, match="is the name right"):
        store.pull(f"{registry.host}/x:nope")
    assert registry.count("HEAD", "nope") == 1


@pytest.mark.parametrize("moment", ["head", "blob", "connect"])
def test_a_cancel_is_obeyed_within_100_ms(moment: str, registry: OwnRegistry, tmp_path: Path) -> None:
    store = ImageStore(str(tmp_path / "store"), auth_files=[])
    stop, reached = threading.Event(), threading.Event()

    def hang(handler: Handler, path: str) -> bool:
        if (moment == "head" and handler.command == "HEAD") or (moment == "blob" and path.endswith(_big(registry))):
            if moment == "blob":
                handler.send_response(200)
                handler.send_header("Content-Length", str(len(registry.blobs[_big(registry)])))
                handler.end_headers()
                handler.wfile.write(registry.blobs[_big(registry)][:100_000])
                handler.wfile.flush()
            reached.set()
            stop.wait(20)
            handler.close_connection = True
            return True
        return False

    registry.before = hang
    cancel = Cancellation()
    when: list[float] = []
    host = registry.host
    if moment == "connect":
        # A listener with a full queue answers no SYN.
        deaf = socket.socket()
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fill = [socket.socket() for _ in range(3)]
        for one in fill:
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
        host = f"127.0.0.1:{deaf.getsockname()[1]}"
        reached.set()

    def take_back() -> None:
        reached.wait(10)
        time.sleep(0.2)
        when.append(time.monotonic())
        cancel.cancel()

    thread = threading.Thread(target=take_back)
    thread.start()
    with pytest.raises(Cancelled):
        store.pull(f"{host}/x:1", cancel=cancel)
    late = time.monotonic() - when[0]
    thread.join()
    stop.set()
    if moment == "connect":
        for one in (deaf, *fill):
            one.close()
    assert late < 0.1
    if moment == "blob":
        partial = tmp_path / "store" / "partial"
        assert sum(path.stat().st_size for path in partial.iterdir()) >= 100_000, "resumable"
    _wait_for_workers()
    store.close()


def _wait_for_workers() -> None:
    deadline = time.monotonic() + 10
    while any(thread.name.startswith(("pull", "layers")) for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_deadline_of_a_millisecond_is_told_as_such(registry: OwnRegistry, store: ImageStore) -> None:
    with pytest.raises(DeadlineExceeded):
        store.pull(f"{registry.host}/x:1", cancel=Cancellation(0.001))
    _wait_for_workers()
    assert store.list() == ()


def test_a_full_disk_is_told_and_the_store_works_again_with_room(registry: OwnRegistry) -> None:
    root = "/var/lib/small"
    os.mkdir(root)
    kernel.mount("small", root, "tmpfs", data="size=900k")
    try:
        store = ImageStore(f"{root}/store", auth_files=[], backoff=QUICK)
        with pytest.raises(StoreFailed, match="disk is full"):
            store.pull(f"{registry.host}/x:1")
        _wait_for_workers()
        assert store.list() == ()
        _whole(store)
        kernel.mount("small", root, "tmpfs", MS_REMOUNT, "size=20m")
        store.pull(f"{registry.host}/x:1")
        _whole(store)
        store.settle()
        store.close()
    finally:
        kernel.umount(root)
        os.rmdir(root)


def test_a_read_only_store_is_told(registry: OwnRegistry) -> None:
    root = "/var/lib/frozen"
    os.mkdir(root)
    kernel.mount("frozen", root, "tmpfs", data="size=20m")
    try:
        store = ImageStore(f"{root}/store", auth_files=[], backoff=QUICK)
        store.pull(f"{registry.host}/x:1")
        store.settle()
        kernel.mount("frozen", root, "tmpfs", MS_REMOUNT | MS_RDONLY)
        assert len(store.list()) == 1, "reading goes on"
        with pytest.raises(StoreFailed, match="read-only"):
            store.remove(store.list()[0].id)
        with pytest.raises(StoreFailed, match="read-only"):
            store.pull(f"{registry.host}/x:1")
        store.close()
    finally:
        kernel.umount(root)
        os.rmdir(root)


def test_damage_is_found_and_mended_from_the_registry(registry: OwnRegistry, store: ImageStore, tmp_path: Path) -> None:
    image_id = store.pull(f"{registry.host}/x:1")
    big = _big(registry)
    blob = tmp_path / "store/blobs/sha256" / big[7:]
    blob.chmod(0o600)
    with blob.open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    root = store.prepare_rootfs(image_id, "k")
    (Path(root.lowerdirs[-1]) / "big").write_bytes(b"short")
    (Path(root.lowerdirs[0]) / "intruder").write_text("x")
    os.unlink(tmp_path / "store/blobs/sha256" / image_id[7:])
    seen = store.verify(repair=False)
    assert {damage.repaired for damage in seen} == {False}
    assert len(seen) == 3, "a tree is compared with its archive once that is mended"
    assert all(damage.repaired for damage in store.verify())
    _whole(store)


def test_five_pulls_at_once_download_once(registry: OwnRegistry, tmp_path: Path) -> None:
    stores = [ImageStore(str(tmp_path / "store"), auth_files=[], backoff=QUICK) for _ in range(5)]
    ids: list[str] = []
    threads = [threading.Thread(target=lambda s=s: ids.append(s.pull(f"{registry.host}/x:1"))) for s in stores]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 1
    assert len(ids) == 5
    for digest in registry.blobs:
        assert registry.count("GET", f"blobs/{digest}") <= 1
    _whole(stores[0])
    for store in stores:
        store.settle()
        store.close()


def _pull_in_a_child(root: str, name: str) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            store = ImageStore(root, auth_files=[], backoff=QUICK)
            store.pull(name)
            store.remove(name)
            store.pull(name)
        finally:
            os._exit(0)
    return pid


KILLS = int(os.environ.get("KETCH_KILLS", "40"))


@pytest.mark.timeout(600)
def test_a_pull_killed_at_random_points_leaves_a_store_that_the_next_one_uses(
    registry: OwnRegistry, tmp_path: Path
) -> None:
    root, name = str(tmp_path / "store"), f"{registry.host}/x:1"
    start = time.monotonic()
    os.waitpid(_pull_in_a_child(root, name), 0)
    whole = time.monotonic() - start
    chance = random.Random(7)
    for number in range(KILLS):
        pid = _pull_in_a_child(root, name)
        time.sleep(chance.uniform(0, whole))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        store = ImageStore(root, auth_files=[], backoff=QUICK)
        _whole(store)
        if number % 10 == 9:
            image_id = store.pull(name)
            view = store.prepare_rootfs(image_id, "k")
            assert (Path(view.lowerdirs[-1]) / "big").stat().st_size == 700_000
            store.release("k")
            store.remove(image_id)
            store.collect()
            assert store.fs_info().used_bytes == sum(
                path.stat().st_blocks * 512 for path in Path(root, "partial").iterdir()
            )
            assert os.listdir(f"{root}/staging") == []
            assert os.listdir(f"{root}/leases") == []
        store.settle()
        store.close()
