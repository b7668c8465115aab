# SPDX-License-Identifier: Apache-2.0
"""Which subnets are free for a network; apart, because its arithmetic takes 1 ms to import and few commands need it."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from cri.hand import networks
from cri.hand.errors import USAGE, HandError, UsageError
from cri.hand.places import Places

Net = IPv4Network | IPv6Network


def with_gateways(described: dict[str, object]) -> list[tuple[Net, str]]:
    """The subnets with the bridge's address in each."""
    plugins = described["plugins"]
    assert isinstance(plugins, list)
    lines = [line[0] for line in plugins[0]["ipam"]["ranges"]]
    nets = [ip_network(line["subnet"]) for line in lines]
    return [(net, line.get("gateway") or str(net.network_address + 1)) for net, line in zip(nets, lines, strict=True)]


def taken(places: Places) -> list[Net]:
    """Networks of ours, and what this machine has a route to."""
    lists = [networks.read(places, name) for name in networks.custom(places)]
    found = [net for described in lists if described for net, _ in with_gateways(described)]
    with open("/proc/net/route") as file:
        for line in list(file)[1:]:
            words = line.split()
            destination, mask = (int.from_bytes(bytes.fromhex(words[i]), "little") for i in (1, 7))
            if mask:
                found.append(ip_network((destination, mask.bit_count())))
    return found


def free(places: Places, *, first: int) -> str:
    """A private subnet that nobody here has a route to."""
    others = taken(places)
    candidates = [f"172.{n}.0.0/16" for n in range(first, 32)] + [f"192.168.{n}.0/20" for n in range(0, 256, 16)]
    for candidate in candidates:
        net = ip_network(candidate)
        if not any(other.version == net.version and net.overlaps(other) for other in others):
            return candidate
    raise HandError("no subnet is free for another network", hint="name one: --subnet 10.1.0.0/24")


def checked(places: Places, text: str) -> str:
    """The subnet that a person named, if it is one and free."""
    try:
        net = ip_network(text)
    except ValueError as e:
        raise UsageError(f"--subnet: {e}", hint="such as 10.1.0.0/24", code=USAGE) from None
    for other in taken(places):
        if other.version == net.version and net.overlaps(other):
            raise HandError(f"--subnet: {text} overlaps with {other}, which this machine has a route to")
    return text


def holds(subnets: list[str], address: str) -> bool:
    """Whether an address is of one of them."""
    return any(ip_address(address) in ip_network(subnet) for subnet in subnets)
