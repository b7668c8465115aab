# SPDX-License-Identifier: Apache-2.0
"""Whoever dies when: after DEL or GC nothing is left, and no address is lost."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cni import protocol
from cni.client import Attachment, Network, Options, parse
from tests.linux.cni.world import NETWORKS, Refused, World, bridge, call, ip, run, settle
from tests.support import crash
from tests.support.needs import needs

pytestmark = [needs("root", "nft"), pytest.mark.timeout(600)]

PORTS = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}


def _program(plugin: str, command: str, conf: dict[str, Any], container: str, netns: str) -> Any:
    """The plugin as a program would run it, but without an interpreter's start: its calls are the plugin's own."""
    environ = {
        "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_NETNS": netns, "CNI_IFNAME": "eth0",
        "CNI_PATH": "/nonexistent",
    }  # fmt: skip
    return lambda: protocol.run(plugin, environ, json.dumps(conf).encode())


def _what_is_left(container: str) -> list[str]:
    settle()
    left = [f"link {link['ifname']}" for link in ip("link") if link["ifname"].startswith("veth")]
    for directory in (
        f"{NETWORKS}/net",
        f"{NETWORKS}/net/.ketch/held",
        "/run/cni/ketch/net/bridge",
        "/run/cni/ketch/net/portmap",
    ):
        if os.path.isdir(directory):
            names = [name for name in os.listdir(directory) if name[0] in "1fc"]
            left += [f"{directory}/{name}" for name in names]
    rules = run("nft", "list", "ruleset")
    left += [f"rule {line.strip()}" for line in rules.splitlines() if f" {container}:" in line]
    return left


def _warm(conf: dict[str, Any], host: World) -> None:
    """The bridge and the tables are there before the first kill: what is counted is an attachment's own."""
    path = host.netns("warm")
    call("bridge", "ADD", conf, "warm", path)
    call("bridge", "DEL", conf, "warm", path)
    host.drop_netns("warm")
    settle()


# Every point with KETCH_EVERY_POINT=1 (half an hour); otherwise a sample that begins elsewhere in every run.
_STRIDE = 1 if os.environ.get("KETCH_EVERY_POINT") else 23


def _points(program: Any) -> range:
    """The system calls to die at, and one after the last: the undisturbed run."""
    return range(1 + int.from_bytes(os.urandom(1), "big") % _STRIDE, crash.count(program) + 2, _STRIDE)


@pytest.mark.parametrize("cleaner", ["DEL", "DEL without the namespace", "GC"])
def test_killed_at_any_system_call_of_add_leaves_nothing_that_del_or_gc_does_not_remove(
    host: World, cleaner: str
) -> None:
    conf = bridge(ipMasq=True)
    _warm(conf, host)
    path = host.netns("count")
    points = _points(_program("bridge", "ADD", conf, "c", path))
    call("bridge", "DEL", conf, "c", path)
    host.drop_netns("count")
    for point in points:
        path = host.netns("pod")
        outcome = crash.kill_at(_program("bridge", "ADD", conf, "c", path), point, everyone=True)
        if cleaner == "DEL":
            call("bridge", "DEL", conf, "c", path)
        host.drop_netns("pod")
        if cleaner == "DEL without the namespace":
            call("bridge", "DEL", conf, "c", path)
        if cleaner == "GC":
            call("bridge", "GC", {**conf, "cni.dev/valid-attachments": []})
        assert _what_is_left("c") == [], f"killed before call {point}, {outcome.call}"


def test_killed_at_any_system_call_of_del_the_next_del_ends_it(host: World) -> None:
    conf = bridge(ipMasq=True)
    _warm(conf, host)
    path = host.netns("count")
    call("bridge", "ADD", conf, "c", path)
    points = _points(_program("bridge", "DEL", conf, "c", path))
    host.drop_netns("count")
    for point in points:
        path = host.netns("pod")
        call("bridge", "ADD", conf, "c", path)
        outcome = crash.kill_at(_program("bridge", "DEL", conf, "c", path), point, everyone=True)
        call("bridge", "DEL", conf, "c", path)
        host.drop_netns("pod")
        assert _what_is_left("c") == [], f"killed before call {point}, {outcome.call}"


def test_killed_at_any_system_call_of_portmap_leaves_no_port(host: World) -> None:
    conf = bridge()
    path = host.netns("pod")
    result = call("bridge", "ADD", conf, "c", path)
    ports = {"cniVersion": "1.1.0", "name": "net", "type": "portmap", "prevResult": result, "runtimeConfig": PORTS}
    call("portmap", "ADD", ports, "c", path)
    call("portmap", "DEL", ports, "c", path)
    for point in _points(_program("portmap", "ADD", ports, "c", path)):
        outcome = crash.kill_at(_program("portmap", "ADD", ports, "c", path), point, everyone=True)
        call("portmap", "DEL", ports, "c", path)
        assert "8080" not in run("nft", "list", "ruleset"), f"killed before call {point}, {outcome.call}"
        assert [name for name in os.listdir("/run/cni/ketch/net/portmap") if not name.startswith(".")] == []
    call("bridge", "DEL", conf, "c", path)


CHAIN: list[dict[str, Any]] = [
    bridge(ipMasq=True, macspoofchk=True),
    {"type": "portmap", "capabilities": {"portMappings": True}},
    {"type": "firewall", "ingressPolicy": "same-bridge"},
    {"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000,
     "egressBurst": 800_000},
    {"type": "tuning", "mtu": 1400, "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}},
    {"type": "sbr"},
]  # fmt: skip


def _chain() -> Network:
    conf = {"cniVersion": "1.1.0", "name": "net", "plugins": CHAIN}
    return Network(parse(json.dumps(conf).encode()), Options(path="/nonexistent"))


# The lock, and what the next ADD writes over: one file of each name, whoever died.
_SCRATCH = ("lock", "new", "new-holder")


def _traces(container: str, *, hidden: bool) -> list[str]:
    """Everything on this host that says the container's name, and every link that is not the bridge or lo.

    Hidden files are what a writer was about to give a name to; GC removes them, a DEL does not look for them.
    """
    settle()
    left = [f"link {link['ifname']}" for link in ip("link") if link["ifname"] not in ("lo", "br-net")]
    for top in ("/run/cni", "/var/lib/cni"):
        for directory, _, names in os.walk(top):
            paths = [Path(directory, name) for name in names if name not in _SCRATCH and (hidden or name[0] != ".")]
            left += [str(path) for path in paths if container in f"{path.name} {path.read_text()}"]
    rules = run("nft", "list", "ruleset")
    return left + [f"rule {line.strip()}" for line in rules.splitlines() if f" {container}:" in line]


@needs("ifb", "tbf")
@pytest.mark.parametrize("verb", ["ADD", "DEL"])
@pytest.mark.parametrize("cleaner", ["DEL", "GC"])
def test_a_caller_killed_at_any_system_call_of_a_whole_chain_leaves_nothing_that_del_or_gc_does_not_remove(
    host: World, verb: str, cleaner: str
) -> None:
    network = _chain()
    attachment = Attachment("victim", host.netns("pod"), capability_args=PORTS)
    network.add(attachment)  # the bridge and the tables are there before the first kill
    network.delete(attachment)
    for point in _points(lambda: (network.add(attachment), network.delete(attachment))):
        if verb == "DEL":
            network.add(attachment)
        act = network.add if verb == "ADD" else network.delete
        outcome = crash.kill_at(lambda act=act: act(attachment), point, everyone=True)  # type: ignore[misc]
        if cleaner == "DEL":
            network.delete(attachment)
        host.drop_netns("pod")
        if cleaner == "GC":
            network.gc([])
        assert _traces("victim", hidden=cleaner == "GC") == [], f"killed before call {point}, {outcome.call}"
        host.netns("pod")
        if not outcome.reached:
            return


def test_an_address_reserved_before_the_last_boot_is_free(host: World) -> None:
    ipam = {"type": "host-local", "subnet": "10.11.0.0/30"}
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "x", "ipam": ipam}
    call("host-local", "ADD", conf, "old", "/x")
    with pytest.raises(Refused, match="no IP addresses available"):
        call("host-local", "ADD", conf, "new", "/x")
    for name in ("boot", "held/old:eth0"):
        path = Path(f"{NETWORKS}/net/.ketch/{name}")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        path.write_text(path.read_text().replace(boot, "a-boot-before"))
    call("host-local", "ADD", conf, "new", "/x")


def test_what_the_reference_host_local_has_reserved_stays_reserved_and_can_be_released(host: World) -> None:
    ipam = {"type": "host-local", "subnet": "10.11.0.0/29"}
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "x", "ipam": ipam}
    os.makedirs(f"{NETWORKS}/net")
    for address, words in (("10.11.0.2", "theirs\r\neth0"), ("10.11.0.3", "oldest"), ("10.11.0.4", "")):
        Path(f"{NETWORKS}/net/{address}").write_text(words)
    Path(f"{NETWORKS}/net/last_reserved_ip.0").write_text("10.11.0.4")
    given = call("host-local", "ADD", conf, "ours", "/x")
    assert given is not None
    assert given["ips"][0]["address"] == "10.11.0.5/29"
    call("host-local", "CHECK", conf, "theirs", "/x")
    call("host-local", "DEL", conf, "theirs", "/x")
    call("host-local", "DEL", conf, "oldest", "/x")
    call("host-local", "GC", {**conf, "cni.dev/valid-attachments": [{"containerID": "ours", "ifname": "eth0"}]})
    left = sorted(name for name in os.listdir(f"{NETWORKS}/net") if name.startswith("10."))
    assert left == ["10.11.0.5"]


def test_a_released_address_rests_for_as_long_as_was_asked(host: World) -> None:
    ipam = {"type": "host-local", "subnet": "10.11.0.0/30", "reuseDelaySeconds": 600}
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "x", "ipam": ipam}
    call("host-local", "ADD", conf, "one", "/x")
    call("host-local", "DEL", conf, "one", "/x")
    with pytest.raises(Refused, match="at rest after their release") as refusal:
        call("host-local", "ADD", conf, "two", "/x")
    assert refusal.value.code == 11
    os.utime(f"{NETWORKS}/net/.ketch/released/10.11.0.2", (0, 0))
    call("host-local", "ADD", conf, "two", "/x")


def test_exclusions_and_named_reservations_are_kept(host: World) -> None:
    ipam = {
        "type": "host-local", "subnet": "10.11.0.0/29", "exclude": ["10.11.0.2", "10.11.0.4/31"],
        "reservations": {"shop/db-0": "10.11.0.3"},
    }  # fmt: skip
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "x", "ipam": ipam}
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=db-0"
    first = call("host-local", "ADD", conf, "any", "/x")
    named = call("host-local", "ADD", conf, "db", "/x", args=args)
    assert first is not None
    assert named is not None
    assert first["ips"][0]["address"] == "10.11.0.6/29"
    assert named["ips"][0]["address"] == "10.11.0.3/29"
    with pytest.raises(Refused, match=r"10.11.0.1-10.11.0.6 of network net: all 5 addresses are taken.*held by"):
        call("host-local", "ADD", conf, "more", "/x")
    with pytest.raises(Refused, match="reserved for shop/db-0"):
        call("host-local", "ADD", conf, "thief", "/x", args="IP=10.11.0.3")
