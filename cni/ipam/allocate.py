# SPDX-License-Identifier: Apache-2.0
"""Which address comes next. Pure: it asks whether an address is taken, and takes none."""

from ..addresses import Prefix, parse_ip, to_text
from ..errors import CONFLICT, FULL, INVALID_CONFIG, TRY_AGAIN_LATER, CniError
from .ranges import Pool, Range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Exclusions:
    """Addresses that are never given out of turn: excluded ones, those reserved by name, those at rest."""

    __slots__ = ("prefixes", "reserved", "resting_until")

    def __init__(
        self, prefixes: list[Prefix], reserved: "dict[str, str]", resting_until: "dict[str, float] | None" = None
    ) -> None:
        self.prefixes = prefixes
        self.reserved = reserved  # address -> the name that it is kept for
        self.resting_until = resting_until or {}

    def excluded(self, family: int, number: int) -> bool:
        return any(prefix.contains(family, number) for prefix in self.prefixes)


class Choice:
    """An address that may be taken."""

    __slots__ = ("address", "piece", "pool")

    def __init__(self, pool: int, piece: Range, address: str) -> None:
        self.pool = pool
        self.piece = piece
        self.address = address


def next_free(
    number: int, pool: Pool, last: str, exclusions: Exclusions, taken: "Callable[[str], bool]", now: float
) -> Choice | None:
    """The first free address after the one given last, round robin; None if there is none."""
    try:
        family, after = parse_ip(last)
    except ValueError:
        family, after = None, 0
    for piece, candidate in pool.after(family, after):
        address = to_text(piece.family, candidate)
        if address in exclusions.reserved or exclusions.resting_until.get(address, 0) > now:
            continue
        if exclusions.excluded(piece.family, candidate) or taken(address):
            continue
        return Choice(number, piece, address)
    return None


def requested(
    number: int, pool: Pool, address: str, name: str, exclusions: Exclusions, taken: "Callable[[str], bool]"
) -> Choice | None:
    """The address that was asked for, if it is this pool's; refused if it cannot be had."""
    family, candidate = parse_ip(address)
    piece = pool.range_of(family, candidate)
    if piece is None:
        return None
    text = to_text(family, candidate)
    if candidate == piece.gateway:
        raise CniError(INVALID_CONFIG, f"requested address {text} is the gateway's of {piece.subnet}")
    keeper = exclusions.reserved.get(text)
    if keeper is not None and keeper != name:
        raise CniError(CONFLICT, f"requested address {text} is reserved for {keeper}")
    if taken(text):
        raise CniError(
            CONFLICT, f"requested address {text} is not available: it is taken", "ketch-cni addresses shows by whom"
        )
    return Choice(number, piece, text)


def pool_is_full(pool: Pool, network: str, holders: list[str], resting: int) -> CniError:
    """Which range, how many, who has them, what to do."""
    first = ", ".join(holders[:5]) + (f" and {len(holders) - 5} more" if len(holders) > 5 else "")
    message = (
        f"no IP addresses available in range set: {pool} of network {network}: all {pool.size} addresses are taken"
    )
    if resting:
        message += f" or at rest after their release ({resting})"
    details = f"held by {first or 'nobody that has a name'}; widen the range, or free what nobody uses: ketch-cni gc"
    return CniError(TRY_AGAIN_LATER if resting else FULL, message, details)
