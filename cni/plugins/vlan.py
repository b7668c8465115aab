# SPDX-License-Identifier: Apache-2.0
"""vlan: a VLAN of a link of the host, inside the container."""

from runtime.linux import netlink_messages as m
from runtime.linux.netlink_objects import Link, as_int

from ..call import Call
from ..errors import bad_config
from ..wire.sublink import CreateInside
from . import _sublink
from ._bridge_config import mtu_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_ID = 1  # IFLA_VLAN_ID


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


def _decide(call: Call, default_master: "Callable[[], str]") -> CreateInside:  # noqa: ARG001 (as the others')
    call.check_args(("IP", "MAC", "GATEWAY"))
    fields = call.fields
    vlan, master = fields.integer("vlanId", high=4094), fields.text("master")
    if "vlanId" not in fields:
        raise bad_config("vlanId", None, "expected 0 to 4094")
    if not master:
        raise bad_config("master", None, "a VLAN needs the link that it is one of")
    return CreateInside(
        "vlan", call.ifname,
        data=m.u16(_ID, vlan), details=f"VLAN {vlan}", master=master,
        master_inside=fields.boolean("linkInContainer"), mtu=mtu_of(fields), mac="",
    )  # fmt: skip


def _difference(link: Link, create: CreateInside) -> str:
    have = as_int(link.data.get(_ID))
    return "" if create.details == f"VLAN {have}" else f"it is VLAN {have}"
