# SPDX-License-Identifier: Apache-2.0
"""dummy: a link that leads nowhere, to carry addresses."""

from runtime.linux.netlink_objects import Link

from ..call import Call
from ..wire.sublink import CreateInside
from . import _sublink
from ._bridge_config import mtu_of, requested_mac

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def add(call: Call) -> "dict[str, Any]":
    return _sublink.add(call, _decide, needs_ipam=True)


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
    return CreateInside(
        "dummy", call.ifname,
        data=b"", details="", master="", master_inside=False, mtu=mtu_of(call.fields), mac=requested_mac(call),
    )  # fmt: skip


def _difference(link: Link, create: CreateInside) -> str:  # noqa: ARG001 (as the others')
    return ""
