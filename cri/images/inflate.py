# SPDX-License-Identifier: Apache-2.0
"""Compressed bytes in, plain bytes out, a bounded piece at a time; gzip, zstd and plain told apart by first bytes."""

import zlib
from collections.abc import Callable
from typing import IO, Protocol, cast

from cri.images.errors import Corrupt, Unsupported

try:  # twice zlib's speed on this data (DECISIONS.md); a machine without it is served by zlib
    from isal import igzip_lib

    HAS_ISAL = True
except ImportError:  # pragma: no cover - depends on what is installed
    HAS_ISAL = False

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# zstd's skippable frames (RFC 8878, 3.1.2), which a zstd:chunked layer may begin with.
_SKIPPABLE = tuple(bytes((n,)) + b"\x2a\x4d\x18" for n in range(0x50, 0x60))
PIECE = 1 << 18
# A zstd frame may ask its reader for a window of 2 GiB; encoders of images use 8 MiB (--long: 128).
MAX_WINDOW = 128 << 20

Read = Callable[[], bytes]


class Source(Protocol):
    """Plain bytes, piece by piece; empty at the end."""

    def __call__(self) -> bytes: ...


def detect(head: bytes) -> str:
    """'gzip', 'zstd' or '' by the first four bytes; media types lie, these cannot."""
    if head.startswith(GZIP_MAGIC):
        return "gzip"
    if head.startswith((ZSTD_MAGIC, *_SKIPPABLE)):
        return "zstd"
    if head.startswith((b"BZh", b"\xfd7zXZ")):
        raise Unsupported("compressed with bzip2 or xz", hint="registries know gzip and zstd")
    return ""


def plain(read: Read) -> Source:
    """Decompress what `read` gives (any sizes, empty at the end), after a look at its first bytes."""
    head = read()
    while head and len(head) < 4:
        more = read()
        if not more:
            break
        head += more
    rest = _Pushed(head, read)
    kind = detect(head)
    if kind == "gzip":
        return _Gzip(rest)
    return _Zstd(rest) if kind == "zstd" else rest


class _Pushed:
    """A reader with its first piece put back."""

    __slots__ = ("_head", "_read")

    def __init__(self, head: bytes, read: Read) -> None:
        self._head = head
        self._read = read

    def __call__(self) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        return self._read()


class _Gzip:
    """Concatenated gzip members; zero padding after the last is ignored, other garbage refused."""

    __slots__ = ("_decoder", "_fresh", "_read")

    def __init__(self, read: Read) -> None:
        self._read = read
        self._decoder = _gzip_decoder()
        self._fresh = True  # nothing of the current member has been fed yet

    def __call__(self) -> bytes:
        while True:
            if self._decoder.eof and not self._next_member():
                return b""
            data = b""
            if self._decoder.needs_input:
                data = self._read()
                if not data:
                    if self._fresh:
                        return b""
                    raise Corrupt("the gzip stream ends too early")
            self._fresh = False
            try:
                out = self._decoder.decompress(data, PIECE)
            except Exception as error:
                raise Corrupt(f"not a valid gzip stream: {error}") from None
            if out:
                return out

    def _next_member(self) -> bool:
        rest = self._decoder.unused_data.lstrip(b"\0")
        while not rest:
            data = self._read()
            if not data:
                return False
            rest = data.lstrip(b"\0")
        if not GZIP_MAGIC.startswith(rest[:2]):
            raise Corrupt("garbage after the end of the gzip stream")
        self._read = _Pushed(rest, self._read)
        self._decoder = _gzip_decoder()
        self._fresh = True
        return True


class _Decoder(Protocol):
    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _gzip_decoder() -> _Decoder:
    if HAS_ISAL:
        decoder: _Decoder = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)
        return decoder
    return _ZlibDecoder()


class _ZlibDecoder:
    """zlib's decompressor with the interface of bz2's and isal's."""

    __slots__ = ("_inner", "eof", "needs_input", "unused_data")

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)
        self.eof = False
        self.needs_input = True
        self.unused_data = b""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self.eof = self._inner.eof
        self.unused_data = self._inner.unused_data
        # Output that filled its piece may have more behind it inside zlib, with no input left over.
        self.needs_input = not self._inner.unconsumed_tail and len(out) < max_length
        return out


class _Zstd:
    """Any number of zstd frames, among them skippable ones (zstd:chunked keeps its table of contents there)."""

    __slots__ = ("_read", "_reader")

    def __init__(self, read: Read) -> None:
        try:
            import zstandard
        except ImportError:  # pragma: no cover - depends on what is installed
            raise Unsupported(
                "a zstd layer, and the zstandard module is missing", hint="pip install zstandard"
            ) from None
        decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self._reader = decoder.stream_reader(cast(IO[bytes], _File(read)), read_size=PIECE, read_across_frames=True)

    def __call__(self) -> bytes:
        try:
            return bytes(self._reader.read(PIECE))
        except Corrupt:
            raise
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in ("zstandard", "zstd"):
                raise
            raise Corrupt(f"not a valid zstd stream: {error}") from None


class _File:
    """A piecewise reader as an object with read(n), for zstandard."""

    __slots__ = ("_left", "_read")

    def __init__(self, read: Read) -> None:
        self._read = read
        self._left = b""

    def read(self, size: int = -1) -> bytes:
        data = self._left or self._read()
        if 0 <= size < len(data):
            self._left = data[size:]
            return data[:size]
        self._left = b""
        return data
