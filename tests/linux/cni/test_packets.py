# SPDX-License-Identifier: Apache-2.0
"""What pods can reach, and whose address the other side sees."""

import socket
import struct
from typing import Any

import pytest

from tests.linux.cni.world import (
    HOST,
    HOST6,
    OUTSIDE,
    OUTSIDE6,
    Refused,
    World,
    address_of,
    bridge,
    call,
    dial,
    in_netns,
    ip,
    run,
    serve_port,
)
from tests.support.needs import needs

pytestmark = needs("root", "nft")
DUAL = ("10.11.0.0/24", "fd00:11::/64")


def _mapped(conf: dict[str, object], result: object, *mappings: dict[str, object], **more: object) -> dict[str, object]:
    kept = {"cniVersion": "1.1.0", "name": conf["name"], "type": "portmap", "prevResult": result}
    return {**kept, "runtimeConfig": {"portMappings": list(mappings)}, **more}


def _port(host: int, container: int, protocol: str = "tcp", **more: object) -> dict[str, object]:
    return {"hostPort": host, "containerPort": container, "protocol": protocol, **more}


def test_pods_of_a_node_see_each_others_own_addresses(host: World) -> None:
    conf = bridge(subnets=DUAL, ipMasq=True)
    one, two = host.netns("one"), host.netns("two")
    first, second = call("bridge", "ADD", conf, "1", one), call("bridge", "ADD", conf, "2", two)
    serve_port(host, two, 80)
    serve_port(host, two, 80, family=6)
    assert dial(one, address_of(second), 80) == f"it|{address_of(first)}"
    assert dial(one, address_of(second, 6), 80) == f"it|{address_of(first, 6)}"


def test_only_what_leaves_the_cluster_is_masqueraded(host: World) -> None:
    outside = host.outside()
    run("ip", "-n", "outside", "addr", "add", "10.99.0.1/24", "dev", "lo")
    run("ip", "-n", "outside", "link", "set", "lo", "up")
    run("ip", "-n", "outside", "route", "add", "10.11.0.0/24", "via", HOST)
    run("ip", "route", "add", "10.99.0.0/24", "via", OUTSIDE)
    pod = host.netns("pod")
    conf = bridge(subnets=DUAL, ipMasq=True, nonMasqueradeCIDRs=["10.0.0.0/8"])
    result = call("bridge", "ADD", conf, "c", pod)
    serve_port(host, outside, 80)
    serve_port(host, outside, 80, family=6)
    assert dial(pod, OUTSIDE, 80) == f"it|{HOST}"
    assert dial(pod, OUTSIDE6, 80) == f"it|{HOST6}"
    assert dial(pod, "10.99.0.1", 80) == f"it|{address_of(result)}"


def test_pods_of_two_nodes_see_each_others_own_addresses_with_the_kubenet_preset(host: World) -> None:
    # The second node is another namespace with a bridge and a pod of its own, by hand.
    host.outside()
    for words in (
        "-n outside link add cbr0 type bridge",
        "-n outside addr add 10.244.2.1/24 dev cbr0",
        "-n outside link set cbr0 up",
        "-n outside route add 10.244.1.0/24 via 192.0.2.1",
        "route add 10.244.2.0/24 via 192.0.2.2",
    ):
        run("ip", *words.split())
    run("ip", "netns", "exec", "outside", "sysctl", "-qw", "net.ipv4.ip_forward=1")
    far = host.netns("far")
    run("ip", "link", "add", "f0", "netns", "outside", "type", "veth", "peer", "name", "eth0", "netns", "far")
    for words in (
        "-n outside link set f0 master cbr0 up",
        "-n far addr add 10.244.2.9/24 dev eth0",
        "-n far link set eth0 up",
        "-n far route add default via 10.244.2.1",
    ):
        run("ip", *words.split())
    pod = host.netns("pod")
    conf = {
        "cniVersion": "1.1.0", "name": "kubenet", "type": "bridge", "preset": "kubenet",
        "nonMasqueradeCIDRs": ["10.244.0.0/16"],
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.1.0/24"}]]},
    }  # fmt: skip
    result = call("bridge", "ADD", conf, "c", pod)
    assert ip("link", "show", "cbr0")
    serve_port(host, far, 80, tag="far")
    serve_port(host, pod, 80, tag="near")
    serve_port(host, "/run/netns/outside", 81, tag="node")
    assert dial(pod, "10.244.2.9", 80) == f"far|{address_of(result)}"
    assert dial(far, address_of(result), 80) == "near|10.244.2.9"
    assert dial(pod, OUTSIDE, 81) == f"node|{HOST}"


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_a_host_port_leads_to_the_pod_from_everywhere(host: World, backend: str) -> None:
    outside = host.outside()
    conf = bridge(subnets=DUAL, ipMasq=True, ipMasqBackend=backend)
    pod, neighbour = host.netns("pod"), host.netns("neighbour")
    result = call("bridge", "ADD", conf, "c", pod)
    call("bridge", "ADD", conf, "n", neighbour)
    ports = _mapped(conf, result, _port(8080, 80), _port(8053, 53, "udp"), backend=backend)
    call("portmap", "ADD", ports, "c", pod)
    for family in (4, 6):
        serve_port(host, pod, 80, family=family)
        serve_port(host, pod, 53, "udp", family=family)
    assert dial(outside, HOST, 8080) == f"it|{OUTSIDE}", "the client's own address is seen"
    assert dial(outside, HOST6, 8080) == f"it|{OUTSIDE6}"
    assert dial(outside, HOST, 8053, "udp") == f"it|{OUTSIDE}"
    assert dial(outside, HOST6, 8053, "udp") == f"it|{OUTSIDE6}"
    for address in ("127.0.0.1", HOST, "10.11.0.1", HOST6, "fd00:11::1"):
        assert dial("", address, 8080), f"from the host by {address}"
    for address in (HOST, "10.11.0.1"):
        assert dial(pod, address, 8080), f"from the pod itself by {address}"
        assert dial(neighbour, address, 8080), f"from its neighbour by {address}"
    call("portmap", "CHECK", ports, "c", pod)
    call("portmap", "DEL", ports, "c", pod)
    assert dial(outside, HOST, 8080) is None
    call("bridge", "DEL", conf, "c", pod)


@needs("sctp")
def test_a_host_port_of_sctp_leads_to_the_pod(host: World) -> None:
    outside = host.outside()
    conf = bridge(subnets=DUAL)
    pod = host.netns("pod")
    result = call("bridge", "ADD", conf, "c", pod)
    call("portmap", "ADD", _mapped(conf, result, _port(8080, 80, "sctp")), "c", pod)
    for family in (4, 6):
        serve_port(host, pod, 80, "sctp", family=family)
    assert dial(outside, HOST, 8080, "sctp") == f"it|{OUTSIDE}"
    assert dial(outside, HOST6, 8080, "sctp") == f"it|{OUTSIDE6}"
    assert dial("", HOST, 8080, "sctp"), "from the host"


def _bridges_call_rules(host: World, on: bool) -> None:
    """br_netfilter translates inside the bridge, where a kernel without it does so after; both must work."""
    run("sysctl", "-qw", f"net.bridge.bridge-nf-call-ip6tables={int(on)}", check=False)


@pytest.mark.parametrize("kind", ["bridge", "bridge with br_netfilter", "ptp"])
def test_a_host_port_on_the_ipv6_loopback_leads_to_the_pod(host: World, kind: str) -> None:
    _bridges_call_rules(host, kind == "bridge with br_netfilter")
    plugin = kind.split()[0]
    conf = bridge(subnets=DUAL) if plugin == "bridge" else _ptp()
    pod, other = host.netns("pod"), host.netns("other")
    ports = _mapped(conf, call(plugin, "ADD", conf, "c", pod), _port(8080, 80), _port(8053, 53, "udp"))
    call("portmap", "ADD", ports, "c", pod)
    only_here = _mapped(conf, call(plugin, "ADD", conf, "o", other), _port(8081, 80, hostIP="::1"))
    call("portmap", "ADD", only_here, "o", other)
    for path in (pod, other):
        serve_port(host, path, 80, family=6)
    serve_port(host, pod, 53, "udp", family=6)
    for port, protocol in ((8080, "tcp"), (8053, "udp"), (8081, "tcp")):
        assert dial("", "::1", port, protocol), f"{protocol} {port}"
    call("portmap", "CHECK", ports, "c", pod)
    call("portmap", "DEL", ports, "c", pod)
    assert _refused("::1", 8080)


@pytest.mark.parametrize("translated_inside", [True, False])
def test_a_pod_cannot_reach_the_hosts_ipv6_loopback(host: World, translated_inside: bool) -> None:
    _bridges_call_rules(host, translated_inside)
    conf = bridge(subnets=DUAL)
    pod = host.netns("pod")
    result = call("bridge", "ADD", conf, "c", pod)
    call("portmap", "ADD", _mapped(conf, result, _port(8080, 80)), "c", pod)
    assert result is not None
    gateway = bytes.fromhex(result["interfaces"][0]["mac"].replace(":", ""))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as private:
        private.bind(("::1", 9999))
        private.settimeout(0.5)
        for source in (address_of(result, 6), "::1"):
            frame = gateway + bytes.fromhex("020000000001") + b"\x86\xdd" + _datagram(source, "::1", 9999)
            assert in_netns(pod, lambda frame=frame: _send(frame)) == len(frame)  # type: ignore[misc]
            with pytest.raises(TimeoutError):
                private.recv(16)


def _datagram(source: str, destination: str, port: int) -> bytes:
    """An IPv6 packet with a UDP datagram in it, its checksum right."""
    ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    words = struct.pack("!HHHH", 80, port, 10, 0) + b"hi"
    total = sum(struct.unpack("!26H", ends + struct.pack("!II", 10, 17) + words + bytes(2)))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return struct.pack("!IHBB", 6 << 28, 10, 17, 64) + ends + words[:6] + struct.pack("!H", checksum) + words[8:]


def _refused(address: str, port: int) -> bool:
    def attempt() -> str:
        try:
            socket.create_connection((address, port), 1.0)
        except OSError as error:
            return type(error).__name__
        return "connected"

    return bool(in_netns("", attempt) == "ConnectionRefusedError")


def test_a_client_of_localhost_is_refused_at_once_where_answers_have_no_way_back(host: World) -> None:
    conf = bridge(subnets=DUAL)
    pod = host.netns("pod")
    ports = _mapped(conf, call("bridge", "ADD", conf, "c", pod), _port(8080, 80), snat=False)
    call("portmap", "ADD", ports, "c", pod)
    assert _refused("::1", 8080)


def _ptp() -> dict[str, Any]:
    ranges = [[{"subnet": "10.11.0.0/24"}], [{"subnet": "fd00:11::/64"}]]
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    ipam = {"type": "host-local", "ranges": ranges, "routes": routes}
    return {"cniVersion": "1.1.0", "name": "net", "type": "ptp", "ipam": ipam}


def test_a_host_port_that_another_pod_has_is_refused_with_its_name(host: World) -> None:
    conf = bridge()
    one, two = host.netns("one"), host.netns("two")
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0"
    first = call("bridge", "ADD", conf, "1", one, args=args)
    call("portmap", "ADD", _mapped(conf, first, _port(8080, 80)), "1", one, args=args)
    second = call("bridge", "ADD", conf, "2", two)
    for mapping in (_port(8080, 81), _port(8080, 81, hostIP="127.0.0.1")):
        with pytest.raises(Refused, match="tcp port 8080 is taken by shop/web-0") as refusal:
            call("portmap", "ADD", _mapped(conf, second, mapping), "2", two)
        assert refusal.value.code >= 100
    call("portmap", "ADD", _mapped(conf, second, _port(8080, 81, "udp")), "2", two)
    call("portmap", "ADD", _mapped(conf, first, _port(8080, 80)), "1", one)  # its own again: not a conflict


def test_a_host_port_that_a_process_of_the_host_listens_on_is_refused_with_its_name(host: World) -> None:
    conf = bridge()
    pod = host.netns("pod")
    result = call("bridge", "ADD", conf, "c", pod)
    serve_port(host, "", 8080)
    serve_port(host, "", 8053, "udp")
    for mapping in (_port(8080, 80), _port(8053, 53, "udp")):
        with pytest.raises(Refused, match=r"taken by a listener of this host: 0.0.0.0 port \d+ of \S+ \(pid \d+\)"):
            call("portmap", "ADD", _mapped(conf, result, mapping), "c", pod)
    call("portmap", "ADD", _mapped(conf, result, _port(8080, 80), hostPortConflicts="ignore"), "c", pod)


def test_a_forward_policy_of_drop_is_said_by_status_and_overcome_by_firewall(host: World) -> None:
    outside = host.outside()
    run("iptables", "-P", "FORWARD", "DROP")
    pod = host.netns("pod")
    conf = bridge(ipMasq=True)
    with pytest.raises(Refused, match="dropped by policy in table ip filter, chain FORWARD") as refusal:
        call("bridge", "STATUS", conf)
    assert refusal.value.code == 50
    result = call("bridge", "ADD", conf, "c", pod)
    serve_port(host, outside, 80)
    assert dial(pod, OUTSIDE, 80) is None
    wall = {"cniVersion": "1.1.0", "name": "net", "type": "firewall", "prevResult": result}
    call("firewall", "ADD", wall, "c", pod)
    assert dial(pod, OUTSIDE, 80) == f"it|{HOST}"
    call("firewall", "CHECK", wall, "c", pod)
    call("firewall", "DEL", wall, "c", pod)
    assert dial(pod, OUTSIDE, 80) is None
    assert "10.11.0" not in run("iptables-save")


@pytest.mark.parametrize("policy", ["open", "same-bridge", "isolated"])
def test_an_ingress_policy_keeps_other_bridges_out(host: World, policy: str) -> None:
    nets = {name: bridge(name, (f"10.{n}.0.0/24",)) for n, name in ((11, "a"), (12, "b"))}
    pods = {}
    for name, net in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        path = host.netns(name)
        result = call("bridge", "ADD", nets[net], name, path)
        wall = {"cniVersion": "1.1.0", "name": net, "type": "firewall", "ingressPolicy": policy, "prevResult": result}
        call("firewall", "ADD", wall, name, path)
        call("firewall", "CHECK", wall, name, path)
        serve_port(host, path, 80)
        pods[name] = (path, address_of(result), wall)
    assert (dial(pods["b1"][0], pods["a1"][1], 80) is not None) == (policy == "open")
    assert (dial(pods["a2"][0], pods["a1"][1], 80) is not None) == (policy != "isolated")
    assert dial("", pods["a1"][1], 80), "the host itself reaches its pods"
    for name, (path, _, wall) in pods.items():
        call("firewall", "DEL", wall, name, path)
    assert dial(pods["b1"][0], pods["a1"][1], 80) is not None


def test_a_pod_cannot_send_under_another_mac(host: World) -> None:
    conf = bridge(macspoofchk=True)
    liar, listener = host.netns("liar"), host.netns("listener")
    first = call("bridge", "ADD", conf, "1", liar)
    second = call("bridge", "ADD", conf, "2", listener)
    own = next(each["mac"] for each in first["interfaces"] if each.get("sandbox"))  # type: ignore[index]
    call("bridge", "CHECK", {**conf, "prevResult": first}, "1", liar)
    received = []
    for mac in (own, "02:00:00:00:00:66"):
        frame = b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) + b"\x88\xb5" + bytes(46)
        received.append(_delivered(listener, liar, frame))
    assert received == [True, False]
    call("bridge", "DEL", conf, "1", liar)
    call("bridge", "DEL", {**conf, "prevResult": second}, "2", listener)
    assert "02:" not in run("nft", "list", "table", "bridge", "ketch_cni")


def _delivered(listener: str, sender: str, frame: bytes) -> bool:
    def listen() -> bool:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5)) as sniffer:
            sniffer.bind(("eth0", 0x88B5))
            sniffer.settimeout(0.4)
            in_netns(sender, lambda: _send(frame))
            try:
                return bool(sniffer.recv(2048))
            except TimeoutError:
                return False

    return bool(in_netns(listener, listen))


def _send(frame: bytes) -> int:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        return raw.send(frame)


@needs("macvlan")
def test_a_host_of_the_lan_reaches_a_macvlan_pod_directly(host: World) -> None:
    outside = host.outside()
    pod = host.netns("pod")
    ipam = {"type": "host-local", "ranges": [[{"subnet": "192.0.2.0/24", "rangeStart": "192.0.2.50"}]]}
    conf = {"cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "master": "up0", "ipam": ipam}
    result = call("macvlan", "ADD", conf, "c", pod)
    serve_port(host, pod, 80)
    assert dial(outside, address_of(result), 80) == f"it|{OUTSIDE}"
    call("macvlan", "CHECK", {**conf, "prevResult": result}, "c", pod)
    call("macvlan", "DEL", conf, "c", pod)


def test_a_host_of_the_lan_reaches_a_pod_on_an_uplinked_bridge_directly(host: World) -> None:
    outside = host.netns("lan")
    run("ip", "link", "add", "br-net", "type", "bridge")
    run("ip", "link", "add", "up0", "master", "br-net", "type", "veth", "peer", "name", "up1", "netns", "lan")
    for words in ("link set up0 up", "-n lan addr add 10.11.0.200/24 dev up1", "-n lan link set up1 up"):
        run("ip", *words.split())
    pod = host.netns("pod")
    result = call("bridge", "ADD", bridge(isDefaultGateway=False), "c", pod)
    serve_port(host, pod, 80)
    assert dial(outside, address_of(result), 80) == "it|10.11.0.200"


def test_ipv6_works_the_moment_that_add_returns(host: World) -> None:
    # A new bridge each time: its first pod is the one that may have to wait for it.
    for number in range(12):
        conf = bridge(f"net{number}", DUAL)
        pod = host.netns(f"pod{number}")
        call("bridge", "ADD", conf, "c", pod)
        reached = run("ip", "netns", "exec", f"pod{number}", "ping", "-6", "-c1", "-W1", "fd00:11::1", check=False)
        assert "1 received" in reached
        call("bridge", "DEL", conf, "c", pod)
        run("ip", "link", "del", f"br-net{number}")


def test_ptp_pods_reach_each_other_and_the_world(host: World) -> None:
    outside = host.outside()
    ipam = {"type": "host-local", "subnet": "10.20.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]}
    conf = {"cniVersion": "1.1.0", "name": "p", "type": "ptp", "ipMasq": True, "ipam": ipam}
    one, two = host.netns("one"), host.netns("two")
    first, second = call("ptp", "ADD", conf, "1", one), call("ptp", "ADD", conf, "2", two)
    serve_port(host, two, 80)
    serve_port(host, outside, 80, tag="out")
    assert dial(one, address_of(second), 80) == f"it|{address_of(first)}"
    assert dial(one, OUTSIDE, 80) == f"out|{HOST}"
    for container, path, result in (("1", one, first), ("2", two, second)):
        call("ptp", "CHECK", {**conf, "prevResult": result}, container, path)
        call("ptp", "DEL", conf, container, path)
    assert "10.20.0" not in run("nft", "list", "map", "inet", "ketch_cni", "masq4")
