# SPDX-License-Identifier: Apache-2.0
"""firewall: forwarded traffic of an attachment is accepted; with an ingressPolicy, other bridges cannot reach it.

nftables (the default): isolation is an element of a map; accepting needs nothing, except where a FORWARD chain of
iptables drops by policy: no accept of another table overrules that, so the accepts are entered there.
iptables: the reference plugin's chains.
"""

from runtime.linux import netlink_messages as m
from runtime.linux import nft
from runtime.linux.nft import INET, packed

from ..addresses import parse_prefix
from ..call import Call
from ..errors import CONFLICT, INVALID_CONFIG, MISMATCH, NOT_AVAILABLE, CniError
from ..records import Records
from ..wire import firewall_iptables, iptables, rules
from ..wire.forwarding import dropping_chains
from ..wire.rules import Entry, Policy
from ..wire.wiring import Wiring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_INGRESS_SETS = {2: "ingress4", 10: "ingress6"}


class Config:
    """Everything that the user may choose."""

    __slots__ = ("admin_chain", "backend", "policy")

    def __init__(self, call: Call) -> None:
        fields = call.fields
        admin_chain = fields.text("iptablesAdminChainName")
        default = "iptables" if admin_chain else "nftables"  # only iptables can ask the administrator's chain
        self.backend = fields.choice("backend", default, ("nftables", "iptables"))
        self.policy = fields.choice("ingressPolicy", "open", ("open", "same-bridge", "isolated"))
        self.admin_chain = admin_chain or "CNI-ADMIN"


def add(call: Call) -> "dict[str, Any]":
    config = Config(call)
    answer = call.passed_on()
    attachment = _Attachment(call, config)
    if not attachment.prefixes:
        return answer
    records = Records(call, "firewall")
    with Wiring(in_process=call.in_process) as wiring:
        by_iptables = config.backend == "iptables" or bool(_iptables_drops(wiring))
        if (before := records.read(call.key)) is not None:  # its DEL went to other plugins, or this is a second ADD
            _remove(call.network, call.key, before, wiring)
        records.write(call.key, attachment.record(by_iptables=by_iptables))
        try:
            if by_iptables:
                firewall_iptables.accept(attachment.prefixes, config.admin_chain)
            if config.backend == "iptables":
                firewall_iptables.isolate(config.policy, attachment.bridge, {p.family for p in attachment.prefixes})
            elif config.policy != "open":
                rules.replace(wiring.nft, attachment.entries(), [attachment.ingress_policy()])
            if config.policy == "isolated":
                attachment.isolate_port(wiring)
        except BaseException:
            _undo(call, records, wiring)
            raise
    return answer


def delete(call: Call) -> None:
    records = Records(call, "firewall")
    record = records.read(call.key)
    with Wiring(in_process=call.in_process) as wiring:
        if record is not None:
            _remove(call.network, call.key, record, wiring)
            records.forget(call.key)
        elif call.has_previous:
            prefixes = [ip.prefix for ip in call.previous.container_ips(call.ifname)]
            firewall_iptables.withdraw(wiring.nft, prefixes)


def check(call: Call) -> None:
    config = Config(call)
    attachment = _Attachment(call, config)
    record = Records(call, "firewall").read(call.key)
    with Wiring(in_process=call.in_process) as wiring:
        if attachment.prefixes and (record is None or record["iptables"]):  # no record: another program's, in iptables
            firewall_iptables.check(attachment.prefixes)
        if config.backend == "nftables" and config.policy != "open":
            absent = rules.missing(wiring.nft, attachment.entries())
            if absent or not wiring.nft.rules(INET, rules.TABLE, "forward"):
                raise CniError(MISMATCH, f"firewall: {config.policy} is missing in nftables table {rules.TABLE}")
        if config.backend == "nftables" and record is not None and not record["iptables"] and _iptables_drops(wiring):
            raise CniError(MISMATCH, "firewall: iptables' FORWARD policy is DROP now; add this attachment again")


def status(call: Call) -> None:
    try:
        config = Config(call)
    except CniError as error:
        raise CniError(NOT_AVAILABLE, f"firewall: {error.message}", error.details) from error
    with Wiring(in_process=call.in_process) as wiring:
        dropping = dropping_chains(wiring.nft)
        ours = [name for name in dropping if name in firewall_iptables.FORWARD_CHAINS]
    others = [name for name in dropping if name not in ours]
    if others:
        raise CniError(
            NOT_AVAILABLE, f"firewall: forwarded packets are dropped by policy in {', '.join(others)}",
            "no rule in another table can overrule that: accept the pods' traffic there",
        )  # fmt: skip
    if (config.backend == "iptables" or ours) and (why := iptables.usable(call.environ.get("PATH"))):
        raise CniError(NOT_AVAILABLE, f"firewall: iptables is needed and cannot be used: {why}")


def gc(call: Call) -> None:
    records = Records(call, "firewall")
    with Wiring(in_process=call.in_process) as wiring:
        failures = records.remove_stale(
            call.valid_attachments(), lambda key, record: _remove(call.network, key, record, wiring)
        )
        records.sweep()
        rules.drop_unused_policies(wiring.nft)
    if failures:
        raise CniError(CONFLICT, f"firewall: some rules could not be removed: {'; '.join(failures)}")


def explain(call: Call) -> list[str]:
    config = Config(call)
    lines = [f"accept forwarded traffic of {ip.prefix.ip}" for ip in call.previous.container_ips(call.ifname)]
    if config.policy != "open":
        lines.append(f"ingress policy {config.policy}: drop what comes from other bridges ({config.backend})")
    return lines


class _Attachment:
    """What the rules are about."""

    __slots__ = ("bridge", "comment", "config", "port", "prefixes")

    def __init__(self, call: Call, config: Config) -> None:
        previous = call.previous
        self.config = config
        self.comment = rules.comment_of(call.network, call.key)
        self.prefixes = [ip.prefix for ip in previous.container_ips(call.ifname)]
        outside = [interface.name for interface in previous.interfaces if not interface.sandbox]
        self.bridge = outside[0] if outside else ""
        self.port = outside[1] if len(outside) > 1 else ""
        if config.policy != "open" and not self.bridge:
            raise CniError(INVALID_CONFIG, f"firewall: ingressPolicy {config.policy}: prevResult names no bridge")

    def ingress_policy(self) -> Policy:
        own = [f'iifname "{self.bridge}" return'] if self.config.policy == "same-bridge" else []
        return Policy("ingress", [*own, "iifname @bridges drop"])

    def entries(self) -> list[Entry]:
        if self.config.policy == "open":
            return []
        jump = self.ingress_policy().name
        entries = [Entry(INET, _INGRESS_SETS[p.family], packed(p.ip), self.comment, jump=jump) for p in self.prefixes]
        return [*entries, Entry(INET, "bridges", nft.ifname(self.bridge), self.bridge)]

    def isolate_port(self, wiring: Wiring) -> None:
        """What stays on the bridge never meets a forward chain: there the port's own flag isolates."""
        link = wiring.host.find_link(self.port) if self.port else None
        if link is not None and link.master:
            wiring.host.transact(m.bridge_port(link.index, isolated=True))

    def record(self, *, by_iptables: bool) -> "dict[str, Any]":
        nftables = self.config.backend == "nftables"
        own = [entry for entry in self.entries() if nftables and entry.set_name != "bridges"]  # that one is shared
        return {
            "iptables": by_iptables,
            "addresses": [str(prefix) for prefix in self.prefixes],
            "elements": [[entry.set_name, entry.key.hex()] for entry in own],
        }


def _iptables_drops(wiring: Wiring) -> list[str]:
    return [name for name in dropping_chains(wiring.nft) if name in firewall_iptables.FORWARD_CHAINS]


def _remove(network: str, key: str, record: "dict[str, Any]", wiring: Wiring) -> None:
    comment = rules.comment_of(network, key)
    rules.remove(wiring.nft, [Entry(INET, name, bytes.fromhex(hexed), comment) for name, hexed in record["elements"]])
    if record["iptables"]:
        firewall_iptables.withdraw(wiring.nft, [parse_prefix(text) for text in record["addresses"]])


def _undo(call: Call, records: Records, wiring: Wiring) -> None:
    record = records.read(call.key)
    try:
        if record is not None:
            _remove(call.network, call.key, record, wiring)
            records.forget(call.key)
    except (CniError, OSError):
        pass  # the record stays: DEL or GC tries again
