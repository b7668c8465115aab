# SPDX-License-Identifier: Apache-2.0
"""What a person sees while something takes its time: a bar per layer, or how long it has been at it."""

from __future__ import annotations

import threading
import time

from cri.hand.tables import size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self, TextIO

    from cri.images.model import Event

_SAID = {
    "waiting": "Waiting",
    "downloading": "Downloading",
    "downloaded": "Download complete",
    "unpacking": "Extracting",
    "exists": "Already exists",
    "done": "Pull complete",
    "retrying": "Retrying",
    "pushing": "Pushing",
    "pushed": "Pushed",
    "mounted": "Mounted",
}


class Bars:
    """A line per layer, redrawn in place on a terminal; elsewhere one line per layer when it is done."""

    def __init__(self, out: object) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._lines: dict[str, str] = {}
        self._drawn = 0
        self._last = 0.0
        self._live = bool(getattr(out, "isatty", lambda: False)())

    def show(self, event: Event) -> None:
        """One step of progress, from any thread."""
        if event.state not in _SAID or not event.subject.startswith("sha256:"):
            return
        with self._lock:
            text = _SAID[event.state]
            subject = event.subject.removeprefix("sha256:")[:12]
            if self._live:
                bar = _bar(event.done, event.total) if event.total and event.state in ("downloading", "pushing") else ""
                self._lines[subject] = f"{subject}: {text} {bar}".rstrip()
                if time.monotonic() - self._last > 0.05:
                    self._draw()
            elif event.state in ("done", "exists", "pushed", "mounted") and subject not in self._lines:
                self._lines[subject] = text
                print(f"{subject}: {text}", file=self._out, flush=True)  # type: ignore[call-overload]

    def _draw(self) -> None:
        self._last = time.monotonic()
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        text = "".join(f"\x1b[2K{line}\n" for line in self._lines.values())
        print(f"\r{up}{text}", end="", file=self._out, flush=True)  # type: ignore[call-overload]
        self._drawn = len(self._lines)

    def finish(self) -> None:
        """The last state of all lines stays."""
        with self._lock:
            if self._live and self._lines:
                self._draw()


def _bar(done: int, total: int, width: int = 30) -> str:
    filled = min(width, width * done // total)
    return f"[{'=' * filled}{'>' if filled < width else ''}{' ' * (width - filled - 1)}]  {size(done)}/{size(total)}"


class Working:
    """`Saving busybox ... 3 s` on a terminal while the block takes longer than a second, and gone at its end."""

    def __init__(self, what: str, out: TextIO) -> None:
        self._what = what
        self._out = out
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True) if out.isatty() else None

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _tell(self) -> None:
        started = time.monotonic()
        shown = False
        while not self._ended.wait(1):
            shown = True
            print(f"\r{self._what} ... {time.monotonic() - started:.0f} s", end="", file=self._out, flush=True)
        if shown:
            print("\r\x1b[2K", end="", file=self._out, flush=True)
