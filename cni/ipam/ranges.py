# SPDX-License-Identifier: Apache-2.0
"""Ranges of addresses as a configuration names them. Pure.

ranges = [ [ {subnet, rangeStart, rangeEnd, gateway}, ... ], ... ]
          one address is taken of each inner list (a dual stack has two); an inner list is one pool in pieces
"""

from ..addresses import BITS, Prefix, parse_ip, parse_prefix, to_text
from ..errors import bad_config
from ..fields import Fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Range:
    """Consecutive addresses of one subnet."""

    __slots__ = ("first", "gateway", "last", "subnet")

    def __init__(self, subnet: Prefix, first: int, last: int, gateway: int) -> None:
        self.subnet = subnet
        self.first = first
        self.last = last
        self.gateway = gateway

    def __str__(self) -> str:
        return f"{to_text(self.subnet.family, self.first)}-{to_text(self.subnet.family, self.last)}"

    @property
    def family(self) -> int:
        return self.subnet.family

    def contains(self, family: int, address: int) -> bool:
        return family == self.family and self.first <= address <= self.last

    def overlaps(self, other: "Range") -> bool:
        return self.family == other.family and self.first <= other.last and other.first <= self.last

    @property
    def size(self) -> int:
        """How many addresses can be given out."""
        return self.last - self.first + 1 - (self.first <= self.gateway <= self.last)


class Pool:
    """The ranges that one address is taken from, in order."""

    __slots__ = ("ranges",)

    def __init__(self, ranges: list[Range]) -> None:
        self.ranges = ranges

    def __str__(self) -> str:
        return ",".join(str(piece) for piece in self.ranges)

    @property
    def family(self) -> int:
        return self.ranges[0].family

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.ranges)

    def range_of(self, family: int, address: int) -> Range | None:
        for piece in self.ranges:
            if piece.contains(family, address):
                return piece
        return None

    def after(self, family: int | None, address: int) -> "Iterator[tuple[Range, int]]":
        """Every address that may be given out, once, beginning after the one given last."""
        start = 0
        if family is not None:
            for number, piece in enumerate(self.ranges):
                if piece.contains(family, address):
                    start = number
                    yield from _candidates(piece, address + 1, piece.last)
                    break
            else:
                family = None
        yield from self._others(start, family, address)

    def _others(self, start: int, family: int | None, address: int) -> "Iterator[tuple[Range, int]]":
        count = len(self.ranges)
        first_piece = 0 if family is None else 1
        for offset in range(first_piece, count):
            piece = self.ranges[(start + offset) % count]
            yield from _candidates(piece, piece.first, piece.last)
        if family is not None:
            piece = self.ranges[start]
            yield from _candidates(piece, piece.first, min(address, piece.last))


def _candidates(piece: Range, first: int, last: int) -> "Iterator[tuple[Range, int]]":
    number = first
    while number <= last:
        if number != piece.gateway:
            yield piece, number
        number += 1


def parse_range(fields: Fields) -> Range:
    """One range; what the configuration leaves out becomes: the whole subnet, its first address the gateway."""
    subnet = _subnet(fields)
    bits = BITS[subnet.family]
    if subnet.length > bits - 2:
        raise bad_config(
            fields.at("subnet"), str(subnet), "too small: an address, a gateway and two ends need a /30 or /126"
        )
    if subnet.address != subnet.first:
        raise bad_config(fields.at("subnet"), str(subnet), f"has host bits set (do you mean {subnet.network}?)")
    last_default = subnet.last - (1 if bits == 32 else 0)  # the broadcast address
    first = _member(fields, "rangeStart", subnet, subnet.first + 1)
    last = _member(fields, "rangeEnd", subnet, last_default)
    if first > last:
        raise bad_config(fields.at("rangeEnd"), fields.text("rangeEnd"), "lies before rangeStart")
    gateway = _ip(fields, "gateway", subnet.first + 1, subnet.family)
    return Range(subnet, first, last, gateway)


def _subnet(fields: Fields) -> Prefix:
    text = fields.text("subnet")
    try:
        return parse_prefix(text)
    except ValueError as error:
        raise bad_config(fields.at("subnet"), text or None, str(error) if text else "a range needs a subnet") from None


def _ip(fields: Fields, key: str, default: int, family: int) -> int:
    text = fields.text(key)
    if not text:
        return default
    try:
        found, number = parse_ip(text)
    except ValueError as error:
        raise bad_config(fields.at(key), text, str(error)) from None
    if found != family:
        raise bad_config(fields.at(key), text, "is of another address family than the subnet")
    return number


def _member(fields: Fields, key: str, subnet: Prefix, default: int) -> int:
    number = _ip(fields, key, default, subnet.family)
    if not subnet.contains(subnet.family, number):
        raise bad_config(fields.at(key), fields.text(key), f"is not in {subnet}")
    return number


def parse_pools(ipam: Fields) -> list[Pool]:
    """All pools of an ipam section: the old single range first, then the ranges."""
    pools = []
    if "subnet" in ipam:
        pools.append(Pool([parse_range(ipam)]))
    pools += parse_range_sets(ipam, "ranges")
    if not pools:
        raise bad_config(ipam.at("ranges"), None, "no address range: give a subnet, or ranges")
    return pools


def parse_range_sets(fields: Fields, key: str) -> list[Pool]:
    pools = []
    for number, pieces in enumerate(fields.array(key)):
        where = f"{fields.at(key)}[{number}]"
        if not isinstance(pieces, list) or not all(isinstance(piece, dict) for piece in pieces):
            raise bad_config(where, pieces, "expected an array of ranges")
        if not pieces:
            raise bad_config(where, pieces, "an empty range set gives no address")
        pools.append(Pool([parse_range(Fields(piece, f"{where}[{at}]")) for at, piece in enumerate(pieces)]))
    return pools


def check_pools(pools: list[Pool], version_allows_many: bool) -> None:  # noqa: FBT001 (named at the only call)
    """Ranges of one pool share a family, and no two ranges at all overlap."""
    seen: list[Range] = []
    families = []
    for number, pool in enumerate(pools):
        if len({piece.family for piece in pool.ranges}) > 1:
            raise bad_config(f"ipam.ranges[{number}]", str(pool), "mixes IPv4 and IPv6; make it two range sets")
        families.append(pool.family)
        for piece in pool.ranges:
            for other in seen:
                if piece.overlaps(other):
                    raise bad_config(f"ipam.ranges[{number}]", str(piece), f"overlaps with {other}")
            seen.append(piece)
    if not version_allows_many and len(families) != len(set(families)):
        raise bad_config("ipam.ranges", len(families), "CNI 0.2.0 and older have room for one address per family")
