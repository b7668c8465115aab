# SPDX-License-Identifier: Apache-2.0
"""macspoofchk: frames of a pod must carry its own source address. Two set lookups however many pods there are."""

from runtime.linux.netlink_messages import packed_mac
from runtime.linux.nft import BRIDGE, concatenated, ifname
from runtime.linux.steps import Step

from ..errors import MISMATCH, CniError
from . import rules
from .rules import Entry
from .wiring import Wiring


def entries(port: str, mac: str, comment: str) -> list[Entry]:
    name = ifname(port)
    return [
        Entry(BRIDGE, "sources", concatenated(name, packed_mac(mac)), comment),
        Entry(BRIDGE, "guarded", name, comment),
    ]


class GuardSource(Step):
    """Drop what comes from a port with another source MAC than the pod's."""

    __slots__ = ("comment", "mac", "port")

    def __init__(self, port: str, mac: str, comment: str) -> None:
        self.port = port
        self.mac = mac
        self.comment = comment

    def describe(self) -> str:
        return f"drop frames from {self.port} whose source is not {self.mac}"

    def apply(self, context: Wiring) -> None:
        rules.replace(context.nft, entries(self.port, self.mac, self.comment))


def remove(context: Wiring, port: str, mac: str, comment: str) -> None:
    rules.remove(context.nft, entries(port, mac, comment))


def check(context: Wiring, port: str, mac: str, comment: str) -> None:
    if rules.missing(context.nft, entries(port, mac, comment)) or not rules.base_is_whole(context.nft, BRIDGE):
        raise CniError(MISMATCH, f"the MAC spoofing check of {port} is missing in nftables table bridge {rules.TABLE}")
