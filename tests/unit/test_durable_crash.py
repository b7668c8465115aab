# SPDX-License-Identifier: Apache-2.0
"""Durable files under death at every system call, and the order of calls that a power cut needs."""

import os
from pathlib import Path

import pytest

from runtime.linux import durable
from tests.support import crash


@pytest.mark.parametrize("verb", ["replace", "create_exclusive"])
def test_a_writer_killed_at_every_call_leaves_the_old_or_the_new(verb: str, tmp_path: Path) -> None:
    target = str(tmp_path / "record")
    old = b"old" if verb == "replace" else None

    def write() -> None:
        if old is not None:
            Path(target).write_bytes(old)
        getattr(durable, verb)(target, b"new" * 9000)

    for _, outcome in crash.every_point(write, only=[*crash.RECORD_WRITES, "write", "fsync", "fchmod", "flock"]):
        found = durable.read(target)
        assert found in (old, b"", b"new" * 9000) if outcome.reached else found == b"new" * 9000
        durable.sweep(str(tmp_path))
        assert set(os.listdir(tmp_path)) <= {"record"}
        Path(target).unlink(missing_ok=True)


def test_content_reaches_the_disk_before_its_name_and_the_name_before_the_return(tmp_path: Path) -> None:
    order = [
        crash.kill_at(lambda: durable.replace(str(tmp_path / "r"), b"x"), n, only=ORDERED).call for n in range(1, 5)
    ]
    assert order == ["write", "fsync", "rename", "fsync"]


ORDERED = ["write", "fsync", "rename", "renameat"]
