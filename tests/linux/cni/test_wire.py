# SPDX-License-Identifier: Apache-2.0
"""What is on the wire, counted as tcpdump counts it: by a packet socket on the link where it matters."""

import os
import socket
import struct
from collections import Counter
from collections.abc import Callable

import pytest

from tests.linux.cni.world import HOST, OUTSIDE, World, address_of, bridge, call, dial, run, serve_port
from tests.support import kernel
from tests.support.needs import needs

pytestmark = needs("root", "nft")

ETH_P_ALL, ETH_P_IP, PACKET_OUTGOING = 3, 0x0800, 4
Seen = Counter[tuple[str, str, int]]  # source, destination, protocol of IPv4 packets to one host


def _came_in(path: str, link: str, act: Callable[[], object]) -> Seen:
    """What comes in by a link of a namespace while act() runs."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(path, os.O_RDONLY) if path else home
    kernel.setns(there, kernel.CLONE_NEWNET)
    try:
        listening = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        listening.bind((link, ETH_P_ALL))
    finally:
        kernel.setns(home, kernel.CLONE_NEWNET)
    with listening:
        act()
        listening.setblocking(False)  # what came in is queued: the answers to it have been seen by act()
        seen: Seen = Counter()
        while True:
            try:
                frame, (_, protocol, direction, *_) = listening.recvfrom(2048)
            except BlockingIOError:
                break
            packet = frame[14:]
            multicast = packet[16:17] >= b"\xe0"  # the kernel's own reports of groups
            if protocol == ETH_P_IP and direction != PACKET_OUTGOING and not multicast:
                seen[socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20]), packet[9]] += 1
    os.close(home)
    if path:
        os.close(there)
    return seen


def _ping(name: str, address: str, count: int = 5) -> None:
    run("ip", "netns", "exec", name, "ping", "-q", "-c", str(count), "-i", "0.02", "-W", "2", address)


def _header(source: str, destination: str) -> bytes:
    """An IPv4 packet of nothing else, with the checksum without which br_netfilter drops it."""
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    fields = (0x45, 0, 20, 0, 0, 64, socket.IPPROTO_UDP)
    total = sum(struct.unpack("!10H", struct.pack("!BBHHHBBH", *fields, 0) + addresses))
    return struct.pack("!BBHHHBBH", *fields, ~(total + (total >> 16)) & 0xFFFF) + addresses


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_nothing_leaves_the_node_with_a_pods_address_but_what_is_spared(host: World, backend: str) -> None:
    outside = host.outside()
    run("ip", "-n", "outside", "addr", "add", "10.99.0.1/32", "dev", "up1")
    run("ip", "-n", "outside", "route", "add", "10.11.0.0/24", "via", HOST)
    run("ip", "route", "add", "10.99.0.1/32", "dev", "up0")
    conf = bridge(ipMasq=True, ipMasqBackend=backend, nonMasqueradeCIDRs=["10.0.0.0/8"])
    pod = address_of(call("bridge", "ADD", conf, "c", host.netns("pod")))
    icmp = socket.IPPROTO_ICMP
    assert _came_in(outside, "up1", lambda: _ping("pod", OUTSIDE)) == {(HOST, OUTSIDE, icmp): 5}
    assert _came_in(outside, "up1", lambda: _ping("pod", "10.99.0.1")) == {(pod, "10.99.0.1", icmp): 5}


def test_what_pods_of_a_node_say_to_each_other_stays_on_it_under_their_own_addresses(host: World) -> None:
    outside = host.outside()
    conf = bridge(ipMasq=True)
    one, two = (address_of(call("bridge", "ADD", conf, name, host.netns(name))) for name in ("one", "two"))
    icmp = socket.IPPROTO_ICMP
    assert _came_in(outside, "up1", lambda: _ping("one", two)) == {}
    assert _came_in("/run/netns/two", "eth0", lambda: _ping("one", two)) == {(one, two, icmp): 5}


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_every_packet_to_a_host_port_reaches_the_pod_from_its_client(host: World, backend: str) -> None:
    outside, pod = host.outside(), host.netns("pod")
    result = call("bridge", "ADD", bridge(), "c", pod)
    ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "portmap", "backend": backend, "runtimeConfig": ports}
    call("portmap", "ADD", {**conf, "prevResult": result}, "c", pod)
    serve_port(host, pod, 80)
    seen = _came_in(pod, "eth0", lambda: dial(outside, HOST, 8080))
    assert set(seen) == {(OUTSIDE, address_of(result), socket.IPPROTO_TCP)}


def test_a_frame_with_a_forged_source_comes_in_nowhere(host: World) -> None:
    conf = bridge(macspoofchk=True)
    one, two = (call("bridge", "ADD", conf, name, host.netns(name)) for name in ("one", "two"))
    assert one is not None
    assert two is not None
    own, theirs = (bytes.fromhex(each["interfaces"][2]["mac"].replace(":", "")) for each in (one, two))

    def send(source: bytes) -> Callable[[], object]:
        frame = theirs + source + ETH_P_IP.to_bytes(2, "big") + _header(address_of(one), address_of(two))
        program = (
            "import socket, sys; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0));"
            "[s.send(bytes.fromhex(sys.argv[1])) for _ in range(5)]"
        )
        return lambda: run("ip", "netns", "exec", "one", "/usr/bin/python3", "-c", program, frame.hex())

    udp = socket.IPPROTO_UDP
    assert _came_in("/run/netns/two", "eth0", send(own)) == {(address_of(one), address_of(two), udp): 5}
    assert _came_in("/run/netns/two", "eth0", send(bytes.fromhex("020000000099"))) == {}
