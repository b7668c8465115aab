# SPDX-License-Identifier: Apache-2.0
"""A container's CRI log: whole lines with time, stream and tag; rotation; a full disk costs lines, never the container.

    2026-11-21T05:40:01.123456789Z stdout F a whole line
    2026-11-21T05:40:01.123456789Z stderr P the first part of a longer one

A line is written when its end has been read. What has no end yet is held back, at most `max_line` bytes of it, and
one read takes so much less: with the part held back, a keeper that is killed loses no more than one read buffer.
"""

import errno
import os
import stat
import sys
import time

READ_BYTES = 65536
"""The most that is read from a stream at a time, less what is held back: the share of a container in one turn."""


class Lines:
    """One stream of a container, cut into records. Pure: bytes in, bytes out; how the input was cut up in reads
    makes no difference to the parts of a line."""

    __slots__ = ("_full", "_part", "held", "max_line")

    def __init__(self, stream: str, max_line: int) -> None:
        self._full = b" %s F " % stream.encode()
        self._part = b" %s P " % stream.encode()
        self.held = b""
        self.max_line = max_line

    def room(self) -> int:
        """How much may be read next."""
        return max(READ_BYTES - len(self.held), 4096)

    def feed(self, data: bytes, stamp: bytes) -> bytes:
        """The records that `data` completes."""
        text = self.held + data
        end = text.rfind(b"\n") + 1
        records = self._whole(text, end, stamp) if end else b""
        rest = text[end:]
        while len(rest) > self.max_line:
            records += stamp + self._part + rest[: self.max_line] + b"\n"
            rest = rest[self.max_line :]
        self.held = rest
        return records

    def finish(self, stamp: bytes) -> bytes:
        """The last record of a stream that did not end with a newline: a part, for there is no end of line to show."""
        rest, self.held = self.held, b""
        return stamp + self._part + rest + b"\n" if rest else b""

    def _whole(self, text: bytes, end: int, stamp: bytes) -> bytes:
        start = stamp + self._full
        if not _has_longer(text, end, self.max_line):
            # One replace instead of a loop over lines: 100 MB/s of short lines are a million of them.
            return start + text[: end - 1].replace(b"\n", b"\n" + start) + b"\n"
        records = bytearray()
        for line in text[: end - 1].split(b"\n"):
            at = 0
            while len(line) - at > self.max_line:
                records += stamp + self._part + line[at : at + self.max_line] + b"\n"
                at += self.max_line
            records += start + line[at:] + b"\n"
        return bytes(records)


def _has_longer(text: bytes, end: int, most: int) -> bool:
    """Whether a line of text[:end], which ends with a newline, is longer than `most`."""
    at = 0
    while end - at > most + 1:
        newline = text.rfind(b"\n", at, at + most + 1)
        if newline < 0:
            return True
        at = newline + 1
    return False


class Clock:
    """Time stamps as RFC 3339 with nanoseconds; the seconds are formatted once for each second."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def stamp(self) -> bytes:
        """Now."""
        second, nanosecond = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return b"%s.%09dZ" % (self._text.encode(), nanosecond)


class LogFile:
    """The file at a path that a kubelet chose. Without a path everything is thrown away."""

    __slots__ = ("_clock", "_fd", "_identity", "_lost_bytes", "_lost_lines", "_why", "path")

    def __init__(self, identity: str, path: str) -> None:
        self.path = path
        self._identity = identity
        self._clock = Clock()
        self._fd = _open(path) if path else -1
        self._lost_lines = 0
        self._lost_bytes = 0
        self._why = ""

    def take(self, lines: Lines, data: bytes) -> None:
        """Write what `data` completes."""
        if self._fd < 0:
            return
        records = lines.feed(data, self._clock.stamp())
        if records:
            self._write(records)

    def finish(self, lines: Lines) -> None:
        """Write what a stream has left at its end."""
        if self._fd >= 0 and (records := lines.finish(self._clock.stamp())):
            self._write(records)

    def mend(self) -> None:
        """A keeper that was killed within a write(2) has left the beginning of a record, and what we append would
        become its end. It is cut off: every line stays a record, and who has read it so far reads the line again."""
        if self._fd < 0:
            return
        size = end = os.fstat(self._fd).st_size
        while end > 0:
            start = max(0, end - READ_BYTES)
            newline = os.pread(self._fd, end - start, start).rfind(b"\n")
            end = start + newline + 1
            if newline >= 0:
                break
        if end < size:
            os.ftruncate(self._fd, end)

    def reopen(self) -> None:
        """Open the path anew (the file was renamed away); on failure the old file goes on."""
        if self.path:
            new = _open(self.path)
            os.close(self._fd)
            self._fd = new

    def close(self) -> None:
        """Let go of the file; it stays."""
        if self._fd >= 0:
            self._tell_loss()
            os.close(self._fd)
            self._fd = -1

    def _write(self, records: bytes) -> None:
        if self._lost_lines and not self._tell_loss():
            self._lose(records)
            return
        stopped = _append(self._fd, records)
        if stopped is not None:
            self._why = stopped.why
            self._lose(records[stopped.written :])

    def _lose(self, records: bytes) -> None:
        if not self._lost_lines:
            sys.stderr.write(f"container {self._identity}: output is lost: cannot write {self.path}: {self._why}\n")
            sys.stderr.flush()
        self._lost_lines += records.count(b"\n")
        self._lost_bytes += len(records)

    def _tell_loss(self) -> bool:
        """Once there is room again, one line where the gap is."""
        if not self._lost_lines:
            return True
        note = b"%s stderr F ketch: %d lines of output (%d bytes of log) are missing here: %s\n" % (
            self._clock.stamp(),
            self._lost_lines,
            self._lost_bytes,
            self._why.encode(),
        )
        if _append(self._fd, note) is not None:
            return False
        self._lost_lines = self._lost_bytes = 0
        return True


class _NotWritten:
    """What stopped an append; `written` counts the bytes of whole records that are in the file."""

    __slots__ = ("why", "written")

    def __init__(self, why: str, written: int) -> None:
        self.why = why
        self.written = written


def _append(fd: int, records: bytes) -> _NotWritten | None:
    """Append whole records or none: a record of which only a part fits is cut off again."""
    done = 0
    while done < len(records):
        try:
            done += os.write(fd, records[done:] if done else records)
        except OSError as why:
            whole = records.rfind(b"\n", 0, done) + 1
            if whole < done:
                os.ftruncate(fd, os.lseek(fd, 0, os.SEEK_END) - (done - whole))
            return _NotWritten(os.strerror(why.errno or 0), whole)
    return None


def _open(path: str) -> int:
    """Append to a regular file, made if missing. O_NOFOLLOW: a pod that mounts the log directory could otherwise turn
    its log into a link to any file of the host. O_NONBLOCK: nor may a FIFO there stop us."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        fd = os.open(path, flags, 0o640)
    except OSError as why:
        raise OSError(why.errno, f"cannot open the log {path}: {why.strerror}") from why
    kind = os.fstat(fd).st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISCHR(kind):
        os.close(fd)
        raise OSError(errno.EINVAL, f"cannot open the log {path}: not a regular file")
    return fd
