# SPDX-License-Identifier: Apache-2.0
"""logs: the file that the keeper writes, read back; `TIME stream P|F text` per line, P marks a line that goes on."""

from __future__ import annotations

import os
import select
import sys
import time

from cri.hand import look, options
from cri.hand.errors import USAGE, HandError, UsageError
from cri.hand.grammar import Arguments
from cri.hand.places import Places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 1 << 16


class Line:
    """One line of the file."""

    __slots__ = ("stream", "text", "time", "whole")

    def __init__(self, raw: bytes) -> None:
        when, stream, mark, text = raw.split(b" ", 3)
        self.time = when.decode()
        self.stream = 2 if stream == b"stderr" else 1
        self.whole = mark == b"F"
        self.text = text


def parse(raw: bytes) -> Line | None:
    """None for what is no line of ours, say after a crash in the middle of one."""
    try:
        return Line(raw)
    except (ValueError, UnicodeDecodeError):
        return None


def backwards(path: str, count: int) -> int:
    """Where the last count lines (whole ones: their parts count as one) begin in the file."""
    with open(path, "rb") as file:
        at = file.seek(0, os.SEEK_END)
        tail = b""
        while at > 0:
            step = min(CHUNK, at)
            at -= step
            file.seek(at)
            tail = file.read(step) + tail
            starts = _starts(tail)
            if len(starts) > count:
                return at + (starts[-count] if count else len(tail))
        return at


def _starts(data: bytes) -> list[int]:
    """Offsets at which a line begins that is not the continuation of one."""
    starts: list[int] = []
    open_streams: set[int] = set()
    at = 0
    while at < len(data):
        end = data.find(b"\n", at)
        end = len(data) if end < 0 else end
        line = parse(data[at:end])
        if line is not None:
            if line.stream not in open_streams:
                starts.append(at)
            (open_streams.discard if line.whole else open_streams.add)(line.stream)
        at = end + 1
    return starts


class Printer:
    """Writes lines to the two outputs, within the time that was asked for."""

    def __init__(self, *, timestamps: bool, since: float, until: float) -> None:
        self._timestamps = timestamps
        self._since = since
        self._until = until
        self._continued: set[int] = set()

    def show(self, line: Line) -> None:
        """One line or part of one."""
        if self._since or self._until:
            moment = seconds_of(line.time)
            if moment < self._since or (self._until and moment >= self._until):
                return
        out = sys.stderr.buffer if line.stream == 2 else sys.stdout.buffer
        if self._timestamps and line.stream not in self._continued:
            out.write(line.time.encode() + b" ")
        out.write(line.text + (b"\n" if line.whole else b""))
        (self._continued.discard if line.whole else self._continued.add)(line.stream)

    def flush(self) -> None:
        sys.stdout.buffer.flush()
        sys.stderr.buffer.flush()


def seconds_of(text: str) -> float:
    """An RFC 3339 time with nanoseconds."""
    from datetime import datetime

    whole, dot, rest = text.partition(".")
    zone = rest.lstrip("0123456789") if dot else ""
    fraction = rest[: len(rest) - len(zone)]
    try:
        return datetime.fromisoformat(whole + (zone or ("" if whole.endswith("Z") else "+00:00"))).timestamp() + float(
            f"0.{fraction or 0}"
        )
    except ValueError:
        return 0.0


def logs(arguments: Arguments, places: Places) -> int:
    return print_logs(arguments, places, look.container(places, arguments.words[0]))


def print_logs(arguments: Arguments, places: Places, seen: look.Seen) -> int:
    """The file, and with --follow what comes until the container ends."""
    now = time.time()
    printer = Printer(
        timestamps=arguments.flag("timestamps"),
        since=options.since("--since", arguments.text("since"), now) if arguments.given("since") else 0.0,
        until=options.since("--until", arguments.text("until"), now) if arguments.given("until") else 0.0,
    )
    path = str(seen.record.get("log_path", ""))
    if not path:
        raise HandError(f"container {seen.name} keeps no log")
    if not os.path.exists(path) and not arguments.flag("follow"):
        return 0
    start = 0
    tail = arguments.text("tail")
    if tail != "all" and os.path.exists(path):
        if not tail.isdecimal():
            raise UsageError(f"--tail: {tail!r} is not a number of lines", code=USAGE)
        start = backwards(path, int(tail))
    for line in _lines(places, seen, path, start, follow=arguments.flag("follow")):
        if line is None:
            printer.flush()
        else:
            printer.show(line)
    printer.flush()
    return 0


def _lines(places: Places, seen: look.Seen, path: str, start: int, *, follow: bool) -> Iterator[Line | None]:
    """Lines from start on; None where all that is there has been read."""
    bell = _Bell(places, seen) if follow and seen.state() in ("running", "paused") else None
    try:
        rest = b""
        with open(path, "rb") if os.path.exists(path) else open(os.devnull, "rb") as file:
            file.seek(start)
            while True:
                while chunk := file.read(CHUNK):
                    *whole, rest = (rest + chunk).split(b"\n")
                    yield from (line for raw in whole if (line := parse(raw)) is not None)
                yield None
                if bell is None:
                    return
                if not bell.wait():
                    bell = None  # it has ended, and its log is complete: read the rest
    finally:
        if bell is not None:
            bell.close()


class _Bell:
    """Tells when a container has printed: an attachment whose bytes are thrown away, because the log has them too."""

    def __init__(self, places: Places, seen: look.Seen) -> None:
        from runtime.keep import client

        self._session: client.Session | None = None
        try:
            self._session = client.Client(places.state, start=False).attach(seen.id)
        except client.KeepError:
            return  # it has ended meanwhile
        for fd in (self._session.stdout, self._session.stderr):
            if fd >= 0:
                os.set_blocking(fd, False)

    def wait(self) -> bool:
        """Until something was printed: True; or the container has ended: False."""
        if self._session is None:
            return False
        poll = select.poll()
        poll.register(self._session, select.POLLIN)
        for fd in (self._session.stdout, self._session.stderr):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll():
            if fd == self._session.fileno():
                self.close()
                return False
            try:
                if not os.read(fd, CHUNK):
                    self._session.wait()
                    self.close()
                    return False
            except BlockingIOError:
                continue
        return True

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
