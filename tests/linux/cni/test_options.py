# SPDX-License-Identifier: Apache-2.0
"""Options of the reference plugins that the cases of cni-parity do not show at work: what each does, from outside."""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.linux.cni.world import (
    HOST,
    OUTSIDE,
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
from tests.support import kernel
from tests.support.needs import needs

pytestmark = needs("root", "nft")

BACKENDS = pytest.mark.parametrize("backend", ["nftables", "iptables"])


def _after(plugin: str, result: Any, **more: Any) -> dict[str, Any]:
    return {"cniVersion": "1.1.0", "name": "net", "type": plugin, "prevResult": result, **more}


def _ports(result: Any, *mappings: dict[str, Any], **more: Any) -> dict[str, Any]:
    return _after("portmap", result, runtimeConfig={"portMappings": list(mappings)}, **more)


def _port(**more: Any) -> dict[str, Any]:
    return {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", **more}


def _served_pod(host: World, name: str = "pod", **options: Any) -> tuple[str, Any]:
    """A pod with a server on port 80, and what its ADD answered."""
    path = host.netns(name)
    result = call("bridge", "ADD", bridge(**options), name, path)
    serve_port(host, path, 80)
    return path, result


def test_isolated_ports_of_a_bridge_reach_their_gateway_and_not_each_other(host: World) -> None:
    one, _ = _served_pod(host, "one", portIsolation=True)
    _, second = _served_pod(host, "two", portIsolation=True)
    serve_port(host, "", 81)
    assert dial(one, address_of(second), 80) is None
    assert dial(one, "10.11.0.1", 81) == "it|10.11.0.2"


@BACKENDS
def test_conditions_decide_who_may_use_a_host_port(host: World, backend: str) -> None:
    outside = host.outside()
    run("ip", "-n", "outside", "addr", "add", "192.0.2.9/24", "dev", "up1")
    pod, result = _served_pod(host)
    match = ["ip", "saddr", OUTSIDE] if backend == "nftables" else ["-s", OUTSIDE]
    ports = _ports(result, _port(), backend=backend, conditionsV4=match)
    call("portmap", "ADD", ports, "pod", pod)
    assert dial(outside, HOST, 8080) == f"it|{OUTSIDE}"
    run("ip", "-n", "outside", "addr", "del", f"{OUTSIDE}/24", "dev", "up1")
    run("ip", "-n", "outside", "addr", "add", "192.0.2.9/24", "dev", "up1")
    assert dial(outside, HOST, 8080) is None
    call("portmap", "CHECK", ports, "pod", pod)
    call("portmap", "DEL", ports, "pod", pod)


@BACKENDS
def test_masq_all_hides_every_client_of_a_host_port(host: World, backend: str) -> None:
    outside = host.outside()
    pod, result = _served_pod(host)
    call("portmap", "ADD", _ports(result, _port(), backend=backend, masqAll=True), "pod", pod)
    assert dial(outside, HOST, 8080) == "it|10.11.0.1"


@BACKENDS
def test_a_host_ip_limits_a_host_port_to_that_address(host: World, backend: str) -> None:
    outside = host.outside()
    run("ip", "addr", "add", "192.0.2.7/24", "dev", "up0")
    pod, result = _served_pod(host)
    call("portmap", "ADD", _ports(result, _port(hostIP="192.0.2.7"), backend=backend), "pod", pod)
    assert dial(outside, "192.0.2.7", 8080) == f"it|{OUTSIDE}"
    assert dial(outside, HOST, 8080) is None


@BACKENDS
def test_without_snat_a_host_port_serves_others_but_not_the_host_itself(host: World, backend: str) -> None:
    outside = host.outside()
    pod, result = _served_pod(host)
    call("portmap", "ADD", _ports(result, _port(), backend=backend, snat=False), "pod", pod)
    assert dial(outside, HOST, 8080) == f"it|{OUTSIDE}"
    assert dial("", "127.0.0.1", 8080) is None


def test_a_mark_of_the_users_choice_and_a_chain_of_somebody_else_masquerade(host: World) -> None:
    pod, result = _served_pod(host)
    own = _ports(result, _port(), backend="iptables", markMasqBit=5)
    call("portmap", "ADD", own, "pod", pod)
    assert "--set-xmark 0x20/0x20" in run("iptables-save", "-t", "nat")
    assert dial("", "127.0.0.1", 8080) == "it|10.11.0.1"
    call("portmap", "DEL", own, "pod", pod)
    for words in (
        "-N KUBE-MARK-MASQ",
        "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
        "-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE",
    ):
        run("iptables", "-t", "nat", *words.split())
    theirs = _ports(result, _port(hostPort=8081), backend="iptables", externalSetMarkChain="KUBE-MARK-MASQ")
    call("portmap", "ADD", theirs, "pod", pod)
    assert dial("", "127.0.0.1", 8081) == "it|10.11.0.1"


def test_the_administrators_chain_of_the_firewall_is_asked_first(host: World) -> None:
    outside = host.outside()
    pod, result = _served_pod(host, ipMasq=True)
    serve_port(host, outside, 80, tag="out")
    for words in ("-N OURS", "-A OURS -p tcp --dport 80 -j DROP"):
        run("iptables", *words.split())
    wall = _after("firewall", result, backend="iptables", iptablesAdminChainName="OURS")
    call("firewall", "ADD", wall, "pod", pod)
    assert dial(pod, OUTSIDE, 80) is None
    run("iptables", "-F", "OURS")
    assert dial(pod, OUTSIDE, 80) == f"out|{HOST}"


def test_an_iptables_of_the_legacy_kind_gets_the_rules_where_it_is_the_hosts(
    host: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.makedirs("/run/cni/legacy")
    for name in ("iptables", "ip6tables"):
        for tool in (name, f"{name}-save", f"{name}-restore"):
            os.symlink("/usr/sbin/xtables-legacy-multi", f"/run/cni/legacy/{tool}")
    monkeypatch.setenv("PATH", f"/run/cni/legacy:{os.environ['PATH']}")
    outside = host.outside()
    pod, result = _served_pod(host, ipMasq=True, ipMasqBackend="iptables")
    serve_port(host, outside, 80, tag="out")
    ports = _ports(result, _port(), backend="iptables")
    call("portmap", "ADD", ports, "pod", pod)
    assert "CNI-HOSTPORT-DNAT" in run("iptables-save", "-t", "nat")
    assert "CNI-" not in run("nft", "list", "ruleset")
    assert dial(outside, HOST, 8080) == f"it|{OUTSIDE}"
    assert dial(pod, OUTSIDE, 80) == f"out|{HOST}"
    call("portmap", "DEL", ports, "pod", pod)
    call("bridge", "DEL", bridge(ipMasq=True, ipMasqBackend="iptables"), "pod", pod)
    assert "10.11.0.2" not in run("iptables-save", "-t", "nat")
    for name in ("iptables", "ip6tables"):
        run(f"/run/cni/legacy/{name}", "-t", "nat", "-F")
        run(f"/run/cni/legacy/{name}", "-t", "nat", "-X")


@pytest.mark.parametrize("path", [("nftables", "iptables"), ("iptables", "nftables")])
def test_a_change_of_backend_is_found_by_check_and_leaves_no_rule_behind(host: World, path: tuple[str, str]) -> None:
    before, after = path
    pod, result = _served_pod(host, ipMasq=True, ipMasqBackend=before)
    call("portmap", "ADD", _ports(result, _port(), backend=before), "pod", pod)
    conf = bridge(ipMasq=True, ipMasqBackend=after, prevResult=result)
    ports = _ports(result, _port(), backend=after)
    call("bridge", "CHECK", conf, "pod", pod)
    call("portmap", "CHECK", ports, "pod", pod)
    call("portmap", "DEL", ports, "pod", pod)
    call("bridge", "DEL", conf, "pod", pod)
    assert "10.11.0.2" not in run("nft", "list", "ruleset") + run("iptables-save")


def test_tuning_asks_the_allow_list_and_puts_back_what_it_has_changed(host: World) -> None:
    pod, result = _served_pod(host)
    own = next(each["mac"] for each in result["interfaces"] if each.get("sandbox"))
    wishes = {"mtu": 1400, "mac": "02:00:00:00:00:77", "promisc": True, "txQLen": 77, "dataDir": "/run/cni/backups"}
    conf = _after("tuning", result, sysctl={"net.ipv4.conf.IFNAME.arp_filter": "1"}, **wishes)
    run("mount", "-t", "tmpfs", "none", "/etc/cni") if os.path.isdir("/etc/cni") else os.makedirs("/etc/cni")
    try:
        os.makedirs("/etc/cni/tuning")
        allow = Path("/etc/cni/tuning/allowlist.conf")
        allow.write_text("^net.core\n")
        with pytest.raises(Refused, match=r"arp_filter is not allowed: \S+ allows \^net.core"):
            call("tuning", "ADD", conf, "pod", pod)
        allow.write_text("^net.core\n^net.ipv4.conf\\..*arp_filter$\n")
        call("tuning", "ADD", conf, "pod", pod)
    finally:
        run("umount", "/etc/cni", check=False)
        run("rm", "-rf", "/etc/cni/tuning")
    link = ip("-n", "pod", "link", "show", "eth0")[0]
    assert (link["mtu"], link["address"], link["txqlen"]) == (1400, "02:00:00:00:00:77", 77)
    assert "PROMISC" in link["flags"]
    assert os.listdir("/run/cni/backups") == ["pod_eth0.json"]
    call("tuning", "DEL", conf, "pod", pod)
    link = ip("-n", "pod", "link", "show", "eth0")[0]
    assert (link["mtu"], link["address"], link["txqlen"]) == (1500, own, 1000)
    assert "PROMISC" not in link["flags"]
    assert os.listdir("/run/cni/backups") == []


def test_a_pod_with_two_interfaces_answers_by_the_one_that_was_asked(host: World) -> None:
    """sbr with a gateway of its own and source hints, as a second network needs it."""
    pod, _ = _served_pod(host)
    second = bridge("two", ("10.12.0.0/24",), isDefaultGateway=False, isGateway=True)
    result = call("bridge", "ADD", second, "pod", pod, "net1")
    far = host.netns("far")
    run("ip", "link", "add", "far0", "master", "br-two", "type", "veth", "peer", "name", "eth0", "netns", "far")
    for words in (
        "link set far0 up", "-n far addr add 10.12.0.99/24 dev eth0", "-n far link set lo up",
        "-n far addr add 10.99.0.1/32 dev lo", "-n far link set eth0 up",
    ):  # fmt: skip
        run("ip", *words.split())

    def ask() -> str | None:
        def attempt() -> str:
            with socket.create_connection((address_of(result), 80), 1.0, ("10.99.0.1", 0)) as client:
                return client.recv(99).decode()

        answer: str | None = in_netns(far, attempt)
        return answer

    assert ask() is None, "the answer left by the default route of the first network"
    conf = _after("sbr", result, gateways=["10.12.0.99"], addSourceHints=True, name="two")
    call("sbr", "ADD", conf, "pod", pod, "net1")
    assert ask() == "it|10.99.0.1"
    call("bridge", "CHECK", {**second, "prevResult": result}, "pod", pod, "net1")  # its routes are in another table now
    (default,) = ip("-n", "pod", "route", "show", "default", "table", "100")
    assert (default["gateway"], default["prefsrc"]) == ("10.12.0.99", address_of(result))
    call("sbr", "DEL", conf, "pod", pod, "net1")
    assert ask() is None


@needs("ifb", "tbf")
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_a_bandwidth_is_what_a_transfer_gets(host: World, direction: str) -> None:
    """A megabyte beyond the burst at 16 Mbit/s takes half a second; without a limit some milliseconds."""
    pod, result = _served_pod(host)
    other, _ = _served_pod(host, "other")
    receiver, sender = (pod, other) if direction == "ingress" else (other, pod)
    target = address_of(result) if direction == "ingress" else "10.11.0.3"

    def seconds() -> float:
        def transfer() -> float:
            with socket.create_connection((target, 9000), 2.0) as client:
                begin = time.monotonic()
                client.sendall(bytes(1_100_000))
                client.shutdown(socket.SHUT_WR)
                client.recv(1)
                return time.monotonic() - begin

        return float(in_netns(sender, transfer))

    _sink(host, receiver)
    unlimited = seconds()
    conf = _after("bandwidth", result, **{f"{direction}Rate": 16_000_000, f"{direction}Burst": 800_000})
    answer = call("bandwidth", "ADD", conf, "pod", pod)
    call("bandwidth", "CHECK", {**conf, "prevResult": answer}, "pod", pod)
    assert seconds() > max(0.4, 3 * unlimited)
    call("bandwidth", "DEL", conf, "pod", pod)
    assert [link for link in ip("link") if link["ifname"].startswith("bwp")] == []


def _sink(host: World, path: str) -> None:
    """A server in a namespace that reads to the end and then says so."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
            kernel.setns(os.open(path, os.O_RDONLY), kernel.CLONE_NEWNET)
            _swallow(writer)
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"1"
    os.close(reader)
    host.servers.append(pid)


def _swallow(writer: int) -> None:
    with socket.create_server(("0.0.0.0", 9000)) as listener:
        os.write(writer, b"1")
        while True:
            connection, _ = listener.accept()
            while connection.recv(1 << 16):
                pass
            connection.sendall(b"1")
            connection.close()


@needs("macvlan")
def test_a_macvlans_queue_for_broadcasts_has_the_length_that_was_asked_for(host: World) -> None:
    host.outside()
    pod = host.netns("pod")
    conf = {"cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "master": "up0", "bcqueuelen": 2000}
    call("macvlan", "ADD", conf, "c", pod)
    assert ip("-n", "pod", "-d", "link", "show", "eth0")[0]["linkinfo"]["info_data"]["bcqueuelen"] == 2000
    call("macvlan", "DEL", conf, "c", pod)


@pytest.mark.parametrize("how", ["device", "hwaddr", "kernelpath", "pciBusID", "deviceID"])
def test_a_device_of_the_host_is_found_by_each_of_its_names_and_comes_back_under_its_own(host: World, how: str) -> None:
    pod = host.netns("pod")
    run("ip", "link", "add", "nic0", "address", "02:00:00:00:00:42", "type", "veth", "peer", "name", "nic1")
    run("mount", "-t", "tmpfs", "none", "/sys/bus/pci/devices" if os.path.isdir("/sys/bus/pci/devices") else "/sys/bus")
    try:
        os.makedirs("/sys/bus/pci/devices/0000:00:1f.6/net/nic0")
        named: dict[str, Any] = {
            "device": {"device": "nic0"}, "hwaddr": {"hwaddr": "02:00:00:00:00:42"},
            "kernelpath": {"kernelpath": "/sys/bus/pci/devices/0000:00:1f.6"}, "pciBusID": {"pciBusID": "0000:00:1f.6"},
            "deviceID": {"runtimeConfig": {"deviceID": "0000:00:1f.6"}},
        }[how]  # fmt: skip
        conf = {"cniVersion": "1.1.0", "name": "net", "type": "host-device", **named}
        result = call("host-device", "ADD", conf, "c", pod, "net1")
        assert result is not None
        assert result["interfaces"][0]["mac"] == "02:00:00:00:00:42"
        assert result["interfaces"][0].get("pciID") == ("0000:00:1f.6" if how in ("pciBusID", "deviceID") else None)
        call("host-device", "CHECK", {**conf, "prevResult": result}, "c", pod, "net1")
        call("host-device", "DEL", conf, "c", pod, "net1")
        assert ip("link", "show", "nic0")[0]["address"] == "02:00:00:00:00:42"
    finally:
        run("umount", "/sys/bus/pci/devices", check=False)


def test_a_device_that_a_userspace_driver_holds_gets_its_addresses_only(host: World) -> None:
    ipam = {"type": "host-local", "subnet": "10.11.0.0/24"}
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "host-device", "pciBusID": "0000:00:1f.6", "dpdkMode": True}
    pod = host.netns("pod")
    result = call("host-device", "ADD", {**conf, "ipam": ipam}, "c", pod, "net1")
    assert result is not None
    assert result["interfaces"] == [{"name": "net1", "sandbox": pod, "pciID": "0000:00:1f.6"}]
    assert address_of(result) == "10.11.0.2"
    call("host-device", "DEL", {**conf, "ipam": ipam}, "c", pod, "net1")


def test_host_local_keeps_the_references_files(host: World) -> None:
    ipam = {"type": "host-local", "subnet": "10.11.0.0/24", "dataDir": "/run/cni/elsewhere"}
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "x", "ipam": ipam}
    call("host-local", "ADD", conf, "c1", "/x")
    folder = Path("/run/cni/elsewhere/net")
    assert (folder / "10.11.0.2").read_bytes() == b"c1\r\neth0"
    assert (folder / "last_reserved_ip.0").read_text() == "10.11.0.2"
    (folder / "last_reserved_ip.0").write_text("10.11.0.199")  # a longer one before a shorter one
    (folder / "10.11.0.2").unlink()
    call("host-local", "DEL", conf, "c1", "/x")
    call("host-local", "ADD", conf, "c2", "/x")
    assert (folder / "last_reserved_ip.0").read_text() == "10.11.0.200"
    (folder / "last_reserved_ip.0").write_text("10.11.0.254")
    call("host-local", "ADD", conf, "c3", "/x")
    assert (folder / "last_reserved_ip.0").read_text() == "10.11.0.2"
    assert json.loads((folder / ".ketch/held/c3:eth0").read_text())["addresses"] == ["10.11.0.2"]
