# SPDX-License-Identifier: Apache-2.0
"""Arithmetic of IP addresses and prefixes as integers. Pure; importing ipaddress would cost a cold command 4 ms."""

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

BITS = {AF_INET: 32, AF_INET6: 128}


class Prefix:
    """An address together with the length of its network: 10.1.0.2/16."""

    __slots__ = ("address", "family", "length")

    def __init__(self, family: int, address: int, length: int) -> None:
        self.family = family
        self.address = address
        self.length = length

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prefix):
            return False
        return (self.address, self.length, self.family) == (other.address, other.length, other.family)

    def __hash__(self) -> int:
        return hash((self.family, self.address, self.length))

    def __str__(self) -> str:
        return f"{to_text(self.family, self.address)}/{self.length}"

    @property
    def ip(self) -> str:
        return to_text(self.family, self.address)

    @property
    def first(self) -> int:
        """The network's own address."""
        host_bits = BITS[self.family] - self.length
        return self.address >> host_bits << host_bits

    @property
    def last(self) -> int:
        """The last address of the network; for IPv4 its broadcast address."""
        return self.first | ((1 << (BITS[self.family] - self.length)) - 1)

    @property
    def network(self) -> "Prefix":
        return Prefix(self.family, self.first, self.length)

    def contains(self, family: int, address: int) -> bool:
        return family == self.family and self.first <= address <= self.last

    def overlaps(self, other: "Prefix") -> bool:
        return self.family == other.family and self.first <= other.last and other.first <= self.last


def parse_ip(text: str) -> tuple[int, int]:
    """Family and number of an address; ValueError says what is wrong. An IPv4 address mapped into IPv6 is IPv4."""
    family = AF_INET6 if ":" in text else AF_INET
    try:
        number = int.from_bytes(inet_pton(family, text), "big")
    except OSError:
        raise ValueError(f"{text!r} is not an IP address") from None
    if family == AF_INET6 and number >> 32 == 0xFFFF:
        return AF_INET, number & 0xFFFFFFFF
    return family, number


def parse_prefix(text: str) -> Prefix:
    """An address with its prefix length."""
    address, slash, length = text.partition("/")
    family, number = parse_ip(address)
    if not slash or not length.isascii() or not length.isdigit() or int(length) > BITS[family]:
        raise ValueError(f"{text!r} is not an address with a prefix length")
    return Prefix(family, number, int(length))


def parse_ip_or_prefix(text: str) -> tuple[int, int]:
    """An address that may carry a prefix length, which is dropped."""
    return parse_ip(text.partition("/")[0])


def to_text(family: int, number: int) -> str:
    return inet_ntop(family, number.to_bytes(BITS[family] // 8, "big"))
