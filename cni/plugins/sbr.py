# SPDX-License-Identifier: Apache-2.0
"""sbr: what comes from an interface's own address leaves by that interface. A rule and a table per address, inside.

Entirely in the container's namespace: it ends with it, so DEL of a vanished namespace has nothing to do.
"""

import errno
import fcntl
import os

from runtime.linux import netlink_messages as m
from runtime.linux.netlink import Netlink
from runtime.linux.netlink_objects import Route as KernelRoute

from ..addresses import BITS, parse_ip
from ..call import Call
from ..errors import INVALID_CONFIG, MISMATCH, NOT_AVAILABLE, CniError, bad_config
from ..wire.sandbox import Sandbox, open_if_there

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..results import IP

_FIRST_TABLE = 100


class Config:
    """Everything that the user may choose."""

    __slots__ = ("gateways", "source_hints", "table")

    def __init__(self, call: Call) -> None:
        self.table = call.fields.integer("table") if "table" in call.fields else None
        self.source_hints = call.fields.boolean("addSourceHints")
        self.gateways: dict[int, str] = {}
        for number, text in enumerate(call.fields.texts("gateways")):
            try:
                family, _ = parse_ip(text)
            except ValueError as error:
                raise bad_config(f"gateways[{number}]", text, str(error)) from None
            if family in self.gateways:
                raise bad_config(f"gateways[{number}]", text, "one gateway per address family")
            self.gateways[family] = text


def add(call: Call) -> "dict[str, Any]":
    config = Config(call)
    ips = call.previous.container_ips(call.ifname)
    if not ips:
        raise CniError(INVALID_CONFIG, f"sbr: prevResult has no address for {call.ifname}")
    with Sandbox(call.netns) as sandbox:
        # Several sbr in one namespace choose tables; the namespace's file is the lock that they share.
        lock = os.open(call.netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _route_by_source(sandbox.netlink, config, call.ifname, ips)
        finally:
            os.close(lock)
    return call.passed_on()


def delete(call: Call) -> None:
    sandbox = open_if_there(call.netns)
    if sandbox is None:
        return
    with sandbox:
        inside = sandbox.netlink
        link = inside.find_link(call.ifname)
        if link is None:
            _remove_orphaned_rules(inside)
            return
        own = {(address.family, address.address) for address in inside.addresses(link.index)}
        for family in (2, 10):
            for rule in inside.rules(family):
                if rule.source and (family, rule.source) in own and rule.prefix == BITS[family]:
                    _delete_rule(inside, family, rule.source, rule.table)


def check(call: Call) -> None:
    ips = call.previous.container_ips(call.ifname)
    with Sandbox(call.netns) as sandbox:
        inside = sandbox.netlink
        for ip in ips:
            family = ip.prefix.family
            found = [r for r in inside.rules(family) if r.source == ip.prefix.ip and r.prefix == BITS[family]]
            if not found:
                raise CniError(MISMATCH, f"no rule sends what comes from {ip.prefix.ip} by {call.ifname}")
            if not inside.routes(family, found[0].table):
                raise CniError(MISMATCH, f"routing table {found[0].table} for {ip.prefix.ip} is empty")


def status(call: Call) -> None:
    try:
        Config(call)
    except CniError as error:
        raise CniError(NOT_AVAILABLE, f"sbr: {error.message}", error.details) from error


def gc(call: Call) -> None:
    """Nothing outside the container's namespace was made."""


def explain(call: Call) -> list[str]:
    config = Config(call)
    table = str(config.table) if config.table is not None else f"the first empty table from {_FIRST_TABLE}"
    return [f"look up what comes from {ip.prefix.ip} in {table}" for ip in call.previous.container_ips(call.ifname)]


def _route_by_source(inside: Netlink, config: Config, ifname: str, ips: "list[IP]") -> None:
    link = inside.find_link(ifname)
    if link is None:
        raise CniError(INVALID_CONFIG, f"sbr: there is no interface {ifname}")
    table = config.table if config.table is not None else _first_empty_table(inside)
    moved: list[tuple[int, KernelRoute]] = []
    for ip in ips:
        family = ip.prefix.family
        inside.transact(
            m.add_rule(family, source=ip.prefix.ip, prefix=BITS[family], table=table).tolerating(errno.EEXIST)
        )
        main = [route for route in inside.routes(family, m.RT_TABLE_MAIN) if route.link == link.index]
        gateway = config.gateways.get(family) or ip.gateway
        if gateway:
            to_gateway = m.route_body(gateway, BITS[family], link=link.index, table=table, scope=m.RT_SCOPE_LINK)
            zero = "::" if family == 10 else "0.0.0.0"  # noqa: S104 (the default route)
            hint = ip.prefix.ip if config.source_hints else None
            default = m.route_body(zero, 0, link=link.index, gateway=gateway, source=hint, table=table)
            inside.transact(
                m.add_route(to_gateway, gateway, replace=True), m.add_route(default, "default", replace=True)
            )
        for route in main:
            if _belongs(route, ip):
                inside.transact(m.add_route(_copy(route, table, None), route.destination).tolerating(errno.EEXIST))
                moved.append((family, route))
        if config.table is None:
            table += 1
    # Only now: two addresses of one subnet share its route.
    for _, route in moved:
        body = _copy(route, m.RT_TABLE_MAIN, route.priority)
        inside.transact(m.delete_route(body, route.destination).tolerating(errno.ESRCH))


def _belongs(route: KernelRoute, ip: "IP") -> bool:
    """Whether a route of the interface is for this of its addresses."""
    if route.source:
        return route.source == ip.prefix.ip
    if route.gateway:
        return ip.prefix.contains(*parse_ip(route.gateway))
    return not route.destination.startswith("fe80:")  # neighbour discovery is nobody's own


def _copy(route: KernelRoute, table: int, priority: int | None) -> bytes:
    address, _, length = route.destination.partition("/")
    return m.route_body(
        address, int(length),
        link=route.link, gateway=route.gateway, source=route.source, priority=priority, table=table, scope=route.scope,
        kind=route.kind, protocol=route.protocol, mtu=route.mtu or None, advmss=route.advmss or None,
    )  # fmt: skip


def _first_empty_table(inside: Netlink) -> int:
    used = {route.table for family in (2, 10) for route in inside.routes(family)}
    used |= {rule.table for family in (2, 10) for rule in inside.rules(family)}
    table = _FIRST_TABLE
    while table in used:
        table += 1
    return table


def _remove_orphaned_rules(inside: Netlink) -> None:
    """The interface is gone: rules for addresses that nobody here has any more."""
    have = {address.address for address in inside.addresses()}
    for family in (2, 10):
        for rule in inside.rules(family):
            if rule.source and rule.prefix == BITS[family] and rule.source not in have and rule.table >= _FIRST_TABLE:
                _delete_rule(inside, family, rule.source, rule.table)


def _delete_rule(inside: Netlink, family: int, source: str, table: int) -> None:
    request = m.delete_rule(family, source=source, prefix=BITS[family], table=table)
    inside.transact(request.tolerating(errno.ENOENT, errno.ESRCH))
