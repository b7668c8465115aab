# SPDX-License-Identifier: Apache-2.0
"""Netlink requests as values: what to ask, of which object, in the kernel's bytes. Pure; nothing is sent here."""

import struct
from _socket import AF_INET, AF_INET6, inet_pton

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# linux/netlink.h
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
NLA_F_NESTED = 0x8000
# linux/rtnetlink.h
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46
# linux/if.h, linux/if_link.h
IFF_UP, IFF_LOOPBACK, IFF_NOARP, IFF_PROMISC, IFF_ALLMULTI = 0x1, 0x8, 0x80, 0x100, 0x200
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_PROTINFO = 1, 3, 4, 5, 10, 12
IFLA_TXQLEN, IFLA_OPERSTATE, IFLA_LINKINFO, IFLA_IFALIAS, IFLA_AF_SPEC = 13, 16, 18, 20, 26
IFLA_NET_NS_FD, IFLA_EXT_MASK, IFLA_PROMISCUITY, IFLA_LINK_NETNSID = 28, 29, 30, 37
IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 31, 32
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
VETH_INFO_PEER = 1
IFLA_INET_CONF, IPV4_DEVCONF_ARP_NOTIFY = 1, 22  # linux/if_link.h, linux/ip.h
IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 4, 33
IFLA_BR_VLAN_FILTERING, IFLA_BR_NF_CALL_IP6TABLES, IFLA_BR_VLAN_DEFAULT_PVID = 7, 37, 39
IFLA_BRIDGE_FLAGS, IFLA_BRIDGE_VLAN_INFO = 0, 2
BRIDGE_FLAGS_SELF = 2
BRIDGE_VLAN_PVID, BRIDGE_VLAN_UNTAGGED, BRIDGE_VLAN_RANGE_BEGIN, BRIDGE_VLAN_RANGE_END = 2, 4, 8, 16
RTEXT_FILTER_BRVLAN_COMPRESSED, RTEXT_FILTER_SKIP_STATS = 4, 8
# linux/if_addr.h
IFA_ADDRESS, IFA_LOCAL, IFA_LABEL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 3, 4, 8
IFA_F_NODAD, IFA_F_DADFAILED, IFA_F_TENTATIVE, IFA_F_PERMANENT, IFA_F_NOPREFIXROUTE = 0x02, 0x08, 0x40, 0x80, 0x200
# linux/rtnetlink.h: routes and rules
RTA_DST, RTA_IIF, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS, RTA_TABLE = 1, 3, 4, 5, 6, 7, 8, 15
RTA_MULTIPATH = 9
RTAX_MTU, RTAX_ADVMSS = 2, 8
RT_TABLE_MAIN, RT_TABLE_LOCAL = 254, 255
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST = 0, 253, 254
RTN_UNICAST, RTN_LOCAL = 1, 2
RTPROT_BOOT, RTPROT_STATIC = 3, 4
RTNH_F_ONLINK = 4
FRA_DST, FRA_SRC, FRA_PRIORITY, FRA_TABLE = 1, 2, 6, 15
FR_ACT_TO_TBL = 1
NDA_DST, NDA_LLADDR = 1, 2
NUD_PERMANENT = 0x80

_ATTRIBUTE = struct.Struct("=HH")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=B3xiHBB")
_U16, _U32 = struct.Struct("=H"), struct.Struct("=I")


class Request:
    """One message to the kernel, with the words for an error about it."""

    __slots__ = ("arguments", "body", "call", "flags", "kind", "tolerated")

    def __init__(
        self,
        call: str,
        arguments: "tuple[str | int | None, ...]",
        kind: int,
        flags: int,
        body: bytes,
        tolerated: "tuple[int, ...]" = (),
    ) -> None:
        self.call = call  # what a person would name: "RTM_NEWADDR"
        self.arguments = arguments
        self.kind = kind
        self.flags = flags
        self.body = body
        self.tolerated = tolerated  # errnos that mean: it is already so

    def tolerating(self, *errnos: int) -> "Request":
        return Request(self.call, self.arguments, self.kind, self.flags, self.body, errnos)


def attribute(kind: int, payload: bytes) -> bytes:
    length = 4 + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length & 3)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, bytes((value,)))


def u16(kind: int, value: int) -> bytes:
    return attribute(kind, _U16.pack(value))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, _U32.pack(value))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


_SKIP_STATS = u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)


def packed_address(address: str) -> "tuple[int, bytes]":
    """The family and the bytes of an address in text."""
    family = AF_INET6 if ":" in address else AF_INET
    return family, inet_pton(family, address)


def packed_mac(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


# -- links -------------------------------------------------------------------------------------------------------------


def link_attributes(
    *,
    name: str | None = None,
    mtu: int | None = None,
    mac: str | None = None,
    master: int | None = None,
    lower: int | None = None,
    lower_namespace: int | None = None,
    alias: str | None = None,
    queue_length: int | None = None,
    netns_fd: int | None = None,
) -> bytes:
    """What creating and changing a link have in common. master=0 releases a port."""
    parts = []
    if name is not None:
        parts.append(text(IFLA_IFNAME, name))
    if mtu:
        parts.append(u32(IFLA_MTU, mtu))
    if mac:
        parts.append(attribute(IFLA_ADDRESS, packed_mac(mac)))
    if master is not None:
        parts.append(u32(IFLA_MASTER, master))
    if lower is not None:
        parts.append(u32(IFLA_LINK, lower))
    if lower_namespace is not None:
        parts.append(u32(IFLA_LINK_NETNSID, lower_namespace))
    if alias is not None:
        parts.append(attribute(IFLA_IFALIAS, alias.encode()))
    if queue_length is not None:
        parts.append(u32(IFLA_TXQLEN, queue_length))
    if netns_fd is not None:
        parts.append(u32(IFLA_NET_NS_FD, netns_fd))
    return b"".join(parts)


def new_link(name: str, kind: str, attributes: bytes = b"", data: bytes = b"", *, up: bool = False) -> Request:
    """Make a link; fails with EEXIST if the name is taken. data is the kind's own part."""
    info = text(IFLA_INFO_KIND, kind) + (attribute(IFLA_INFO_DATA | NLA_F_NESTED, data) if data else b"")
    flags = IFF_UP if up else 0
    body = _IFINFO.pack(0, 0, 0, flags, flags) + text(IFLA_IFNAME, name) + attributes + nested(IFLA_LINKINFO, info)
    return Request("RTM_NEWLINK", (kind, name), RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def veth_peer(attributes: bytes) -> bytes:
    """The data of a veth: its other end, which may be born in another namespace (netns_fd in its attributes).

    It cannot be born up: veth_open() refuses with ENOTCONN while the two ends do not know each other yet.
    """
    return nested(VETH_INFO_PEER, _IFINFO.pack(0, 0, 0, 0, 0), attributes)


# For both ends of a veth. It is born with a queue per processor and then told to use one, which waits for an RCU grace
# period for each end (netif_set_real_num_tx_queues in veth_init_queues); born with one, it waits for none.
ONE_QUEUE = u32(IFLA_NUM_TX_QUEUES, 1) + u32(IFLA_NUM_RX_QUEUES, 1)


def set_link(index: int, attributes: bytes = b"", *, flags: int = 0, change: int = 0) -> Request:
    """Change an existing link; flags under the mask change are set as given."""
    body = _IFINFO.pack(0, 0, index, flags, change) + attributes
    return Request("RTM_NEWLINK", (f"link {index}",), RTM_NEWLINK, 0, body)


def link_up(index: int) -> Request:
    return set_link(index, flags=IFF_UP, change=IFF_UP)


def link_down(index: int) -> Request:
    return set_link(index, change=IFF_UP)


def announce_addresses(index: int) -> Request:
    """net.ipv4.conf.<link>.arp_notify = 1 without a visit to /proc/sys of its namespace."""
    setting = nested(IFLA_INET_CONF, u32(IPV4_DEVCONF_ARP_NOTIFY, 1))
    return set_link(index, nested(IFLA_AF_SPEC, nested(AF_INET, setting)))


def delete_link(index: int = 0, name: str | None = None) -> Request:
    body = _IFINFO.pack(0, 0, index, 0, 0) + (text(IFLA_IFNAME, name) if name else b"")
    return Request("RTM_DELLINK", (name or f"link {index}",), RTM_DELLINK, 0, body)


def get_link(index: int = 0, name: str | None = None) -> Request:
    body = _IFINFO.pack(0, 0, index, 0, 0) + _SKIP_STATS
    body += text(IFLA_IFNAME, name) if name else b""
    return Request("RTM_GETLINK", (name or f"link {index}",), RTM_GETLINK, 0, body)


def dump_links() -> Request:
    body = _IFINFO.pack(0, 0, 0, 0, 0) + _SKIP_STATS
    return Request("RTM_GETLINK", ("all links",), RTM_GETLINK, NLM_F_DUMP, body)


def bridge_port(index: int, *, hairpin: bool | None = None, isolated: bool | None = None) -> Request:
    """Flags of a port; None leaves one as it is."""
    parts = []
    if hairpin is not None:
        parts.append(u8(IFLA_BRPORT_MODE, hairpin))
    if isolated is not None:
        parts.append(u8(IFLA_BRPORT_ISOLATED, isolated))
    body = _IFINFO.pack(7, 0, index, 0, 0) + nested(IFLA_PROTINFO, *parts)  # 7: PF_BRIDGE
    return Request("RTM_SETLINK", (f"bridge port {index}",), RTM_SETLINK, 0, body)


def bridge_vlans(
    index: int, vlans: "Iterable[tuple[int, int]]", *, flags: int = 0, delete: bool = False, of_bridge: bool = False
) -> Request:
    """Add (or delete) ranges of VLANs (first, last) to a port, or to the bridge itself."""
    parts = [u16(IFLA_BRIDGE_FLAGS, BRIDGE_FLAGS_SELF)] if of_bridge else []
    for first, last in vlans:
        ends = ((first, 0),) if first == last else ((first, BRIDGE_VLAN_RANGE_BEGIN), (last, BRIDGE_VLAN_RANGE_END))
        parts += [attribute(IFLA_BRIDGE_VLAN_INFO, struct.pack("=HH", flags | end, vid)) for vid, end in ends]
    kind, call = (RTM_DELLINK, "RTM_DELLINK") if delete else (RTM_SETLINK, "RTM_SETLINK")
    body = _IFINFO.pack(7, 0, index, 0, 0) + nested(IFLA_AF_SPEC, *parts)
    return Request(call, (f"VLANs of port {index}",), kind, 0, body)


def dump_bridge_vlans() -> Request:
    body = _IFINFO.pack(7, 0, 0, 0, 0) + u32(IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN_COMPRESSED)
    return Request("RTM_GETLINK", ("bridge VLANs",), RTM_GETLINK, NLM_F_DUMP, body)


# -- addresses ---------------------------------------------------------------------------------------------------------


def _address_body(index: int, family: int, packed: bytes, prefix: int, flags: int) -> bytes:
    body = _IFADDR.pack(family, prefix, flags & 0xFF, 0, index)
    body += attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    return body + u32(IFA_FLAGS, flags) if flags > 0xFF else body


def add_address(
    index: int, address: str, prefix: int, *, duplicate_detection: bool = False, prefix_route: bool = True
) -> Request:
    """Give a link an address. Without duplicate detection an IPv6 address is usable at once, not a second later."""
    family, packed = packed_address(address)
    flags = 0 if duplicate_detection or family == AF_INET else IFA_F_NODAD
    body = _address_body(index, family, packed, prefix, flags | (0 if prefix_route else IFA_F_NOPREFIXROUTE))
    if family == AF_INET and prefix < 31:
        host_bits = (1 << (32 - prefix)) - 1
        body += attribute(IFA_BROADCAST, (int.from_bytes(packed, "big") | host_bits).to_bytes(4, "big"))
    what = (f"{address}/{prefix}", f"link {index}")
    return Request("RTM_NEWADDR", what, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)


def delete_address(index: int, address: str, prefix: int) -> Request:
    what = (f"{address}/{prefix}", f"link {index}")
    return Request("RTM_DELADDR", what, RTM_DELADDR, 0, _address_body(index, *packed_address(address), prefix, 0))


def dump_addresses(index: int = 0, family: int = 0) -> Request:
    body = _IFADDR.pack(family, 0, 0, 0, index)
    return Request("RTM_GETADDR", (f"link {index}",), RTM_GETADDR, NLM_F_DUMP, body)


# -- routes, rules, neighbours -----------------------------------------------------------------------------------------


def route_body(
    destination: str,
    prefix: int,
    *,
    link: int = 0,
    gateway: str | None = None,
    source: str | None = None,
    priority: int | None = None,
    table: int = RT_TABLE_MAIN,
    scope: int | None = None,
    kind: int = RTN_UNICAST,
    protocol: int = RTPROT_BOOT,
    mtu: int | None = None,
    advmss: int | None = None,
    onlink: bool = False,
) -> bytes:
    """The bytes that name a route; scope defaults to link without a gateway, as ip(8) does."""
    family, packed = packed_address(destination)
    if scope is None:
        scope = RT_SCOPE_UNIVERSE if gateway or family == AF_INET6 else RT_SCOPE_LINK
    small_table = table if table < 256 else 0
    flags = RTNH_F_ONLINK if onlink else 0
    parts = [_RTMSG.pack(family, prefix, 0, 0, small_table, protocol, scope, kind, flags), u32(RTA_TABLE, table)]
    if prefix:
        parts.append(attribute(RTA_DST, packed))
    if gateway:
        parts.append(attribute(RTA_GATEWAY, packed_address(gateway)[1]))
    if source:
        parts.append(attribute(RTA_PREFSRC, packed_address(source)[1]))
    if link:
        parts.append(u32(RTA_OIF, link))
    if priority is not None:
        parts.append(u32(RTA_PRIORITY, priority))
    metrics = (u32(RTAX_MTU, mtu) if mtu else b"") + (u32(RTAX_ADVMSS, advmss) if advmss else b"")
    if metrics:
        parts.append(nested(RTA_METRICS, metrics))
    return b"".join(parts)


def add_route(body: bytes, what: str, *, append: bool = False, replace: bool = False) -> Request:
    """Add the route of route_body(); append makes a second path to the same destination where the kernel allows it."""
    flags = NLM_F_CREATE | (NLM_F_APPEND if append else NLM_F_REPLACE if replace else NLM_F_EXCL)
    return Request("RTM_NEWROUTE", (what,), RTM_NEWROUTE, flags, body)


def delete_route(body: bytes, what: str) -> Request:
    return Request("RTM_DELROUTE", (what,), RTM_DELROUTE, 0, body)


def dump_routes(family: int, table: int = 0) -> Request:
    """Routes of one family; table 0 means of every table (strict checking filters in the kernel)."""
    body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + (u32(RTA_TABLE, table) if table else b"")
    return Request("RTM_GETROUTE", (f"table {table or 'any'}",), RTM_GETROUTE, NLM_F_DUMP, body)


def route_to(address: str) -> Request:
    """Ask which way the kernel would send a packet to address."""
    family, packed = packed_address(address)
    body = _RTMSG.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, packed)
    return Request("RTM_GETROUTE", (address,), RTM_GETROUTE, 0, body)


def _rule_body(family: int, source: str | None, prefix: int, table: int, priority: int | None) -> bytes:
    small_table = table if table < 256 else 0
    parts = [
        _RTMSG.pack(family, 0, prefix if source else 0, 0, small_table, 0, 0, FR_ACT_TO_TBL, 0),
        u32(FRA_TABLE, table),
    ]
    if source:
        parts.append(attribute(FRA_SRC, packed_address(source)[1]))
    if priority is not None:
        parts.append(u32(FRA_PRIORITY, priority))
    return b"".join(parts)


def add_rule(family: int, *, source: str | None, prefix: int, table: int, priority: int | None = None) -> Request:
    body = _rule_body(family, source, prefix, table, priority)
    return Request(
        "RTM_NEWRULE", (f"from {source}/{prefix} table {table}",), RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, body
    )


def delete_rule(family: int, *, source: str | None, prefix: int, table: int, priority: int | None = None) -> Request:
    body = _rule_body(family, source, prefix, table, priority)
    return Request("RTM_DELRULE", (f"from {source}/{prefix} table {table}",), RTM_DELRULE, 0, body)


def dump_rules(family: int) -> Request:
    return Request("RTM_GETRULE", ("all rules",), RTM_GETRULE, NLM_F_DUMP, _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))


def add_neighbour(index: int, address: str, mac: str) -> Request:
    """A permanent neighbour entry: address is at mac."""
    family, packed = packed_address(address)
    body = (
        _NDMSG.pack(family, index, NUD_PERMANENT, 0, 0)
        + attribute(NDA_DST, packed)
        + attribute(NDA_LLADDR, packed_mac(mac))
    )
    return Request("RTM_NEWNEIGH", (address, mac), RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


def delete_neighbour(index: int, address: str) -> Request:
    family, packed = packed_address(address)
    body = _NDMSG.pack(family, index, 0, 0, 0) + attribute(NDA_DST, packed)
    return Request("RTM_DELNEIGH", (address, f"link {index}"), RTM_DELNEIGH, 0, body)


def dump_neighbours(index: int = 0, family: int = 0) -> Request:
    body = _NDMSG.pack(family, 0, 0, 0, 0) + (u32(8, index) if index else b"")  # 8: NDA_IFINDEX
    return Request("RTM_GETNEIGH", (f"link {index}",), RTM_GETNEIGH, NLM_F_DUMP, body)
