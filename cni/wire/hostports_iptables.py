# SPDX-License-Identifier: Apache-2.0
"""Host ports in iptables: the reference portmap's chains.

PREROUTING, OUTPUT -(local destination)-> CNI-HOSTPORT-DNAT -(ports of a pod)-> CNI-DN-<hash>: mark, DNAT
POSTROUTING -> CNI-HOSTPORT-MASQ -(marked)-> MASQUERADE
"""

from ..errors import CONFLICT, MISMATCH, CniError
from . import iptables
from .hostports import HostPorts, Mapping

DNAT, SETMARK, MASQ = "CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ"
_MULTIPORT_LIMIT = 15
_LOOPBACK = {2: "127.0.0.1/32", 10: "::1/128"}


class Marking:
    """How a connection is marked for masquerading: our bit, or a chain of somebody else."""

    __slots__ = ("bit", "external_chain")

    def __init__(self, bit: int, external_chain: str) -> None:
        self.bit = bit
        self.external_chain = external_chain

    @property
    def chain(self) -> str:
        return self.external_chain or SETMARK


def add(ports: HostPorts, network: str, container_id: str, marking: Marking, conditions: dict[int, list[str]]) -> None:
    """Enter all mappings, per family in one transaction, under our own lock: the shared chains are made once."""
    chain = iptables.chain_name("DN-", network, container_id)
    for family in ports.prefixes:
        mappings = [mapping for mapping in ports.mappings if mapping.applies_to(family)]
        if not mappings:
            continue
        with iptables.shared_lock():
            there = iptables.save(family, "nat")
            _refuse_taken(there, mappings, container_id)
            lines = _shared(there, ports, marking)
            lines += _of_container(ports, family, mappings, chain, marking)
            lines += _entry_rules(mappings, chain, conditions.get(family, []), network, container_id)
            iptables.restore(family, "nat", lines)


def _shared(there: list[str], ports: HostPorts, marking: Marking) -> list[str]:
    """The top-level chains and the jumps to them, as far as they are missing."""
    lines = [] if iptables.has_chain(there, DNAT) else [f":{DNAT} - [0:0]"]
    unhooked = [hook for hook in ("PREROUTING", "OUTPUT") if not iptables.jumps(there, hook, DNAT)]
    lines += [f"-A {hook} -m addrtype --dst-type LOCAL -j {DNAT}" for hook in unhooked]
    if not ports.snat or marking.external_chain:
        return lines
    mark = f"{1 << marking.bit:#x}/{1 << marking.bit:#x}"
    if not iptables.has_chain(there, SETMARK):
        lines += [
            f":{SETMARK} - [0:0]",
            f'-A {SETMARK} -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark {mark}',
        ]
    if not iptables.has_chain(there, MASQ):
        lines += [f":{MASQ} - [0:0]", f"-A {MASQ} -m mark --mark {mark} -j MASQUERADE"]
    if not iptables.jumps(there, "POSTROUTING", MASQ):
        # First: the chains of masqueraded networks accept what stays in their subnet, and a hairpin does.
        lines.append(f'-I POSTROUTING 1 -m comment --comment "CNI portfwd requiring masquerade" -j {MASQ}')
    return lines


def _of_container(ports: HostPorts, family: int, mappings: list[Mapping], chain: str, marking: Marking) -> list[str]:
    prefix = ports.prefixes[family]
    target = f"[{prefix.ip}]" if family == 10 else prefix.ip
    lines = [f":{chain} - [0:0]"]
    for mapping in mappings:
        match = f"-p {mapping.protocol}"
        if mapping.host_address():
            match += f" -d {mapping.host_address()}"
        match += f" -m {mapping.protocol} --dport {mapping.host_port}"
        if ports.snat and ports.masquerade_all:
            lines.append(f"-A {chain} {match} -j {marking.chain}")
        elif ports.snat:
            sources = [str(prefix.network), _LOOPBACK[family]]
            lines += [f"-A {chain} -s {source} {match} -j {marking.chain}" for source in sources]
        lines.append(f"-A {chain} {match} -j DNAT --to-destination {target}:{mapping.container_port}")
    return lines


def _entry_rules(
    mappings: list[Mapping], chain: str, conditions: list[str], network: str, container_id: str
) -> list[str]:
    """Which ports lead to the container's chain: by protocol, fifteen in a rule, as multiport allows."""
    comment = f'dnat name: "{network}" id: "{container_id}"'[:255].replace('"', '\\"')
    words = "".join(f" {_quoted(word)}" for word in conditions)
    lines = []
    for protocol in sorted({mapping.protocol for mapping in mappings}):
        numbers = sorted({mapping.host_port for mapping in mappings if mapping.protocol == protocol})
        for start in range(0, len(numbers), _MULTIPORT_LIMIT):
            listed = ",".join(map(str, numbers[start : start + _MULTIPORT_LIMIT]))
            lines.append(
                f'-A {DNAT} -p {protocol} -m comment --comment "{comment}"'
                f" -m multiport --destination-ports {listed}{words} -j {chain}"
            )
    return lines


def _quoted(word: str) -> str:
    return '"' + word.replace('"', '\\"') + '"' if set(word) & set(' "\\') else word


def _refuse_taken(lines: list[str], mappings: list[Mapping], container_id: str) -> None:
    """Two containers on one port: the first would win in silence."""
    for line in lines:
        words = line.split()
        if not line.startswith(f"-A {DNAT} ") or "--dports" not in words or container_id in line:
            continue
        taken = words[words.index("--dports") + 1].split(",")
        chain = words[-1]
        for mapping in mappings:
            if f"-p {mapping.protocol} " not in line or str(mapping.host_port) not in taken:
                continue
            if _clash(lines, chain, mapping):
                raise CniError(
                    CONFLICT, f"hostPort {mapping} is taken: iptables chain {chain}, rule {' '.join(words[2:])}"
                )


def _clash(lines: list[str], chain: str, mapping: Mapping) -> bool:
    """Whether the other container's rule for the port is for the same host address, or either is for all."""
    for line in lines:
        words = line.split()
        if not line.startswith(f"-A {chain} ") or "DNAT" not in words or f"--dport {mapping.host_port} " not in line:
            continue
        theirs = words[words.index("-d") + 1].partition("/")[0] if "-d" in words else None
        if theirs is None or mapping.host_address() in (None, theirs):
            return True
    return False


def check(ports: HostPorts, network: str, container_id: str) -> None:
    chain = iptables.chain_name("DN-", network, container_id)
    for family in ports.prefixes:
        mappings = [mapping for mapping in ports.mappings if mapping.applies_to(family)]
        lines = iptables.save(family, "nat") if mappings else []
        for mapping in mappings:
            own = [line for line in lines if line.startswith(f"-A {chain} ") and "-j DNAT" in line]
            entered = iptables.jumps(lines, DNAT, chain)
            hooked = iptables.jumps(lines, "PREROUTING", DNAT) and iptables.jumps(lines, "OUTPUT", DNAT)
            if not (entered and hooked and any(f"--dport {mapping.host_port} " in line for line in own)):
                raise CniError(MISMATCH, f"hostPort {mapping} of {container_id} is missing in iptables chain {chain}")
