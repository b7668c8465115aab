# SPDX-License-Identifier: Apache-2.0
"""Small files that are whole or absent, whatever dies when: atomic replace, exclusive create, locks.

A writer prepares a file under a temporary name beside its target and holds a flock on it; the name appears in one step:

    open .tmp (O_EXCL) -> flock -> write -> [fsync] -> rename or link -> [fsync of the directory]

Whoever dies before the last step leaves a temporary file that nobody has locked: sweep() removes exactly those.
"""

import fcntl
import posix

TYPE_CHECKING = False  # as typing.TYPE_CHECKING: importing typing would cost a cold command 7 ms
if TYPE_CHECKING:
    from types import TracebackType

_SUFFIX = ".tmp"


def replace(path: str, data: bytes, mode: int = 0o600, durable: bool = True) -> None:  # noqa: FBT001, FBT002 (contract)
    """Make path hold exactly data; a reader sees the old content or the new, never a part.

    With durable=True the new content survives a power cut once this returns; on tmpfs pass False and save two fsyncs.
    """
    temporary, fd = _prepare(path, data, mode, durable=durable)
    try:
        posix.rename(temporary, path)
    except BaseException:
        _unlink_if_there(temporary)
        raise
    finally:
        posix.close(fd)
    if durable:
        _sync_directory_of(path)


def create_exclusive(path: str, data: bytes, mode: int = 0o600, *, durable: bool = True) -> bool:
    """Create path with data if nobody has; True if it was us. Never leaves an empty or half-written file.

    link(2) rather than O_EXCL on the name itself: a process that dies between open and write would have
    taken the name without saying who took it.
    """
    temporary, fd = _prepare(path, data, mode, durable=durable)
    try:
        posix.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        _unlink_if_there(temporary)
        posix.close(fd)
    if durable:
        _sync_directory_of(path)
    return True


def read(path: str) -> bytes | None:
    """The content of path, or None if there is no such file."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        chunks = []
        while chunk := posix.read(fd, 65536):
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        posix.close(fd)


def is_directory(place: str | int) -> bool:
    """Whether there is a directory at this path, or behind this descriptor."""
    try:
        return posix.stat(place).st_mode & 0o170000 == 0o040000
    except OSError:
        return False


def remove(path: str, *, durable: bool = True) -> bool:
    """Forget path; True if it was there. Durable: it does not come back after a power cut."""
    if not _unlink_if_there(path):
        return False
    if durable:
        _sync_directory_of(path)
    return True


def sweep(directory: str) -> list[str]:
    """Remove what dead writers left in directory; a living writer's file is locked and stays. Returns the names."""
    swept = []
    for name in posix.listdir(directory):
        if not (name.startswith(".") and name.endswith(_SUFFIX)):
            continue
        path = f"{directory}/{name}"
        try:
            fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK)
        except FileNotFoundError:
            continue  # its writer just finished
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _unlink_if_there(path):
                swept.append(name)
        except BlockingIOError:
            pass
        finally:
            posix.close(fd)
    return swept


class Locked:
    """A held flock; leaving the with block, close() or the death of every holder of the descriptor releases it."""

    __slots__ = ("fd", "path")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd

    def close(self) -> None:
        if self.fd >= 0:
            posix.close(self.fd)
            self.fd = -1

    def __enter__(self) -> "Locked":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", at: "TracebackType | None"
    ) -> None:
        self.close()


def lock(path: str, *, shared: bool = False, wait: bool = True, create: bool = True) -> Locked:
    """Take the flock of path, a file (made if absent, unless create=False) or a directory; use it in a with.

    Raises BlockingIOError when wait=False and somebody holds it, FileNotFoundError when path went away while we waited
    and create=False or path was a directory.
    """
    operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        fd = _open_to_lock(path, create=create)
        try:
            fcntl.flock(fd, operation)
            if _still_named(fd, path):
                return Locked(path, fd)
        except BaseException:
            posix.close(fd)
            raise
        # Somebody removed the object while we waited: its lock protects nothing any more.
        if not create or is_directory(fd):
            posix.close(fd)
            raise FileNotFoundError(2, "removed while its lock was awaited", path)  # ENOENT
        posix.close(fd)


def _prepare(path: str, data: bytes, mode: int, *, durable: bool) -> tuple[str, int]:
    """Write data under a temporary name beside path; the returned descriptor holds the lock that marks us alive."""
    directory, slash, name = path.rpartition("/")
    while True:
        temporary = f"{directory}{slash}.{name[:200]}.{posix.urandom(6).hex()}{_SUFFIX}"
        fd = posix.open(temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, mode)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # sweep() came between the open and the lock, and will remove this one
            posix.close(fd)
            continue
        try:
            posix.fchmod(fd, mode)  # the umask has taken bits from what open(2) was asked for
            rest = memoryview(data)
            while rest:
                rest = rest[posix.write(fd, rest) :]
            if durable:
                posix.fsync(fd)  # before the rename: else a power cut may leave the new name on an empty file
        except BaseException:
            _unlink_if_there(temporary)
            posix.close(fd)
            raise
        return temporary, fd


def _sync_directory_of(path: str) -> None:
    directory, slash, _ = path.rpartition("/")
    fd = posix.open(directory or slash or ".", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    try:
        posix.fsync(fd)
    finally:
        posix.close(fd)


def _unlink_if_there(path: str) -> bool:
    try:
        posix.unlink(path)
    except FileNotFoundError:
        return False
    return True


def _open_to_lock(path: str, *, create: bool) -> int:
    try:
        return posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except FileNotFoundError:
        if not create:
            raise
    return posix.open(path, posix.O_RDONLY | posix.O_CREAT | posix.O_CLOEXEC, 0o600)


def _still_named(fd: int, path: str) -> bool:
    ours = posix.fstat(fd)
    try:
        named = posix.stat(path)
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (named.st_dev, named.st_ino)
