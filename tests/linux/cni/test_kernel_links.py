# SPDX-License-Identifier: Apache-2.0
"""Not in every kernel: VLANs, ipvlan, dummy, VLAN-aware bridges, WireGuard, IPVS; one that lacks a link is named."""

import json
from typing import Any

import pytest

from tests.linux.cni.world import HOST, OUTSIDE, Refused, World, address_of, bridge, call, dial, ip, run, serve_port
from tests.support.needs import has, needs

pytestmark = needs("root")

IPAM = {"type": "host-local", "subnet": "10.30.0.0/24", "rangeStart": "10.30.0.10"}


def _conf(plugin: str, **more: Any) -> dict[str, Any]:
    return {"cniVersion": "1.1.0", "name": "net", "type": plugin, "ipam": IPAM, **more}


def _lan(host: World) -> str:
    """A neighbour on the far side of a link, in the pods' own subnet."""
    path = host.netns("lan")
    run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1", "netns", "lan")
    for words in ("link set up0 up", "-n lan link set up1 up"):
        run("ip", *words.split())
    return path


@needs("vlan")
def test_a_pod_on_a_vlan_reaches_who_is_on_it_and_nobody_else(host: World) -> None:
    lan = _lan(host)
    # Linux answers ARP for an address of another link; the neighbour on VLAN 6 is not to be found on VLAN 5.
    run("ip", "netns", "exec", "lan", "sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1")
    for vid in (5, 6):
        run("ip", "-n", "lan", "link", "add", f"v{vid}", "link", "up1", "type", "vlan", "id", str(vid))
        run("ip", "-n", "lan", "addr", "add", f"10.30.0.{vid}/24", "dev", f"v{vid}")
        run("ip", "-n", "lan", "link", "set", f"v{vid}", "up")
    pod = host.netns("pod")
    conf = _conf("vlan", master="up0", vlanId=5)
    result = call("vlan", "ADD", conf, "c", pod)
    serve_port(host, lan, 80)
    assert dial(pod, "10.30.0.5", 80) == f"it|{address_of(result)}"
    assert dial(pod, "10.30.0.6", 80) is None
    call("vlan", "CHECK", {**conf, "prevResult": result}, "c", pod)
    call("vlan", "DEL", conf, "c", pod)
    assert [link["ifname"] for link in ip("-n", "pod", "link")] == ["lo"]


@needs("ipvlan")
@pytest.mark.parametrize("mode", ["l2", "l3", "l3s"])
def test_ipvlan_pods_share_their_masters_mac_and_reach_each_other(host: World, mode: str) -> None:
    _lan(host)
    one, two = host.netns("one"), host.netns("two")
    conf = _conf("ipvlan", master="up0", mode=mode)
    first, second = call("ipvlan", "ADD", conf, "1", one), call("ipvlan", "ADD", conf, "2", two)
    serve_port(host, two, 80)
    assert dial(one, address_of(second), 80) == f"it|{address_of(first)}"
    own = ip("link", "show", "up0")[0]["address"]
    assert {link["address"] for link in ip("-n", "one", "link") if link["ifname"] == "eth0"} == {own}
    for container, path, result in (("1", one, first), ("2", two, second)):
        call("ipvlan", "CHECK", {**conf, "prevResult": result}, container, path)
        call("ipvlan", "DEL", conf, container, path)


@needs("dummy")
def test_a_dummy_carries_its_address_and_nothing_else(host: World) -> None:
    pod = host.netns("pod")
    conf = _conf("dummy")
    result = call("dummy", "ADD", conf, "c", pod)
    serve_port(host, pod, 80)
    run("ip", "-n", "pod", "link", "set", "lo", "up")
    assert dial(pod, address_of(result), 80)
    call("dummy", "CHECK", {**conf, "prevResult": result}, "c", pod)
    call("dummy", "DEL", conf, "c", pod)
    assert [link["ifname"] for link in ip("-n", "pod", "link")] == ["lo"]


def _vlans(port: str) -> dict[int, list[str]]:
    listed = json.loads(run("bridge", "-j", "vlan", "show", "dev", port))
    return {each["vlan"]: each.get("flags", []) for each in (listed[0]["vlans"] if listed else [])}


@needs("bridge_vlan", "nft")
def test_bridge_pods_of_one_vlan_reach_each_other_and_their_gateway_only(host: World) -> None:
    confs = {vid: bridge("net", (f"10.{vid}.0.0/24",), vlan=vid) | {"name": f"net{vid}"} for vid in (5, 6)}
    pods = {}
    for name, vid in (("a", 5), ("b", 5), ("c", 6)):
        path = host.netns(name)
        result = call("bridge", "ADD", confs[vid], name, path)
        assert result is not None
        serve_port(host, path, 80)
        pods[name] = (path, address_of(result), result)
        port = next(each["name"] for each in result["interfaces"] if each["name"].startswith("veth"))
        assert _vlans(port) == {vid: ["PVID", "Egress Untagged"]}
    assert dial(pods["a"][0], pods["b"][1], 80) == f"it|{pods['a'][1]}"
    assert dial("", pods["a"][1], 80), "by the host's leg in that VLAN"
    assert [each["name"] for each in pods["a"][2]["interfaces"]][-1] == "br-net.5"
    run("ip", "-n", "a", "route", "add", "10.6.0.0/24", "dev", "eth0")
    assert dial(pods["a"][0], pods["c"][1], 80) is None, "another VLAN of the same bridge"
    for name, (path, _, result) in pods.items():
        vid = 6 if name == "c" else 5
        call("bridge", "CHECK", {**confs[vid], "prevResult": result}, name, path)
        call("bridge", "DEL", confs[vid], name, path)


UNTAGGED = ["PVID", "Egress Untagged"]
TRUNK = [{"id": 7}, {"minID": 10, "maxID": 12}]
TAGGED: dict[int, list[str]] = {7: [], 10: [], 11: [], 12: []}


@needs("bridge_vlan", "nft")
@pytest.mark.parametrize(
    ("options", "carried"),
    [
        ({"vlanTrunk": TRUNK}, {1: UNTAGGED, **TAGGED}),
        ({"vlanTrunk": TRUNK, "vlan": 5}, {5: UNTAGGED, **TAGGED}),
        ({"vlanTrunk": TRUNK, "vlan": 11}, {**TAGGED, 11: UNTAGGED}),
        ({"vlan": 5}, {5: UNTAGGED}),
        ({"vlan": 5, "preserveDefaultVlan": True}, {1: ["Egress Untagged"], 5: UNTAGGED}),
        ({"vlanTrunk": TRUNK, "preserveDefaultVlan": True}, {1: UNTAGGED, **TAGGED}),
    ],
)
def test_a_port_carries_its_vlan_untagged_and_its_trunk_tagged(
    host: World, options: dict[str, Any], carried: dict[int, list[str]]
) -> None:
    pod = host.netns("pod")
    conf = bridge("net", isDefaultGateway=False, **options)
    result = call("bridge", "ADD", conf, "c", pod)
    assert result is not None
    port = next(each["name"] for each in result["interfaces"] if each["name"].startswith("veth"))
    assert _vlans(port) == carried
    call("bridge", "CHECK", {**conf, "prevResult": result}, "c", pod)
    call("bridge", "DEL", conf, "c", pod)


@needs("ipvlan")
def test_an_ipvlan_without_ipam_takes_over_master_and_addresses_of_the_plugin_before(host: World) -> None:
    _lan(host)
    pod = host.netns("pod")
    before = {
        "cniVersion": "1.1.0", "interfaces": [{"name": "up0"}],
        "ips": [{"address": "10.30.0.9/24", "gateway": "10.30.0.1", "interface": 0}],
    }  # fmt: skip
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "ipvlan"}
    result = call("ipvlan", "ADD", {**conf, "prevResult": before}, "c", pod)
    assert result is not None
    assert [each["name"] for each in result["interfaces"]] == ["eth0"]
    assert address_of(result) == "10.30.0.9"
    assert "10.30.0.9" in [each["local"] for each in ip("-n", "pod", "addr", "show", "eth0")[0]["addr_info"]]
    call("ipvlan", "CHECK", {**conf, "prevResult": result}, "c", pod)
    call("ipvlan", "DEL", {**conf, "prevResult": result}, "c", pod)


def _wireguard(netns: str, key: str, address: str, peer: str, *routes: str) -> None:
    """One end of a tunnel over the link between the host and the outside; everything may come through it."""
    inside = ["nsenter", f"--net={netns}"] if netns else []
    run(*inside, "ip", "link", "add", "wg0", "type", "wireguard")
    run(*inside, "ip", "addr", "add", f"{address}/24", "dev", "wg0")
    far = OUTSIDE if not netns else HOST
    script = f"echo {key} > /run/{address}.key && wg set wg0 listen-port 51820 private-key /run/{address}.key"
    run(*inside, "sh", "-c", f"{script} peer {peer} allowed-ips 0.0.0.0/0 endpoint {far}:51820; rm /run/{address}.key")
    run(*inside, "ip", "link", "set", "wg0", "up")
    for route in routes:
        run(*inside, "ip", "route", "add", route, "dev", "wg0")


@needs("wireguard", "nft")
def test_a_pod_reaches_another_node_through_a_tunnel_of_wireguard_with_its_mtu(host: World) -> None:
    outside = host.outside()
    keys = [run("wg", "genkey").strip() for _ in range(2)]
    ours, theirs = (run("sh", "-c", f"echo {key} | wg pubkey").strip() for key in keys)
    _wireguard("", keys[0], "10.200.0.1", theirs, "default")
    _wireguard(outside, keys[1], "10.200.0.2", ours, "10.11.0.0/24")
    pod = host.netns("pod")
    result = call("bridge", "ADD", bridge(mtu="auto"), "c", pod)
    serve_port(host, outside, 80)
    assert dial(pod, "10.200.0.2", 80) == f"it|{address_of(result)}"
    assert ip("-n", "pod", "link", "show", "eth0")[0]["mtu"] == 1420, "what a tunnel over Ethernet leaves"


@needs("ipvs", "nft")
def test_a_service_of_ipvs_leads_to_a_pod_from_outside_and_from_the_host(host: World) -> None:
    outside, pod = host.outside(), host.netns("pod")
    result = call("bridge", "ADD", bridge(ipMasq=True), "c", pod)
    serve_port(host, pod, 80)
    run("ipvsadm", "--add-service", "--tcp-service", f"{HOST}:8080", "--scheduler", "rr")
    run("ipvsadm", "--add-server", "-t", f"{HOST}:8080", "-r", f"{address_of(result)}:80", "--masquerading")
    try:
        assert dial(outside, HOST, 8080) == f"it|{OUTSIDE}"
        assert dial("", HOST, 8080) is not None
    finally:
        run("ipvsadm", "--clear")


@pytest.mark.parametrize("plugin", ["vlan", "ipvlan", "dummy"])
def test_a_kernel_without_a_kind_of_link_is_named(host: World, plugin: str) -> None:
    if has(plugin):
        pytest.skip(f"this kernel has {plugin} links")
    _lan(host)
    more = {"dummy": {}, "vlan": {"vlanId": 5, "master": "up0"}, "ipvlan": {"master": "up0"}}[plugin]
    with pytest.raises(Refused, match=f"this kernel lacks {plugin} links"):
        call(plugin, "ADD", _conf(plugin, **more), "c", host.netns("pod"))
