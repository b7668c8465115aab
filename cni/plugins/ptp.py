# SPDX-License-Identifier: Apache-2.0
"""ptp: a routed veth pair. The host's end is the pod's gateway; nothing is shared with other pods."""

from runtime.linux import netlink_messages as m
from runtime.linux.steps import Step

from ..addresses import BITS, Prefix, parse_ip, to_text
from ..call import Call
from ..errors import INVALID_CONFIG, MISMATCH, NOT_AVAILABLE, CniError, bad_config
from ..ipam import client as ipam
from ..records import Records
from ..results import IP, Interface, Result, Route
from ..wire import interface, masquerade, rules, veth
from ..wire.bridge import quiet_ipv6
from ..wire.masquerade import Masquerade, Masquerading
from ..wire.sandbox import Sandbox
from ..wire.sysctl import forwarding
from ..wire.wiring import Wiring, carry_out, random_mac
from . import bridge
from ._bridge_config import checked_backend, dns_of, mtu_of, prefixes_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class HostSide(Step):
    """The gateway addresses on the host's end, and a route to each address of the pod."""

    __slots__ = ("ips", "name")

    def __init__(self, name: str, ips: list[IP]) -> None:
        self.name = name
        self.ips = ips

    def describe(self) -> str:
        gateways = ", ".join(str(ip.gateway) for ip in self.ips)
        return f"address {gateways} on {self.name}, route {', '.join(ip.prefix.ip for ip in self.ips)} to it"

    def apply(self, context: Wiring) -> None:
        link = context.host.link(self.name)
        quiet_ipv6(self.name)
        requests = []
        for ip in self.ips:
            bits = BITS[ip.prefix.family]
            if ip.gateway:
                requests.append(m.add_address(link.index, ip.gateway, bits))
            body = m.route_body(ip.prefix.ip, bits, link=link.index, scope=m.RT_SCOPE_LINK)
            requests.append(m.add_route(body, ip.prefix.ip, replace=True))
        context.host.transact(*requests)
        context.links[self.name] = link


class InsideSide(Step):
    """Everything inside goes by the gateway, even neighbours of the subnet: they are behind other pairs."""

    __slots__ = ("ifname", "ips", "routes")

    def __init__(self, ifname: str, ips: list[IP], routes: list[Route]) -> None:
        self.ifname = ifname
        self.ips = ips
        self.routes = routes

    def describe(self) -> str:
        addresses = ", ".join(str(ip.prefix) for ip in self.ips)
        routes = "".join(f", route {interface.described(route)}" for route in self.routes)
        return f"address {addresses} on {self.ifname}, all by its gateway{routes}"

    def apply(self, context: Wiring) -> None:
        inside = context.inside
        interface.ConfigureInterface(self.ifname, self.ips, [], prefix_routes=False).apply(context)
        link = inside.netlink.index_of(self.ifname)
        requests = []
        for ip in self.ips:
            if ip.gateway:
                to_gateway = m.route_body(
                    ip.gateway, BITS[ip.prefix.family], link=link, source=ip.prefix.ip, scope=m.RT_SCOPE_LINK
                )
                subnet = ip.prefix.network
                by_gateway = m.route_body(subnet.ip, subnet.length, link=link, gateway=ip.gateway, source=ip.prefix.ip)
                requests += [
                    m.add_route(to_gateway, ip.gateway).tolerating(17),
                    m.add_route(by_gateway, str(subnet)).tolerating(17),
                ]
        requests += [interface.route_request(route, link, onlink=self._is_by_neighbour(route)) for route in self.routes]
        inside.netlink.transact(*requests)

    def _is_by_neighbour(self, route: Route) -> bool:
        """Its gateway is another member of the subnet: no route of ours says that it is on this link."""
        if not route.gateway or route.gateway in {ip.gateway for ip in self.ips}:
            return False
        return any(ip.prefix.contains(*parse_ip(route.gateway)) for ip in self.ips)


def add(call: Call) -> "dict[str, Any]":
    config = Config(call)
    records = Records(call, "ptp")
    with (
        Sandbox(call.netns) as sandbox,
        Wiring(sandbox, in_process=call.in_process) as wiring,
    ):
        interface.refuse_existing(sandbox.netlink, call.ifname, call.netns)
        assigned = ipam.add(call)
        try:
            layout = Layout(call, config, assigned or Result())
            plan = layout.plan()
            bridge.remove_rules_of_before(call, records, wiring)
            records.write(call.key, layout.record())
            carry_out(plan, wiring)
            return layout.result(wiring).to_json(call.version)
        except BaseException:
            try:
                _remove(call, config, records, wiring)
            except (CniError, OSError):
                pass  # the record stays: DEL or GC tries again
            raise


def delete(call: Call) -> None:
    with Wiring(in_process=call.in_process) as wiring:
        _remove(call, Config(call, strict=False), Records(call, "ptp"), wiring)


def check(call: Call) -> None:
    config = Config(call)
    with (
        Sandbox(call.netns) as sandbox,
        Wiring(sandbox, in_process=call.in_process) as wiring,
    ):
        link = interface.check_interface(sandbox.netlink, call.ifname, call.netns, call.previous)
        try:
            host = wiring.host.link_by_index(link.lower)
        except OSError:
            raise CniError(MISMATCH, f"the host's end of {call.ifname} does not exist any more") from None
        if not host.up:
            raise CniError(MISMATCH, f"{host.name} is down")
        for ip in call.previous.container_ips(call.ifname):
            if wiring.host.route_to(ip.prefix.ip).link != host.index:
                raise CniError(MISMATCH, f"the host has no route to {ip.prefix.ip} by {host.name} any more")
        if config.ip_masq:
            record = Records(call, "ptp").read(call.key) or {}
            prefixes = [ip.prefix for ip in call.previous.container_ips(call.ifname)]
            comment = rules.comment_of(call.network, call.key)
            what = Masquerading(call.network, call.container_id, comment, prefixes, config.exceptions)
            masquerade.check(wiring, what, record.get("masquerade"))
    ipam.check(call)


def status(call: Call) -> None:
    try:
        Config(call)
    except CniError as error:
        raise CniError(NOT_AVAILABLE, f"ptp: {error.message}", error.details) from error
    ipam.status(call)
    with Wiring(in_process=call.in_process) as wiring:
        bridge.refuse_dropped_forwarding(wiring)


def gc(call: Call) -> None:
    bridge.remove_stale(call, Records(call, "ptp"))
    ipam.gc(call)


def explain(call: Call) -> list[str]:
    layout = Layout(call, Config(call), ipam.preview(call) or Result())
    return [*ipam.explain(call), *(step.describe() for step in layout.plan())]


class Config:
    """Everything that the user may choose."""

    __slots__ = ("backend", "dns", "exceptions", "ip_masq", "mtu", "veth_prefix")

    def __init__(self, call: Call, *, strict: bool = True) -> None:
        fields = call.fields
        self.ip_masq = fields.boolean("ipMasq")
        self.backend = fields.text("ipMasqBackend") or "nftables"
        self.exceptions = prefixes_of(fields, "nonMasqueradeCIDRs")
        self.mtu = mtu_of(fields)
        self.dns = dns_of(fields)
        self.veth_prefix = fields.text("vethPrefix") or "veth"
        if strict:
            call.check_args(("IP", "MAC", "GATEWAY"))
            if not ipam.plugin_of(call):
                raise bad_config("ipam.type", None, "ptp needs an IPAM plugin")


class Layout:
    """What an ADD makes, decided."""

    __slots__ = ("assigned", "call", "config", "host", "host_mac", "inside_mac", "ips")

    def __init__(self, call: Call, config: Config, assigned: Result) -> None:
        self.call = call
        self.config = config
        self.assigned = assigned
        self.host = veth.host_name(config.veth_prefix, call.network, call.key)
        self.host_mac, self.inside_mac = random_mac(), random_mac()
        self.ips = [IP(ip.prefix, ip.gateway or _first(ip.prefix), 1) for ip in assigned.ips]

    def plan(self) -> list[Step]:
        if not self.ips and self.call.command == "ADD":
            raise CniError(INVALID_CONFIG, "IPAM plugin returned missing IP config")
        routes = interface.with_gateways(self.assigned.routes, self.ips)
        plan: list[Step] = [
            veth.CreateVeth(
                self.host, self.call.ifname,
                host_mac=self.host_mac, inside_mac=self.inside_mac, mtu=self.config.mtu, master="",
            ),
            *forwarding({ip.prefix.family for ip in self.ips}),
            HostSide(self.host, self.ips),
            InsideSide(self.call.ifname, self.ips, routes),
        ]  # fmt: skip
        if self.config.ip_masq:
            checked_backend(self.config.backend)
            prefixes = [ip.prefix for ip in self.ips]
            comment = rules.comment_of(self.call.network, self.call.key)
            what = Masquerading(self.call.network, self.call.container_id, comment, prefixes, self.config.exceptions)
            plan.append(Masquerade(what, self.config.backend))
        return plan

    def record(self) -> "dict[str, Any]":
        return {
            "host": self.host,
            "mac": self.inside_mac,
            "addresses": [str(ip.prefix) for ip in self.ips],
            "masquerade": self.config.backend if self.config.ip_masq else "",
            "spared": [str(prefix) for prefix in self.config.exceptions],
            "pod": self.call.pod,
        }

    def result(self, wiring: Wiring) -> Result:
        host = wiring.links[self.host]
        interfaces = [
            Interface(self.host, self.host_mac, mtu=host.mtu),
            Interface(self.call.ifname, self.inside_mac, self.call.netns, mtu=host.mtu),
        ]
        return Result(interfaces, self.ips, self.assigned.routes, self.config.dns or self.assigned.dns)


def _first(prefix: Prefix) -> str:
    return to_text(prefix.family, prefix.first + 1)


def _remove(call: Call, config: Config, records: Records, wiring: Wiring) -> None:
    bridge.remove_attachment(call, records, wiring, veth_prefix=config.veth_prefix, may_have_rules=config.ip_masq)
