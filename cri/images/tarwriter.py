# SPDX-License-Identifier: Apache-2.0
"""Write tar archives reproducibly: the same tree gives the same bytes, whenever and wherever it is packed."""

import os
import stat
from collections.abc import Callable, Iterator

from runtime.linux.quick_dataclasses import dataclass, field

BLOCK = 512
_LARGEST_OCTAL = {7: 8**7 - 1, 11: 8**11 - 1}
_PIECE = 1 << 18
_LOCAL_XATTRS = ("trusted.overlay.", "security.selinux")  # mean something on this machine only

Write = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Member:
    """One member to write; `kind` as in a tar header."""

    name: bytes
    kind: bytes = b"0"
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: dict[str, bytes] = field(default_factory=dict)


class Writer:
    """Streams members to `write`; everything that ustar cannot say goes into a pax header."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def add(self, member: Member, data: bytes | Iterator[bytes] = b"") -> None:
        """One member and its data, which must be exactly as long as it says."""
        self._write(header(member))
        total = 0
        for piece in (data,) if isinstance(data, bytes) else data:
            total += len(piece)
            self._write(piece)
        if total != member.size:
            raise ValueError(f"{member.name!r}: {total} bytes instead of {member.size}")
        if total % BLOCK:
            self._write(bytes(-total % BLOCK))

    def close(self) -> None:
        """The end marker."""
        self._write(bytes(2 * BLOCK))


def header(member: Member) -> bytes:
    """A ustar header, with a pax header before it where needed."""
    records: list[tuple[str, bytes]] = []
    name, link = member.name, member.link
    if len(name) > 100 or not name.isascii():
        records.append(("path", name))
    if len(link) > 100 or not link.isascii():
        records.append(("linkpath", link))
    if member.size > _LARGEST_OCTAL[11]:
        records.append(("size", b"%d" % member.size))
    records += [
        (key, b"%d" % value) for key, value in (("uid", member.uid), ("gid", member.gid)) if value > _LARGEST_OCTAL[7]
    ]
    seconds, ns = divmod(member.mtime_ns, 1_000_000_000)
    if ns or not 0 <= seconds <= _LARGEST_OCTAL[11]:
        records.append(("mtime", _time(member.mtime_ns)))
    records += [(f"SCHILY.xattr.{key}", value) for key, value in sorted(member.xattrs.items())]
    plain = _ustar(member, name[:100], link[:100], max(0, seconds))
    if not records:
        return plain
    body = b"".join(_record(key.encode("utf-8", "surrogateescape"), value) for key, value in records)
    extended = Member(b"./PaxHeaders/" + os.path.basename(name.rstrip(b"/"))[:80], b"x", size=len(body))
    return _ustar(extended, extended.name, b"", 0) + body + bytes(-len(body) % BLOCK) + plain


def _time(mtime_ns: int) -> bytes:
    sign = b"-" if mtime_ns < 0 else b""
    seconds, ns = divmod(abs(mtime_ns), 1_000_000_000)
    return b"%s%d.%09d" % (sign, seconds, ns) if ns else b"%s%d" % (sign, seconds)


def _record(key: bytes, value: bytes) -> bytes:
    """`length key=value\\n`, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) + rest > length:
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def _ustar(member: Member, name: bytes, link: bytes, seconds: int) -> bytes:
    def octal(value: int, width: int) -> bytes:
        return b"%0*o\0" % (width, value if value <= _LARGEST_OCTAL[width] else 0)

    block = b"".join(
        (
            name.ljust(100, b"\0"),
            octal(member.mode & 0o7777, 7),
            octal(member.uid, 7),
            octal(member.gid, 7),
            octal(member.size, 11),
            octal(seconds, 11),
            b" " * 8,
            member.kind,
            link.ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(64),  # names of user and group: numbers are what counts in an image
            octal(member.major, 7),
            octal(member.minor, 7),
            bytes(155 + 12),
        )
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def pack(directory: str, write: Write, *, mtime_ns: int | None = None) -> None:
    """Pack a tree: sorted, hard links kept, the root as `./`; `mtime_ns` replaces all times."""
    writer = Writer(write)
    links = Links()
    for path, name in _walk(directory):
        seen = os.lstat(path)
        member, source = member_of(path, name, seen, links, mtime_ns)
        if member is None:
            continue
        writer.add(member, pieces(source, member.size) if source else b"")
    writer.close()


def _walk(directory: str) -> Iterator[tuple[str, bytes]]:
    """Every path with its member name, a directory before what is in it."""
    todo = [(directory, b"./")]
    while todo:
        path, name = todo.pop()
        yield path, name
        if os.path.isdir(path) and not os.path.islink(path):
            base = b"" if name == b"./" else name + b"/"
            children = sorted(os.listdir(path), reverse=True)
            todo += [(os.path.join(path, child), base + os.fsencode(child)) for child in children]


class Links(dict[tuple[int, int], bytes]):
    """Device and inode of what has several names -> the first of them in the archive."""


def member_of(
    path: str, name: bytes, seen: os.stat_result, links: Links, mtime_ns: int | None
) -> tuple[Member | None, str]:
    """What to write of a path, and the file to take its data from."""
    mode = seen.st_mode
    kind, size, link, major, minor, source = b"0", 0, b"", 0, 0, ""
    if stat.S_ISDIR(mode):
        kind, name = b"5", name if name.endswith(b"/") else name + b"/"
    elif stat.S_ISLNK(mode):
        kind, link = b"2", os.fsencode(os.readlink(path))
    elif stat.S_ISREG(mode):
        first = links.get((seen.st_dev, seen.st_ino)) if seen.st_nlink > 1 else None
        if first is not None:
            kind, link = b"1", first
        else:
            links[seen.st_dev, seen.st_ino] = name
            size, source = seen.st_size, path
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        kind = b"3" if stat.S_ISCHR(mode) else b"4"
        major, minor = os.major(seen.st_rdev), os.minor(seen.st_rdev)
    elif stat.S_ISFIFO(mode):
        kind = b"6"
    else:
        return None, ""  # a socket means nothing in an archive
    xattrs = {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)}
    xattrs = {
        key: value for key, value in xattrs.items() if not key.startswith(("trusted.overlay.", "security.selinux"))
    }
    time_ns = seen.st_mtime_ns if mtime_ns is None else mtime_ns
    member = Member(
        name, kind, stat.S_IMODE(mode), seen.st_uid, seen.st_gid, size, time_ns, link, major, minor,
        {} if kind == b"1" else xattrs,
    )  # fmt: skip
    return member, source


def pieces(path: str, size: int) -> Iterator[bytes]:
    """Exactly size bytes: a file that grows while it is packed is cut, one that shrinks is an error above."""
    # Whoever may write there may have put a link or a FIFO in its place since it was looked at.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        while size > 0 and (piece := file.read(min(_PIECE, size))):
            size -= len(piece)
            yield piece
