# SPDX-License-Identifier: Apache-2.0
"""loopback: the container's lo, up."""

from runtime.linux import netlink_messages as m
from runtime.linux.netlink import Netlink

from ..addresses import Prefix, parse_prefix
from ..call import Call
from ..errors import MISMATCH, CniError
from ..results import IP, Interface, Result
from ..wire.sandbox import open_netns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def add(call: Call) -> "dict[str, Any]":
    with open_netns(call.netns) as netns, Netlink(netns.fd) as inside:
        lo = inside.link("lo")
        inside.transact(m.link_up(lo.index))
        ips = []
        for address in inside.addresses(lo.index):
            prefix = parse_prefix(address.text)
            if not _is_loopback(prefix):
                raise CniError(MISMATCH, f"lo in {call.netns} has an address that is not a loopback one: {prefix}")
            ips.append(IP(prefix, interface=0))
    if call.has_previous:
        return call.passed_on()
    interface = Interface("lo", mac="00:00:00:00:00:00", sandbox=call.netns)
    return Result([interface], ips).to_json(call.version)


def delete(call: Call) -> None:
    if not call.netns:
        return
    try:
        with open_netns(call.netns) as netns, Netlink(netns.fd) as inside:
            inside.set_down("lo")
    except CniError:
        pass  # the namespace is gone, and its lo with it


def check(call: Call) -> None:
    with open_netns(call.netns) as netns, Netlink(netns.fd) as inside:
        if not inside.link("lo").up:
            raise CniError(MISMATCH, f"lo in {call.netns} is down")


def status(call: Call) -> None:
    """Every kernel has a loopback device: nothing can be missing."""


def gc(call: Call) -> None:
    """Nothing outside the container's namespace was made."""


def explain(call: Call) -> list[str]:  # noqa: ARG001 (as every plugin's)
    return ["set link lo up inside"]


def _is_loopback(prefix: Prefix) -> bool:
    return prefix.address >> 24 == 127 if prefix.family == 2 else prefix.address == 1
