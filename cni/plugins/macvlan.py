# SPDX-License-Identifier: Apache-2.0
"""macvlan: the container's own address on the node's network, by a second MAC on a link of the host."""

from runtime.linux import netlink_messages as m
from runtime.linux.netlink_objects import Link, as_int

from ..call import Call
from ..wire.sublink import CreateInside
from . import _sublink
from ._bridge_config import mtu_of, requested_mac

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
_MODE, _BROADCAST_QUEUE = 1, 7  # IFLA_MACVLAN_*


def add(call: Call) -> "dict[str, Any]":
    return _sublink.add(call, _decide)


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
    mode = fields.choice("mode", "bridge", tuple(MODES))
    data = m.u32(_MODE, MODES[mode])
    if fields.integer("bcqueuelen"):
        data += m.u32(_BROADCAST_QUEUE, fields.integer("bcqueuelen"))
    mac = requested_mac(call) or fields.text("mac")
    return CreateInside(
        "macvlan", call.ifname,
        data=data, details=f"mode {mode}", master=fields.text("master") or default_master(),
        master_inside=fields.boolean("linkInContainer"), mtu=mtu_of(fields), mac=mac,
    )  # fmt: skip


def _difference(link: Link, create: CreateInside) -> str:
    have = {number: name for name, number in MODES.items()}.get(as_int(link.data.get(_MODE)))
    return "" if create.details == f"mode {have}" else f"it is in mode {have}"
