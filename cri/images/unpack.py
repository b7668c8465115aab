# SPDX-License-Identifier: Apache-2.0
"""A layer's archive becomes a directory tree; nothing in it can touch anything outside that tree.

Two ways to lay a layer down:

    alone      into an empty directory, whiteouts written as overlayfs wants them. Layers need not wait for each other,
               and one that two images share is unpacked once. A layer that leans on what is beneath it (a directory
               that it does not bring itself, a hard link to a lower file) says so by raising NeedsParents, then:
    merged     into a view of everything beneath it, as a plain copy (whiteouts delete).

Every path is resolved by openat2 inside the layer's root, the last component never followed. A thread that unpacks has
its own umask (unshare(CLONE_FS)): open(2) then gives the right mode and no chmod is needed.
"""

import errno
import os
import stat

from cri.images import tar
from cri.images.errors import Corrupt, HostileLayer, StoreFailed
from runtime.linux import beneath, syscalls
from runtime.linux._core import lib
from runtime.linux.quick_dataclasses import dataclass

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
OVERLAY_OPAQUE = "trusted.overlay.opaque"
# The overlay's own marks: an image that could set them would redirect lookups to other layers' files.
# security.selinux: a label of the machine that built the image; the runtime labels for this one.
_REFUSED_XATTRS = ("trusted.overlay.", "user.overlay.", "security.selinux", "system.nfs4_acl")
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MAX_CACHED = 64
_SPECIAL = {tar.CHAR: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}
_MAX_ID = 0xFFFFFFFE


class NeedsParents(Exception):
    """This layer cannot be laid down alone; the message says what it leans on."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Against archives made to fill a disk; generous for honest ones."""

    entries: int = 10_000_000
    bytes: int = 1 << 40
    path: int = 4096
    depth: int = 512


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What a layer turned out to be."""

    entries: int
    bytes: int
    root_given: bool


class _Directory:
    """A directory's attributes, applied when nothing will be created in it any more."""

    __slots__ = ("atime_ns", "entry", "mtime_ns")

    def __init__(self, entry: tar.Entry | None, atime_ns: int, mtime_ns: int) -> None:
        self.entry = entry
        self.atime_ns = atime_ns
        self.mtime_ns = mtime_ns


def private_umask() -> None:
    """Give the calling thread a umask of its own, 0. Only for threads that do nothing but unpack."""
    syscalls.unshare(lib.CLONE_FS)
    os.umask(0)


class Unpacker:
    """Lays the members of one archive down beneath the directory `root` (a descriptor, not owned)."""

    def __init__(self, root: int, *, merged: bool = False, first: bool = False, limits: Limits | None = None) -> None:
        """`merged`: root shows everything beneath too; `first`: nothing is beneath, so nothing can be leant on."""
        self._root = root
        self._merged = merged
        self._alone = not merged and not first
        self._limits = limits or Limits()
        self._parents: dict[bytes, int] = {}
        self._directories: dict[bytes, _Directory] = {}
        self._made: set[bytes] = set()  # merged only: what this layer itself brought, safe from its whiteouts
        self._whiteouts: set[bytes] = set()
        self._opaque: set[bytes] = set()
        self._entries = 0
        self._bytes = 0
        self._root_given = False
        self._stale = False

    def unpack(self, reader: tar.Reader) -> Unpacked:
        """Everything in the archive; raises at the first member that is damaged, hostile or refused by the disk."""
        name = b"/"
        try:
            while (entry := reader.next()) is not None:
                name = entry.name
                self._one(entry, reader)
            reader.drain()
            self._finish_directories()
        except syscalls.KernelError as error:
            raise _failed(name, error) from error
        except OSError as error:
            raise _failed(name, error) from error
        finally:
            self._forget_parents()
        return Unpacked(self._entries, self._bytes, self._root_given)

    # -- one member ------------------------------------------------------------------------------------------------
    def _one(self, entry: tar.Entry, reader: tar.Reader) -> None:
        if self._stale:
            self._forget_parents()
        self._entries += 1
        self._bytes += (
            sum(length for _, length in entry.sparse) if entry.sparse is not None else entry.size
        ) + 511 & ~511
        if self._entries > self._limits.entries or self._bytes > self._limits.bytes:
            raise HostileLayer("the layer is too large", hint=f"limits: {self._limits}")
        path = clean(entry.name, self._limits)
        if entry.uid > _MAX_ID or entry.gid > _MAX_ID:
            raise Corrupt(f"{entry.name!r}: owner {entry.uid}:{entry.gid} is no user id")
        if not path:
            if entry.kind != tar.DIRECTORY:
                raise HostileLayer(f"{entry.name!r}: the root of a layer must be a directory")
            self._root_given = True
            self._directories[b""] = _Directory(entry, _atime(entry), entry.mtime_ns)
            return
        above, _, name = path.rpartition(b"/")
        parent = self._parent(above)
        if name.startswith(WHITEOUT):
            self._whiteout(parent, above, name)
            return
        if self._merged:
            self._made.add(path)
            self._remember_times(above, parent)
        if entry.kind == tar.FILE:
            self._file(parent, path, name, entry, reader)
        elif entry.kind == tar.DIRECTORY:
            self._directory(parent, path, name, entry)
        else:
            self._other(parent, path, name, entry)

    def _file(self, parent: int, path: bytes, name: bytes, entry: tar.Entry, reader: tar.Reader) -> None:
        mode = entry.mode & 0o777
        try:
            fd = os.open(name, _CREATE, mode, dir_fd=parent)
        except FileExistsError:
            self._make_room(parent, path, name)
            fd = os.open(name, _CREATE, mode, dir_fd=parent)
        try:
            if entry.sparse is not None:
                _write_sparse(fd, entry, reader)
            elif entry.size:
                reader.copy(lambda piece: _write_all(fd, piece))
            if entry.uid or entry.gid or self._setgid(parent):
                os.fchown(fd, entry.uid, entry.gid)
            if entry.mode > 0o777:
                os.fchmod(fd, entry.mode)  # after chown, which clears set-id bits
            if entry.xattrs:
                _set_xattrs(fd, entry)  # after chown, which clears file capabilities
            os.utime(fd, ns=(_atime(entry), entry.mtime_ns))
        finally:
            os.close(fd)

    def _setgid(self, parent: int) -> bool:
        """Whether files made in parent inherit its group: only where a lower layer's directory is used as it is."""
        return self._merged and bool(os.fstat(parent).st_mode & stat.S_ISGID)

    def _directory(self, parent: int, path: bytes, name: bytes, entry: tar.Entry) -> None:
        hidden = path in self._whiteouts
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                self._make_room(parent, path, name)
                os.mkdir(name, 0o700, dir_fd=parent)
        if hidden:
            self._opaque.add(path)  # deleted below and made anew here: nothing of the old one may shine through
        self._directories[path] = _Directory(entry, _atime(entry), entry.mtime_ns)

    def _other(self, parent: int, path: bytes, name: bytes, entry: tar.Entry) -> None:
        for attempt in (1, 2):
            try:
                if entry.kind == tar.LINK:
                    self._link(parent, path, name, entry)
                    return
                if entry.kind == tar.SYMLINK:
                    os.symlink(entry.link, name, dir_fd=parent)
                else:
                    self._node(parent, name, entry)
                break
            except FileExistsError:
                if attempt == 2:
                    raise
                self._make_room(parent, path, name)
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.kind != tar.SYMLINK:
            # The parent is ours alone and the node was made this instant: there is no symlink to follow here.
            os.chmod(name, entry.mode, dir_fd=parent)
        if entry.xattrs:
            _set_xattrs_at(parent, name, entry)
        os.utime(name, ns=(_atime(entry), entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _node(self, parent: int, name: bytes, entry: tar.Entry) -> None:
        if entry.kind == tar.CHAR and entry.major == entry.minor == 0:
            raise HostileLayer(f"{entry.name!r}: a character device 0:0 is overlayfs' own mark for a deleted file")
        device = os.makedev(entry.major, entry.minor) if entry.kind != tar.FIFO else 0
        os.mknod(name, entry.mode & 0o777 | _SPECIAL[entry.kind], device, dir_fd=parent)

    def _link(self, parent: int, path: bytes, name: bytes, entry: tar.Entry) -> None:
        target = clean(entry.link, self._limits)
        if not target:
            raise HostileLayer(f"{entry.name!r}: a hard link to the layer's root")
        if target == path:
            return
        above, _, last = target.rpartition(b"/")
        try:
            source = self._parent(above, make=False)
            found = os.stat(last, dir_fd=source, follow_symlinks=False)
        except FileNotFoundError:
            found = None
        if found is None or _is_whiteout(found):
            if self._alone:
                raise NeedsParents(f"{entry.name!r} is a hard link to {entry.link!r} below")
            raise Corrupt(f"{entry.name!r}: a hard link to {entry.link!r}, which is not there")
        if stat.S_ISDIR(found.st_mode):
            raise HostileLayer(f"{entry.name!r}: a hard link to a directory")
        os.link(last, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

    # -- whiteouts -------------------------------------------------------------------------------------------------
    def _whiteout(self, parent: int, above: bytes, name: bytes) -> None:
        if name == OPAQUE:
            if self._merged:
                self._clear_directory(above, parent)
            else:
                self._opaque.add(above)
            return
        if name.startswith(WHITEOUT + WHITEOUT):
            return  # aufs' own bookkeeping
        target = name[len(WHITEOUT) :]
        path = above + b"/" + target if above else target
        if target in (b"", b".", b".."):
            raise HostileLayer(f"{name!r}: a whiteout that names no file")
        if self._merged:
            self._remember_times(above, parent)
            self._delete(parent, path, target)
            return
        self._whiteouts.add(path)
        try:
            os.mknod(target, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:
            # A whiteout speaks of the layers below only; what this layer brought stays, but stands alone.
            if stat.S_ISDIR(os.stat(target, dir_fd=parent, follow_symlinks=False).st_mode):
                self._opaque.add(path)

    def _delete(self, parent: int, path: bytes, name: bytes) -> None:
        """Merged: take away what lower layers had at this path, keep what this layer brought."""
        if path not in self._made and not any(made.startswith(path + b"/") for made in self._made):
            self._stale = True
            _remove(parent, name)
            return
        try:
            fd = os.open(name, _OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return
        try:
            self._clear_directory(path, fd)
        finally:
            os.close(fd)

    def _clear_directory(self, path: bytes, directory: int) -> None:
        readable = os.open(b".", _OPEN_DIRECTORY, dir_fd=directory)
        try:
            names = [os.fsencode(name) for name in os.listdir(readable)]
        finally:
            os.close(readable)
        for name in names:
            self._delete(directory, path + b"/" + name if path else name, name)

    # -- directories -----------------------------------------------------------------------------------------------
    def _parent(self, path: bytes, *, make: bool = True) -> int:
        """A descriptor of the directory at path, owned by the cache."""
        fd = self._parents.get(path)
        if fd is not None:
            return fd
        if len(self._parents) >= _MAX_CACHED:
            self._stale = True  # not now: the caller may hold another one
        fd = self._open_parent(path, make=make)
        self._parents[path] = fd
        return fd

    def _open_parent(self, path: bytes, *, make: bool) -> int:
        try:
            return beneath.open_in_root(self._root, path.decode("utf-8", "surrogateescape"), os.O_PATH | os.O_DIRECTORY)
        except syscalls.KernelError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR) or (error.errno == errno.ENOENT and not make):
                raise _as_builtin(error) from None
            if self._alone:
                raise NeedsParents(f"{path!r} is not in this layer") from None
            if error.errno == errno.ENOTDIR and not self._replace_file_on_the_way(path):
                raise HostileLayer(f"{path!r}: goes through something that is no directory") from None
        return self._make_directories(path)

    def _make_directories(self, path: bytes) -> int:
        """Directories that no layer brings: root's, 0755, as every other unpacker makes them."""
        text = path.decode("utf-8", "surrogateescape")
        return beneath.make_directories(self._root, text, 0o755)

    def _replace_file_on_the_way(self, path: bytes) -> bool:
        """Where a lower layer has a file and this one has names beneath it, the file gives way to a directory."""
        parts = path.split(b"/")
        for count in range(1, len(parts) + 1):
            above, name = b"/".join(parts[: count - 1]), parts[count - 1]
            here = b"/".join(parts[:count])
            parent = self._parent(above, make=False)
            try:
                kind = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
            except FileNotFoundError:
                return True
            if not stat.S_ISDIR(kind) and not stat.S_ISLNK(kind):
                if here in self._made:
                    return False
                self._make_room(parent, here, name)
                return True
        return False

    def _make_room(self, parent: int, path: bytes, name: bytes) -> None:
        """Something is already there and this member replaces it."""
        self._stale = True  # any cached path may lead elsewhere now; the descriptors in use here stay good
        below = path + b"/"
        for known in [d for d in self._directories if d == path or d.startswith(below)]:
            del self._directories[known]
        self._opaque = {d for d in self._opaque if d != path and not d.startswith(below)}
        _remove(parent, name)

    def _forget_parents(self) -> None:
        for fd in self._parents.values():
            os.close(fd)
        self._parents.clear()
        self._stale = False

    def _remember_times(self, above: bytes, parent: int) -> None:
        """Merged: a directory that this layer does not bring keeps its times although its content changes."""
        if above not in self._directories:
            seen = os.fstat(parent)
            self._directories[above] = _Directory(None, seen.st_atime_ns, seen.st_mtime_ns)

    def _finish_directories(self) -> None:
        for path in self._opaque - self._directories.keys():
            if self._alone:
                raise NeedsParents(f"{path!r} is opaque and not in this layer")
            self._directories[path] = _Directory(None, 0, 0)
        for path, directory in self._directories.items():
            text = path.decode("utf-8", "surrogateescape")
            fd = beneath.open_in_root(self._root, text, _OPEN_DIRECTORY)
            try:
                self._finish(fd, path, directory)
            finally:
                os.close(fd)

    def _finish(self, fd: int, path: bytes, directory: _Directory) -> None:
        entry = directory.entry
        if entry is not None:
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
            if entry.xattrs:
                _set_xattrs(fd, entry)
        if path in self._opaque and not self._merged:
            os.setxattr(fd, OVERLAY_OPAQUE, b"y")
        if entry is not None or directory.mtime_ns:
            os.utime(fd, ns=(directory.atime_ns, directory.mtime_ns))


def clean(name: bytes, limits: Limits) -> bytes:
    """A member's name as a relative path without `.`, `..` and doubled slashes; '' is the root.

    `..` is refused rather than resolved: no honest archive has it, and readers differ in what it means.
    """
    if len(name) > limits.path:
        raise HostileLayer(f"{name[:60]!r}...: a path of {len(name)} bytes")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise HostileLayer(f"{name[:200]!r} leads out of its layer by '..'")
    if b"\0" in name or len(parts) > limits.depth:
        raise HostileLayer(f"{name[:200]!r} is no path that we accept")
    return b"/".join(parts)


def _atime(entry: tar.Entry) -> int:
    return entry.mtime_ns if entry.atime_ns is None else entry.atime_ns


def _write_all(fd: int, piece: memoryview) -> None:
    written = os.write(fd, piece)
    while written < len(piece):
        written += os.write(fd, piece[written:])


def _write_sparse(fd: int, entry: tar.Entry, reader: tar.Reader) -> None:
    """Pieces at their offsets, holes left holes."""
    for offset, length in entry.sparse or ():
        os.lseek(fd, offset, os.SEEK_SET)
        while length > 0:
            piece = reader.take_data(min(length, 1 << 18))
            if not piece:
                raise Corrupt(f"{entry.name!r}: the archive ends in the middle of a file")
            _write_all(fd, memoryview(piece))
            length -= len(piece)
    os.ftruncate(fd, entry.size)


def _set_xattrs(fd: int, entry: tar.Entry) -> None:
    for name, value in (entry.xattrs or {}).items():
        if not name.startswith(_REFUSED_XATTRS):
            _set_one(fd, name, value, entry)


def _set_xattrs_at(parent: int, name: bytes, entry: tar.Entry) -> None:
    # There is no setxattrat(2) before 6.13; /proc leads to the name without following it.
    path = b"/proc/self/fd/%d/%s" % (parent, name)
    for key, value in (entry.xattrs or {}).items():
        if not key.startswith(_REFUSED_XATTRS):
            _set_one(path, key, value, entry)


def _set_one(where: int | bytes, name: str, value: bytes, entry: tar.Entry) -> None:
    try:
        if isinstance(where, int):
            os.setxattr(where, name, value)
        else:
            os.setxattr(where, name, value, follow_symlinks=False)
    except OSError as error:
        # A file system without this kind of attribute cannot be helped, but a lost file capability changes what a
        # program may do, so that one is an error.
        if error.errno not in (errno.ENOTSUP, errno.EPERM) or name == "security.capability":
            raise StoreFailed(
                f"{entry.name!r}: cannot set {name}: {error.strerror}", hint="does the store's file system have xattrs?"
            ) from error


def _is_whiteout(seen: os.stat_result) -> bool:
    return stat.S_ISCHR(seen.st_mode) and seen.st_rdev == 0


def _remove(parent: int, name: bytes) -> None:
    beneath.remove_tree(os.fsdecode(name), dir_fd=parent)


def _as_builtin(error: syscalls.KernelError) -> OSError:
    """The subclass that Python gives its own calls for this errno (FileNotFoundError and so on)."""
    return OSError(error.errno, str(error))


def _failed(name: bytes, error: OSError) -> Exception:
    shown = repr(name[:200])
    if error.errno == errno.ENAMETOOLONG:
        return HostileLayer(f"{shown}: {error.strerror}")
    if error.errno in (errno.ELOOP, errno.EXDEV):
        return HostileLayer(f"{shown}: leads around in circles or out of its layer")
    hints = {
        errno.ENOSPC: "the disk is full: remove images or enlarge it",
        errno.EDQUOT: "the quota is used up",
        errno.EROFS: "the store lies on a read-only file system",
        errno.EPERM: "unpacking needs root",
    }
    return StoreFailed(f"cannot unpack {shown}: {error}", hint=hints.get(error.errno or 0, ""))
