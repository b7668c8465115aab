# SPDX-License-Identifier: Apache-2.0
"""host-device: a network interface of the host moves into the container, and back."""

import errno
import os

from runtime.linux import netlink_messages as m
from runtime.linux.kernel_error import KernelError
from runtime.linux.netlink import Netlink
from runtime.linux.netlink_objects import Link
from runtime.linux.steps import Step

from ..call import Call
from ..errors import INVALID_CONFIG, IO_FAILURE, MISMATCH, NOT_AVAILABLE, CniError, bad_config
from ..ipam import client as ipam
from ..results import IP, Interface, Result
from ..wire import interface
from ..wire.sandbox import Sandbox, open_if_there
from ..wire.wiring import Wiring, carry_out
from ._bridge_config import checked_mac, dns_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PCI, _AUXILIARY = "/sys/bus/pci/devices", "/sys/bus/auxiliary/devices"
_USERSPACE_DRIVERS = ("uio_pci_generic", "igb_uio", "vfio-pci")


class Config:
    """Which device: by name, MAC, sysfs path or PCI address."""

    __slots__ = ("auxiliary", "device", "dns", "dpdk", "hwaddr", "kernel_path", "pci")

    def __init__(self, call: Call) -> None:
        fields = call.fields
        self.device = fields.text("device")
        self.hwaddr = checked_mac("hwaddr", fields.text("hwaddr")) if "hwaddr" in fields else ""
        self.kernel_path = fields.text("kernelpath")
        self.pci, self.auxiliary = fields.text("pciBusID"), ""
        if chosen := call.runtime_config().text("deviceID"):
            self.pci, self.auxiliary = _on_its_bus(chosen)
        if not (self.device or self.hwaddr or self.kernel_path or self.pci or self.auxiliary):
            raise bad_config("device", None, 'specify either "device", "hwaddr", "kernelpath" or "pciBusID"')
        self.dns = dns_of(fields)
        self.dpdk = fields.boolean("dpdkMode") or (bool(self.pci) and _has_userspace_driver(self.pci))

    def described(self) -> str:
        return self.device or self.hwaddr or self.kernel_path or self.pci or self.auxiliary


def _on_its_bus(device_id: str) -> tuple[str, str]:
    """What a device plugin has chosen: a PCI address, or a name on the auxiliary bus (a scalable function)."""
    if os.path.exists(f"{_PCI}/{device_id}"):
        return device_id, ""
    if os.path.exists(f"{_AUXILIARY}/{device_id}"):
        return "", device_id
    raise bad_config("runtimeConfig.deviceID", device_id, "on neither the PCI nor the auxiliary bus of this host")


class MoveInside(Step):
    """Move the device; its name outside is kept in its alias, from where DEL takes it."""

    __slots__ = ("config", "ifname")

    def __init__(self, config: Config, ifname: str) -> None:
        self.config = config
        self.ifname = ifname

    def describe(self) -> str:
        return f"move {self.config.described()} inside as {self.ifname}"

    def apply(self, context: Wiring) -> None:
        link = find_device(context.host, self.config)
        host, inside = context.host, context.inside
        alias = m.link_attributes(alias=link.name)
        host.transact(m.set_link(link.index, alias, change=m.IFF_UP))  # a link that is up keeps its name
        # The name changes in the same message as the namespace: inside, the old one may be taken.
        moving = m.link_attributes(name=self.ifname, netns_fd=inside.netns.fd)
        host.transact(m.set_link(link.index, moving))
        context.links[self.ifname] = inside.netlink.link(self.ifname)


def add(call: Call) -> "dict[str, Any]":
    config = Config(call)
    with (
        Sandbox(call.netns) as sandbox,
        Wiring(sandbox, in_process=call.in_process) as wiring,
    ):
        if config.dpdk:
            return _add_userspace(call, config)
        interface.refuse_existing(sandbox.netlink, call.ifname, call.netns)
        find_device(wiring.host, config)
        assigned = ipam.add(call)
        try:
            found = assigned or Result()
            ips = [IP(ip.prefix, ip.gateway, 0) for ip in found.ips]
            routes = interface.with_gateways(found.routes, ips)
            carry_out([MoveInside(config, call.ifname), interface.ConfigureInterface(call.ifname, ips, routes)], wiring)
        except BaseException:
            _undo(call, sandbox, wiring)
            raise
        link = wiring.links[call.ifname]
        made = Interface(call.ifname, link.mac, call.netns, mtu=link.mtu, pci_id=config.pci)
        if call.has_previous:
            result = call.previous
            number = len(result.interfaces)
            result.interfaces.append(made)
            result.ips += [IP(ip.prefix, ip.gateway, number) for ip in ips]
            result.routes += found.routes
            return result.to_json(call.version)
        return Result([made], ips, found.routes, config.dns or found.dns).to_json(call.version)


def _add_userspace(call: Call, config: Config) -> "dict[str, Any]":
    """A device that a userspace driver holds is no link: only its addresses are assigned."""
    found = ipam.add(call) or Result()
    made = Interface(call.ifname, sandbox=call.netns, pci_id=config.pci)
    ips = [IP(ip.prefix, ip.gateway, 0) for ip in found.ips]
    return Result([made], ips, found.routes, config.dns or found.dns).to_json(call.version)


def delete(call: Call) -> None:
    ipam.delete(call)
    sandbox = open_if_there(call.netns)
    if sandbox is not None:
        with sandbox, Wiring(sandbox, in_process=call.in_process) as wiring:
            move_back(sandbox, wiring.host, call.ifname)


def check(call: Call) -> None:
    config = Config(call)
    if not config.dpdk:
        with Sandbox(call.netns) as sandbox:
            interface.check_interface(sandbox.netlink, call.ifname, call.netns, call.previous)
    ipam.check(call)


def status(call: Call) -> None:
    try:
        Config(call)
    except CniError as error:
        raise CniError(NOT_AVAILABLE, f"host-device: {error.message}", error.details) from error
    ipam.status(call)


def gc(call: Call) -> None:
    """A device in a namespace that ends comes back by the kernel's own doing; the IPAM plugin has more to do."""
    ipam.gc(call)


def explain(call: Call) -> list[str]:
    found = ipam.preview(call) or Result()
    ips = [IP(ip.prefix, ip.gateway, 0) for ip in found.ips]
    steps = [
        MoveInside(Config(call), call.ifname),
        interface.ConfigureInterface(call.ifname, ips, interface.with_gateways(found.routes, ips)),
    ]
    return [*ipam.explain(call), *(step.describe() for step in steps)]


def find_device(host: Netlink, config: Config) -> Link:
    if config.device:
        link = host.find_link(config.device)
    elif config.hwaddr:
        links = [link for link in host.links() if link.mac == config.hwaddr and not link.flags & m.IFF_LOOPBACK]
        link = links[0] if links else None
    else:
        link = host.find_link(_name_in_sysfs(config))
    if link is None:
        raise CniError(INVALID_CONFIG, f"host-device: there is no device {config.described()} on this host")
    return link


def _name_in_sysfs(config: Config) -> str:
    path = config.kernel_path or (f"{_PCI}/{config.pci}" if config.pci else f"{_AUXILIARY}/{config.auxiliary}")
    if os.path.basename(os.path.dirname(path)) == "net":
        return os.path.basename(path)
    # A virtio device lies between its PCI function and its interface.
    for between in ("", *(f"{name}/" for name in _listed(path) if name.startswith("virtio"))):
        if names := _listed(f"{path}/{between}net"):
            return names[0]
    raise CniError(INVALID_CONFIG, f"host-device: {path}/net: no network interface is there")


def _listed(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _has_userspace_driver(pci: str) -> bool:
    try:
        return os.path.basename(os.readlink(f"{_PCI}/{pci}/driver")) in _USERSPACE_DRIVERS
    except OSError:
        return False


def move_back(sandbox: Sandbox, host: Netlink, ifname: str) -> None:
    """Return the device to the host under its old name; fine if it is there already."""
    link = sandbox.netlink.find_link(ifname)
    if link is None:
        return
    if not link.alias:
        raise CniError(MISMATCH, f"host-device: {ifname} has no alias with its name on the host: did ADD make it?")
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        sandbox.netlink.transact(m.set_link(link.index, change=m.IFF_UP))
        moving = m.link_attributes(name=link.alias, netns_fd=own)
        sandbox.netlink.transact(m.set_link(link.index, moving))
    except KernelError as error:
        if error.errno == errno.EEXIST:
            raise CniError(
                IO_FAILURE, f"host-device: cannot return {link.alias}: the host has a link of that name"
            ) from error
        raise
    finally:
        os.close(own)
    back = host.find_link(link.alias)
    if back is not None:
        host.transact(m.set_link(back.index, m.link_attributes(alias="")))


def _undo(call: Call, sandbox: Sandbox, wiring: Wiring) -> None:
    """The failure of the ADD is what the caller must hear of; what cannot be undone now is left to DEL."""
    try:
        move_back(sandbox, wiring.host, call.ifname)
    except (CniError, OSError):
        pass
    try:
        ipam.delete(call)
    except (CniError, OSError):
        pass
