# SPDX-License-Identifier: Apache-2.0
"""What macvlan, ipvlan, vlan and dummy have in common: one link inside, addresses from an IPAM plugin."""

from runtime.linux.netlink_objects import Link

from ..call import Call
from ..errors import INVALID_CONFIG, MISMATCH, NOT_AVAILABLE, CniError
from ..ipam import client as ipam
from ..results import IP, Interface, Result
from ..wire import interface
from ..wire.sandbox import Sandbox, open_if_there
from ..wire.sublink import CreateInside, default_master
from ..wire.wiring import Wiring, carry_out
from ._bridge_config import dns_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.linux.steps import Step

    # From a call and the name of the default master to the step that makes the link.
    Decide = Callable[[Call, Callable[[], str]], CreateInside]


def add(call: Call, decide: "Decide", *, needs_ipam: bool = False, inherited: Result | None = None) -> "dict[str, Any]":
    """With inherited, the addresses of the plugin before serve where no IPAM plugin is named."""
    decide(call, lambda: "")  # a wrong field is refused before anything is looked at
    with Sandbox(call.netns) as sandbox, Wiring(sandbox) as wiring:
        create = decide(call, _master_of(wiring, call))
        _require_ipam(call, needs_ipam=needs_ipam)
        interface.refuse_existing(sandbox.netlink, call.ifname, call.netns)
        assigned = ipam.add(call) or inherited
        try:
            ips, plan = _plan(call, create, assigned)
            carry_out(plan, wiring)
            link = sandbox.netlink.link(call.ifname)
        except BaseException:
            _undo(call, sandbox)
            raise
        made = Interface(call.ifname, link.mac, call.netns, mtu=link.mtu)
        dns = dns_of(call.fields)
        found = assigned or Result()
        return Result([made], ips, found.routes, dns or found.dns).to_json(call.version)


def _plan(call: Call, create: CreateInside, assigned: Result | None) -> "tuple[list[IP], list[Step]]":
    found = assigned or Result()
    if assigned is not None and not assigned.ips:
        raise CniError(MISMATCH, "IPAM plugin returned missing IP config")
    ips = [IP(ip.prefix, ip.gateway, 0) for ip in found.ips]
    routes = interface.with_gateways(found.routes, ips)
    return ips, [create, interface.ConfigureInterface(call.ifname, ips, routes)]


def delete(call: Call) -> None:
    ipam.delete(call)
    sandbox = open_if_there(call.netns)
    if sandbox is not None:
        with sandbox:
            remove_inside(sandbox, call.ifname)


def remove_inside(sandbox: Sandbox, ifname: str) -> None:
    """Delete the link inside; fine if there is none."""
    import errno

    from runtime.linux import netlink_messages as m

    if sandbox.netlink.find_link(ifname) is not None:
        sandbox.netlink.transact(m.delete_link(name=ifname).tolerating(errno.ENODEV))


def check(call: Call, decide: "Decide", same: "Callable[[Link, CreateInside], str]") -> None:
    """As ADD left it; same() says what differs about the link itself, or nothing."""
    with Sandbox(call.netns) as sandbox, Wiring(sandbox) as wiring:
        create = decide(call, lambda: "")  # the default route may leave by another link today, which changes nothing
        link = interface.check_interface(sandbox.netlink, call.ifname, call.netns, call.previous)
        if link.kind != create.kind:
            raise CniError(
                MISMATCH, f"{call.ifname} in {call.netns} is a {link.kind or 'physical'} link, not {create.kind}"
            )
        difference = same(link, create)
        if create.master and not difference:
            where = sandbox.netlink if create.master_inside else wiring.host
            master = where.find_link(create.master)
            if master is None or link.lower != master.index:
                difference = f"it is not on {create.master} any more"
        if difference:
            raise CniError(MISMATCH, f"{call.ifname} in {call.netns}: {difference}")
    ipam.check(call)


def status(call: Call, decide: "Decide") -> None:
    """Whether an ADD would succeed: the configuration, the master, the IPAM plugin's own word."""
    try:
        with Wiring() as wiring:
            create = decide(call, _master_of(wiring, call))
            if create.master and not create.master_inside and wiring.host.find_link(create.master) is None:
                raise CniError(NOT_AVAILABLE, f'master: "{create.master}": there is no such link')
    except CniError as error:
        raise CniError(NOT_AVAILABLE, f"{create_name(call)}: {error.message}", error.details) from error
    ipam.status(call)


def gc(call: Call) -> None:
    """Links live and die with the container's namespace; the IPAM plugin has more to do."""
    ipam.gc(call)


def explain(call: Call, decide: "Decide") -> list[str]:
    with Wiring() as wiring:
        create = decide(call, _master_of(wiring, call))
    _, plan = _plan(call, create, ipam.preview(call))
    return [*ipam.explain(call), *(step.describe() for step in plan)]


def create_name(call: Call) -> str:
    return str(call.raw.get("type") or "plugin")


def _require_ipam(call: Call, *, needs_ipam: bool) -> None:
    if needs_ipam and not ipam.plugin_of(call):
        raise CniError(INVALID_CONFIG, f"invalid configuration: ipam.type: {create_name(call)} needs an IPAM plugin")


def _master_of(wiring: Wiring, call: Call) -> "Callable[[], str]":
    def master() -> str:
        if call.fields.boolean("linkInContainer"):
            return default_master(wiring.inside.netlink)
        return default_master(wiring.host)

    return master


def _undo(call: Call, sandbox: Sandbox) -> None:
    """The failure of the ADD is what the caller must hear of; what cannot be undone now is left to DEL."""
    try:
        remove_inside(sandbox, call.ifname)
    except (CniError, OSError):
        pass
    try:
        ipam.delete(call)
    except (CniError, OSError):
        pass
