# SPDX-License-Identifier: Apache-2.0
"""What users have asked of CNI plugins and the reference does not do; and the commands of ketch-cni for people."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from cni.client import Attachment, Network, Options, load, parse
from tests.linux.cni.world import NETWORKS, Refused, World, address_of, bridge, call, ip, run, settle
from tests.support import instruments
from tests.support.needs import needs

pytestmark = [needs("root", "nft"), pytest.mark.timeout(120)]

FOLDERS = ("--conf-dir", "/run/cni/net.d", "--plugin-dir", "/nonexistent")
POD = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0"


def _ketch_cni(*words: str, status: int = 0) -> str:
    command = [instruments.command("ketch-cni"), *FOLDERS, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def _network(*plugins: dict[str, Any], **more: Any) -> Network:
    """In the directory where ketch-cni looks, as well."""
    conf = {"cniVersion": "1.1.0", "name": "net", "plugins": list(plugins), **more}
    os.makedirs("/run/cni/net.d", exist_ok=True)
    Path("/run/cni/net.d/10-net.conflist").write_text(json.dumps(conf))
    return Network(parse(json.dumps(conf).encode()), Options(path="/nonexistent"))


def _host_end(result: dict[str, Any] | None) -> str:
    assert result is not None
    return str(next(each["name"] for each in result["interfaces"][1:] if not each.get("sandbox")))


def test_the_name_of_a_pods_link_follows_from_the_attachment(host: World) -> None:
    pod = host.netns("pod")
    names = []
    for _ in range(2):
        result = call("bridge", "ADD", bridge(vethPrefix="pod"), "c", pod)
        names.append(_host_end(result))
        call("bridge", "DEL", bridge(vethPrefix="pod"), "c", pod)
        settle()
    assert names[0] == names[1]
    assert names[0].startswith("pod")
    assert len(names[0]) == len("pod") + 8


def test_a_pods_pair_is_born_with_the_one_queue_that_it_uses(host: World) -> None:
    """Given more, the kernel takes them away again, and an ADD waits for two RCU grace periods."""
    result = call("bridge", "ADD", bridge(), "c", host.netns("pod"))
    for where in (("-n", "pod", "-d", "link", "show", "eth0"), ("-d", "link", "show", _host_end(result))):
        link = ip(*where)[0]
        assert (link["num_tx_queues"], link["num_rx_queues"]) == (1, 1)


def test_an_address_has_the_same_mac_again_if_that_is_wished(host: World) -> None:
    result = call("bridge", "ADD", bridge(macFromAddress=True), "c", host.netns("pod"))
    assert ip("-n", "pod", "link", "show", "eth0")[0]["address"] == "02:42:0a:0b:00:02"
    assert address_of(result) == "10.11.0.2"


def test_the_mtu_is_the_uplinks_if_that_is_wished(host: World) -> None:
    host.outside()
    run("ip", "link", "set", "up0", "mtu", "1380")
    run("ip", "route", "add", "default", "via", "192.0.2.2")
    call("bridge", "ADD", bridge(mtu="auto"), "c", host.netns("pod"))
    assert ip("-n", "pod", "link", "show", "eth0")[0]["mtu"] == 1380
    assert ip("link", "show", "br-net")[0]["mtu"] == 1380


def test_the_nodes_pod_cidrs_come_from_the_environment_too(host: World) -> None:
    ranges = [[{"subnet": "usePodCidr"}], [{"subnet": "usePodCidrIPv6"}]]
    plugin = bridge(ipam={"type": "host-local", "ranges": ranges})
    conf = parse(json.dumps({"cniVersion": "1.1.0", "name": "net", "plugins": [plugin]}).encode())
    environ = {"KETCH_POD_CIDR": "10.244.9.0/24,fd00:9::/64"}
    network = Network(conf, Options(path="/nonexistent", environ=environ))
    attachment = Attachment("c", host.netns("pod"))
    result = network.add(attachment)
    assert [each.prefix.ip for each in result.ips] == ["10.244.9.2", "fd00:9::2"]
    network.delete(attachment)


def test_a_thousandth_pod_is_an_element_more_and_no_rule_more(host: World) -> None:
    """Masquerade, source guard, isolation and ports: what a packet passes is the same for one pod and for twelve."""
    chain = [
        bridge(ipMasq=True, macspoofchk=True), {"type": "firewall", "ingressPolicy": "isolated"},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]  # fmt: skip
    network = _network(*chain)
    rules = []
    for number in range(12):
        ports = {"portMappings": [{"hostPort": 8000 + number, "containerPort": 80, "protocol": "tcp"}]}
        network.add(Attachment(f"c{number}", host.netns(f"pod{number}"), capability_args=ports))
        rules.append(sum("rule" in each for each in json.loads(run("nft", "-j", "list", "ruleset"))["nftables"]))
    assert rules == rules[:1] * 12
    network.gc([])
    settle()


def test_status_says_that_a_range_is_full_and_that_a_tool_is_missing(
    host: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = bridge(subnets=("10.11.0.0/30",))
    call("bridge", "STATUS", conf)
    call("bridge", "ADD", conf, "c", host.netns("pod"), args=POD)
    with pytest.raises(
        Refused, match=r"10.11.0.1-10.11.0.2 of network net: all 1 addresses are taken.*shop/web-0"
    ) as full:
        call("bridge", "STATUS", conf)
    assert full.value.code == 50
    wall = {"cniVersion": "1.1.0", "name": "net", "type": "portmap", "backend": "iptables"}
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(Refused, match="iptables is not installed") as missing:
        call("portmap", "STATUS", wall)
    assert missing.value.code == 50


def test_a_deletion_that_failed_after_del_had_answered_is_shown_and_tried_again(host: World) -> None:
    """What the deleter leaves when the kernel refuses it: a note of the link, which check shows and GC works off."""
    network = _network(bridge())
    run("ip", "link", "add", "vethdead", "type", "veth", "peer", "name", "vethpeer")
    os.makedirs("/run/cni/ketch/net/leftovers")
    Path("/run/cni/ketch/net/leftovers/vethdead").write_text("RTM_DELLINK: Device or resource busy")
    told = "net: link vethdead could not be removed, GC tries again: RTM_DELLINK: Device or resource busy"
    assert told in _ketch_cni("check", status=1)
    network.gc([])
    deadline = time.monotonic() + 5
    while os.listdir("/run/cni/ketch/net/leftovers") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [link for link in ip("link") if link["ifname"].startswith("veth")] == []
    assert "net: ready" in _ketch_cni("check")


def test_explain_prints_what_add_then_makes_and_changes_nothing(host: World) -> None:
    _network(
        bridge(ipMasq=True, vethPrefix="pod"), {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}}, {"type": "loopback-of-somebody"},
    )  # fmt: skip
    before = run("nft", "list", "ruleset"), ip("link")
    ports = '--capability=portMappings=[{"hostPort":8080,"containerPort":80}]'
    said = _ketch_cni("explain", "net", ports, "--container-id", "c")
    for words in (
        "reserve one address of 10.11.0.1-10.11.0.254", "ensure bridge br-net up", "create veth pod",
        "address 10.11.0.2/24", "route 0.0.0.0/0 via 10.11.0.1", "set sysctl net/ipv4/ip_forward to 1",
        "masquerade what 10.11.0.2 sends beyond 10.11.0.0/24", "map hostPort tcp 8080 -> 80", "arp_filter to 1",
        "run by exec: not ours",
    ):  # fmt: skip
        assert words in said
    assert (run("nft", "list", "ruleset"), ip("link")) == before
    assert not os.path.exists(f"{NETWORKS}/net")
    call("bridge", "ADD", bridge(vethPrefix="pod"), "c", host.netns("pod"))
    assert f"create veth {next(link['ifname'] for link in ip('link') if link['ifname'].startswith('pod'))} up" in said


def test_addresses_tells_who_has_one_since_when_and_for_which_pod(host: World) -> None:
    call("bridge", "ADD", bridge(subnets=("10.11.0.0/24", "fd00:11::/64")), "c1", host.netns("pod"), args=POD)
    (row,) = [line.split() for line in _ketch_cni("addresses").splitlines() if line.startswith("10.11.0.2")]
    assert row[:5] == ["10.11.0.2", "net", "shop/web-0", "c1", "eth0"]
    (told,) = json.loads(_ketch_cni("--json", "addresses", "fd00:11::2"))
    assert (told["pod"], told["network"]) == ("shop/web-0", "net")
    assert told["since"] > "2020"
    assert _ketch_cni("addresses", "10.11.0.9") == "10.11.0.9 is free\n"


def test_check_status_and_gc_are_for_people(host: World) -> None:
    network = _network(bridge(ipMasq=True))
    for name in ("one", "two"):
        network.add(Attachment(name, host.netns(name)))
    assert "net one eth0: as ADD left it" in _ketch_cni("check")
    assert _ketch_cni("status") == "net: ready\n"
    run("ip", "-n", "two", "addr", "flush", "dev", "eth0")
    assert "net two eth0: differs: address 10.11.0.3/24 is not on eth0" in _ketch_cni("check", status=1)
    host.drop_netns("one")
    assert "net: one eth0: /run/netns/one is gone" in _ketch_cni("gc", "--dry-run")
    assert os.path.exists(f"{NETWORKS}/net/10.11.0.2")
    _ketch_cni("gc")
    assert sorted(name for name in os.listdir(f"{NETWORKS}/net") if name.startswith("10.")) == ["10.11.0.3"]
    run("ip", "link", "del", "br-net")
    run("ip", "link", "add", "br-net", "type", "veth", "peer", "name", "other")
    assert "net: not ready: bridge: br-net exists but is not a bridge" in _ketch_cni("status", status=1)


@pytest.mark.parametrize("preset", ["bridge", "kubenet"])
def test_conf_writes_a_configuration_that_works_and_never_over_another(host: World, preset: str) -> None:
    words = ("conf", "--preset", preset, "--subnet", "10.77.0.0/24", "--cluster-cidr", "10.77.0.0/16")
    assert _ketch_cni(*words) == "/run/cni/net.d/10-ketch.conflist\n"
    (network,) = load("/run/cni/net.d", Options(path="/nonexistent"))
    attachment = Attachment("c", host.netns("pod"))
    assert network.add(attachment).ips[0].prefix.ip == "10.77.0.2"
    network.check(attachment)
    network.status()
    network.delete(attachment)
    before = Path("/run/cni/net.d/10-ketch.conflist").read_text()
    assert "exists already: this node has a network" in _ketch_cni(*words, status=1)
    assert Path("/run/cni/net.d/10-ketch.conflist").read_text() == before


def test_a_list_may_forbid_check_and_gc_and_drop_ins(host: World) -> None:
    network = _network(bridge(), disableCheck=True, disableGC=True, loadOnlyInlinedPlugins=True)
    os.makedirs("/run/cni/net.d/net")
    Path("/run/cni/net.d/net/50-more.conf").write_text(json.dumps({"type": "nobodys"}))
    (loaded,) = load("/run/cni/net.d", Options(path="/nonexistent"))
    assert [plugin["type"] for plugin in loaded.configuration.plugins] == ["bridge"]
    attachment = Attachment("c", host.netns("pod"))
    network.add(attachment)
    run("ip", "-n", "pod", "addr", "flush", "dev", "eth0")
    network.check(attachment)
    network.gc([])
    assert [cached.container_id for cached in network.cached()] == ["c"]
    network.delete(attachment)
    settle()
