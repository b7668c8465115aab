# SPDX-License-Identifier: Apache-2.0
"""What the kernel answers over rtnetlink: links, addresses, routes, rules and neighbours as values. Pure decoding."""

import struct
from _socket import AF_INET, AF_INET6, inet_ntop

from . import netlink_messages as m

_ATTRIBUTE = struct.Struct("=HH")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=B3xiHBB")
OPERSTATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes from offset to the end; of several of one kind the last."""
    found = {}
    unpack, end = _ATTRIBUTE.unpack_from, len(data) - 4  # a link has forty of them, and an ADD looks at five links
    while offset <= end:
        length, kind = unpack(data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def attribute_list(data: bytes, offset: int = 0) -> list[tuple[int, bytes]]:
    """The attributes in order, for lists that repeat one kind."""
    found = []
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found.append((kind & 0x3FFF, data[offset + 4 : offset + length]))
        offset += (length + 3) & ~3
    return found


def as_int(value: bytes | None, default: int = 0) -> int:
    return default if value is None else int.from_bytes(value, "little")


def as_text(value: bytes | None) -> str:
    return "" if value is None else value.rstrip(b"\0").decode(errors="replace")


def as_mac(value: bytes | None) -> str:
    return "" if value is None else value.hex(":")


def as_address(family: int, value: bytes | None) -> str | None:
    return None if value is None or family not in (AF_INET, AF_INET6) else inet_ntop(family, value)


class Link:
    """A network interface. It has forty attributes, and few are asked for: they are taken apart as far as is needed."""

    __slots__ = ("_body", "_found", "_offset", "flags", "index")

    def __init__(self, body: bytes) -> None:
        _, _, self.index, self.flags, _ = _IFINFO.unpack_from(body)
        self._body = body
        self._offset = 16
        self._found: dict[int, bytes] = {}

    def _attribute(self, wanted: int) -> bytes | None:
        found, body, offset, end = self._found, self._body, self._offset, len(self._body) - 4
        while wanted not in found and offset <= end:
            length, kind = _ATTRIBUTE.unpack_from(body, offset)
            if length < 4:
                break
            found[kind & 0x3FFF] = body[offset + 4 : offset + length]
            offset += (length + 3) & ~3
        self._offset = offset
        return found.get(wanted)

    @property
    def name(self) -> str:
        return as_text(self._attribute(m.IFLA_IFNAME))

    @property
    def mtu(self) -> int:
        return as_int(self._attribute(m.IFLA_MTU))

    @property
    def mac(self) -> str:
        return as_mac(self._attribute(m.IFLA_ADDRESS))

    @property
    def master(self) -> int:
        return as_int(self._attribute(m.IFLA_MASTER))

    @property
    def operstate(self) -> str:
        state = as_int(self._attribute(m.IFLA_OPERSTATE))
        return OPERSTATES[state] if state < len(OPERSTATES) else str(state)

    @property
    def _info(self) -> dict[int, bytes]:
        return attributes(self._attribute(m.IFLA_LINKINFO) or b"")

    @property
    def kind(self) -> str:
        return as_text(self._info.get(m.IFLA_INFO_KIND))

    @property
    def slave_kind(self) -> str:
        return as_text(self._info.get(m.IFLA_INFO_SLAVE_KIND))

    @property
    def lower(self) -> int:
        """A veth's peer, a VLAN's or macvlan's lower device."""
        return as_int(self._attribute(m.IFLA_LINK))

    @property
    def lower_namespace(self) -> int | None:
        """The namespace of that one by its number here, if it is another."""
        namespace = self._attribute(m.IFLA_LINK_NETNSID)
        return None if namespace is None else as_int(namespace)

    @property
    def alias(self) -> str:
        return as_text(self._attribute(m.IFLA_IFALIAS))

    @property
    def queue_length(self) -> int:
        return as_int(self._attribute(m.IFLA_TXQLEN))

    @property
    def promiscuity(self) -> int:
        return as_int(self._attribute(m.IFLA_PROMISCUITY))

    @property
    def data(self) -> dict[int, bytes]:
        """What its kind says of it."""
        return attributes(self._info.get(m.IFLA_INFO_DATA, b""))

    @property
    def port(self) -> dict[int, bytes]:
        """What its master says of it as a port."""
        return attributes(self._info.get(m.IFLA_INFO_SLAVE_DATA, b""))

    @property
    def up(self) -> bool:
        return bool(self.flags & m.IFF_UP)

    @property
    def hairpin(self) -> bool:
        return bool(as_int(self.port.get(m.IFLA_BRPORT_MODE)))

    @property
    def isolated(self) -> bool:
        return bool(as_int(self.port.get(m.IFLA_BRPORT_ISOLATED)))


class Address:
    """An address of a link."""

    __slots__ = ("address", "family", "flags", "index", "peer", "prefix", "scope")

    def __init__(self, body: bytes) -> None:
        self.family, self.prefix, flags, self.scope, self.index = _IFADDR.unpack_from(body)
        found = attributes(body, 8)
        self.flags = as_int(found.get(m.IFA_FLAGS), flags)
        peer = as_address(self.family, found.get(m.IFA_ADDRESS))
        self.address = as_address(self.family, found.get(m.IFA_LOCAL)) or peer or ""
        self.peer = peer if peer != self.address else None

    @property
    def text(self) -> str:
        return f"{self.address}/{self.prefix}"


class Route:
    """A route; destination is a prefix in text, 0.0.0.0/0 or ::/0 for the default."""

    __slots__ = (
        "advmss", "destination", "family", "flags", "gateway", "gateways", "kind", "link", "mtu", "prefix", "priority",
        "protocol", "scope", "source", "table",
    )  # fmt: skip

    def __init__(self, body: bytes) -> None:
        self.family, self.prefix, _, _, table, self.protocol, self.scope, self.kind, self.flags = _RTMSG.unpack_from(
            body
        )
        found = attributes(body, 12)
        zero = "::" if self.family == AF_INET6 else "0.0.0.0"  # noqa: S104 (a destination, nothing listens)
        self.destination = f"{as_address(self.family, found.get(m.RTA_DST)) or zero}/{self.prefix}"
        self.gateway = as_address(self.family, found.get(m.RTA_GATEWAY))
        self.gateways = self._gateways(found.get(m.RTA_MULTIPATH, b"")) or [self.gateway]
        self.source = as_address(self.family, found.get(m.RTA_PREFSRC))
        self.link = as_int(found.get(m.RTA_OIF))
        self.priority = as_int(found.get(m.RTA_PRIORITY))
        self.table = as_int(found.get(m.RTA_TABLE), table)
        metrics = attributes(found.get(m.RTA_METRICS, b""))
        self.mtu = as_int(metrics.get(m.RTAX_MTU))
        self.advmss = as_int(metrics.get(m.RTAX_ADVMSS))

    def _gateways(self, paths: bytes) -> list[str | None]:
        """The gateways of a route with several paths: IPv6 makes one of those to the same destination."""
        found = []
        while len(paths) >= 8:
            length = max(int.from_bytes(paths[:2], "little"), 8)
            found.append(as_address(self.family, attributes(paths[:length], 8).get(m.RTA_GATEWAY)))
            paths = paths[(length + 3) & ~3 :]
        return found


class Rule:
    """A routing policy rule."""

    __slots__ = ("action", "family", "prefix", "priority", "source", "table")

    def __init__(self, body: bytes) -> None:
        self.family, _, self.prefix, _, table, _, _, self.action, _ = _RTMSG.unpack_from(body)
        found = attributes(body, 12)
        self.source = as_address(self.family, found.get(m.FRA_SRC))
        self.priority = as_int(found.get(m.FRA_PRIORITY))
        self.table = as_int(found.get(m.FRA_TABLE), table)


class Neighbour:
    """Who is at which hardware address on a link."""

    __slots__ = ("address", "family", "index", "mac", "state")

    def __init__(self, body: bytes) -> None:
        self.family, self.index, self.state, _, _ = _NDMSG.unpack_from(body)
        found = attributes(body, 12)
        self.address = as_address(self.family, found.get(m.NDA_DST))
        self.mac = as_mac(found.get(m.NDA_LLADDR))
