# SPDX-License-Identifier: Apache-2.0
"""How a container's output becomes log lines."""

import itertools
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.keep.log_file import Clock, Lines, LogFile

RECORD = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) (stdout|stderr) ([PF]) (.*)\Z", re.DOTALL)


def joined(records: bytes) -> bytes:
    """What a reader of the log puts together again."""
    text = b""
    for line in records.split(b"\n")[:-1]:
        match = RECORD.match(line)
        assert match, line
        text += match[4] + (b"\n" if match[3] == b"F" else b"")
    return text


def cut(stream: Lines, chunks: list[bytes]) -> bytes:
    stamp = b"2026-11-21T00:00:00.000000000Z"
    return b"".join(stream.feed(chunk, stamp) for chunk in chunks) + stream.finish(stamp)


texts = st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r\n", b"x" * 7, b"\0", b"\xff"]), max_size=60).map(b"".join)


@given(texts, st.lists(st.integers(0, 100), max_size=5))
def test_joined_records_equal_the_output_however_it_was_read(text: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(text), *(c for c in cuts if c < len(text))})
    chunks = [text[a:b] for a, b in itertools.pairwise(edges)]
    records = cut(Lines("stdout", 5), chunks)
    assert joined(records) == text
    assert records == cut(Lines("stdout", 5), [text])
    assert all(len(RECORD.match(line)[4]) <= 5 for line in records.split(b"\n")[:-1])  # type: ignore[index]


def test_a_line_longer_than_the_most_becomes_parts_and_one_full_record() -> None:
    records = cut(Lines("stderr", 4), [b"abcdefghij\n"])
    assert [r.split(b" ", 2)[1:] for r in records.splitlines()] == [
        [b"stderr", b"P abcd"],
        [b"stderr", b"P efgh"],
        [b"stderr", b"F ij"],
    ]


def test_what_is_held_back_and_the_next_read_fit_one_buffer() -> None:
    stream = Lines("stdout", 16384)
    stream.feed(b"x" * 16384, b"t")
    assert len(stream.held) + stream.room() == 65536


def test_stamps_have_nine_digits_and_never_run_back() -> None:
    clock = Clock()
    stamps = [clock.stamp() for _ in range(1000)]
    assert stamps == sorted(stamps)
    assert all(re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", stamp) for stamp in stamps)


def test_reopen_makes_the_new_file_and_leaves_the_old_one_alone(tmp_path) -> None:
    path = str(tmp_path / "0.log")
    log, stream = LogFile("c", path), Lines("stdout", 100)
    log.take(stream, b"one\n")
    os.rename(path, path + ".1")
    log.reopen()
    assert os.path.exists(path)
    log.take(stream, b"two\n")
    assert joined(Path(path + ".1").read_bytes()) == b"one\n"
    assert joined(Path(path).read_bytes()) == b"two\n"


def test_a_full_device_costs_lines_but_no_error(capfd) -> None:
    log, stream = LogFile("c", "/dev/full"), Lines("stdout", 100)
    for _ in range(3):
        log.take(stream, b"lost\n")
    log.close()
    assert capfd.readouterr().err.count("output is lost") == 1


def test_a_log_that_is_a_link_is_refused(tmp_path) -> None:
    (tmp_path / "0.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="cannot open the log"):
        LogFile("c", str(tmp_path / "0.log"))
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("torn", [b"", b"2026-11-21T0", b"2026-11-21T00:00:00.000000000Z stdout P " + b"x" * 70000])
@pytest.mark.parametrize("before", [b"", b"2026-11-21T00:00:00.000000000Z stdout F whole\n"])
def test_a_record_that_a_killed_writer_left_unfinished_is_cut_off(tmp_path: Path, before: bytes, torn: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(before + torn)
    log = LogFile("a", str(path))
    log.mend()
    log.take(Lines("stdout", 16384), b"next\n")
    log.close()
    assert joined(path.read_bytes()) == (b"whole\n" if before else b"") + b"next\n"
