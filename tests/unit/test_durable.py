# SPDX-License-Identifier: Apache-2.0
"""What durable files promise to one process; tests/unit/test_durable_crash.py adds death at every step."""

import os
import threading
from pathlib import Path

import pytest

from runtime.linux import durable


def test_replace_makes_a_file_that_read_returns(tmp_path: Path) -> None:
    target = str(tmp_path / "record.json")
    durable.replace(target, b"one")
    durable.replace(target, b"two")
    assert durable.read(target) == b"two"
    assert os.listdir(tmp_path) == ["record.json"]


def test_read_of_an_absent_file_is_none(tmp_path: Path) -> None:
    assert durable.read(str(tmp_path / "absent")) is None


def test_the_mode_is_what_was_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        durable.replace(str(tmp_path / "public"), b"", 0o644, durable=False)
    finally:
        os.umask(before)
    assert (tmp_path / "public").stat().st_mode & 0o777 == 0o644


def test_a_failed_replace_leaves_the_old_content_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "directory"
    target.mkdir()
    with pytest.raises(IsADirectoryError):
        durable.replace(str(target), b"x")
    assert os.listdir(tmp_path) == ["directory"]


def test_create_exclusive_succeeds_once(tmp_path: Path) -> None:
    target = str(tmp_path / "10.0.0.2")
    assert durable.create_exclusive(target, b"first")
    assert not durable.create_exclusive(target, b"second")
    assert durable.read(target) == b"first"
    assert os.listdir(tmp_path) == ["10.0.0.2"]


def test_of_many_racing_creators_one_wins_and_its_content_stays(tmp_path: Path) -> None:
    target = str(tmp_path / "name")
    winners: list[int] = []
    gate = threading.Barrier(8)

    def compete(number: int) -> None:
        gate.wait()
        if durable.create_exclusive(target, b"%d" % number, durable=False):
            winners.append(number)

    threads = [threading.Thread(target=compete, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    assert durable.read(target) == b"%d" % winners[0]


def test_remove_says_whether_the_file_was_there(tmp_path: Path) -> None:
    target = str(tmp_path / "record")
    durable.replace(target, b"x")
    assert durable.remove(target)
    assert not durable.remove(target)


def test_sweep_removes_what_the_dead_left_and_spares_the_living(tmp_path: Path) -> None:
    (tmp_path / ".record.aabbccddeeff.tmp").write_bytes(b"half")
    (tmp_path / "record").write_bytes(b"whole")
    with durable.lock(str(tmp_path / ".living.001122334455.tmp")):
        assert durable.sweep(str(tmp_path)) == [".record.aabbccddeeff.tmp"]
    assert sorted(os.listdir(tmp_path)) == [".living.001122334455.tmp", "record"]


def test_a_held_lock_refuses_a_second_holder_and_admits_him_later(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with durable.lock(path), pytest.raises(BlockingIOError):
        durable.lock(path, wait=False)
    durable.lock(path, wait=False).close()


def test_shared_locks_admit_each_other(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with durable.lock(path, shared=True), durable.lock(path, shared=True, wait=False):
        pass


def test_a_directory_can_be_locked(tmp_path: Path) -> None:
    with durable.lock(str(tmp_path)), pytest.raises(BlockingIOError):
        durable.lock(str(tmp_path), wait=False)


def test_a_lock_on_an_absent_object_is_refused_unless_it_may_be_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        durable.lock(str(tmp_path / "gone"), create=False)


def test_who_waited_for_a_removed_directory_learns_that_it_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "container"
    path.mkdir()
    outcome: list[object] = []

    def wait_for_it() -> None:
        try:
            outcome.append(durable.lock(str(path)))
        except FileNotFoundError as e:
            outcome.append(e)

    with durable.lock(str(path)):
        waiter = threading.Thread(target=wait_for_it)
        waiter.start()
        while not somebody_waits_for(path.stat().st_ino) and not outcome:
            waiter.join(0.001)
        path.rmdir()
    waiter.join()
    assert isinstance(outcome[0], FileNotFoundError)


def somebody_waits_for(inode: int) -> bool:
    """The kernel lists who is blocked on a lock with an arrow."""
    lines = Path("/proc/locks").read_text().splitlines()
    return any("-> FLOCK" in line and f":{inode} " in line for line in lines)
