# SPDX-License-Identifier: Apache-2.0
"""Content by digest: nothing gets its name here before every byte of it was checked.

absent ──open──► partial (locked; survives its writer, the next one goes on from there)
                    │ append ... append
                    │ finish: size and digest right, fsync
                    ▼ rename
                 blobs/sha256/HEX ──collect──► trash
"""

import errno
import os
import threading
from collections.abc import Iterator

from cri.images import digest as digests
from cri.images.cancel import Cancellation
from cri.images.errors import Corrupt, NotFound
from cri.images.layout import Layout, failed, failures, wait_lock
from runtime.linux import durable

PIECE = 1 << 18


class Partial:
    """A blob under way. The writer's thread appends; others may follow what is there so far."""

    def __init__(self, path: str, digest: str, size: int, locked: durable.Locked, fd: int) -> None:
        self.path = path
        self.digest = digest
        self.size = size
        self._locked = locked
        self._fd = fd
        self._hash = digests.hasher(digest)
        self._changed = threading.Condition()
        self._length = 0
        self._over: BaseException | bool = False
        self.closed = False

    @property
    def length(self) -> int:
        """How much is there, all of it hashed."""
        return self._length

    def rehash(self) -> None:
        """Hash what an earlier attempt left, so that this one goes on behind it."""
        offset = 0
        while piece := os.pread(self._fd, PIECE, offset):
            self._hash.update(piece)
            offset += len(piece)
        if 0 <= self.size < offset:
            self.restart()
            return
        self._advance(offset)

    def restart(self) -> None:
        """Throw away what is there: it does not fit, or the server cannot go on in the middle."""
        os.ftruncate(self._fd, 0)
        self._hash = digests.hasher(self.digest)
        with self._changed:
            self._length = 0
            self._changed.notify_all()

    def append(self, piece: memoryview | bytes) -> None:
        """Add the next bytes; more than the promised size is refused before it is written."""
        length = self._length + len(piece)
        if 0 <= self.size < length:
            self.restart()
            raise Corrupt(
                f"blob {self.digest}: longer than its {self.size} bytes", hint="the registry sent something else"
            )
        self._hash.update(piece)
        view = memoryview(piece)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            os.ftruncate(self._fd, self._length)
            raise failed("cannot store blob", self.digest, error) from error
        self._advance(length)

    def _advance(self, length: int) -> None:
        with self._changed:
            self._length = length
            self._changed.notify_all()

    def finish(self, target: str) -> None:
        """Check and name it. Wrong bytes are thrown away: a retry must not stand on them."""
        if 0 <= self.size != self._length:
            raise Corrupt(f"blob {self.digest}: {self._length} of {self.size} bytes", hint="the transfer was cut short")
        found = self._hash.hexdigest()
        if found != digests.split(self.digest)[1]:
            self.restart()
            raise Corrupt(
                f"blob {self.digest}: its content has the digest {found[:19]}...",
                hint="damaged on the way or in the registry; try again",
            )
        with failures("cannot store blob", self.digest):
            os.fsync(self._fd)
            os.fchmod(self._fd, 0o444)
            os.rename(self.path, target)
            _sync(os.path.dirname(target))
        self.end(True)  # noqa: FBT003 - the terminal state, not an option

    def end(self, outcome: BaseException | bool) -> None:  # noqa: FBT001 - an outcome: done, or why not
        """Tell followers that nothing more will come."""
        with self._changed:
            if self._over is False:
                self._over = outcome
            self._changed.notify_all()

    def close(self) -> None:
        self.end(Corrupt(f"blob {self.digest}: its download was given up"))
        with self._changed:
            if self.closed:
                return
            self.closed = True
            os.close(self._fd)
        self._locked.close()

    def follow(self, cancel: Cancellation | None = None) -> "Follower":
        """A reader that waits for the writer. One that has closed gets none: its descriptor may be another's."""
        with self._changed:
            if self.closed:
                raise Stopped(f"blob {self.digest}: its download has ended")
            reading = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
        return Follower(self, reading, cancel)

    def wait_beyond(self, offset: int, cancel: Cancellation | None) -> bool:
        """Wait until there is more than offset; False at the end. A writer that failed makes its follower fail."""
        with self._changed:
            while self._length <= offset:
                if cancel is not None:
                    cancel.check(f"blob {self.digest}")
                if isinstance(self._over, BaseException):
                    raise Stopped(str(self._over))
                if self._over:
                    return False
                self._changed.wait(0.05 if cancel is not None else None)
        return True


class Stopped(Exception):
    """The blob that was being followed will not be completed; its writer reports why."""


class Follower:
    """Reads a partial blob while it grows; a restart behind its back makes it fail, and unpacking starts over."""

    def __init__(self, partial: Partial, fd: int, cancel: Cancellation | None) -> None:
        self._partial = partial
        self._fd = fd
        self._cancel = cancel
        self._offset = 0

    def __call__(self) -> bytes:
        partial = self._partial
        if partial.length < self._offset:
            raise Stopped("the download started over")
        if partial.length == self._offset and not partial.wait_beyond(self._offset, self._cancel):
            return b""
        if self._cancel is not None:
            self._cancel.check(f"blob {partial.digest}")
        piece = os.pread(self._fd, min(PIECE, partial.length - self._offset), self._offset)
        self._offset += len(piece)
        return piece

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Blobs:
    """The verified blobs of a store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def path(self, digest: str) -> str:
        algorithm, value = digests.split(digest)
        return os.path.join(self._layout.blobs, algorithm, value)

    def size(self, digest: str) -> int | None:
        """Its size, None if it is not here."""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            return None

    def has(self, digest: str, size: int = -1) -> bool:
        """Whether it is here (with that size: a truncated file is as good as none)."""
        found = self.size(digest)
        return found is not None and size in (-1, found)

    def open(self, digest: str) -> int:
        try:
            return os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"blob {digest} is not in the store", hint="pull the image again") from None

    def identity(self, digest: str) -> tuple[int, ...]:
        """What changes when somebody writes to the file; empty when it is not here."""
        try:
            found = os.stat(self.path(digest))
        except FileNotFoundError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def read(self, digest: str, limit: int) -> bytes:
        """A small blob whole and verified."""
        fd = self.open(digest)
        try:
            data = b""
            while len(data) <= limit and (piece := os.read(fd, PIECE)):
                data += piece
        finally:
            os.close(fd)
        if len(data) > limit:
            raise Corrupt(f"blob {digest}: longer than the {limit} bytes that such a document may have")
        if not digests.matches(data, digest):
            raise Corrupt(f"blob {digest} is damaged", hint="`verify` can fetch it again")
        return data

    def pieces(self, digest: str, offset: int = 0) -> Iterator[bytes]:
        """A blob piece by piece, not verified."""
        fd = self.open(digest)
        try:
            while piece := os.pread(fd, PIECE, offset):
                yield piece
                offset += len(piece)
        finally:
            os.close(fd)

    def add(self, data: bytes, digest: str = "") -> str:
        """Store a small blob; returns its digest."""
        digest = digest or digests.of(data)
        if not digests.matches(data, digest):
            raise Corrupt(f"blob {digest}: its content has the digest {digests.of(data)}")
        if not self.has(digest, len(data)):
            with failures("cannot store blob", digest):
                self._make_folder(digest)
                durable.replace(self.path(digest), data, 0o444)
        return digest

    def partial(self, digest: str, size: int, cancel: Cancellation | None = None) -> Partial | None:
        """Start or go on writing a blob; None if it is here after all (another pull was faster)."""
        algorithm, value = digests.split(digest)
        path = os.path.join(self._layout.partial, f"{algorithm}-{value}")
        with failures("cannot store blob", digest):
            locked = wait_lock(path, cancel, f"waiting for another download of {digest}")
            try:
                if self.has(digest, size):
                    # Whoever held the lock before us completed it, and the open made an empty file anew.
                    os.unlink(path)
                    locked.close()
                    return None
                self._make_folder(digest)
                fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            except BaseException:
                locked.close()
                raise
        partial = Partial(path, digest, size, locked, fd)
        try:
            partial.rehash()
        except BaseException:
            partial.close()
            raise
        return partial

    def _make_folder(self, digest: str) -> None:
        os.makedirs(os.path.dirname(self.path(digest)), mode=0o711, exist_ok=True)

    def check(self, digest: str, cancel: Cancellation | None = None) -> bool:
        """Whether every byte of it is right."""
        found = digests.hasher(digest)
        try:
            for piece in self.pieces(digest):
                found.update(piece)
                if cancel is not None:
                    cancel.check("verifying")
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        return found.hexdigest() == digests.split(digest)[1]

    def all(self) -> Iterator[tuple[str, int]]:
        """Every blob with its size."""
        for algorithm in sorted(os.listdir(self._layout.blobs)):
            for name in os.listdir(os.path.join(self._layout.blobs, algorithm)):
                digest = f"{algorithm}:{name}"
                size = self.size(digest) if digests.is_digest(digest) else None
                if size is not None:  # else it has just been collected
                    yield digest, size


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
