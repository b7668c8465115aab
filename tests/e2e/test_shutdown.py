# SPDX-License-Identifier: Apache-2.0
"""Graceful node shutdown: logind tells the kubelet, which ends ordinary pods first and critical ones last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e import cluster as clusters
from tests.e2e import node as nodes
from tests.e2e.cluster import Cluster
from tests.e2e.machine import Machine, until
from tests.e2e.node import Node
from tests.e2e.objects import Object, pod, shell
from tests.e2e.space import Space
from tests.support.needs import needs

pytestmark = [needs("root", "logind"), pytest.mark.own_namespaces, pytest.mark.timeout(240)]

# Who holds a delay is to have the time that the kubelet asks for.
_PLACES = """
mkdir -p /run/dbus /run/systemd/system /run/systemd/seats /run/systemd/logind.conf.d
printf '[Login]\\nInhibitDelayMaxSec=60\\n' > /run/systemd/logind.conf.d/delay.conf
"""
_MANAGER = "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"
GRACE = {"shutdownGracePeriod": "20s", "shutdownGracePeriodCriticalPods": "10s"}


@pytest.fixture
def ending(cluster: Cluster) -> Iterator[tuple[Space, Node]]:
    """A node of its own, whose kubelet holds a delay of logind's."""
    joined = clusters.join(cluster, cluster.nodes[0].runtime, GRACE)
    node, space = joined.nodes[-1], Space(joined, "shutdown")
    try:
        space.create()
        clusters.add_network(joined, node)
        start_logind(node.machine)
        node.machine.stop("kubelet")
        nodes.restart_kubelet(node, joined.pki)
        until(lambda: "kubelet" in inhibitors(node.machine), "the kubelet holds a delay", 60, every=0.3)
        yield space, node
    finally:
        space.delete()
        clusters.leave(joined, node.name)


def start_logind(machine: Machine) -> None:
    """logind, with a bus of its own."""
    machine.run("sh", "-euc", _PLACES)
    machine.start("dbus", "dbus-daemon", "--system", "--nofork", "--nopidfile")
    until(lambda: machine.run("test", "-S", "/run/dbus/system_bus_socket", check=False).returncode == 0, "the bus", 10)
    machine.start("logind", "/lib/systemd/systemd-logind")
    until(lambda: machine.run("busctl", "call", *_MANAGER, "ListInhibitors", check=False).returncode == 0, "logind", 20)


def inhibitors(machine: Machine) -> str:
    return machine.read("busctl", "call", *_MANAGER, "ListInhibitors")


def leaves_word(name: str, node: Node, **spec: Any) -> Object:
    """A pod that takes a second to end and then says so in a file of the node."""
    script = f"trap 'sleep 1; echo {name} >> /words/ends; exit 0' TERM; while :; do sleep 1 & wait; done"
    main = shell(script, volumeMounts=[{"name": "words", "mountPath": "/words"}])
    words = {"name": "words", "hostPath": {"path": "/var/lib/words", "type": "DirectoryOrCreate"}}
    return pod(name, main, nodeName=node.name, terminationGracePeriodSeconds=30, volumes=[words], **spec)


def test_a_shutdown_ends_ordinary_pods_first_and_critical_ones_last(ending: tuple[Space, Node]) -> None:
    space, node = ending
    space.apply(leaves_word("ordinary", node), leaves_word("critical", node, priorityClassName="system-node-critical"))
    space.wait_until_ready("ordinary", "critical")
    # what logind says on the bus before it goes on to power the machine off
    node.machine.run("dbus-send", "--system", _MANAGER[1], f"{_MANAGER[2]}.PrepareForShutdown", "boolean:true")
    until(lambda: "kubelet" not in inhibitors(node.machine), "the kubelet lets go of its delay", 60, every=0.3)
    assert node.machine.read("cat", "/var/lib/words/ends").split() == ["ordinary", "critical"]
    for name in ("ordinary", "critical"):
        until(lambda: space.phase(name) in ("Failed", "Succeeded"), f"{name} is said to have ended", 30)  # noqa: B023
    until(lambda: "shutting down" in space.cluster.node_condition(node.name)[1], "the node says why", 30, every=0.3)
