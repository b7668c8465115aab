# SPDX-License-Identifier: Apache-2.0
"""The container's interface: its addresses and routes, and the comparison of both with what ADD had answered."""

import errno

from runtime.linux import netlink_messages as m
from runtime.linux.kernel_error import KernelError
from runtime.linux.netlink import write_sysctl
from runtime.linux.netlink_objects import Link
from runtime.linux.steps import Step

from ..addresses import BITS, Prefix, parse_prefix
from ..errors import CONFLICT, MISMATCH, CniError
from ..results import IP, Result, Route
from .wiring import Wiring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.linux.netlink import Netlink


class ConfigureInterface(Step):
    """Give the container's interface its addresses, set it up, add its routes: one message to the kernel."""

    __slots__ = ("duplicate_detection", "ifname", "ips", "prefix_routes", "routes")

    def __init__(
        self,
        ifname: str,
        ips: list[IP],
        routes: list[Route],
        *,
        duplicate_detection: bool = False,
        prefix_routes: bool = True,
    ) -> None:
        self.prefix_routes = prefix_routes
        self.ifname = ifname
        self.ips = ips
        self.routes = routes
        self.duplicate_detection = duplicate_detection

    def describe(self) -> str:
        parts = [f"set link {self.ifname} up inside"]
        parts += [f"address {ip.prefix}" for ip in self.ips]
        parts += [f"route {described(route)}" for route in self.routes]
        return ", ".join(parts)

    def apply(self, context: Wiring) -> None:
        inside = context.inside
        link = inside.netlink.index_of(self.ifname)
        families = {ip.prefix.family for ip in self.ips}
        if 10 in families:
            inside.run(self._prepare_ipv6)
        # Neighbours are to hear of an address that had another owner before.
        requests = [m.announce_addresses(link)] if 2 in families else []
        requests += [
            m.add_address(
                link, ip.prefix.ip, ip.prefix.length,
                duplicate_detection=self.duplicate_detection, prefix_route=self.prefix_routes,
            )
            for ip in self.ips
        ]  # fmt: skip
        requests.append(m.link_up(link))
        requests += [route_request(route, link) for route in self.routes]
        inside.netlink.transact(*requests)
        if 10 in families:
            from . import solicited

            prefixes = [ip.prefix for ip in self.ips]
            solicited.wait(self.ifname, link, prefixes, inside.run, dad=self.duplicate_detection)

    def _prepare_ipv6(self) -> None:
        """Before the link is up and has addresses: nobody is to wait for DAD."""
        _try_sysctl(f"net/ipv6/conf/{self.ifname}/disable_ipv6", "0")
        detect = "1" if self.duplicate_detection else "0"
        _try_sysctl(f"net/ipv6/conf/{self.ifname}/accept_dad", detect)
        _try_sysctl(f"net/ipv6/conf/{self.ifname}/enhanced_dad", detect)
        _try_sysctl(f"net/ipv6/conf/{self.ifname}/ndisc_notify", "1")


def _try_sysctl(key: str, value: str) -> None:
    try:
        write_sysctl(key, value)
    except KernelError as error:
        if error.errno not in (errno.ENOENT, errno.EROFS):
            raise


def refuse_existing(inside: "Netlink", ifname: str, sandbox: str) -> None:
    """An ADD must not touch an interface that is there already."""
    if inside.has_link(ifname):
        raise CniError(CONFLICT, f"interface {ifname} in {sandbox} exists already", "DEL this attachment first")


def route_request(route: Route, link: int, *, onlink: bool = False) -> m.Request:
    """With onlink, its gateway is on the link whatever other routes say."""
    body = route_body(route, link, onlink=onlink)
    # A second route to the same destination is a second path; the very same one again is nothing new.
    return m.add_route(body, described(route), append=True).tolerating(errno.EEXIST)


def route_body(route: Route, link: int, *, onlink: bool = False) -> bytes:
    return m.route_body(
        route.destination.network.ip,
        route.destination.length,
        link=link,
        gateway=route.gateway,
        priority=route.priority,
        table=route.table or m.RT_TABLE_MAIN,
        scope=route.scope,
        mtu=route.mtu,
        advmss=route.advmss,
        onlink=onlink,
    )


def described(route: Route) -> str:
    words = [str(route.destination)]
    words += [f"via {route.gateway}"] if route.gateway else []
    extras = (("metric", route.priority), ("table", route.table), ("mtu", route.mtu), ("advmss", route.advmss))
    words += [f"{name} {value}" for name, value in extras if value is not None]
    return " ".join(words)


def with_gateways(routes: list[Route], ips: list[IP]) -> list[Route]:
    """A route that names no gateway goes by the first one of its family."""
    gateways = {ip.prefix.family: ip.gateway for ip in reversed(ips) if ip.gateway}
    return [route if route.gateway else route.via(gateways.get(route.destination.family)) for route in routes]


def default_routes(routes: list[Route], ips: list[IP]) -> list[Route]:
    """The default routes that isDefaultGateway adds: one per family that has a gateway and no such route yet."""
    added: list[Route] = []
    for ip in ips:
        default = parse_prefix("::/0" if ip.prefix.family == 10 else "0.0.0.0/0")
        there = [r for r in routes + added if r.destination.network == default and (r.gateway or r in added)]
        if ip.gateway and not there:
            added.append(Route(default, ip.gateway))
    return added


def check_interface(inside: "Netlink", ifname: str, sandbox: str, result: Result) -> Link:
    """The interface is there, up, with the MAC, the addresses and the routes that the result names."""
    link = inside.find_link(ifname)
    if link is None:
        raise CniError(MISMATCH, f"interface {ifname} is not in {sandbox} any more")
    if not link.up:
        raise CniError(MISMATCH, f"interface {ifname} in {sandbox} is down")
    number = result.container_interface(ifname)
    if number is None:
        raise CniError(MISMATCH, f"prevResult names no interface {ifname} in {sandbox}")
    wanted = result.interfaces[number]
    if wanted.mac and wanted.mac.lower() != link.mac:
        raise CniError(MISMATCH, f"interface {ifname} in {sandbox} has MAC {link.mac}, not {wanted.mac}")
    _check_addresses(inside, link, result.container_ips(ifname))
    _check_routes(inside, link, result)
    return link


def _check_addresses(inside: "Netlink", link: Link, ips: list[IP]) -> None:
    have = {parse_prefix(address.text) for address in inside.addresses(link.index)}
    for ip in ips:
        if ip.prefix not in have:
            raise CniError(MISMATCH, f"address {ip.prefix} is not on {link.name}")


def _check_routes(inside: "Netlink", link: Link, result: Result) -> None:
    """Routes of the result and to its subnets exist: in whichever table, for sbr moves them; others may exist, too."""
    ips = result.container_ips(link.name)
    subnets = [Route(ip.prefix.network) for ip in ips if ip.prefix.length < BITS[ip.prefix.family]]
    wanted = [*with_gateways(result.routes, ips), *subnets]
    have = {family: _ways(inside, family) for family in {route.destination.family for route in wanted}}
    for route in wanted:
        gateways = {
            gateway
            for table, destination, gateway in have[route.destination.family]
            if destination == route.destination.network and (route.table or table) == table
        }
        if not gateways or (route.gateway and _plain(route.gateway) not in gateways):
            raise CniError(MISMATCH, f"route {described(route)} is not there any more")


def _ways(inside: "Netlink", family: int) -> "list[tuple[int, Prefix, str | None]]":
    """Table, destination and gateway of all routes but the kernel's own to local addresses."""
    return [
        (route.table, parse_prefix(route.destination), gateway)
        for route in inside.routes(family)
        if route.table != m.RT_TABLE_LOCAL
        for gateway in route.gateways
    ]


def _plain(address: str) -> str:
    from ..addresses import parse_ip, to_text

    return to_text(*parse_ip(address))
