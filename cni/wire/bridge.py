# SPDX-License-Identifier: Apache-2.0
"""The bridge itself: there, up, with its gateway addresses and VLANs."""

import errno

from runtime.linux import netlink_messages as m
from runtime.linux.kernel_error import KernelError
from runtime.linux.netlink import write_sysctl
from runtime.linux.netlink_objects import Link
from runtime.linux.steps import Step

from ..addresses import Prefix, parse_prefix
from ..errors import CONFLICT, UNSUPPORTED_KERNEL, CniError
from .wiring import Wiring, random_mac

_LAST_VLAN = 4094


class EnsureBridge(Step):
    """Find the bridge or make it, and set it up."""

    __slots__ = ("mtu", "name", "promiscuous", "vlan_aware")

    def __init__(self, name: str, *, mtu: int, promiscuous: bool, vlan_aware: bool) -> None:
        self.name = name
        self.mtu = mtu
        self.promiscuous = promiscuous
        self.vlan_aware = vlan_aware

    def describe(self) -> str:
        words = [f"MTU {self.mtu}"] * bool(self.mtu) + ["promiscuous"] * self.promiscuous
        words += ["VLAN filtering"] * self.vlan_aware
        return f"ensure bridge {self.name} up" + (f" ({', '.join(words)})" if words else "")

    def apply(self, context: Wiring) -> None:
        link = context.host.find_link(self.name)
        if link is None:
            self._create(context)
            link = context.host.link(self.name)
        if link.kind != "bridge":
            raise CniError(
                CONFLICT, f"{self.name} already exists but is not a bridge: it is a {link.kind or 'physical'} link"
            )
        wanted = m.IFF_UP | (m.IFF_PROMISC if self.promiscuous else 0)
        if link.flags & wanted != wanted:
            context.host.transact(m.set_link(link.index, flags=wanted, change=wanted))
        context.links[self.name] = link

    def _create(self, context: Wiring) -> None:
        # With an address of its own the bridge keeps it when ports come and go; else it has its lowest port's.
        attributes = m.link_attributes(mac=random_mac(), mtu=self.mtu)
        data = m.u8(m.IFLA_BR_VLAN_FILTERING, 1) if self.vlan_aware else b""
        request = m.new_link(self.name, "bridge", attributes, data, up=True).tolerating(errno.EEXIST)
        try:
            context.host.transact(request)
        except KernelError as error:
            if self.vlan_aware and error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                raise CniError(
                    UNSUPPORTED_KERNEL,
                    f"cannot create bridge {self.name} with VLAN filtering: this kernel lacks VLAN-aware bridges",
                    "vlan and vlanTrunk need CONFIG_BRIDGE_VLAN_FILTERING",
                ) from error
            raise
        quiet_ipv6(self.name)


def quiet_ipv6(name: str) -> None:
    """Before a new link of ours has carrier: no router advertisements, no duplicate detection on it.

    While its link-local address is tentative the kernel solicits nobody for a forwarded packet (ipv6_get_lladdr()
    finds no source), so pods would be deaf for the first two seconds.
    """
    for key, value in (("accept_ra", "0"), ("accept_dad", "0")):
        try:
            write_sysctl(f"net/ipv6/conf/{name}/{key}", value)
        except KernelError as error:  # a kernel without IPv6
            if error.errno != errno.ENOENT:
                raise


class GatewayAddress(Step):
    """The bridge (or its VLAN interface) is the gateway of a subnet."""

    __slots__ = ("force", "name", "prefix")

    def __init__(self, name: str, prefix: Prefix, *, force: bool) -> None:
        self.name = name
        self.prefix = prefix
        self.force = force

    def describe(self) -> str:
        return f"ensure address {self.prefix} on {self.name}"

    def apply(self, context: Wiring) -> None:
        link = context.links[self.name]
        host = context.host
        wanted = str(self.prefix)
        for have in host.addresses(link.index, self.prefix.family):
            if have.text == wanted:
                return
            there = parse_prefix(have.text)
            if have.scope == m.RT_SCOPE_LINK or not (self.prefix.family == 2 or there.overlaps(self.prefix)):
                continue  # several IPv6 subnets may share a link
            if not self.force:
                raise CniError(
                    CONFLICT,
                    f"{self.name} already has an IP address different from {self.prefix}: {there}",
                    "forceAddress: true would replace it",
                )
            host.transact(m.delete_address(link.index, have.address, have.prefix).tolerating(errno.EADDRNOTAVAIL))
        # Without duplicate detection: nobody else is on a bridge that we have made, and pods need their gateway now.
        host.transact(m.add_address(link.index, self.prefix.ip, self.prefix.length).tolerating(errno.EEXIST))
        if self.prefix.family == 10:
            from . import solicited

            solicited.wait(self.name, link.index, [self.prefix], dad=False)


class PortVlans(Step):
    """Which VLANs a port carries: one untagged, a trunk tagged."""

    __slots__ = ("keep_default", "port", "trunk", "vlan")

    def __init__(self, port: str, vlan: int, trunk: list[tuple[int, int]], *, keep_default: bool) -> None:
        self.port = port
        self.vlan = vlan or 1  # what a trunk carries without a tag, where the user names nothing
        self.trunk = trunk
        self.keep_default = keep_default

    def describe(self) -> str:
        words = [f"VLAN {self.vlan} untagged"]
        words += [f"VLAN {first}" if first == last else f"VLANs {first}-{last}" for first, last in self.trunk]
        return f"let port {self.port} carry {', '.join(words)}"

    def apply(self, context: Wiring) -> None:
        port = context.links.get(self.port) or context.host.link(self.port)
        requests = []
        if not self.keep_default:
            requests.append(m.bridge_vlans(port.index, [(1, _LAST_VLAN)], delete=True))
        if self.trunk:
            requests.append(m.bridge_vlans(port.index, self.trunk))
        untagged = m.BRIDGE_VLAN_PVID | m.BRIDGE_VLAN_UNTAGGED  # last: the trunk may hold the same one
        requests.append(m.bridge_vlans(port.index, [(self.vlan, self.vlan)], flags=untagged))
        context.host.transact(*requests)


class VlanGateway(Step):
    """The host's leg in one VLAN of the bridge: a pair, one end in the bridge, the other named <bridge>.<vlan>."""

    __slots__ = ("bridge", "mtu", "name", "vlan")

    def __init__(self, bridge: str, vlan: int, mtu: int) -> None:
        self.bridge = bridge
        self.vlan = vlan
        self.mtu = mtu
        self.name = f"{bridge}.{vlan}"

    def describe(self) -> str:
        return f"ensure interface {self.name} in VLAN {self.vlan} of {self.bridge}"

    def apply(self, context: Wiring) -> None:
        link = context.host.find_link(self.name)
        if link is None:
            port_name = f"kv{context.links[self.bridge].index}.{self.vlan}"[:15]
            port = m.link_attributes(name=port_name, mtu=self.mtu)
            own = m.link_attributes(mtu=self.mtu)
            context.host.transact(m.new_link(self.name, "veth", own, m.veth_peer(port)).tolerating(errno.EEXIST))
            end = context.host.link(port_name)
            context.host.transact(
                m.set_link(end.index, m.link_attributes(master=context.links[self.bridge].index), flags=1, change=1)
            )
            PortVlans(port_name, self.vlan, [], keep_default=False).apply(context)
            link = context.host.link(self.name)
            context.host.transact(m.link_up(link.index))
        context.links[self.name] = link


def find_bridge(context: Wiring, name: str) -> Link | None:
    link = context.host.find_link(name)
    return link if link is not None and link.kind == "bridge" else None
