# SPDX-License-Identifier: Apache-2.0
"""Many at once: pods of a full node, parallel calls, mappings in one transaction, flows that outlive their port."""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from cni.client import Attachment, Network, Options, parse
from cni.ipam import reservations
from runtime.linux.netlink_objects import attributes
from runtime.linux.nft import INET, Nft, _request
from tests.linux.cni.world import NETWORKS, OUTSIDE, World, address_of, bridge, call, dial, ip, run, serve_port, settle
from tests.support.needs import needs
from tests.support.together import failures_of

pytestmark = [needs("root", "nft"), pytest.mark.timeout(180)]

NFT_MSG_GETGEN, NFTA_GEN_ID = 16, 1


def _generation() -> int:
    """How many nftables transactions this network namespace has seen."""
    with Nft() as nft:
        body = nft.get(_request("NFT_MSG_GETGEN", (), NFT_MSG_GETGEN, 0, INET))
    return int.from_bytes(attributes(body, 4)[NFTA_GEN_ID], "big")


def test_thirty_two_mappings_are_one_transaction(host: World) -> None:
    conf = bridge()
    pod = host.netns("pod")
    result = call("bridge", "ADD", conf, "c", pod)
    kept = {"cniVersion": "1.1.0", "name": "net", "type": "portmap", "prevResult": result}

    def mapped(first: int) -> dict[str, Any]:
        ports = [{"hostPort": first + n, "containerPort": 80, "protocol": "tcp"} for n in range(32)]
        return {**kept, "runtimeConfig": {"portMappings": ports}}

    call("portmap", "ADD", mapped(7000), "c", pod)  # loads the tables
    call("portmap", "DEL", mapped(7000), "c", pod)
    before = _generation()
    call("portmap", "ADD", mapped(9000), "c", pod)
    assert _generation() == before + 1
    serve_port(host, pod, 80)
    assert all(dial("", "127.0.0.1", 9000 + n) for n in (0, 15, 16, 31))
    call("portmap", "DEL", mapped(9000), "c", pod)
    assert _generation() == before + 2


def test_two_hundred_parallel_adds_share_no_address_and_lose_no_rule(
    host: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In twenty namespaces, ten interfaces each; the longest wait for the lock of the reservations is measured."""
    waits: list[float] = []

    def timed(fd: int, operation: int) -> None:
        begin = time.monotonic()
        fcntl.flock(fd, operation)
        waits.append(time.monotonic() - begin)

    monkeypatch.setattr(
        reservations, "fcntl", type("Timed", (), {"flock": staticmethod(timed), "LOCK_EX": fcntl.LOCK_EX})
    )
    conf = {"cniVersion": "1.1.0", "name": "net", "plugins": [bridge(ipMasq=True)]}
    network = Network(parse(json.dumps(conf).encode()), Options(path="/nonexistent"))
    pods = [host.netns(f"pod{n}") for n in range(20)]
    attachments = [Attachment(f"c{n}", pods[n % 20], f"e{n}") for n in range(200)]
    assert failures_of(network.add, attachments) == []
    held = [name for name in os.listdir(f"{NETWORKS}/net") if name.startswith("10.")]
    assert len(held) == 200
    listed = json.loads(run("nft", "-j", "list", "map", "inet", "ketch_cni", "masq4"))
    assert len(listed["nftables"][1]["map"]["elem"]) == 200
    assert max(waits) < 1.0
    network.gc([])
    settle()
    assert [name for name in os.listdir(f"{NETWORKS}/net") if name.startswith("10.")] == []


def test_a_full_kubenet_node_has_110_pods_and_masquerades_only_beyond_the_pods(host: World) -> None:
    outside = host.outside()
    os.makedirs("/run/cni", exist_ok=True)
    Path("/run/cni/node.json").write_text(json.dumps({"podCidrs": ["10.244.7.0/24"]}))
    ipam = {"type": "host-local", "ranges": [[{"subnet": "usePodCidr"}]], "nodeFile": "/run/cni/node.json"}
    one = {
        "type": "bridge", "preset": "kubenet", "ipam": ipam, "nonMasqueradeCIDRs": ["10.244.0.0/16"],
    }  # fmt: skip
    conf = {"cniVersion": "1.1.0", "name": "kubenet", "plugins": [one]}
    network = Network(parse(json.dumps(conf).encode()), Options(path="/nonexistent"))
    pods = [host.netns(f"pod{n}") for n in range(110)]
    results = [network.add(Attachment(f"c{n}", pod)) for n, pod in enumerate(pods)]
    addresses = [result.ips[0].prefix.ip for result in results]
    assert len(set(addresses)) == 110
    assert len(ip("link", "show", "master", "cbr0")) == 110
    serve_port(host, pods[109], 80)
    serve_port(host, outside, 80)
    for number in (0, 50, 108):
        assert dial(pods[number], addresses[109], 80) == f"it|{addresses[number]}"
        assert dial(pods[number], OUTSIDE, 80) == "it|192.0.2.1"
    reached = [run("ping", "-c1", "-W1", address, check=False) for address in addresses]
    assert all("1 received" in said for said in reached), "the node reaches every pod of its own"
    network.gc([])
    settle()


def test_a_udp_flow_follows_its_port_to_the_next_pod(host: World) -> None:
    """The client keeps its source port, as a resolver or a syslog sender does: its flow is known to conntrack."""
    outside = host.outside()
    conf = bridge()
    results = []
    for name in ("one", "two"):
        pod = host.netns(name)
        results.append(call("bridge", "ADD", conf, name, pod))
        serve_port(host, pod, 53, "udp", tag=name)
    ports = [
        {
            "cniVersion": "1.1.0", "name": "net", "type": "portmap", "prevResult": result,
            "runtimeConfig": {"portMappings": [{"hostPort": 5353, "containerPort": 53, "protocol": "udp"}]},
        }
        for result in results
    ]  # fmt: skip
    assert dial(outside, "192.0.2.1", 5353, "udp", source_port=4000) is None, "nobody has the port yet"
    call("portmap", "ADD", ports[0], "one", "/run/netns/one")
    assert dial(outside, "192.0.2.1", 5353, "udp", source_port=4000) == f"one|{OUTSIDE}"
    call("portmap", "DEL", ports[0], "one", "/run/netns/one")
    assert dial(outside, "192.0.2.1", 5353, "udp", source_port=4000) is None
    call("portmap", "ADD", ports[1], "two", "/run/netns/two")
    assert dial(outside, "192.0.2.1", 5353, "udp", source_port=4000) == f"two|{OUTSIDE}"
    assert address_of(results[0]) != address_of(results[1])
