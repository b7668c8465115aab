# SPDX-License-Identifier: Apache-2.0
"""Host ports on ::1: the way back of an answer, from the link that leads to the pod to this host's loopback.

    question  ::1 -> ::1:8080       output: to the pod, port 80; postrouting: from the link's own address
    answer    pod:80 -> the link's  prerouting: conntrack makes it one to ::1, but it has not come in by lo

The kernel routes a packet to ::1 only to the link that it has come in by (rt6_need_strict), so that link gets a local
route of ::1. Only translated packets can ever take it: ip6_rcv_core() drops all others that come in with ::1 in them.

br_netfilter translates inside the bridge, before ip6_rcv_core(), which then drops the answer, too. A chain at the
bridge's ingress hands it to lo instead. Not for its address, which a pod may forge, but for its mark: that comes from
conntrack's word that it answers a connection to ::1 (a pod's own marks end at its veth).
"""

import errno

from runtime.linux import netlink_messages as m
from runtime.linux.kernel_error import KernelError
from runtime.linux.netlink import read_sysctl
from runtime.linux.netlink_objects import Link, as_int
from runtime.linux.nft import NETDEV

from ..errors import CniError
from ..records import short_hash
from . import rules
from .rules import MARK, TABLE
from .wiring import Wiring

_METRIC = 1024  # the kernel's own, on lo, has 0: what starts here goes on taking that


def open_way(context: Wiring, address: str) -> bool:
    """Let answers of the pod at address reach ::1; False where they cannot, and a client is better refused at once."""
    try:
        link = context.host.link_by_index(context.host.route_to(address).link)
    except KernelError:
        return False  # this host has no way to the pod at all
    if link.kind == "veth" and link.lower_namespace is None:
        return False  # the host's leg in a VLAN: the bridge behind it translates for another link
    if _translates_inside(link) and not _hand_to_loopback(context, link):
        return False
    local = m.route_body(
        "::1", 128, link=link.index, table=m.RT_TABLE_LOCAL, kind=m.RTN_LOCAL, scope=m.RT_SCOPE_HOST, priority=_METRIC
    )
    context.host.transact(m.add_route(local, f"local ::1 dev {link.name}", append=True).tolerating(errno.EEXIST))
    return True


def _translates_inside(link: Link) -> bool:
    """Whether br_netfilter has the IPv6 rules see what this bridge carries."""
    everywhere = read_sysctl("net/bridge/bridge-nf-call-ip6tables") == "1"
    return link.kind == "bridge" and (everywhere or bool(as_int(link.data.get(m.IFLA_BR_NF_CALL_IP6TABLES))))


def _hand_to_loopback(context: Wiring, bridge: Link) -> bool:
    chain = f"answers-{short_hash(bridge.name, 4)}"
    if context.nft.has_chain(NETDEV, TABLE, chain):
        return True
    try:
        rules.load_base(context.nft)
        rules.load(_text(chain, bridge.name))
    except CniError:
        return False  # a kernel without fwd at a link's ingress
    return True


def _text(chain: str, bridge: str) -> str:
    """Loading it twice is as loading it once. The hardware address is lo's: another host's frames are not looked at."""
    marked = f"meta mark & {MARK:#x} == {MARK:#x}"
    return f"""
add chain inet {TABLE} answers {{ type filter hook prerouting priority -150; }}
flush chain inet {TABLE} answers
add rule inet {TABLE} answers ct direction reply ct original ip6 daddr ::1 meta mark set meta mark | {MARK:#x}
add table netdev {TABLE}
add chain netdev {TABLE} {chain} {{ type filter hook ingress device "{bridge}" priority 0; }}
flush chain netdev {TABLE} {chain}
add rule netdev {TABLE} {chain} ip6 daddr ::1 {marked} ether daddr set 00:00:00:00:00:00 fwd to "lo"
"""
