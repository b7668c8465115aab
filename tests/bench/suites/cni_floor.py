# SPDX-License-Identifier: Apache-2.0
"""The floor of an ADD with masquerade: a Python that starts, our modules, the messages to the kernel alone."""

import errno
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cni.addresses import parse_prefix
from cni.wire import rules
from cni.wire.masquerade import Masquerading
from runtime.linux import netlink_messages as m
from runtime.linux.netlink import Netlink
from runtime.linux.nft import Nft
from tests.bench import peers, stopwatch
from tests.bench.contest import Contender
from tests.bench.stopwatch import Cost
from tests.bench.suites import cni

ROUNDS = 30
_STEP = "ADD masquerade"
_BARE = ["/usr/bin/python3", "-I", "-S", "-c", "pass"]
_MASQUERADING = Masquerading("floor", "floor", "floor floor:eth0", [parse_prefix("10.98.0.2/16")], [])

Work = Callable[[], Iterator[tuple[str, Cost]]]


def contenders(work: Path) -> list[Contender]:
    """Only the Go plugins are rivals; the rest says where our time goes."""
    ours = cni.network(work, "f0", 50, "nftables")
    found = [
        Contender("Python that does nothing", _command(_BARE, {}), ours=True),
        Contender("ketch-cni STATUS: its modules", _status(ours), ours=True),
        Contender("the kernel's messages", messages("fk"), ours=True),
        Contender("ketch in process", cni.in_process(work, [cni.network(work, "f1", 51, "nftables")]), ours=True),
        Contender("ketch-cni", cni.commands(str(peers.OUR_PLUGINS), [ours]), ours=True),
    ]
    if folder := peers.go_plugins():
        for part, backend in enumerate(("iptables", "nftables")):
            rival = cni.network(work, f"f{2 + part}", 52 + part, backend)
            found.append(Contender(f"Go plugins, {backend}", cni.commands(folder, [rival])))
    return found


def _command(command: list[str], environment: dict[str, str], stdin: bytes = b"") -> Work:
    def one() -> Iterator[tuple[str, Cost]]:
        yield _STEP, stopwatch.run(command, stdin=stdin, environment=environment)

    return one


def _status(conf: dict[str, Any]) -> Work:
    """STATUS loads what ADD loads, asks a little, and makes nothing."""
    given = json.dumps(conf | {"cniVersion": "1.1.0"}).encode()
    return _command([f"{peers.OUR_PLUGINS}/bridge"], cni.environment("STATUS", "x", str(peers.OUR_PLUGINS)), given)


def messages(bridge: str, step: str = _STEP) -> Work:
    """What an ADD tells the kernel, nothing else: from sockets that are open, by a process that is warm."""

    def one() -> Iterator[tuple[str, Cost]]:
        with Netlink() as host, Nft() as nft:
            host.transact(m.new_link(bridge, "bridge", up=True).tolerating(errno.EEXIST))
            for _, name in cni.in_namespaces([{}]):
                with open(f"/run/netns/{name}", "rb") as netns, Netlink(netns.fileno()) as inside:
                    yield step, cni.timed(functools.partial(_attach, host, inside, nft, bridge, netns.fileno()))
                host.transact(m.delete_link(name="floor0"))
                rules.remove(nft, _MASQUERADING.entries(), whoever=True)

    return one


def _attach(host: Netlink, inside: Netlink, nft: Nft, bridge: str, netns: int) -> None:
    peer = m.veth_peer(m.link_attributes(name="eth0", netns_fd=netns) + m.ONE_QUEUE)
    own = m.link_attributes(master=host.link(bridge).index) + m.ONE_QUEUE
    host.transact(m.new_link("floor0", "veth", own, peer, up=True))
    index = inside.link("eth0").index
    route = m.route_body("0.0.0.0", 0, link=index, gateway="10.98.0.1")
    inside.transact(
        m.announce_addresses(index), m.add_address(index, "10.98.0.2", 16), m.link_up(index), m.add_route(route, "all")
    )
    rules.add(nft, _MASQUERADING.entries(), _MASQUERADING.policies())
