# SPDX-License-Identifier: Apache-2.0
"""Who else decides about forwarded packets on this host."""

from runtime.linux.nft import NF_DROP, NF_INET_FORWARD, Nft

from .rules import TABLE

_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}


def dropping_chains(socket: Nft) -> list[str]:
    """Forward chains whose policy is drop, as `nft list` names them. An accept of ours cannot overrule those."""
    return [
        f"table {_FAMILIES[chain.family]} {chain.table}, chain {chain.name}"
        for chain in socket.chains()
        if chain.family in _FAMILIES
        and chain.hook == NF_INET_FORWARD
        and chain.policy == NF_DROP
        and chain.table != TABLE
    ]
