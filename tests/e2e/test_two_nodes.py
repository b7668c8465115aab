# SPDX-License-Identifier: Apache-2.0
"""Two nodes with routed pod ranges: every pod reaches every pod by its address and is seen as itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e import cluster as clusters
from tests.e2e import node as nodes
from tests.e2e.cluster import Cluster
from tests.e2e.machine import until
from tests.e2e.objects import pod, service, web
from tests.e2e.space import Space

pytestmark = [pytest.mark.needs("root"), pytest.mark.own_namespaces, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def space(cluster: Cluster) -> Iterator[Space]:
    if len(cluster.nodes) < 2:
        pytest.skip("needs two nodes: KETCH_NODES=2")
    with Space(cluster, "two-nodes") as made:
        for node in cluster.nodes:
            for number in (1, 2):
                made.apply(pod(f"{node.name}-{number}", web(), nodeName=node.name, labels={"app": "all"}))
        made.wait_until_ready(*names(cluster))
        yield made


def names(cluster: Cluster) -> list[str]:
    return [f"{node.name}-{number}" for node in cluster.nodes for number in (1, 2)]


def test_every_pod_reaches_every_pod_and_is_seen_as_itself(cluster: Cluster, space: Space) -> None:
    addresses = {name: space.address(name) for name in names(cluster)}
    for name, own in addresses.items():
        for other, address in addresses.items():
            seen = space.exec(name, "wget", "-T", "3", "-qO-", f"http://{address}:8080/clientip")
            assert seen.rpartition(":")[0] == own, f"{name} asks {other}"


def test_a_service_spreads_over_both_nodes(cluster: Cluster, space: Space) -> None:
    space.apply(service("all", {"app": "all"}, 80, 8080))
    script = "for i in $(seq 60); do wget -T 3 -qO- http://all/hostname; echo; done"

    def answering() -> set[str]:
        return set(space.exec("node1-1", "sh", "-c", script).split())

    until(lambda: answering() == set(names(cluster)), "all four answer")


def test_ac38_a_node_without_a_pod_answers_its_node_port(cluster: Cluster, space: Space) -> None:
    ports = [{"port": 80, "targetPort": 8080, "nodePort": 30002}]
    space.apply(pod("only", web(), nodeName=cluster.nodes[0].name))
    space.apply(service("only", {"app": "only"}, 80, 8080, type="NodePort", ports=ports))
    space.wait_until_ready("only")
    for node in cluster.nodes:
        ask = ("curl", "-sf", "-m", "3", f"http://{node.address}:30002/hostname")
        until(lambda: cluster.site.run(*ask, check=False).stdout == "only", f"{node.name} answers", 30)  # noqa: B023


def test_each_node_reaches_every_pod_without_translation(cluster: Cluster, space: Space) -> None:
    for node in cluster.nodes:
        for name in names(cluster):
            url = f"http://{space.address(name)}:8080/clientip"
            seen = node.machine.read("curl", "-sf", "-m", "3", url).rpartition(":")[0]
            assert seen == node.address or seen.endswith(".1")


def test_a_node_that_was_cut_off_comes_back_with_its_pods(cluster: Cluster, space: Space) -> None:
    node = cluster.nodes[1]
    before = {name: space.address(name) for name in names(cluster)}
    nodes.set_cable(cluster.site, node, is_connected=False)
    until(lambda: clusters.load(cluster.folder) and _is_unknown(cluster, node.name), "its silence is noticed", 120)
    nodes.set_cable(cluster.site, node, is_connected=True)
    until(lambda: cluster.node_condition(node.name)[0] == "True", "it is Ready again", 60, every=0.5)
    space.wait_until_ready(*names(cluster))
    assert {name: space.address(name) for name in names(cluster)} == before
    url = f"http://{before['node2-1']}:8080/hostname"
    assert space.exec("node1-1", "wget", "-T", "3", "-qO-", url) == "node2-1"


def _is_unknown(cluster: Cluster, name: str) -> bool:
    return cluster.node_condition(name)[0] == "Unknown"
