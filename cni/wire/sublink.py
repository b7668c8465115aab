# SPDX-License-Identifier: Apache-2.0
"""A link that is made inside at once: macvlan, ipvlan, vlan, dummy. One message, no temporary name on the host."""

import errno

from runtime.linux import netlink_messages as m
from runtime.linux.kernel_error import KernelError
from runtime.linux.netlink import Netlink
from runtime.linux.netlink_objects import Link
from runtime.linux.steps import Step

from ..errors import CONFLICT, INVALID_CONFIG, UNSUPPORTED_KERNEL, CniError
from .wiring import Wiring

_NEEDS = {
    "macvlan": "CONFIG_MACVLAN",
    "ipvlan": "CONFIG_IPVLAN",
    "vlan": "CONFIG_VLAN_8021Q",
    "dummy": "CONFIG_DUMMY",
}


class CreateInside(Step):
    """Make a link of some kind inside under its final name, on top of a master if it has one."""

    __slots__ = ("data", "details", "ifname", "kind", "mac", "master", "master_inside", "mtu")

    def __init__(
        self, kind: str, ifname: str, *, data: bytes, details: str, master: str, master_inside: bool, mtu: int, mac: str
    ) -> None:
        self.kind = kind
        self.ifname = ifname
        self.data = data
        self.details = details  # what data says, for people
        self.master = master
        self.master_inside = master_inside
        self.mtu = mtu
        self.mac = mac

    def describe(self) -> str:
        on = f" on {self.master}{' (inside)' if self.master_inside else ''}" if self.master else ""
        mtu = f", MTU {self.mtu}" if self.mtu else ""
        return f"create {self.kind} {self.ifname}{on} inside{self.details and ', ' + self.details}{mtu}"

    def apply(self, context: Wiring) -> None:
        maker = context.inside.netlink if self.master_inside else context.host
        lower = find_master(maker, self.master).index if self.master else None
        attributes = m.link_attributes(
            mac=self.mac, mtu=self.mtu, lower=lower, netns_fd=None if self.master_inside else context.inside.netns.fd
        )
        try:
            maker.transact(m.new_link(self.ifname, self.kind, attributes, self.data))
        except KernelError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise CniError(
                    UNSUPPORTED_KERNEL, f"cannot create {self.kind} {self.ifname}: this kernel lacks {self.kind} links",
                    f"they need {_NEEDS.get(self.kind, 'a module')}",
                ) from error  # fmt: skip
            if error.errno == errno.EEXIST:
                raise CniError(CONFLICT, f"interface {self.ifname} exists already", str(error)) from error
            raise


def find_master(where: Netlink, name: str) -> Link:
    link = where.find_link(name)
    if link is None:
        raise CniError(INVALID_CONFIG, f'invalid configuration: master: "{name}": there is no such link')
    return link


def default_master(where: Netlink) -> str:
    """The link that the default route leaves by."""
    link = where.default_link()
    if link is None:
        raise CniError(INVALID_CONFIG, "invalid configuration: master: not given, and no default route tells it")
    return link.name
