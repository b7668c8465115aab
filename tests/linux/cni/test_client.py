# SPDX-License-Identifier: Apache-2.0
"""A runtime's side: chains of our plugins and foreign ones, cached results, garbage collection."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from cni.client import Attachment, CniError, Directory, Network, Options, load, parse
from cni.wire import closing
from runtime.linux import nft
from runtime.linux.nft import Nft
from tests.linux.cni.world import NETWORKS, World, bridge, ip, run, settle
from tests.support.needs import needs
from tests.support.together import failures_of

pytestmark = needs("root", "nft")

FOREIGN = """#!/usr/bin/python3 -IS
# A plugin of somebody else: notes the call, passes the previous result on.
import json, os, sys, time
command, conf = os.environ["CNI_COMMAND"], json.load(sys.stdin)
told = [command, os.environ.get("CNI_CONTAINERID"), os.environ.get("CNI_IFNAME"), os.environ.get("CNI_ARGS"), conf]
with open("/run/cni/foreign.log", "a") as log:
    log.write(json.dumps(told) + "\\n")
sys.stderr.write("words on stderr")
if os.path.exists(f"/run/cni/foreign.fails.{command}"):
    sys.exit(print(json.dumps({"cniVersion": "1.1.0", "code": 11, "msg": "not now", "details": "later"})) or 1)
if os.path.exists(f"/run/cni/foreign.hangs.{command}"):
    time.sleep(60)
if command == "ADD":
    print(json.dumps(conf["prevResult"]))
"""


def _network(host: World, *plugins: dict[str, Any], version: str = "1.1.0", **options: Any) -> Network:
    os.makedirs("/run/cni/bin", exist_ok=True)
    script = Path("/run/cni/bin/foreign")
    script.write_text(FOREIGN)
    script.chmod(0o755)
    conf = {"cniVersion": version, "name": "net", "plugins": [bridge(ipMasq=True), *plugins]}
    return Network(parse(json.dumps(conf).encode()), Options(path="/run/cni/bin", **options))


def _calls() -> list[str]:
    return [told[0] for told in _told()]


def _told() -> list[list[Any]]:
    return [json.loads(line) for line in Path("/run/cni/foreign.log").read_text().splitlines()]


def test_a_foreign_plugin_gets_what_the_specification_promises(host: World) -> None:
    network = _network(host, {"type": "foreign", "capabilities": {"portMappings": True, "dns": False}, "own": 7})
    mappings = [{"hostPort": 1, "containerPort": 2, "protocol": "tcp"}]
    given = {"portMappings": mappings, "dns": {"servers": ["1.1.1.1"]}, "bandwidth": {}}
    attachment = Attachment("c1", host.netns("pod"), "eth0", (("IgnoreUnknown", "1"), ("K8S_POD_NAME", "web")), given)
    network.add(attachment)
    network.check(attachment)
    network.status()
    network.gc([attachment])
    network.delete(attachment)
    assert _calls() == ["ADD", "CHECK", "STATUS", "GC", "DEL"]
    *words, conf = _told()[0]
    assert words == ["ADD", "c1", "eth0", "IgnoreUnknown=1;K8S_POD_NAME=web"]
    assert conf["runtimeConfig"] == {"portMappings": mappings}
    assert (conf["name"], conf["cniVersion"], conf["own"]) == ("net", "1.1.0", 7)
    assert conf["prevResult"]["ips"][0]["address"] == "10.11.0.2/24"


def test_a_foreign_plugins_error_comes_with_its_code_and_its_stderr(host: World) -> None:
    network = _network(host, {"type": "foreign"})
    attachment = Attachment("c1", host.netns("pod"))
    Path("/run/cni/foreign.fails.ADD").touch()
    with pytest.raises(CniError, match="not now") as failure:
        network.add(attachment)
    assert failure.value.code == 11
    assert "words on stderr" in failure.value.details
    network.delete(attachment)
    settle()
    assert [name for name in os.listdir(f"{NETWORKS}/net") if name.startswith("10.")] == []


def test_a_foreign_plugin_that_hangs_is_killed(host: World) -> None:
    network = _network(host, {"type": "foreign"}, foreign_timeout_seconds=0.3)
    attachment = Attachment("c1", host.netns("pod"))
    Path("/run/cni/foreign.hangs.ADD").touch()
    with pytest.raises(CniError, match=r"did not answer within 0\.3 s and was killed"):
        network.add(attachment)
    network.delete(attachment)
    settle()


def test_results_are_cached_where_and_as_libcni_does(host: World) -> None:
    network = _network(host)
    attachment = Attachment("c1", host.netns("pod"), "eth0", (("IgnoreUnknown", "1"),), {"mac": "02:00:00:00:00:09"})
    network.add(attachment)
    path = Path("/var/lib/cni/results/net-c1-eth0")
    cached = json.loads(path.read_text())
    assert path.stat().st_mode & 0o777 == 0o600
    assert (cached["kind"], cached["containerId"], cached["ifName"], cached["networkName"]) == (
        "cniCacheV1",
        "c1",
        "eth0",
        "net",
    )
    assert cached["cniArgs"] == [["IgnoreUnknown", "1"]]
    assert json.loads(base64.b64decode(cached["config"]))["plugins"][0]["type"] == "bridge"
    assert cached["result"]["ips"][0]["address"] == "10.11.0.2/24"
    network.delete(Attachment("c1", attachment.netns))
    assert not path.exists()
    network.delete(attachment)
    settle()


def test_gc_removes_what_is_not_valid_and_leaves_the_rest(host: World) -> None:
    network = _network(host)
    attachments = [Attachment(f"c{n}", host.netns(f"pod{n}")) for n in range(4)]
    for attachment in attachments:
        network.add(attachment)
    host.drop_netns("pod3")
    network.gc(attachments[:2])
    for attachment in attachments[:2]:
        network.check(attachment)
    assert [cached.container_id for cached in network.cached()] == ["c0", "c1"]
    held = sorted(name for name in os.listdir(f"{NETWORKS}/net") if name.startswith("10."))
    assert held == ["10.11.0.2", "10.11.0.3"]
    assert "10.11.0.4" not in run("nft", "list", "ruleset")
    network.gc([])
    settle()


def test_parallel_adds_in_one_process_share_nothing_but_the_bridge(host: World) -> None:
    network = _network(host)
    attachments = [Attachment(f"c{n}", host.netns(f"pod{n}")) for n in range(24)]

    def add_and_check(attachment: Attachment) -> None:
        network.add(attachment)
        network.check(attachment)

    assert failures_of(add_and_check, attachments) == []
    held = [name for name in os.listdir(f"{NETWORKS}/net") if name.startswith("10.")]
    assert len(held) == 24
    elements = json.loads(run("nft", "-j", "list", "map", "inet", "ketch_cni", "masq4"))["nftables"][1]["map"]["elem"]
    assert len(elements) == 24
    network.gc([])
    settle()
    assert [link for link in ip("link") if link["ifname"].startswith("veth")] == []


def test_a_networks_meaning_is_worked_out_once_and_each_call_has_its_own_wishes(host: World) -> None:
    wishful = bridge(capabilities={"ipRanges": True, "mac": True}, mtu="auto", forceAddress=True)
    network = Network(parse(json.dumps({"cniVersion": "1.1.0", "name": "net", "plugins": [wishful]}).encode()))
    elsewhere = {"ipRanges": [[{"subnet": "10.99.0.0/24"}]], "mac": "02:00:00:00:00:99"}
    run("ip", "link", "add", "up0", "mtu", "1300", "type", "veth", "peer", "name", "up1")
    given = []
    for number, (wishes, args) in enumerate([({}, ()), (elsewhere, ()), ({}, (("IP", "10.11.0.77"),)), ({}, ())]):
        result = network.add(Attachment(f"c{number}", host.netns(f"pod{number}"), args=args, capability_args=wishes))
        given.append((result.ips[0].prefix.ip, result.interfaces[2].mac == elsewhere["mac"], result.interfaces[2].mtu))
        run("sh", "-c", "ip link set up0 up; ip addr replace 192.0.2.1/24 dev up0; ip route replace default dev up0")
    assert given == [
        ("10.11.0.2", False, 1500),
        ("10.99.0.2", True, 1300),
        ("10.11.0.77", False, 1300),
        ("10.11.0.78", False, 1300),
    ]


def test_files_are_read_as_libcni_reads_them(host: World) -> None:
    os.makedirs("/run/cni/net.d/two")
    single = {"cniVersion": "0.4.0", "name": "one", "type": "loopback"}
    listed = {
        "cniVersion": "1.0.0",
        "cniVersions": ["1.1.0", "9.0.0"],
        "name": "two",
        "plugins": [{"type": "loopback"}],
    }
    Path("/run/cni/net.d/20-two.conflist").write_text(json.dumps(listed))
    Path("/run/cni/net.d/10-one.conf").write_text(json.dumps(single))
    Path("/run/cni/net.d/two/99-more.conf").write_text(json.dumps({"type": "tuning"}))
    Path("/run/cni/net.d/readme.txt").write_text("not JSON")
    first, second = load("/run/cni/net.d")
    assert (first.name, first.version) == ("one", "0.4.0")
    assert (second.name, second.version) == ("two", "1.1.0")
    assert [plugin["type"] for plugin in second.configuration.plugins] == ["loopback", "tuning"]
    Path("/run/cni/net.d/00-bad.conf").write_text("{")
    with pytest.raises(CniError, match=r"00-bad\.conf: not JSON"):
        load("/run/cni/net.d")


def test_a_watched_directory_says_what_it_holds_now(host: World) -> None:
    os.makedirs("/run/cni/net.d")
    directory = Directory("/run/cni/net.d")
    assert directory.networks() == []
    path = Path("/run/cni/net.d/10-net.conflist")
    conf = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "loopback"}]}
    path.write_text(json.dumps(conf))
    (first,) = directory.networks()
    assert directory.networks()[0] is first, "an unchanged one is not read again"
    os.makedirs("/run/cni/net.d/net")
    Path("/run/cni/net.d/net/50-more.conf").write_text(json.dumps({"type": "tuning"}))
    assert [plugin["type"] for plugin in directory.networks()[0].plugins] == ["loopback", "tuning"]
    path.write_text("{")
    for _ in range(2):
        with pytest.raises(CniError, match=r"10-net\.conflist: not JSON"):
            directory.networks()
    path.write_text(json.dumps({**conf, "name": "other"}))
    assert [network.name for network in directory.networks()] == ["other"]


def test_the_sockets_of_a_chain_are_closed_after_its_last_plugin() -> None:
    """The close of any of them would wait for what was removed, and the next plugin's removal for that."""
    run("nft", "add", "table", "inet", "ours")
    with closing.AfterTheChain():
        opened = [Nft(), Nft()]
        opened[0].transact(nft.delete_table(nft.INET, "ours"))
        for each in opened:
            closing.close(each)
        assert all(each.fileno() >= 0 for each in opened)
    while any(each.fileno() >= 0 for each in opened):  # by a thread; the test's own limit ends this
        os.sched_yield()
