# SPDX-License-Identifier: Apache-2.0
"""The pair of a pod: made in one message, one end born inside; deleted without waiting for the kernel's long part."""

import _thread
import errno
import os
import select

from runtime.linux import netlink_messages as m
from runtime.linux.kernel_error import KernelError
from runtime.linux.netlink import RTNLGRP_LINK, Netlink
from runtime.linux.netlink_objects import Link
from runtime.linux.steps import Step

from ..errors import CONFLICT, CniError
from ..records import short_hash
from .wiring import Wiring

_OPERSTATE_SECONDS = 5


def host_name(prefix: str, network: str, key: str) -> str:
    """The name of the host's end: the same every time for one attachment, so that people and DEL can compute it."""
    return prefix + short_hash(f"{network}/{key}", 4)


class CreateVeth(Step):
    """Make the pair: the host's end up and in the bridge, the other one inside under its final name."""

    __slots__ = ("host_mac", "host_name", "ifname", "inside_mac", "master", "mtu")

    def __init__(self, host_name: str, ifname: str, *, host_mac: str, inside_mac: str, mtu: int, master: str) -> None:
        self.host_name = host_name
        self.ifname = ifname
        self.host_mac = host_mac
        self.inside_mac = inside_mac
        self.mtu = mtu  # 0: the master's, or the kernel's default
        self.master = master  # a bridge's name, or nothing

    def describe(self) -> str:
        port = f", a port of {self.master}" if self.master else ""
        mtu = f", MTU {self.mtu}" if self.mtu else ""
        return f"create veth {self.host_name} up{port}, peer {self.ifname} ({self.inside_mac}) inside{mtu}"

    def apply(self, context: Wiring) -> None:
        master = context.links[self.master].index if self.master else None
        fd = context.inside.netns.fd
        peer = m.link_attributes(name=self.ifname, mac=self.inside_mac, mtu=self.mtu, netns_fd=fd) + m.ONE_QUEUE
        own = m.link_attributes(mac=self.host_mac, mtu=self.mtu, master=master) + m.ONE_QUEUE
        try:
            context.host.transact(m.new_link(self.host_name, "veth", own, m.veth_peer(peer), up=True))
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise
            raise CniError(
                CONFLICT,
                f"interface {self.ifname} in the container, or {self.host_name} on the host, exists already",
                "has this attachment been added before? DEL it first",
            ) from error


class PortFlags(Step):
    """What a bridge does with a port."""

    __slots__ = ("hairpin", "isolated", "port")

    def __init__(self, port: str, *, hairpin: bool, isolated: bool) -> None:
        self.port = port
        self.hairpin = hairpin
        self.isolated = isolated

    def describe(self) -> str:
        words = ["hairpin"] * self.hairpin + ["isolated"] * self.isolated
        return f"make bridge port {self.port} {' and '.join(words)}"

    def apply(self, context: Wiring) -> None:
        port = context.links.get(self.port) or context.host.link(self.port)
        context.host.transact(m.bridge_port(port.index, hairpin=self.hairpin or None, isolated=self.isolated or None))


class WaitUntilUp(Step):
    """Wait until the kernel calls the host's end up; before that the bridge may not forward to it.

    The first port of a bridge gives the bridge itself its carrier, by a second turn of the kernel's linkwatch: until
    then the bridge has no queue, and the host's answer to the pod's first question is dropped.
    """

    __slots__ = ("master", "name")

    def __init__(self, name: str, master: str = "") -> None:
        self.name = name
        self.master = master

    def describe(self) -> str:
        return f"wait until {self.name} is up"

    def apply(self, context: Wiring) -> None:
        context.links[self.name] = _until_up(context, self.name)
        if self.master and context.links[self.master].operstate != "up":
            context.links[self.master] = _until_up(context, self.master)


def _until_up(context: Wiring, name: str) -> Link:
    link = context.host.link(name)
    return link if link.operstate == "up" else _await_up(name)


def _await_up(name: str) -> Link:
    with Netlink(groups=(RTNLGRP_LINK,)) as events, Netlink() as ask:
        waiting = select.poll()
        waiting.register(events.fileno(), select.POLLIN)
        while True:
            link = ask.link(name)  # after the subscription: a change in between is not missed
            if link.operstate == "up":
                return link
            if not waiting.poll(_OPERSTATE_SECONDS * 1000):
                raise CniError(CONFLICT, f"link {name} is {link.operstate} after {_OPERSTATE_SECONDS} s")
            events.events()


class Leftovers:
    """Where a deletion that went on after DEL had answered writes that it failed; GC and ketch-cni look there."""

    __slots__ = ("directory",)

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def note(self, name: str, why: str) -> None:
        os.makedirs(self.directory, 0o700, exist_ok=True)
        with open(f"{self.directory}/{name}", "w", encoding="utf-8") as file:
            file.write(why)

    def all(self) -> dict[str, str]:
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return {}
        found = {}
        for name in names:
            with open(f"{self.directory}/{name}", encoding="utf-8") as file:
                found[name] = file.read()
        return found

    def clear(self, name: str) -> None:
        try:
            os.unlink(f"{self.directory}/{name}")
        except FileNotFoundError:
            pass


def delete_soon(host: Netlink, name: str, leftovers: Leftovers, *, in_process: bool) -> bool:
    """Delete a link of the host; False if there is none.

    RTM_DELLINK takes the link down and out of sight at once and then waits 16-23 ms for every CPU to forget it. We
    return once it is down: by then its deleter holds the rtnl lock to the end, and whoever asks for links waits.
    """
    link = host.find_link(name)
    if link is None:
        leftovers.clear(name)
        return False
    with Netlink(groups=(RTNLGRP_LINK,)) as events:
        failed_read, failed_write = os.pipe2(os.O_CLOEXEC)
        if in_process:
            _thread.start_new_thread(_delete, (link, leftovers, failed_write))
        elif os.fork() == 0:
            _delete_as_child(link, leftovers, failed_write)
        else:
            os.close(failed_write)
        _await_down(events, link.index, failed_read)
        os.close(failed_read)
    return True


def _delete_as_child(link: Link, leftovers: Leftovers, failed_write: int) -> None:
    try:
        for fd in (0, 1, 2):  # a caller reads until the end of our stdout
            os.close(fd)
        _delete(link, leftovers, failed_write)
    finally:
        os._exit(0)


def _delete(link: Link, leftovers: Leftovers, failed_write: int) -> None:
    try:
        with Netlink() as own:
            own.transact(m.delete_link(link.index).tolerating(errno.ENODEV))
        leftovers.clear(link.name)
    except OSError as error:
        leftovers.note(link.name, str(error))
    finally:
        os.close(failed_write)


def _await_down(events: Netlink, index: int, ended: int) -> None:
    waiting = select.poll()
    waiting.register(events.fileno(), select.POLLIN)
    waiting.register(ended, select.POLLIN)
    while True:
        ready = [fd for fd, _ in waiting.poll()]
        if ended in ready:
            return  # it has ended already, well or not
        try:
            for kind, body in events.events():
                about = int.from_bytes(body[4:8], "little")
                flags = int.from_bytes(body[8:12], "little")
                if about == index and (kind == m.RTM_DELLINK or not flags & m.IFF_UP):
                    return
        except OSError:
            return  # ENOBUFS: more events than the socket holds; then the deletion is long under way
