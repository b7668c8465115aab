# SPDX-License-Identifier: Apache-2.0
"""portmap: ports of the host that lead to the container. Chained after a plugin that gives addresses."""

import errno

from runtime.linux import netlink_messages as m
from runtime.linux import nft
from runtime.linux.kernel_error import KernelError
from runtime.linux.netlink import read_sysctl, write_sysctl
from runtime.linux.nft import INET

from ..addresses import Prefix
from ..call import Call
from ..errors import CONFLICT, MISMATCH, NOT_AVAILABLE, CniError, bad_config
from ..fields import Fields
from ..records import STATE_DIRECTORY, Records
from ..wire import conntrack, hostports, hostports_iptables, iptables, loopback6, rules
from ..wire.hostports import HostPorts, Mapping
from ..wire.hostports_iptables import Marking
from ..wire.listeners import listeners
from ..wire.rules import Entry
from ..wire.wiring import Wiring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PORT_SETS = (
    "ports4", "ports6", "ports_at4", "ports_at6", "ports_if4", "ports_if6", "snat4", "snat6", "loopback6",
)  # fmt: skip
_REFERENCE_TABLE = "cni_hostport"


class Config:
    """Everything that the user may choose."""

    __slots__ = ("backend", "conditions", "mappings", "marking", "masquerade_all", "refuse_conflicts", "snat", "state")

    def __init__(self, call: Call) -> None:
        fields = call.fields
        self.backend = _backend(fields)
        self.mappings = [Mapping(item) for item in call.runtime_config().objects("portMappings")]
        self.snat = fields.boolean("snat", default=True)
        self.masquerade_all = fields.boolean("masqAll")
        bit = fields.integer("markMasqBit", 13, high=31)
        external = fields.text("externalSetMarkChain")
        if external and "markMasqBit" in fields:
            raise bad_config("externalSetMarkChain", external, "cannot be set together with markMasqBit")
        self.marking = Marking(bit, external)
        self.conditions = {2: _words(fields.texts("conditionsV4")), 10: _words(fields.texts("conditionsV6"))}
        self.refuse_conflicts = fields.choice("hostPortConflicts", "refuse", ("refuse", "ignore")) == "refuse"
        self.state = fields.text("stateDir") or call.environ.get("KETCH_CNI_STATE") or STATE_DIRECTORY


def _backend(fields: Fields) -> str:
    """The one that is asked for; otherwise the one whose language the other options speak, or nftables."""
    speaking = {"iptables": "externalSetMarkChain"} if fields.text("externalSetMarkChain") else {}
    for key in ("conditionsV4", "conditionsV6"):
        first = next(iter(fields.texts(key)), "")
        if first:  # an option of iptables, or its negation; no rule of nft(8) starts so
            speaking["iptables" if first[0] in "-!" else "nftables"] = key
    backend = fields.choice("backend", next(iter(speaking), "nftables"), ("nftables", "iptables"))
    for other, key in speaking.items():
        if other != backend:
            raise bad_config(key, fields.raw.get(key), f'needs "backend": "{other}"')
    return backend


def _words(words: list[str]) -> list[str]:
    for word in words:
        if any(character in word for character in "\n\r;{}"):
            raise bad_config("conditions", word, "words of one rule only: no line breaks, no ; { }")
    return words


def add(call: Call) -> "dict[str, Any]":
    config = Config(call)
    previous = call.previous
    if not config.mappings:
        return call.passed_on()
    ports = _ports(call, config, {ip.prefix.family: ip.prefix for ip in reversed(previous.container_ips(call.ifname))})
    records = Records(call, "portmap")
    with Wiring(in_process=call.in_process) as wiring:
        _refuse_host_listeners(config, ports)
        if (before := records.read(call.key)) is not None:  # its DEL went to other plugins, or this is a second ADD
            _remove(call.network, call.key, before, wiring)
        if config.backend == "nftables" and ports.wants_loopback6:
            ports.on_loopback6 = loopback6.open_way(wiring, ports.prefixes[10].ip)
        records.write(call.key, _record(call, config, ports))
        try:
            _enter(call, config, ports, wiring)
            if config.snat:
                _let_loopback_out(ports, wiring)
                _let_hairpins_back(call, wiring)
            _forget_udp(ports.udp_ports())
        except BaseException:
            _undo(call, records, wiring)
            raise
    return call.passed_on()


def delete(call: Call) -> None:
    records = Records(call, "portmap")
    record = records.read(call.key)
    with Wiring(in_process=call.in_process) as wiring:
        if record is None:
            _remove_unrecorded(call, wiring)
        else:
            _remove(call.network, call.key, record, wiring)
            records.forget(call.key)


def check(call: Call) -> None:
    config = Config(call)
    previous = call.previous
    if not config.mappings:
        return
    ports = _ports(call, config, {ip.prefix.family: ip.prefix for ip in reversed(previous.container_ips(call.ifname))})
    record = Records(call, "portmap").read(call.key)
    if record is None or record["backend"] == "iptables":  # without a record it is another program's: in iptables
        hostports_iptables.check(ports, call.network, call.container_id)
        return
    ports.on_loopback6 = any(name == "loopback6" for name, _ in record["elements"])
    with Wiring(in_process=call.in_process) as wiring:
        absent = rules.missing(wiring.nft, ports.claims() + ports.returns())
        if absent:
            where = f"nftables map {absent[0].set_name}"
            raise CniError(MISMATCH, f"hostPort {hostports.describe_key(absent[0])} is missing in {where}")
        whole = rules.base_is_whole(wiring.nft) and all(rules.policy_is_whole(wiring.nft, p) for p in ports.policies())
        if not whole:
            raise CniError(MISMATCH, f"rules of nftables table {rules.TABLE} are missing")


def status(call: Call) -> None:
    try:
        config = Config(call)
    except CniError as error:
        raise CniError(NOT_AVAILABLE, f"portmap: {error.message}", error.details) from error
    path = call.environ.get("PATH")
    if config.backend == "iptables" and (why := iptables.usable(path)):
        raise CniError(NOT_AVAILABLE, f"portmap: backend iptables cannot be used: {why}")
    if config.backend == "nftables":
        with Wiring(in_process=call.in_process) as wiring:
            loaded = wiring.nft.has_table(INET, rules.TABLE)
        if not loaded and nft.run_tool(["nft", "--version"], b"", path)[1]:
            raise CniError(NOT_AVAILABLE, "portmap: backend nftables cannot be used: nft is not installed")


def gc(call: Call) -> None:
    records = Records(call, "portmap")
    with Wiring(in_process=call.in_process) as wiring:
        failures = records.remove_stale(
            call.valid_attachments(), lambda key, record: _remove(call.network, key, record, wiring)
        )
        records.sweep()
        rules.drop_unused_policies(wiring.nft)
    if failures:
        raise CniError(CONFLICT, f"portmap: some mappings could not be removed: {'; '.join(failures)}")


def explain(call: Call) -> list[str]:
    config = Config(call)
    prefixes = {ip.prefix.family: ip.prefix for ip in reversed(call.previous.container_ips(call.ifname))}
    lines = [f"map hostPort {mapping} ({config.backend})" for mapping in config.mappings]
    if config.mappings and config.snat:
        sources = "everybody" if config.masquerade_all else "this host's loopback and the pod's own subnet"
        lines.append(f"masquerade connections to these ports from {sources}")
    if config.mappings and config.snat and 2 in prefixes:
        lines.append("set sysctl net/ipv4/conf/<the pod's link>/route_localnet to 1")
    if config.backend == "nftables" and config.mappings and config.snat and 10 in prefixes:
        lines.append("ensure route local ::1 dev <the pod's link>; with br_netfilter, hand answers to ::1 to lo")
    return lines


def _ports(call: Call, config: Config, prefixes: dict[int, Prefix]) -> HostPorts:
    return HostPorts(
        config.mappings,
        prefixes,
        rules.comment_of(call.network, call.key),
        snat=config.snat,
        masquerade_all=config.masquerade_all,
        conditions={family: " ".join(words) for family, words in config.conditions.items()},
    )


def _record(call: Call, config: Config, ports: HostPorts) -> "dict[str, Any]":
    """All that removing needs to know, and for the error of the next one who wants the port: whose it is."""
    nftables = config.backend == "nftables"
    entries = ports.claims() + ports.returns() if nftables else []
    return {
        "backend": config.backend,
        "elements": [[entry.set_name, entry.key.hex()] for entry in entries],
        "conditional": [policy.name for policy in ports.policies() if policy.name.startswith("if-")],
        "udp": ports.udp_ports(),
        "ports": [str(mapping) for mapping in config.mappings],
        "addresses": [str(prefix) for prefix in ports.prefixes.values()],
        "pod": call.pod,
    }


def _enter(call: Call, config: Config, ports: HostPorts, wiring: Wiring) -> None:
    if config.backend == "iptables":
        hostports_iptables.add(ports, call.network, call.container_id, config.marking, config.conditions)
        return
    if config.refuse_conflicts:
        _refuse_crossing(call, config, ports, wiring)
    claims, returns = ports.claims(), ports.returns()
    try:
        rules.add(wiring.nft, returns, ports.policies(), claims=claims)
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise
        _settle(call, config, claims, wiring)
        rules.add(wiring.nft, claims, ports.policies())
        rules.replace(wiring.nft, returns, ports.policies())


def _settle(call: Call, config: Config, claims: list[Entry], wiring: Wiring) -> None:
    """Somebody has one of the ports: we ourselves (then it gives way), or another (then we do)."""
    for entry in claims:
        found = wiring.nft.find_element(INET, rules.TABLE, entry.set_name, entry.key)
        if found is None:
            continue
        if found.comment != entry.comment and config.refuse_conflicts:
            raise _taken(call, config, entry, found.comment)
        wiring.nft.transact(entry.deleting())


def _refuse_crossing(call: Call, config: Config, ports: HostPorts, wiring: Wiring) -> None:
    """A port on one address of the host and the same port on all of them exclude each other."""
    for entry in ports.claims():
        family_suffix = entry.set_name[-1]
        if entry.set_name.startswith("ports_at"):
            wide = Entry(INET, f"ports{family_suffix}", entry.key[4 if family_suffix == "4" else 16 :], entry.comment)
            found = wiring.nft.find_element(INET, rules.TABLE, wide.set_name, wide.key)
            others = [found] if found else []
        else:
            narrow = wiring.nft.elements(INET, rules.TABLE, f"ports_at{family_suffix}")
            others = [element for element in narrow if element.key.endswith(entry.key)]
        for other in others:
            if other.comment != entry.comment:
                raise _taken(call, config, entry, other.comment)


def _taken(call: Call, config: Config, entry: Entry, comment: str) -> CniError:
    network, _, key = comment.partition(" ")
    owner = key
    records = Records(call, "portmap")
    records.directory = f"{config.state}/{network}/portmap"
    record = records.read(key)
    if record is not None:
        owner = f"{record['pod']} ({key})"
    return CniError(
        CONFLICT,
        f"hostPort {hostports.describe_key(entry)} is taken by {owner} on network {network}",
        "choose another port, or remove that pod; ketch-cni gc removes what pods have left that are gone",
    )


def _refuse_host_listeners(config: Config, ports: HostPorts) -> None:
    if not config.refuse_conflicts:
        return
    for mapping in config.mappings:
        found = None
        for listener in listeners(mapping.number, mapping.host_port):
            for family in ports.prefixes:
                if mapping.applies_to(family) and listener.covers(family, mapping.host_address()):
                    found = listener
        if found is not None:
            raise CniError(
                CONFLICT,
                f"hostPort {mapping} is taken by a listener of this host: {found.described()}",
                'choose another port, or stop it ("hostPortConflicts": "ignore" would take its traffic)',
            )


def _let_loopback_out(ports: HostPorts, wiring: Wiring) -> None:
    """127.0.0.1:hostPort leaves by the pod's link with a loopback source until it is masqueraded."""
    if 2 not in ports.prefixes:
        return
    way = wiring.host.route_to(ports.prefixes[2].ip)
    if way.link:
        name = wiring.host.link_by_index(way.link).name
        if read_sysctl(f"net/ipv4/conf/{name}/route_localnet") is not None:
            write_sysctl(f"net/ipv4/conf/{name}/route_localnet", "1")


def _let_hairpins_back(call: Call, wiring: Wiring) -> None:
    """A pod that calls its own host port gets its packet back by the port that it came from.

    With br_netfilter the translation happens inside the bridge, which sends nothing back where it came from unless
    the port is in hairpin mode.
    """
    for interface in call.previous.interfaces:
        link = None if interface.sandbox else wiring.host.find_link(interface.name)
        if link is not None and link.kind == "veth" and link.slave_kind == "bridge" and not link.hairpin:
            wiring.host.transact(m.bridge_port(link.index, hairpin=True))


def _forget_udp(flows: "list[tuple[int, int]]") -> None:
    for family, number in flows:
        conntrack.forget_flows(family, number)


def _undo(call: Call, records: Records, wiring: Wiring) -> None:
    record = records.read(call.key)
    try:
        if record is not None:
            _remove(call.network, call.key, record, wiring)
            records.forget(call.key)
    except (CniError, OSError):
        pass  # the record stays: DEL or GC tries again


def _remove(network: str, key: str, record: "dict[str, Any]", wiring: Wiring) -> None:
    comment = rules.comment_of(network, key)
    if record["backend"] == "iptables":
        iptables.remove_chain(wiring.nft, "nat", iptables.chain_name("DN-", network, key.partition(":")[0]))
    else:
        entries = [Entry(INET, name, bytes.fromhex(hexed), comment) for name, hexed in record["elements"]]
        rules.remove(wiring.nft, entries)
        for chain in record["conditional"]:
            rules.drop_policy(wiring.nft, chain)
    _forget_udp([(family, number) for family, number in record["udp"]])


def _remove_unrecorded(call: Call, wiring: Wiring) -> None:
    """An attachment without a record: one without ports, one of the reference plugin, or a lost state directory."""
    if call.runtime_config().array("portMappings"):
        comment = rules.comment_of(call.network, call.key)
        rules.remove(wiring.nft, rules.commented(wiring.nft, INET, _PORT_SETS, comment))
    chain = iptables.chain_name("DN-", call.network, call.container_id)
    iptables.remove_chain(wiring.nft, "nat", chain)
    for family in (nft.IPV4, nft.IPV6):
        if not wiring.nft.has_table(family, _REFERENCE_TABLE):
            continue
        for name in ("hostports", "hostip_hostports", "masquerading"):
            for rule in wiring.nft.rules(family, _REFERENCE_TABLE, name):
                if rule.comment == call.container_id:
                    wiring.nft.transact(nft.delete_rule(family, _REFERENCE_TABLE, name, rule.handle))
