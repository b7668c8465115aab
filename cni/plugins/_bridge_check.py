# SPDX-License-Identifier: Apache-2.0
"""What the bridge plugin's CHECK compares outside the container: the bridge, the port, gateway addresses, rules."""

from runtime.linux import netlink_messages as m
from runtime.linux.netlink_objects import Link

from ..addresses import parse_ip
from ..call import Call
from ..errors import MISMATCH, CniError
from ..wire import masquerade, rules
from ..wire.masquerade import Masquerading
from ..wire.wiring import Wiring
from ._bridge_config import Config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def check_outside(call: Call, config: Config, wiring: Wiring, peer: int) -> None:
    """The bridge and the host's end (the link with index peer) are as prevResult and the configuration have them."""
    bridge = wiring.host.find_link(config.bridge)
    if bridge is None or bridge.kind != "bridge":
        raise CniError(MISMATCH, f"bridge {config.bridge} does not exist any more")
    if not bridge.up:
        raise CniError(MISMATCH, f"bridge {config.bridge} is down")
    try:
        host = wiring.host.link_by_index(peer)
    except OSError:
        raise CniError(MISMATCH, f"the host's end of {call.ifname} does not exist any more") from None
    macs = {interface.name: interface.mac for interface in call.previous.interfaces if not interface.sandbox}
    if host.name not in macs:
        raise CniError(MISMATCH, f"the host's end of {call.ifname} is {host.name}, which prevResult does not name")
    if host.master != bridge.index:
        raise CniError(MISMATCH, f"{host.name} is not a port of bridge {config.bridge} any more")
    if not host.up and not config.disable_container_interface:
        raise CniError(MISMATCH, f"{host.name} is down")
    for link in (host, bridge):
        wanted = macs.get(link.name, "").lower()
        if wanted not in ("", link.mac) and not _floats(wiring, link):
            raise CniError(MISMATCH, f"{link.name} has MAC {link.mac}, not {wanted}")
    _check_modes(config, bridge, host)
    if config.is_gateway and not config.force_address:  # that option lets the next one replace the address
        _check_gateways(call, config, wiring, bridge.index)


def _floats(wiring: Wiring, link: Link) -> bool:
    """A bridge that nobody gave a MAC has that of its lowest port, and ports come and go."""
    return link.kind == "bridge" and link.mac in {port.mac for port in wiring.host.links() if port.master == link.index}


def _check_modes(config: Config, bridge: Link, host: Link) -> None:
    modes = (
        (bridge.name, "promiscuous", config.promiscuous, bridge.flags & m.IFF_PROMISC),
        (host.name, "in hairpin mode", config.hairpin, host.hairpin),
        (host.name, "isolated", config.isolated, host.isolated),
    )
    for name, mode, wanted, found in modes:
        if wanted and not found:
            raise CniError(MISMATCH, f"{name} is not {mode} any more")


def _check_gateways(call: Call, config: Config, wiring: Wiring, bridge: int) -> None:
    index = wiring.host.link(f"{config.bridge}.{config.vlan}").index if config.vlan else bridge
    have = {parse_ip(address.address) for address in wiring.host.addresses(index)}
    for ip in call.previous.container_ips(call.ifname):
        if ip.gateway and parse_ip(ip.gateway) not in have:
            raise CniError(MISMATCH, f"gateway address {ip.gateway} is not on {config.bridge} any more")


def check_rules(call: Call, config: Config, wiring: Wiring, record: "dict[str, Any]", mac: str) -> None:
    """Masquerading and the guard of the source address."""
    if config.ip_masq:
        prefixes = [ip.prefix for ip in call.previous.container_ips(call.ifname)]
        comment = rules.comment_of(call.network, call.key)
        what = Masquerading(call.network, call.container_id, comment, prefixes, config.exceptions)
        masquerade.check(wiring, what, record.get("masquerade"))
    if config.macspoofchk and record:
        from ..wire import spoof

        spoof.check(wiring, record["host"], mac, rules.comment_of(call.network, call.key))
