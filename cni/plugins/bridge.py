# SPDX-License-Identifier: Apache-2.0
"""bridge: a veth pair between the container and a bridge of the host, addresses from an IPAM plugin.

ADD    config -> IPAM ADD -> plan (pure) -> record -> steps -> result      any failure: remove(), IPAM DEL
DEL    record (or what the names tell) -> rules, IPAM DEL, link, forget the record
"""

import os

from ..addresses import BITS, Prefix, parse_ip, to_text
from ..call import Call
from ..errors import CONFLICT, MISMATCH, NOT_AVAILABLE, CniError
from ..ipam import client as ipam
from ..records import Records
from ..results import IP, Interface, Result
from ..wire import bridge as wire_bridge
from ..wire import interface, masquerade, rules, veth
from ..wire.masquerade import Masquerade, Masquerading
from ..wire.sandbox import Sandbox, open_if_there
from ..wire.sysctl import forwarding
from ..wire.wiring import Wiring, carry_out, random_mac
from ._bridge_config import Config, checked_backend, requested_mac, with_preset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.linux.steps import Step


def add(call: Call) -> "dict[str, Any]":
    call = with_preset(call)
    config, mac = Config.of(call), requested_mac(call)
    records = Records(call, "bridge")
    with (
        Sandbox(call.netns) as sandbox,
        Wiring(sandbox, in_process=call.in_process) as wiring,
    ):
        interface.refuse_existing(sandbox.netlink, call.ifname, call.netns)
        assigned = ipam.add(call)
        try:
            layout = Layout(call, config, assigned, mac)
            plan = layout.plan()
            remove_rules_of_before(call, records, wiring)
            records.write(call.key, layout.record())
            carry_out(plan, wiring)
            return layout.result(wiring).to_json(call.version)
        except BaseException:
            _undo(call, config, records, wiring)
            raise


def delete(call: Call) -> None:
    call = with_preset(call)
    config = Config.for_removal(call)
    records = Records(call, "bridge")
    with Wiring(in_process=call.in_process) as wiring:
        _remove(call, config, records, wiring)


def check(call: Call) -> None:
    from . import _bridge_check

    call = with_preset(call)
    config = Config.of(call)
    previous = call.previous
    records = Records(call, "bridge")
    with (
        Sandbox(call.netns) as sandbox,
        Wiring(sandbox, in_process=call.in_process) as wiring,
    ):
        link = interface.check_interface(sandbox.netlink, call.ifname, call.netns, previous)
        _bridge_check.check_outside(call, config, wiring, link.lower)
        record = records.read(call.key) or {}
        _bridge_check.check_rules(call, config, wiring, record, link.mac)
    ipam.check(call)


def status(call: Call) -> None:
    """Whether an ADD would succeed: the IPAM plugin's word, ours on names and forwarding."""
    call = with_preset(call)
    try:
        config = Config.of(call)
    except CniError as error:
        raise CniError(NOT_AVAILABLE, f"bridge: {error.message}", error.details) from error
    ipam.status(call)
    with Wiring(in_process=call.in_process) as wiring:
        link = wiring.host.find_link(config.bridge)
        if link is not None and link.kind != "bridge":
            raise CniError(NOT_AVAILABLE, f"bridge: {config.bridge} exists but is not a bridge")
        if config.is_gateway and not config.layer_two:
            refuse_dropped_forwarding(wiring)


def gc(call: Call) -> None:
    call = with_preset(call)
    remove_stale(call, Records(call, "bridge"))
    ipam.gc(call)


def remove_stale(call: Call, records: Records) -> None:
    """Remove every recorded attachment that is not valid any more; one that fails does not stop the others."""
    with Wiring(in_process=call.in_process) as wiring:

        def remove(key: str, record: "dict[str, Any]") -> None:
            _remove_rules(call, wiring, key, record)
            _delete_soon(call, records, wiring, record["host"])

        failures = records.remove_stale(call.valid_attachments(), remove)
        for name in _leftovers(records).all():
            _delete_soon(call, records, wiring, name)
        records.sweep()
        rules.drop_unused_policies(wiring.nft)
    if failures:
        raise CniError(CONFLICT, f"some attachments could not be removed: {'; '.join(failures)}")


def explain(call: Call) -> list[str]:
    """Every effect of an ADD, in order."""
    call = with_preset(call)
    config = Config.of(call)
    layout = Layout(call, config, ipam.preview(call), requested_mac(call))
    return [*ipam.explain(call), *(step.describe() for step in layout.plan())]


def preview_result(call: Call) -> Result:
    """What an ADD would answer: for explaining the plugins that follow."""
    call = with_preset(call)
    layout = Layout(call, Config.of(call), ipam.preview(call), requested_mac(call))
    names = [
        (layout.config.bridge, "", ""),
        (layout.host, layout.host_mac, ""),
        (call.ifname, layout.inside_mac, call.netns),
    ]
    return Result([Interface(*name) for name in names], layout.ips, layout.routes)


class Layout:
    """What an ADD makes, decided: names, addresses, steps. Pure but for the random MACs."""

    __slots__ = ("assigned", "call", "comment", "config", "host", "host_mac", "inside_mac", "ips", "routes")

    def __init__(self, call: Call, config: Config, assigned: Result | None, mac: str) -> None:
        self.call = call
        self.config = config
        self.assigned = assigned or Result()
        self.host = veth.host_name(config.veth_prefix, call.network, call.key)
        self.host_mac, self.inside_mac = random_mac(), mac or self._inside_mac()
        self.comment = rules.comment_of(call.network, call.key)
        if assigned is not None and not assigned.ips:
            raise CniError(MISMATCH, "IPAM plugin returned missing IP config")
        self.ips = [IP(ip.prefix, ip.gateway or self._gateway(ip.prefix), 2) for ip in self.assigned.ips]
        routes = list(self.assigned.routes)
        if config.is_default_gateway:
            routes += interface.default_routes(routes, self.ips)
        self.routes = routes

    def _inside_mac(self) -> str:
        """macFromAddress: 02:42 and the IPv4 address, as docker has it: an address that is used again, with a neighbour
        entry that somebody still holds, has the same MAC again."""
        first = next((ip.prefix for ip in self.assigned.ips if BITS[ip.prefix.family] == 32), None)
        if first is None or not self.config.mac_from_address:
            return random_mac()
        return ":".join(f"{octet:02x}" for octet in (0x02, 0x42, *first.address.to_bytes(4, "big")))

    def _gateway(self, prefix: Prefix) -> str | None:
        """A gateway that IPAM has not named is the subnet's first address."""
        return to_text(prefix.family, prefix.first + 1) if self.config.is_gateway else None

    def record(self) -> "dict[str, Any]":
        """All that removing needs to know."""
        config = self.config
        return {
            "host": self.host,
            "bridge": config.bridge,
            "mac": self.inside_mac,
            "guarded": config.macspoofchk,
            "addresses": [str(ip.prefix) for ip in self.ips],
            "masquerade": config.masquerade_backend if config.ip_masq else "",
            "spared": [str(prefix) for prefix in config.exceptions],
            "pod": self.call.pod,
        }

    def plan(self) -> "list[Step]":
        config = self.config
        vlan_aware = bool(config.vlan or config.trunk)
        plan: list[Step] = [
            wire_bridge.EnsureBridge(
                config.bridge, mtu=config.mtu, promiscuous=config.promiscuous, vlan_aware=vlan_aware
            ),
            veth.CreateVeth(
                self.host, self.call.ifname,
                host_mac=self.host_mac, inside_mac=self.inside_mac, mtu=config.mtu, master=config.bridge,
            ),
        ]  # fmt: skip
        if vlan_aware:
            plan.append(
                wire_bridge.PortVlans(self.host, config.vlan, config.trunk, keep_default=config.preserve_default_vlan)
            )
        if config.hairpin or config.isolated:
            plan.append(veth.PortFlags(self.host, hairpin=config.hairpin, isolated=config.isolated))
        if config.macspoofchk:
            from ..wire import spoof

            plan.append(spoof.GuardSource(self.host, self.inside_mac, self.comment))
        if config.disable_container_interface:
            return plan
        plan += self._gateways()
        routes = interface.with_gateways(self.routes, self.ips)
        plan.append(
            interface.ConfigureInterface(
                self.call.ifname, self.ips, routes, duplicate_detection=config.duplicate_detection
            )
        )
        if config.ip_masq and self.ips:
            checked_backend(config.masquerade_backend)
            plan.append(Masquerade(self.masquerading(), config.masquerade_backend))
        plan.append(veth.WaitUntilUp(self.host, config.bridge))
        return plan

    def _gateways(self) -> "list[Step]":
        config = self.config
        if not config.is_gateway:
            return []
        name = config.bridge
        plan: list[Step] = []
        if config.vlan and self.ips:
            leg = wire_bridge.VlanGateway(config.bridge, config.vlan, config.mtu)
            name = leg.name
            plan.append(leg)
        for ip in self.ips:
            if ip.gateway:
                family, number = parse_ip(ip.gateway)
                gateway = Prefix(family, number, ip.prefix.length)
                plan.append(wire_bridge.GatewayAddress(name, gateway, force=config.force_address))
        return plan + forwarding({ip.prefix.family for ip in self.ips})

    def masquerading(self) -> Masquerading:
        prefixes = [ip.prefix for ip in self.ips]
        return Masquerading(self.call.network, self.call.container_id, self.comment, prefixes, self.config.exceptions)

    def result(self, wiring: Wiring) -> Result:
        bridge = wiring.links[self.config.bridge]
        host = wiring.links.get(self.host) or wiring.host.link(self.host)
        interfaces = [
            Interface(self.config.bridge, bridge.mac, mtu=bridge.mtu),
            Interface(self.host, self.host_mac, mtu=host.mtu),
            Interface(self.call.ifname, self.inside_mac, self.call.netns, mtu=host.mtu),
        ]
        if self.config.vlan and self.config.is_gateway and self.ips:
            leg = wiring.links[f"{self.config.bridge}.{self.config.vlan}"]
            interfaces.append(Interface(leg.name, leg.mac, mtu=leg.mtu))
        return Result(interfaces, self.ips, self.routes, dict(self.config.dns or self.assigned.dns))


def remove_rules_of_before(call: Call, records: Records, wiring: Wiring) -> None:
    """Rules of this attachment's last life: its DEL went to other plugins, while the node was in their hands."""
    before = records.read(call.key)
    if before is not None:
        _remove_rules(call, wiring, call.key, before)


def remove_attachment(call: Call, records: Records, wiring: Wiring, *, veth_prefix: str, may_have_rules: bool) -> None:
    """The one teardown: rules, address, link, and last the record, which is what lets us try again."""
    record = records.read(call.key)
    if record is not None:
        _remove_rules(call, wiring, call.key, record)
    elif may_have_rules:
        _remove_unrecorded_rules(call, wiring)
    ipam.delete(call)
    _remove_link(call, records, wiring, record, veth_prefix)
    if record is not None:
        records.forget(call.key)


def _remove(call: Call, config: Config, records: Records, wiring: Wiring) -> None:
    remove_attachment(call, records, wiring, veth_prefix=config.veth_prefix, may_have_rules=config.may_have_rules)


def _undo(call: Call, config: Config, records: Records, wiring: Wiring) -> None:
    """After a failed ADD. The failure itself is what the caller must hear of, so a second one is only noted."""
    try:
        _remove(call, config, records, wiring)
    except (CniError, OSError):
        pass  # the record stays: DEL or GC tries again


def _remove_rules(call: Call, wiring: Wiring, key: str, record: "dict[str, Any]") -> None:
    comment = rules.comment_of(call.network, key)
    if record.get("masquerade"):
        what = recorded_masquerading(call.network, key, record)
        masquerade.remove(wiring, what, record["masquerade"])
    if record.get("guarded"):
        from ..wire import spoof

        spoof.remove(wiring, record["host"], record["mac"], comment)


def recorded_masquerading(network: str, key: str, record: "dict[str, Any]") -> Masquerading:
    from ..addresses import parse_prefix

    prefixes = [parse_prefix(text) for text in record["addresses"]]
    spared = [parse_prefix(text) for text in record.get("spared", [])]
    return Masquerading(network, key.partition(":")[0], rules.comment_of(network, key), prefixes, spared)


def _remove_unrecorded_rules(call: Call, wiring: Wiring) -> None:
    """An attachment without a record: of the reference plugins, or of a lost state directory."""
    comment = rules.comment_of(call.network, call.key)
    masquerade.remove(wiring, Masquerading(call.network, call.container_id, comment, [], []), None)


def _remove_link(
    call: Call, records: Records, wiring: Wiring, record: "dict[str, Any] | None", veth_prefix: str
) -> None:
    name = record["host"] if record else veth.host_name(veth_prefix, call.network, call.key)
    if _delete_soon(call, records, wiring, name) or record:
        return
    with_namespace = open_if_there(call.netns)
    if with_namespace is not None:
        with with_namespace as sandbox:
            _remove_foreign_link(call, records, wiring, sandbox)


def _remove_foreign_link(call: Call, records: Records, wiring: Wiring, sandbox: Sandbox) -> None:
    """An interface inside that another program's ADD has made under our name, unless another attachment owns it."""
    link = sandbox.netlink.find_link(call.ifname)
    if link is None or link.kind != "veth":
        return
    owned = {record["host"] for _, record in records.all()}
    try:
        peer = wiring.host.link_by_index(link.lower).name
    except OSError:
        return
    if peer not in owned:
        _delete_soon(call, records, wiring, peer)


def _delete_soon(call: Call, records: Records, wiring: Wiring, name: str) -> bool:
    deleting = veth.delete_soon(wiring.host, name, _leftovers(records), in_process=call.in_process)
    wiring.somebody_closes = wiring.somebody_closes or (deleting and not call.in_process)
    return deleting


def _leftovers(records: Records) -> veth.Leftovers:
    return veth.Leftovers(f"{os.path.dirname(records.directory)}/leftovers")


def refuse_dropped_forwarding(wiring: Wiring) -> None:
    """A FORWARD chain whose policy is DROP stops every pod, and nobody would look there."""
    from ..wire.forwarding import dropping_chains

    found = dropping_chains(wiring.nft)
    if found:
        raise CniError(
            NOT_AVAILABLE,
            f"bridge: forwarded packets are dropped by policy in {', '.join(found)}",
            "chain the firewall plugin after bridge, or accept the bridge's traffic there",
        )
