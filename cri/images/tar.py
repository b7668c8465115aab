# SPDX-License-Identifier: Apache-2.0
"""A tar reader for layers: forward only, bounded memory, every dialect that images are written in.

ustar, pax (1.0 extended headers, sparse 0.0, 0.1 and 1.0), GNU (long names, old sparse, base-256 numbers), v7.
The standard library's tarfile takes 60 us per entry and keeps them all; this one takes 6 and keeps none (DECISIONS.md).
"""

import base64
import urllib.parse
from collections.abc import Callable, Iterator

from cri.images.errors import Corrupt, HostileLayer

BLOCK = 512
ZEROS = bytes(BLOCK)
MAX_HEADER = 1 << 20  # bytes of a pax header or a GNU long name; Go's reader has the same limit
MAX_SPARSE = 1 << 20  # pieces of a sparse file
MAX_NUMBER = 1 << 62

FILE, LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_AS_FILE = (b"0", b"\0", b"7")
_KNOWN = frozenset((FILE, LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO))

Write = Callable[[memoryview], object]


class Entry:
    """One member of an archive: names as bytes, times in nanoseconds."""

    __slots__ = (
        "atime_ns",
        "gid",
        "kind",
        "link",
        "major",
        "minor",
        "mode",
        "mtime_ns",
        "name",
        "size",
        "sparse",
        "uid",
        "xattrs",
    )

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int  # of the file as a reader sees it; a sparse one takes less in the archive
    mtime_ns: int
    atime_ns: int | None
    link: bytes
    major: int
    minor: int
    xattrs: dict[str, bytes] | None
    sparse: list[tuple[int, int]] | None  # (offset, length) of what is not a hole


class Reader:
    """Walks an archive that `read` gives piece by piece (empty at the end)."""

    __slots__ = ("_buffer", "_globals", "_padding", "_pending", "_position", "_read", "_view", "offset")

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._buffer = b""
        self._view = memoryview(b"")
        self._position = 0
        self._pending = 0  # bytes of the current member's data in the archive, not yet taken
        self._padding = 0
        self._globals: dict[bytes, bytes] = {}
        self.offset = 0  # bytes of the archive before the buffer

    # -- bytes -----------------------------------------------------------------------------------------------------
    def _refill(self) -> bool:
        self.offset += len(self._buffer)
        self._buffer = self._read()
        self._view = memoryview(self._buffer)
        self._position = 0
        return bool(self._buffer)

    def _take(self, size: int) -> bytes:
        """Exactly so many bytes, copied; shorter only at the end of the archive."""
        position = self._position
        end = position + size
        if end <= len(self._buffer):
            self._position = end
            return self._buffer[position:end]
        parts = [self._buffer[position:]]
        size -= len(parts[0])
        while size > 0 and self._refill():
            part = self._buffer[:size]
            self._position = len(part)
            parts.append(part)
            size -= len(part)
        if size > 0:
            self._position = len(self._buffer)
        return b"".join(parts)

    def _skip(self, size: int) -> None:
        while size > 0:
            here = len(self._buffer) - self._position
            if size <= here:
                self._position += size
                return
            size -= here
            if not self._refill():
                raise Corrupt("the archive ends in the middle of a file")

    def copy(self, write: Write) -> None:
        """Hand the rest of the current member's data to `write`, in pieces of the buffer without a copy."""
        while self._pending > 0:
            if self._position >= len(self._buffer) and not self._refill():
                raise Corrupt("the archive ends in the middle of a file")
            piece = self._view[self._position : self._position + self._pending]
            self._position += len(piece)
            self._pending -= len(piece)
            write(piece)

    def take_data(self, size: int) -> bytes:
        """The next bytes of the current member's data; short at its end."""
        data = self._take(min(size, self._pending))
        self._pending -= len(data)
        return data

    def drain(self) -> None:
        """Read to the end of the stream: the digest covers what follows the end marker too."""
        while self._refill():
            pass

    # -- members ---------------------------------------------------------------------------------------------------
    def __iter__(self) -> Iterator[Entry]:
        while (entry := self.next()) is not None:
            yield entry

    def next(self) -> Entry | None:
        """The next member, whatever was left of the last one skipped; None at the end of the archive."""
        self._skip(self._pending + self._padding)
        self._pending = self._padding = 0
        pax: dict[bytes, bytes] | None = None
        long_name = long_link = None
        extended = 0
        while True:
            header = self._take(BLOCK)
            if len(header) < BLOCK:
                if header or pax or long_name is not None or long_link is not None:
                    raise Corrupt("the archive ends in the middle of a header")
                return None
            if header == ZEROS:
                if self._take(BLOCK) in (ZEROS, b""):
                    return None
                raise Corrupt("a lone zero block in the archive")
            _check(header)
            kind = header[156:157]
            if kind in b"xgLKXN" and kind != b"N":
                size = _number(header[124:136])
                extended += 1
                if size > MAX_HEADER or extended > 16:
                    raise HostileLayer(f"a header of {size} bytes", hint="at most 1 MiB is accepted")
                data = self._take(size)
                self._skip(-size % BLOCK)
                if len(data) < size:
                    raise Corrupt("the archive ends in the middle of a header")
                if kind in b"xX":
                    pax = (pax or {}) | _records(data)
                elif kind == b"g":
                    self._globals |= _records(data)
                elif kind == b"L":
                    long_name = data.rstrip(b"\0")
                else:
                    long_link = data.rstrip(b"\0")
                continue
            return self._member(header, kind, pax, long_name, long_link)

    def _member(
        self,
        header: bytes,
        kind: bytes,
        pax: dict[bytes, bytes] | None,
        long_name: bytes | None,
        long_link: bytes | None,
    ) -> Entry:
        entry = Entry()
        name = header[:100].partition(b"\0")[0]
        if header[257:263] == b"ustar\0" and header[345]:
            name = header[345:500].partition(b"\0")[0] + b"/" + name
        entry.name = long_name if long_name is not None else name
        entry.link = long_link if long_link is not None else header[157:257].partition(b"\0")[0]
        entry.mode = _number(header[100:108]) & 0o7777
        entry.uid = _number(header[108:116])
        entry.gid = _number(header[116:124])
        entry.size = stored = _number(header[124:136])
        entry.mtime_ns = _signed(header[136:148]) * 1_000_000_000
        entry.atime_ns = None
        entry.xattrs = None
        entry.sparse = None
        entry.major = entry.minor = 0
        if kind in (CHAR, BLOCK_DEVICE):
            entry.major, entry.minor = _number(header[329:337]), _number(header[337:345])
        if pax or self._globals:
            stored = _apply_pax(entry, self._globals | (pax or {}), stored)
        if kind == b"S":
            kind = FILE
            self._old_sparse(entry, header)
        elif kind in _AS_FILE:
            # Before ustar a directory was a file whose name ends in a slash.
            kind = DIRECTORY if entry.name.endswith(b"/") and kind != b"7" else FILE
        elif kind not in _KNOWN:
            raise Corrupt(f"{entry.name!r}: unknown type {kind!r}")
        entry.kind = kind
        if kind != FILE:
            # Only a file has data, whatever the size field says (POSIX; some writers give links their target's size).
            entry.size = stored = stored if kind not in (LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO) else 0
        self._pending = stored
        self._padding = -stored % BLOCK
        if pax and b"GNU.sparse.major" in pax and kind == FILE:
            self._sparse_1_0(entry)
        if entry.sparse is not None:
            _check_sparse(entry, self._pending)
        return entry

    # -- sparse files ----------------------------------------------------------------------------------------------
    def _old_sparse(self, entry: Entry, header: bytes) -> None:
        pieces: list[tuple[int, int]] = []
        table, more = header[386:482], header[482]
        entry.size = _number(header[483:495])
        while True:
            for at in range(0, len(table), 24):
                if table[at] == 0:
                    break
                pieces.append((_number(table[at : at + 12]), _number(table[at + 12 : at + 24])))
            if not more:
                break
            block = self._take(BLOCK)
            if len(block) < BLOCK or len(pieces) > MAX_SPARSE:
                raise Corrupt(f"{entry.name!r}: a sparse map without end")
            table, more = block[:504], block[504]
        entry.sparse = pieces

    def _sparse_1_0(self, entry: Entry) -> None:
        """pax sparse 1.0 keeps its map, as decimal lines, in front of the data."""
        data = bytearray()
        numbers: list[int] = []
        wanted = 1
        while len(numbers) < wanted:
            block = self.take_data(BLOCK)
            if len(block) < BLOCK or len(data) > 64 * MAX_SPARSE:
                raise Corrupt(f"{entry.name!r}: a sparse map without end")
            data += block
            lines = bytes(data).split(b"\n")
            numbers = [_decimal(line) for line in lines[:-1]][:wanted] if len(lines) > wanted else []
            if wanted == 1 and len(lines) > 1:
                count = _decimal(lines[0])
                if count > MAX_SPARSE:
                    raise HostileLayer(f"{entry.name!r}: a sparse map of {count} pieces")
                wanted = 1 + 2 * count
                numbers = [_decimal(line) for line in lines[:-1]][:wanted] if len(lines) > wanted else []
        entry.sparse = list(zip(numbers[1::2], numbers[2::2], strict=True))


def _check(header: bytes) -> None:
    """The header's checksum, over unsigned or (Sun's tar) signed bytes."""
    try:
        wanted = int(header[148:156].strip(b"\0 "), 8)
    except ValueError:
        raise Corrupt("not a tar header") from None
    if sum(header) - sum(header[148:156]) + 256 == wanted:
        return
    signed = sum(byte - 256 if byte > 127 else byte for byte in header[:148] + header[156:]) + 256
    if signed != wanted:
        raise Corrupt("a tar header with a wrong checksum")


def _number(field: bytes) -> int:
    """An octal or (GNU) base-256 number that cannot be negative."""
    value = _signed(field)
    if not 0 <= value <= MAX_NUMBER:
        raise Corrupt(f"a tar header with the number {value}")
    return value


def _signed(field: bytes) -> int:
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field)
        return value - (1 << bits) if field[0] & 0x40 else value - (1 << (bits - 1))
    try:
        return int(field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        # Some writers end the number with a NUL and leave old bytes behind it.
        text = field.partition(b"\0")[0].strip(b" ")
        try:
            return int(text or b"0", 8)
        except ValueError:
            raise Corrupt(f"a tar header with the number {field!r}") from None


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise Corrupt(f"a sparse map with the number {text[:20]!r}")
    return int(text)


def _records(data: bytes) -> dict[bytes, bytes]:
    """The `length key=value` records of a pax header; values may hold anything, so the length rules."""
    records: dict[bytes, bytes] = {}
    position = 0
    sparse: list[bytes] = []
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        digits = data[position:space] if space > 0 else b""
        if not digits.isdigit():
            if not data[position:].strip(b"\0"):
                break
            raise Corrupt("a pax record without a length")
        end = position + int(digits)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key or end > len(data) or data[end - 1 : end] != b"\n":
            raise Corrupt("a pax record that is cut short")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            sparse.append(value)  # format 0.0 repeats these two keys, once per piece
        records[key] = value
        position = end
    if sparse and b"GNU.sparse.map" not in records:
        records[b"GNU.sparse.map"] = b",".join(sparse)
    return records


def _apply_pax(entry: Entry, pax: dict[bytes, bytes], stored: int) -> int:
    """Let pax records replace what the old header says; gives the size of the data in the archive."""
    for key, value in pax.items():
        if key == b"path":
            entry.name = _text(value) or entry.name
        elif key == b"linkpath":
            entry.link = _text(value) or entry.link
        elif key == b"size":
            entry.size = stored = _int(value)
        elif key == b"uid":
            entry.uid = _int(value)
        elif key == b"gid":
            entry.gid = _int(value)
        elif key == b"mtime":
            entry.mtime_ns = time_ns(value)
        elif key == b"atime":
            entry.atime_ns = time_ns(value)
        elif key.startswith(b"SCHILY.xattr."):
            _xattr(entry, key[13:].decode("utf-8", "surrogateescape"), value)
        elif key.startswith(b"LIBARCHIVE.xattr."):
            name = urllib.parse.unquote(key[17:].decode("utf-8", "surrogateescape"), errors="surrogateescape")
            if entry.xattrs is None or name not in entry.xattrs:
                _xattr(entry, name, base64.b64decode(value + b"=" * (-len(value) % 4)))
    if b"GNU.sparse.name" in pax:
        entry.name = _text(pax[b"GNU.sparse.name"])
    if b"GNU.sparse.map" in pax:
        numbers = [_decimal(part) for part in pax[b"GNU.sparse.map"].split(b",") if part]
        if len(numbers) % 2:
            raise Corrupt(f"{entry.name!r}: an odd sparse map")
        entry.sparse = list(zip(numbers[::2], numbers[1::2], strict=True))
    for key in (b"GNU.sparse.realsize", b"GNU.sparse.size"):
        if key in pax:
            entry.size = _int(pax[key])
    return stored


def _xattr(entry: Entry, name: str, value: bytes) -> None:
    if entry.xattrs is None:
        entry.xattrs = {}
    entry.xattrs[name] = value


def _text(value: bytes) -> bytes:
    if b"\0" in value:
        raise Corrupt("a name with a NUL in a pax header")
    return value


def _int(value: bytes) -> int:
    if not value.isdigit() or len(value) > 20 or int(value) > MAX_NUMBER:
        raise Corrupt(f"a pax header with the number {value[:40]!r}")
    return int(value)


def time_ns(value: bytes) -> int:
    """`1700000000.123456789` as nanoseconds, exactly: a float would lose the last digits."""
    whole, _, fraction = value.partition(b".")
    negative = whole.startswith(b"-")
    whole = whole.removeprefix(b"-") or b"0"
    if not whole.isdigit() or len(whole) > 19 or (fraction and not fraction.isdigit()):
        raise Corrupt(f"a pax header with the time {value[:40]!r}")
    ns = int(whole) * 1_000_000_000 + int((fraction + b"000000000")[:9])
    return -ns if negative else ns


def _check_sparse(entry: Entry, stored: int) -> None:
    """Pieces in order, inside the file, and together what the archive holds."""
    end = total = 0
    for offset, length in entry.sparse or ():
        if offset < end or offset + length > entry.size:
            raise Corrupt(f"{entry.name!r}: a sparse map that goes backwards or past the end")
        end = offset + length
        total += length
    if total != stored:
        raise Corrupt(f"{entry.name!r}: a sparse map of {total} bytes with {stored} stored")
