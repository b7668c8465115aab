# SPDX-License-Identifier: Apache-2.0
"""Digests: the only names of content that the store believes."""

from __future__ import annotations

from cri.images.errors import BadReference

try:
    from _sha2 import sha256  # type: ignore[import-not-found]  # the interpreter's own, from 3.12
except ImportError:
    from _sha256 import sha256  # type: ignore[import-not-found]

LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_HEX = frozenset("0123456789abcdef")


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Hasher(Protocol):
        """What hashlib gives; named here because its own type is private."""

        def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
        def hexdigest(self) -> str: ...


def split(digest: str) -> tuple[str, str]:
    """Algorithm and hex of a digest that we can verify; anything else could not be trusted, or could be a path."""
    algorithm, _, value = digest.partition(":")
    if LENGTHS.get(algorithm) != len(value) or not _HEX.issuperset(value):
        raise BadReference(f"{digest[:200]!r} is not a digest", hint="sha256: and 64 lowercase hex digits")
    return algorithm, value


def is_digest(text: str) -> bool:
    """Whether text is a digest of a known algorithm."""
    algorithm, _, value = text.partition(":")
    return LENGTHS.get(algorithm) == len(value) and _HEX.issuperset(value)


def hasher(digest: str) -> Hasher:
    """A fresh hash of the algorithm of a digest."""
    import hashlib

    return hashlib.new(split(digest)[0], usedforsecurity=False)


def of(data: bytes) -> str:
    """The sha256 digest of a document. hashlib is faster on large ones, but its OpenSSL takes 3 ms to load."""
    found: str = sha256(data).hexdigest()
    return f"sha256:{found}"


def matches(data: bytes, digest: str) -> bool:
    """Whether a document is what its digest says."""
    if digest.startswith("sha256:"):
        return of(data) == digest
    found = hasher(digest)
    found.update(data)
    return found.hexdigest() == split(digest)[1]


def chain_ids(diff_ids: tuple[str, ...]) -> tuple[str, ...]:
    """The OCI ChainID of every layer: what a layer is together with all beneath it."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return tuple(chain)
