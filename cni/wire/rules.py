# SPDX-License-Identifier: Apache-2.0
"""Our nftables tables: a fixed text, loaded once per boot by nft(8); what changes with every pod are elements of maps.

    table inet ketch_cni
      prerouting, output --(to an address of this host)--> hostports: mark, then DNAT by map, else unmark
      postrouting: marked by hostports -> snat4/6: the pod's hairpin chain
                   from a pod          -> masq4/6: its network's masquerade chain
      forward:     isolate sets (firewall's ingressPolicy)
    table bridge ketch_cni
      prerouting: frames of a guarded port whose source address is not that port's own are dropped

::1 is translated for the ports of loopback6 only, those whose answers have a way back (loopback6.py); a client of any
other is refused at once, and tries 127.0.0.1.

What a map jumps to are policy chains: their name is a hash of their text, so equal policies share one, it never has to
change, and the element that needs a missing one says so (ENOENT), which is when it is loaded.
"""

import errno

from runtime.linux import netlink_messages as m
from runtime.linux import nft
from runtime.linux.kernel_error import KernelError
from runtime.linux.nft import BRIDGE, INET, Nft

from ..errors import IO_FAILURE, CniError
from ..records import short_hash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

TABLE = "ketch_cni"
MARK = 0x2000  # bit 13, as the reference portmap's: "this connection goes through a host port"

BASE = f"""
create table inet {TABLE}
table inet {TABLE} {{
  map masq4 {{ type ipv4_addr : verdict; }}
  map masq6 {{ type ipv6_addr : verdict; }}
  map snat4 {{ type ipv4_addr : verdict; }}
  map snat6 {{ type ipv6_addr : verdict; }}
  map ports4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  map ports6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
  map ports_at4 {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  map ports_at6 {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
  map ports_if4 {{ type inet_proto . inet_service : verdict; }}
  map ports_if6 {{ type inet_proto . inet_service : verdict; }}
  set loopback6 {{ type inet_proto . inet_service; }}
  set bridges {{ type ifname; }}
  map ingress4 {{ type ipv4_addr : verdict; }}
  map ingress6 {{ type ipv6_addr : verdict; }}
  chain hostports {{
    meta mark set meta mark | {MARK:#x}
    meta nfproto ipv4 meta l4proto . th dport vmap @ports_if4
    dnat ip to ip daddr . meta l4proto . th dport map @ports_at4
    dnat ip to meta l4proto . th dport map @ports4
    meta nfproto ipv6 meta l4proto . th dport vmap @ports_if6
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports_at6
    dnat ip6 to meta l4proto . th dport map @ports6
    meta mark set meta mark & {0xFFFFFFFF ^ MARK:#x}
  }}
  chain prerouting {{
    type nat hook prerouting priority -100; policy accept;
    fib daddr type local jump hostports
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    ip6 daddr ::1 meta l4proto . th dport != @loopback6 return
    fib daddr type local jump hostports
  }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
    meta mark & {MARK:#x} == {MARK:#x} ip daddr vmap @snat4
    meta mark & {MARK:#x} == {MARK:#x} ip6 daddr vmap @snat6
    ip saddr vmap @masq4
    ip6 saddr vmap @masq6
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    ct state established,related accept
    ip daddr vmap @ingress4
    ip6 daddr vmap @ingress6
  }}
}}
"""

BRIDGE_BASE = f"""
create table bridge {TABLE}
table bridge {TABLE} {{
  set guarded {{ type ifname; }}
  set sources {{ type ifname . ether_addr; }}
  chain prerouting {{
    type filter hook prerouting priority -300; policy accept;
    iifname @guarded iifname . ether saddr != @sources drop
  }}
}}
"""
_BASES = {INET: BASE, BRIDGE: BRIDGE_BASE}
_ATTEMPTS = 6


class Policy:
    """A chain that elements jump to: its rules, and a name that follows from them."""

    __slots__ = ("name", "rules")

    def __init__(self, kind: str, rules: "Iterable[str]") -> None:
        self.rules = tuple(rules)
        self.name = f"{kind}-{short_hash(';'.join(self.rules), 6)}"

    def text(self) -> str:
        lines = [f"create chain inet {TABLE} {self.name}"]
        lines += [f"add rule inet {TABLE} {self.name} {rule}" for rule in self.rules]
        return "\n".join(lines) + "\n"


class Entry:
    """One element of one of our sets or maps."""

    __slots__ = ("comment", "data", "family", "jump", "key", "set_name")

    def __init__(
        self,
        family: int,
        set_name: str,
        key: bytes,
        comment: str,
        *,
        data: bytes | None = None,
        jump: str | None = None,
    ) -> None:
        self.family = family
        self.set_name = set_name
        self.key = key
        self.comment = comment
        self.data = data
        self.jump = jump

    def adding(self, *, exclusive: bool = False) -> m.Request:
        return nft.add_element(
            self.family, TABLE, self.set_name, self.key,
            data=self.data, jump=self.jump, comment=self.comment, exclusive=exclusive,
        )  # fmt: skip

    def deleting(self) -> m.Request:
        return nft.delete_element(self.family, TABLE, self.set_name, self.key)


def comment_of(network: str, key: str) -> str:
    """Whose an element is; nft(8) lists it. A comment has room for 120 bytes, an attachment may need more."""
    words = f"{network} {key}"
    return (
        words if len(words.encode()) <= 100 else f"{words.encode()[:80].decode(errors='ignore')}~{short_hash(words, 8)}"
    )


def add(
    socket: Nft, entries: list[Entry], policies: "Iterable[Policy]" = (), *, claims: "Collection[Entry]" = ()
) -> None:
    """Add elements in one transaction; load what they need and is not there. EEXIST passes on to the caller.

    Of claims not even an equal one may be there.
    """
    entries = [*claims, *entries]
    requests = [entry.adding(exclusive=entry in claims) for entry in entries]
    for attempt in range(_ATTEMPTS):
        try:
            socket.transact(*requests)
        except KernelError as error:
            if error.errno != errno.ENOENT or attempt == _ATTEMPTS - 1:
                raise
        else:
            return
        # A set, its table or a policy chain is missing: nobody has loaded it since boot, or a GC has just removed it.
        for family in {entry.family for entry in entries}:
            load_base(socket, family)
        for policy in policies:
            load(policy.text())


def load_base(socket: Nft, family: int = INET) -> None:
    """The fixed rules, if nobody has loaded them since boot."""
    if not socket.has_table(family, TABLE):
        load(_BASES[family])


def replace(socket: Nft, entries: list[Entry], policies: "Iterable[Policy]" = ()) -> None:
    """As add(), but what is there under the same key is a leftover and gives way."""
    try:
        add(socket, entries, policies)
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise
        remove(socket, entries, whoever=True)
        add(socket, entries, policies)


def remove(socket: Nft, entries: list[Entry], *, whoever: bool = False) -> None:
    """Remove those of the elements that are ours (by their comment), or with whoever all; absent ones are fine."""
    present = []
    for entry in entries:
        found = socket.find_element(entry.family, TABLE, entry.set_name, entry.key)
        if found is not None and (whoever or found.comment == entry.comment):
            present.append(entry)
    try:
        socket.transact(*[entry.deleting() for entry in present])
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        for entry in present:  # somebody else removes the same; a transaction is all or nothing
            socket.transact(entry.deleting().tolerating(errno.ENOENT))


def missing(socket: Nft, entries: list[Entry]) -> list[Entry]:
    """Those of the elements that are not as they should be."""
    absent = []
    for entry in entries:
        found = socket.find_element(entry.family, TABLE, entry.set_name, entry.key)
        same = found is not None and found.jump == entry.jump and (entry.data is None or found.data == entry.data)
        if not same:
            absent.append(entry)
    return absent


def base_is_whole(socket: Nft, family: int = INET) -> bool:
    """Whether the fixed rules are there: `nft flush table` empties chains but leaves sets and elements."""
    chains = ("prerouting", "hostports", "output", "postrouting") if family == INET else ("prerouting",)
    return all(socket.rules(family, TABLE, chain) for chain in chains)


def policy_is_whole(socket: Nft, policy: Policy) -> bool:
    return len(socket.rules(INET, TABLE, policy.name)) == len(policy.rules)


def commented(socket: Nft, family: int, sets: "Iterable[str]", comment: str) -> list[Entry]:
    """The elements that carry a comment: for DEL when no record tells which they are."""
    found: list[Entry] = []
    for set_name in sets:
        found += [
            Entry(family, set_name, element.key, comment, data=element.data, jump=element.jump)
            for element in socket.elements(family, TABLE, set_name)
            if element.comment == comment
        ]
    return found


def drop_unused_policies(socket: Nft) -> None:
    """Remove policy chains that no element jumps to."""
    for chain in socket.chains(INET):
        if chain.table == TABLE and chain.hook is None and "-" in chain.name:
            drop_policy(socket, chain.name)


def drop_policy(socket: Nft, name: str) -> None:
    """Remove a policy chain unless it is in use: the kernel refuses that."""
    try:
        socket.transact(nft.flush_chain(INET, TABLE, name), nft.delete_chain(INET, TABLE, name))
    except KernelError as error:
        if error.errno not in (errno.EBUSY, errno.ENOENT):
            raise


def load(ruleset: str) -> None:
    """Have nft(8) load a text; that somebody else has just done so is fine."""
    try:
        nft.load(ruleset)
    except nft.LoadRefused as refused:
        if not refused.already:
            raise CniError(
                IO_FAILURE, f"nft refused our rules: {refused}", "is the package nftables installed?"
            ) from None
