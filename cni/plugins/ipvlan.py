# SPDX-License-Identifier: Apache-2.0
"""ipvlan: the container's own address on the node's network, with the MAC of a link of the host."""

from runtime.linux import netlink_messages as m
from runtime.linux.netlink_objects import Link, as_int

from ..call import Call
from ..ipam import client as ipam
from ..wire.sublink import CreateInside
from . import _sublink
from ._bridge_config import mtu_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MODES = {"l2": 0, "l3": 1, "l3s": 2}
_MODE = 1  # IFLA_IPVLAN_MODE


def add(call: Call) -> "dict[str, Any]":
    chained = call.has_previous and not ipam.plugin_of(call)
    return _sublink.add(call, _decide, inherited=call.previous if chained else None)


def delete(call: Call) -> None:
    _sublink.delete(call)


def check(call: Call) -> None:
    _sublink.check(call, _decide, _difference)


def status(call: Call) -> None:
    _sublink.status(call, _decide)


def gc(call: Call) -> None:
    _sublink.gc(call)


def explain(call: Call) -> list[str]:
    return _sublink.explain(call, _decide)


def _decide(call: Call, default_master: "Callable[[], str]") -> CreateInside:
    call.check_args(("IP", "MAC", "GATEWAY"))
    fields = call.fields
    mode = fields.choice("mode", "l2", tuple(MODES))
    return CreateInside(
        "ipvlan", call.ifname,
        data=m.u16(_MODE, MODES[mode]), details=f"mode {mode}", master=_master(call) or default_master(),
        master_inside=fields.boolean("linkInContainer"), mtu=mtu_of(fields), mac="",
    )  # fmt: skip


def _master(call: Call) -> str:
    """The configuration's; chained after a plugin that has brought up a link on the host, that link."""
    master = call.fields.text("master")
    if not master and call.has_previous and call.command == "ADD":
        outside = [interface.name for interface in call.previous.interfaces if not interface.sandbox]
        master = outside[0] if outside else ""
    return master


def _difference(link: Link, create: CreateInside) -> str:
    have = {number: name for name, number in MODES.items()}.get(as_int(link.data.get(_MODE)))
    return "" if create.details == f"mode {have}" else f"it is in mode {have}"
