# SPDX-License-Identifier: Apache-2.0
"""Accepting and isolating in iptables' filter table: the reference firewall's chains.

FORWARD -> CNI-FORWARD -> CNI-ADMIN (the administrator's), then two accepts per address
FORWARD -> CNI-ISOLATION-STAGE-1 -(from a bridge to elsewhere)-> CNI-ISOLATION-STAGE-2 -(to another bridge)-> DROP
"""

from runtime.linux.nft import Nft

from ..addresses import Prefix
from ..errors import MISMATCH, CniError
from . import iptables

FORWARD_CHAINS = ("table ip filter, chain FORWARD", "table ip6 filter, chain FORWARD")
_FORWARD = "CNI-FORWARD"
_STAGES = ("CNI-ISOLATION-STAGE-1", "CNI-ISOLATION-STAGE-2")


def accept(prefixes: list[Prefix], admin_chain: str) -> None:
    """Accept what these addresses send, and the answers to it."""
    for family in sorted({prefix.family for prefix in prefixes}):
        with iptables.shared_lock():
            there = iptables.save(family, "filter")
            lines = _shared(there, admin_chain)
            wanted = [rule for prefix in prefixes if prefix.family == family for rule in _rules(prefix)]
            lines += [f"-A {rule}" for rule in wanted if f"-A {rule}" not in there]
            if lines:
                iptables.restore(family, "filter", lines)


def _rules(prefix: Prefix) -> list[str]:
    """As iptables-save prints them, so that they can be compared."""
    address = f"{prefix.ip}/{128 if prefix.family == 10 else 32}"
    return [
        f"{_FORWARD} -d {address} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"{_FORWARD} -s {address} -j ACCEPT",
    ]


def _shared(there: list[str], admin_chain: str) -> list[str]:
    lines = [f":{chain} - [0:0]" for chain in (_FORWARD, admin_chain) if not iptables.has_chain(there, chain)]
    if not iptables.jumps(there, "FORWARD", _FORWARD):
        lines.append(f'-I FORWARD 1 -m comment --comment "CNI firewall plugin rules" -j {_FORWARD}')
    if not iptables.jumps(there, _FORWARD, admin_chain):
        lines.append(f'-I {_FORWARD} 1 -m comment --comment "CNI firewall plugin admin overrides" -j {admin_chain}')
    return lines


def isolate(policy: str, bridge: str, families: "set[int]") -> None:
    """Keep other bridges' traffic from this one's. Shared by all of a bridge's pods, hence never removed."""
    if policy == "open":
        return
    first, second = _STAGES
    for family in sorted(families):
        with iptables.shared_lock():
            there = iptables.save(family, "filter")
            lines = [f":{chain} - [0:0]" for chain in _STAGES if not iptables.has_chain(there, chain)]
            if not iptables.jumps(there, "FORWARD", first):
                lines.append(
                    f'-I FORWARD 1 -m comment --comment "CNI firewall plugin rules (ingressPolicy)" -j {first}'
                )
            wanted = [f"{first} -i {bridge} ! -o {bridge} -j {second}", f"{second} -o {bridge} -j DROP"]
            if policy == "isolated":
                wanted.insert(0, f"{first} -i {bridge} -o {bridge} -j DROP")
            lines += [f"-A {rule}" for rule in wanted if not any(line.startswith(f"-A {rule}") for line in there)]
            if lines:
                iptables.restore(family, "filter", lines)


def withdraw(socket: Nft, prefixes: list[Prefix]) -> None:
    """Remove the accepts of these addresses; absent ones are fine."""
    for family in sorted({prefix.family for prefix in prefixes}):
        if not iptables.may_have_chain(socket, family, "filter", _FORWARD):
            continue
        with iptables.shared_lock():
            there = iptables.save(family, "filter")
            wanted = {f"-A {rule}" for prefix in prefixes if prefix.family == family for rule in _rules(prefix)}
            found = [line for line in there if line in wanted]
            if found:
                iptables.restore(family, "filter", [f"-D {line[3:]}" for line in found])


def check(prefixes: list[Prefix]) -> None:
    for family in sorted({prefix.family for prefix in prefixes}):
        there = iptables.save(family, "filter")
        if not iptables.jumps(there, "FORWARD", _FORWARD):
            raise CniError(MISMATCH, f"firewall: iptables' FORWARD does not jump to {_FORWARD} any more")
        for prefix in prefixes:
            if prefix.family == family and not all(f"-A {rule}" in there for rule in _rules(prefix)):
                raise CniError(MISMATCH, f"firewall: {prefix.ip} is not accepted in iptables chain {_FORWARD} any more")
