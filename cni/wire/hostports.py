# SPDX-License-Identifier: Apache-2.0
"""Host ports in nftables: which map elements a set of mappings needs. Pure; plugins/portmap writes them.

A connection to a local address and a mapped port is marked and translated (hostports chain); one that comes from the
pod's own subnet or from this host's loopback must also be masqueraded, or the answer would go past the translation.
"""

from runtime.linux.nft import INET, concatenated, packed, port

from ..addresses import Prefix, parse_ip, to_text
from ..errors import bad_config
from ..fields import Fields
from .rules import Entry, Policy

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_LOOPBACK = {2: "ip saddr 127.0.0.0/8", 10: "ip6 saddr ::1"}
_WORD = {2: "ip", 10: "ip6"}


class Mapping:
    """One port of the host that leads to one of the container."""

    __slots__ = ("container_port", "host_ip", "host_port", "protocol")

    def __init__(self, fields: Fields) -> None:
        self.host_port = fields.integer("hostPort", low=1, high=65535)
        self.container_port = fields.integer("containerPort", low=1, high=65535)
        self.protocol = fields.text("protocol", "tcp").lower() or "tcp"
        if self.protocol not in PROTOCOLS:
            raise bad_config(fields.at("protocol"), self.protocol, f"expected {', '.join(PROTOCOLS)}")
        for key, value in (("hostPort", self.host_port), ("containerPort", self.container_port)):
            if not value:
                raise bad_config(fields.at(key), value, "expected 1 to 65535")
        self.host_ip = _host_ip(fields)

    @property
    def number(self) -> int:
        return PROTOCOLS[self.protocol]

    @property
    def any_address(self) -> bool:
        return self.host_ip is None or self.host_ip[1] == 0

    def applies_to(self, family: int) -> bool:
        return self.host_ip is None or self.host_ip[0] == family

    def host_address(self) -> str | None:
        """The host's address it is limited to."""
        return None if self.host_ip is None or self.any_address else to_text(*self.host_ip)

    def __str__(self) -> str:
        at = f"{self.host_address()}:" if self.host_address() else ""
        return f"{self.protocol} {at}{self.host_port} -> {self.container_port}"


def _is_on_loopback6(mapping: Mapping) -> bool:
    return mapping.applies_to(10) and mapping.host_address() in (None, "::1")


def _host_ip(fields: Fields) -> tuple[int, int] | None:
    text = fields.text("hostIP")
    if not text:
        return None
    try:
        return parse_ip(text)
    except ValueError as error:
        raise bad_config(fields.at("hostIP"), text, str(error)) from None


class HostPorts:
    """What an attachment's mappings become: elements, and the chains that some of them jump to."""

    __slots__ = ("comment", "conditions", "mappings", "masquerade_all", "on_loopback6", "prefixes", "snat")

    def __init__(
        self,
        mappings: list[Mapping],
        prefixes: dict[int, Prefix],
        comment: str,
        *,
        snat: bool,
        masquerade_all: bool,
        conditions: dict[int, str],
    ) -> None:
        self.mappings = mappings
        self.prefixes = prefixes  # family -> the container's address
        self.comment = comment
        self.snat = snat
        self.masquerade_all = masquerade_all
        self.conditions = conditions  # family -> words of a rule
        self.on_loopback6 = False  # whether answers to ::1 have a way back; the kernel must be asked

    @property
    def wants_loopback6(self) -> bool:
        """Whether a client of ::1 may be meant; without snat nothing that starts on this host's loopback is."""
        return self.snat and 10 in self.prefixes and any(_is_on_loopback6(mapping) for mapping in self.mappings)

    def claims(self) -> list[Entry]:
        """The elements that nobody else may have: one per mapping and family."""
        return [
            self._claim(mapping, family, prefix)
            for family, prefix in self.prefixes.items()
            for mapping in self.mappings
            if mapping.applies_to(family)
        ]

    def _claim(self, mapping: Mapping, family: int, prefix: Prefix) -> Entry:
        suffix = "4" if family == 2 else "6"
        protocol, number = bytes((mapping.number,)), port(mapping.host_port)
        if self.conditions.get(family):
            jump = self._conditional(family, prefix).name
            return Entry(INET, f"ports_if{suffix}", concatenated(protocol, number), self.comment, jump=jump)
        target = concatenated(packed(prefix.ip), port(mapping.container_port))
        address = mapping.host_address()
        if address is None:
            return Entry(INET, f"ports{suffix}", concatenated(protocol, number), self.comment, data=target)
        key = concatenated(packed(address), protocol, number)
        return Entry(INET, f"ports_at{suffix}", key, self.comment, data=target)

    def returns(self) -> list[Entry]:
        """The elements that have local and hairpin connections masqueraded."""
        if not self.snat:
            return []
        masqueraded = [
            Entry(INET, "snat4" if family == 2 else "snat6", packed(prefix.ip), self.comment,
                  jump=self._hairpin(family, prefix).name)
            for family, prefix in self.prefixes.items()
            if any(mapping.applies_to(family) for mapping in self.mappings)
        ]  # fmt: skip
        translated = [
            Entry(INET, "loopback6", concatenated(bytes((mapping.number,)), port(mapping.host_port)), self.comment)
            for mapping in self.mappings
            if self.on_loopback6 and _is_on_loopback6(mapping)
        ]
        return masqueraded + translated

    def policies(self) -> list[Policy]:
        found = []
        for family, prefix in self.prefixes.items():
            if self.snat:
                found.append(self._hairpin(family, prefix))
            if self.conditions.get(family):
                found.append(self._conditional(family, prefix))
        return found

    def _hairpin(self, family: int, prefix: Prefix) -> Policy:
        if self.masquerade_all:
            return Policy("snat", ["masquerade"])
        own = f"{_WORD[family]} saddr {prefix.network} masquerade"
        return Policy("snat", [f"{_LOOPBACK[family]} masquerade", own])

    def _conditional(self, family: int, prefix: Prefix) -> Policy:
        """The user's own match words, with the translation they guard; one chain for all ports of an attachment."""
        lines = []
        for mapping in self.mappings:
            if not mapping.applies_to(family):
                continue
            address = mapping.host_address()
            words = [f"{_WORD[family]} daddr {address}"] if address else []
            target = f"[{prefix.ip}]" if family == 10 else prefix.ip
            words += [
                self.conditions[family],
                f"meta l4proto {mapping.protocol} th dport {mapping.host_port}",
                f"dnat {_WORD[family]} to {target}:{mapping.container_port}",
            ]
            lines.append(" ".join(words))
        return Policy("if", lines)

    def udp_ports(self) -> list[tuple[int, int]]:
        """(family, port) of the mappings whose old flows must be forgotten."""
        return [
            (family, mapping.host_port)
            for family in self.prefixes
            for mapping in self.mappings
            if mapping.protocol == "udp" and mapping.applies_to(family)
        ]


def describe_key(entry: Entry) -> str:
    """The port in an element's key, for people."""
    protocols = {number: name for name, number in PROTOCOLS.items()}
    at = ""
    key = entry.key
    if entry.set_name.startswith("ports_at"):
        family, size = (2, 4) if entry.set_name.endswith("4") else (10, 16)
        at = to_text(family, int.from_bytes(key[:size], "big")) + " "
        key = key[size:]
    return f"{at}{protocols.get(key[0], key[0])} port {int.from_bytes(key[4:6], 'big')}"
