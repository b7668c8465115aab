# SPDX-License-Identifier: Apache-2.0
"""What an existing network relies on without saying so: implied defaults, a CHECK that tells, a forgiving DEL."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cni.client import Attachment, Network, Options, parse
from tests.linux.cni.world import (
    HOST,
    OUTSIDE,
    Refused,
    World,
    address_of,
    bridge,
    call,
    dial,
    ip,
    run,
    serve,
    serve_port,
)
from tests.support.needs import needs

pytestmark = needs("root", "nft")

Spoil = tuple[str, dict[str, Any], str, str]


def _after(plugin: str, result: Any, **more: Any) -> dict[str, Any]:
    return {"cniVersion": "1.1.0", "name": "net", "type": plugin, "prevResult": result, **more}


def _host_end(result: dict[str, Any] | None) -> str:
    assert result is not None
    return str(result["interfaces"][1]["name"])


# -- portmap: the backend that the other options speak the language of -------------------------------------------------

MAPPED = {"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}}


def test_conditions_in_the_words_of_iptables_choose_iptables(host: World) -> None:
    """The example in the reference plugin's manual names no backend."""
    outside, pod = host.outside(), host.netns("pod")
    result = call("bridge", "ADD", bridge(), "c", pod)
    serve_port(host, pod, 80)
    conf = _after("portmap", result, conditionsV4=["!", "-s", "192.0.2.77/32"], **MAPPED)
    call("portmap", "ADD", conf, "c", pod)
    assert "CNI-HOSTPORT-DNAT" in run("iptables-save", "-t", "nat")
    assert dial(outside, HOST, 8080) == f"it|{OUTSIDE}"
    call("portmap", "CHECK", conf, "c", pod)
    call("portmap", "DEL", conf, "c", pod)


def test_a_chain_that_marks_chooses_iptables(host: World) -> None:
    pod = host.netns("pod")
    result = call("bridge", "ADD", bridge(), "c", pod)
    run("iptables", "-t", "nat", "-N", "KUBE-MARK-MASQ")
    conf = _after("portmap", result, externalSetMarkChain="KUBE-MARK-MASQ", **MAPPED)
    call("portmap", "ADD", conf, "c", pod)
    assert "-j KUBE-MARK-MASQ" in run("iptables-save", "-t", "nat")
    call("portmap", "DEL", conf, "c", pod)


def test_an_administrators_chain_chooses_iptables(host: World) -> None:
    pod = host.netns("pod")
    result = call("bridge", "ADD", bridge(), "c", pod)
    conf = _after("firewall", result, iptablesAdminChainName="OURS")
    call("firewall", "ADD", conf, "c", pod)
    assert '-A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j OURS' in run("iptables-save")
    call("firewall", "CHECK", conf, "c", pod)
    call("firewall", "DEL", conf, "c", pod)


# -- CHECK: what somebody has changed since ADD ------------------------------------------------------------------------

SPOILT: list[Spoil] = [
    ("promiscMode", {"promiscMode": True}, "ip link set br-net promisc off", "br-net is not promiscuous any more"),
    ("hairpinMode", {"hairpinMode": True}, "bridge link set dev {port} hairpin off", "is not in hairpin mode any more"),
    ("portIsolation", {"portIsolation": True}, "bridge link set dev {port} isolated off", "is not isolated any more"),
    ("the port's MAC", {}, "ip link set {port} address 02:00:00:00:00:99", "has MAC 02:00:00:00:00:99, not"),
    ("the bridge's MAC", {}, "ip link set br-net address 02:00:00:00:00:99", "br-net has MAC 02:00:00:00:00:99, not"),
]


@pytest.mark.parametrize(("options", "spoil", "words"), [each[1:] for each in SPOILT], ids=[each[0] for each in SPOILT])
def test_check_tells_what_has_changed_about_bridge_and_port(
    host: World, options: dict[str, Any], spoil: str, words: str
) -> None:
    pod = host.netns("pod")
    result = call("bridge", "ADD", bridge(**options), "c", pod)
    conf = bridge(prevResult=result, **options)
    call("bridge", "CHECK", conf, "c", pod)
    run(*spoil.format(port=_host_end(result)).split())
    with pytest.raises(Refused, match=words) as refused:
        call("bridge", "CHECK", conf, "c", pod)
    assert refused.value.code == 101


def test_check_allows_the_mac_of_a_bridge_without_one_of_its_own_to_follow_its_ports(host: World) -> None:
    run("ip", "link", "add", "br-net", "type", "bridge")
    layer_two = bridge(ipam={}, isDefaultGateway=False)
    result = call("bridge", "ADD", layer_two, "c", host.netns("pod"))
    run("ip", "link", "add", "low", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "other")
    run("ip", "link", "set", "low", "master", "br-net")
    assert ip("link", "show", "br-net")[0]["address"] == "02:00:00:00:00:01"
    call("bridge", "CHECK", {**layer_two, "prevResult": result}, "c", "/run/netns/pod")


@needs("tbf", "ifb")
@pytest.mark.parametrize("link", ["{port}", "{ifb}"])
def test_check_tells_that_a_bucket_has_another_size(host: World, link: str) -> None:
    pod = host.netns("pod")
    rates = {"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000}
    conf = _after("bandwidth", call("bridge", "ADD", bridge(), "c", pod), **rates)
    result = call("bandwidth", "ADD", conf, "c", pod)
    assert result is not None
    conf["prevResult"] = result
    call("bandwidth", "CHECK", conf, "c", pod)
    name = link.format(port=_host_end(result), ifb=result["interfaces"][3]["name"])
    run(*f"tc qdisc change dev {name} root tbf rate 8mbit burst 50kb latency 25ms".split())
    with pytest.raises(Refused, match="with another burst than 800000 bit"):
        call("bandwidth", "CHECK", conf, "c", pod)
    call("bandwidth", "DEL", conf, "c", pod)


@needs("tbf")
def test_a_burst_may_have_as_many_bytes_as_the_kernel_counts(host: World) -> None:
    pod = host.netns("pod")
    result = call("bridge", "ADD", bridge(), "c", pod)
    conf = _after("bandwidth", result, ingressRate=8_000_000_000, ingressBurst=8 * 0xFFFFFFFE)
    call("bandwidth", "ADD", conf, "c", pod)
    call("bandwidth", "CHECK", conf, "c", pod)
    with pytest.raises(Refused, match="ingressBurst: 34359738360"):
        call("bandwidth", "ADD", {**conf, "ingressBurst": 8 * 0xFFFFFFFF}, "c", pod)


def test_check_of_static_compares_the_gateway(host: World) -> None:
    ipam = {"type": "static", "addresses": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}]}
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "x", "ipam": ipam}
    result = call("static", "ADD", conf, "c", "/x")
    assert result is not None
    call("static", "CHECK", {**conf, "prevResult": result}, "c", "/x")
    result["ips"][0]["gateway"] = "10.1.0.2"
    with pytest.raises(Refused, match=r"prevResult has gateway 10\.1\.0\.2 for 10\.1\.0\.5/24, not 10\.1\.0\.1"):
        call("static", "CHECK", {**conf, "prevResult": result}, "c", "/x")


# -- what a caller may get wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("plugin", ["bridge", "loopback", "macvlan", "tuning"])
def test_del_in_the_hosts_own_namespace_frees_the_address_and_touches_no_interface(host: World, plugin: str) -> None:
    """/proc/<pid>/ns/net of a dead container, when the pid is a process of the host now."""
    pod = host.netns("pod")
    call("bridge", "ADD", bridge(), "c", pod)
    host.drop_netns("pod")
    run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
    run("ip", "link", "set", "lo", "up")
    status, answer = serve(plugin, "DEL", bridge(), "c", "/proc/self/ns/net", "eth0")
    assert (status, answer) == (0, "")
    assert ip("link", "show", "eth0")
    assert "UP" in ip("link", "show", "lo")[0]["flags"]
    if plugin == "bridge":
        assert not os.path.exists("/var/lib/cni/networks/net/10.11.0.2")


def test_a_parameter_that_is_named_twice_is_refused(host: World) -> None:
    pod = host.netns("pod")
    result = call("bridge", "ADD", bridge(), "c", pod)
    twice = '{"net.core.somaxconn": "500", "net.core.somaxconn": "600"}'
    given = json.dumps(_after("tuning", result, sysctl="HERE")).replace('"HERE"', twice)
    from cni import protocol

    environ = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": pod, "CNI_IFNAME": "eth0"}
    status, answer = protocol.run("tuning", environ, given.encode())
    assert status == 1
    assert 'sysctl: "net.core.somaxconn": is named twice' in json.loads(answer)["msg"]


def test_the_callers_own_wishes_come_before_the_networks(host: World) -> None:
    pod = host.netns("pod")
    result = call("bridge", "ADD", bridge(), "c", pod)
    wishes = {"promisc": False, "mtu": 1300, "txQLen": 7, "allmulti": True}
    conf = _after("tuning", result, promisc=True, mtu=1400, txQLen=9, allmulti=False, args={"cni": wishes})
    call("tuning", "ADD", conf, "c", pod)
    link = ip("-n", "pod", "link", "show", "eth0")[0]
    assert (link["mtu"], link["txqlen"]) == (1300, 7)
    assert "PROMISC" not in link["flags"]
    assert "ALLMULTI" in link["flags"]
    call("tuning", "CHECK", {**conf, "prevResult": result}, "c", pod)
    call("tuning", "DEL", conf, "c", pod)


# -- host-device -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["bus/auxiliary/devices/mlx5_core.sf.4/net", "bus/pci/devices/0000:01:00.0/virtio3/net"]
)
def test_a_device_may_lie_on_the_auxiliary_bus_or_behind_virtio(host: World, place: str) -> None:
    pod = host.netns("pod")
    run("ip", "link", "add", "nic0", "type", "veth", "peer", "name", "nic1")
    run("mount", "-t", "tmpfs", "none", "/sys/bus")
    try:
        os.makedirs(f"/sys/{place}/nic0")
        conf = {
            "cniVersion": "1.1.0", "name": "net", "type": "host-device", "dns": {"nameservers": ["10.0.0.1"]},
            "runtimeConfig": {"deviceID": place.split("/")[3]},
        }  # fmt: skip
        result = call("host-device", "ADD", conf, "c", pod, "net1")
        assert result is not None
        assert result["dns"] == {"nameservers": ["10.0.0.1"]}
        call("host-device", "CHECK", {**conf, "prevResult": result}, "c", pod, "net1")
        call("host-device", "DEL", conf, "c", pod, "net1")
        assert ip("link", "show", "nic0")
    finally:
        run("umount", "/sys/bus")


# -- foreign plugins ---------------------------------------------------------------------------------------------------

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TELLS = """#!/bin/sh
env | grep ^TRACEPARENT= >> /run/cni/told
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.11.0.55/24"}]}'
exit 0
"""


def test_foreign_plugins_and_delegates_get_the_callers_trace(host: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As libcni passes it on since it speaks OpenTelemetry."""
    os.makedirs("/run/cni/bin")
    for name in ("their-ipam", "their-meta"):
        Path(f"/run/cni/bin/{name}").write_text(TELLS)
        os.chmod(f"/run/cni/bin/{name}", 0o755)
    plugins = [bridge(ipam={"type": "their-ipam"}), {"type": "their-meta"}]
    conf = {"cniVersion": "1.0.0", "name": "net", "plugins": plugins}
    network = Network(parse(json.dumps(conf).encode()), Options(path="/run/cni/bin"))
    monkeypatch.setenv("TRACEPARENT", TRACE)
    attachment = Attachment("c", host.netns("pod"))
    assert address_of(network.add(attachment).to_json("1.0.0")) == "10.11.0.55"
    network.delete(attachment)
    assert Path("/run/cni/told").read_text().split() == [f"TRACEPARENT={TRACE}"] * 4
