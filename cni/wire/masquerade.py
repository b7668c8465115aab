# SPDX-License-Identifier: Apache-2.0
"""Masquerading of what a pod sends beyond its network, with either backend."""

from runtime.linux.nft import INET, packed
from runtime.linux.steps import Step

from ..addresses import Prefix
from ..errors import MISMATCH, CniError
from . import rules
from .rules import Entry, Policy
from .wiring import Wiring

NFTABLES, IPTABLES = "nftables", "iptables"
_MULTICAST = {2: "224.0.0.0/4", 10: "ff00::/8"}
_SETS = {2: "masq4", 10: "masq6"}
_WORD = {2: "ip", 10: "ip6"}
_known_policies: "dict[tuple[object, ...], Policy]" = {}  # of this process's networks


class Masquerading:
    """Which addresses of which attachment, and what stays as it is. Pure."""

    __slots__ = ("comment", "container_id", "exceptions", "network", "prefixes")

    def __init__(
        self, network: str, container_id: str, comment: str, prefixes: list[Prefix], exceptions: list[Prefix]
    ) -> None:
        self.network = network
        self.container_id = container_id
        self.comment = comment
        self.prefixes = prefixes
        self.exceptions = exceptions

    def policy(self, prefix: Prefix) -> Policy:
        """One chain for all pods of a subnet."""
        key = (prefix.family, prefix.first, prefix.length, *self.exceptions)
        if key not in _known_policies:
            _known_policies[key] = self._policy(prefix)
        return _known_policies[key]

    def _policy(self, prefix: Prefix) -> Policy:
        word = _WORD[prefix.family]
        spared = [str(prefix.network), _MULTICAST[prefix.family]]
        spared += [str(p.network) for p in self.exceptions if p.family == prefix.family and p.network != prefix.network]
        return Policy("masq", [*(f"{word} daddr {destination} return" for destination in spared), "masquerade"])

    def policies(self) -> list[Policy]:
        return [self.policy(prefix) for prefix in self.prefixes]

    def entries(self) -> list[Entry]:
        return [
            Entry(INET, _SETS[p.family], packed(p.ip), self.comment, jump=self.policy(p).name) for p in self.prefixes
        ]


class Masquerade(Step):
    """Masquerade an attachment's addresses."""

    __slots__ = ("backend", "what")

    def __init__(self, what: Masquerading, backend: str) -> None:
        self.what = what
        self.backend = backend

    def describe(self) -> str:
        addresses = ", ".join(prefix.ip for prefix in self.what.prefixes)
        spared = ", ".join(str(p) for p in [prefix.network for prefix in self.what.prefixes] + self.what.exceptions)
        return f"masquerade what {addresses} sends beyond {spared} ({self.backend})"

    def apply(self, context: Wiring) -> None:
        if self.backend == IPTABLES:
            from . import iptables  # seldom, and 0.3 ms of a cold command

            iptables.add_masquerade(self.what.network, self.what.container_id, self.what.prefixes, self.what.exceptions)
        else:
            rules.replace(context.nft, self.what.entries(), self.what.policies())


def remove(context: Wiring, what: Masquerading, backend: str | None) -> None:
    """Take it away. Without knowing the backend (no record), look in both, by the attachment's name."""
    if backend in (NFTABLES, None):
        entries = what.entries()
        if backend is None:
            entries = rules.commented(context.nft, INET, _SETS.values(), what.comment)
        rules.remove(context.nft, entries)
    if backend == NFTABLES:
        return
    from . import iptables

    if backend in (IPTABLES, None):
        iptables.remove_masquerade(context.nft, what.network, what.container_id)
    if backend is None:
        iptables.remove_reference_masquerade(context.nft, what.network, what.container_id)


def check(context: Wiring, what: Masquerading, backend: str | None) -> None:
    """As it should be. Without knowing the backend (another program's ADD), either will do."""
    if backend is None:
        from . import iptables

        if iptables.has_masquerade(context.nft, what.network, what.container_id):
            return
        backend = NFTABLES
    if backend == IPTABLES:
        from . import iptables

        iptables.check_masquerade(what.network, what.container_id, what.prefixes)
        return
    absent = rules.missing(context.nft, what.entries())
    if absent:
        addresses = ", ".join(prefix.ip for prefix in what.prefixes)
        raise CniError(MISMATCH, f"masquerading of {addresses} is missing in nftables map {absent[0].set_name}")
    whole = rules.base_is_whole(context.nft) and all(rules.policy_is_whole(context.nft, p) for p in what.policies())
    if not whole:
        raise CniError(
            MISMATCH, f"rules of nftables table {rules.TABLE} are missing", "a new attachment does not repair them"
        )
