# SPDX-License-Identifier: Apache-2.0
"""linux.netDevices: network devices of the host moved into the container, renamed, with their addresses."""

from __future__ import annotations

import os

from runtime.errors import CreateFailed
from runtime.linux import netlink
from runtime.linux import netlink_messages as messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.linux.netlink_objects import Address

IFA_F_PERMANENT = 0x80
SCOPE_LINK = 253


def move_in(devices: Mapping[str, str], pid: int) -> None:
    """Move each device of the host (key) into the network namespace of pid under its new name (value)."""
    target = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with netlink.Netlink() as host, netlink.Netlink(target) as inside:
            for name, new_name in devices.items():
                _move(host, inside, target, name, new_name)
    finally:
        os.close(target)


def _move(host: netlink.Netlink, inside: netlink.Netlink, target: int, name: str, new_name: str) -> None:
    link = host.find_link(name)
    where = f"linux.netDevices.{name}"
    if link is None:
        raise CreateFailed(f"{where}: the host has no network device of this name")
    if inside.find_link(new_name) is not None:
        raise CreateFailed(f"{where}: the container has a network device {new_name} already")
    addresses = [address for address in host.addresses(link.index) if _is_kept(address)]
    try:
        host.transact(messages.link_down(link.index))
        attributes = messages.u32(messages.IFLA_NET_NS_FD, target) + messages.text(messages.IFLA_IFNAME, new_name)
        host.transact(messages.set_link(link.index, attributes))
        moved = inside.link(new_name)
        for address in addresses:
            # The kernel drops a device's addresses when it changes the namespace.
            inside.transact(messages.add_address(moved.index, address.address, address.prefix))
        inside.transact(messages.link_up(moved.index))
    except OSError as error:
        raise CreateFailed(f"{where}: cannot move it into the container: {error}") from None


def _is_kept(address: Address) -> bool:
    """Permanent addresses that reach beyond the link; the kernel makes link-local ones anew."""
    return bool(address.flags & IFA_F_PERMANENT) and address.scope != SCOPE_LINK
