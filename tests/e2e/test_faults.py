# SPDX-License-Identifier: Apache-2.0
"""The runtime's daemon is killed again and again under work ($KETCH_FAULT_SECONDS says how long), a node falls dead."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e import cluster as clusters
from tests.e2e.cluster import Cluster
from tests.e2e.machine import Machine, start_time, until
from tests.e2e.node import Node
from tests.e2e.objects import deployment, pod, shell, web
from tests.e2e.space import Space
from tests.e2e.test_pods import settled_traces, traces

SECONDS = float(os.environ.get("KETCH_FAULT_SECONDS", "60"))
pytestmark = [pytest.mark.needs("root"), pytest.mark.own_namespaces, pytest.mark.timeout(SECONDS + 400)]


@pytest.fixture
def space(cluster: Cluster) -> Iterator[Space]:
    with Space(cluster, "faults") as made:
        yield made


class Repeated(threading.Thread):
    """Does one thing again and again, so many seconds after it was done; counts how often the answer was true."""

    def __init__(self, action: Callable[[], bool], pause_seconds: float) -> None:
        super().__init__(daemon=True)
        self._action, self._pause_seconds = action, pause_seconds
        self._enough = threading.Event()
        self.successes = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._enough.wait(self._pause_seconds):
                self.successes += self._action()
        except BaseException as why:
            self.failure = why

    def stop(self) -> None:
        self._enough.set()
        self.join()
        if self.failure is not None:
            raise self.failure


def kill_and_start(node: Node) -> bool:
    """The daemon falls dead and is started again, as its unit would."""
    name = node.runtime.name
    pid = node.machine.pid_of(name)
    assert pid is not None, f"{name} does not run"
    began = start_time(pid)
    os.kill(pid, signal.SIGKILL)
    until(lambda: start_time(pid) != began, f"{name} ends", 10)
    node.runtime.restart(node.machine)
    return True


def ran_and_ended(seen: dict[str, Any]) -> bool:
    """Did a container of this pod run and come to an end?

    A start that the kill interrupted before anything ran is made again by the kubelet and counted as a restart: no
    runtime can help that, so what is asked is whether anything that ran was lost.
    """
    ended = seen["status"]["containerStatuses"][0].get("lastState", {}).get("terminated", {})
    return bool(ended.get("startedAt")) and not str(ended["startedAt"]).startswith("1970")


def test_an_update_ends_and_no_pod_suffers_while_the_daemon_is_killed(cluster: Cluster, space: Space) -> None:
    before = settled_traces(cluster)
    space.apply(pod("steady", shell()))
    space.wait_until_ready("steady")
    steady = space.get("pod", "steady")["status"]["containerStatuses"][0]["containerID"]
    killer = Repeated(lambda: kill_and_start(cluster.nodes[0]), 5)
    execs = Repeated(lambda: space.exec("steady", "echo", "here", check=False) == "here\n", 0.5)
    loops = (killer, execs)
    for loop in loops:
        loop.start()
    end, turn = time.monotonic() + SECONDS, 0
    try:
        while time.monotonic() < end:
            turn += 1
            space.apply(deployment("rolled", 20, web(env=[{"name": "TURN", "value": str(turn)}])))
            space.rollout("deployment/rolled", 240)
    finally:
        for loop in loops:
            loop.stop()
    status = space.get("pod", "steady")["status"]["containerStatuses"][0]
    assert (status["containerID"], status["restartCount"]) == (steady, 0)
    assert [each for each in space.get("pods", "-l", "app=rolled")["items"] if ran_and_ended(each)] == []
    assert killer.successes >= 2
    # an exec that the kill meets fails; between two kills there is time for one at least
    assert execs.successes >= killer.successes
    space.remove("deployment", "rolled")
    space.remove("pod", "steady")
    until(lambda: not space.get("pods")["items"], "all pods are gone", 120, every=0.5)
    try:
        until(lambda: traces(cluster) == before, "the node is as before", 60, every=0.5)
    except TimeoutError:
        assert traces(cluster) == before


def reserved(machine: Machine) -> set[str]:
    """The addresses that pods of this node have, by what its disk says."""
    return set(machine.read("find", "/var/lib/cni", "-name", "10.*", "-printf", "%f\\n").split())


def lives(space: Space, names: list[str]) -> dict[str, str]:
    """The container of each of these pods that are ready, by the pod's name."""
    found = (space.get("pod", name)["status"].get("containerStatuses", [{}])[0] for name in names)
    return {name: seen["containerID"] for name, seen in zip(names, found, strict=True) if seen.get("ready")}


def test_after_a_power_cut_pods_come_back_and_no_address_is_lost(cluster: Cluster, space: Space) -> None:
    joined = clusters.join(cluster, cluster.nodes[0].runtime)
    name, names = joined.nodes[-1].name, [f"pod-{number}" for number in range(5)]
    try:
        clusters.add_network(joined, joined.nodes[-1])
        space.apply(*(pod(each, web(), nodeName=name) for each in names))
        space.wait_until_ready(*names)
        before = lives(space, names)
        joined = clusters.cut_power(joined, name)
        clusters.add_network(joined, joined.nodes[-1])

        def is_back() -> bool:
            now = lives(space, names)
            return len(now) == len(names) and not set(now.values()) & set(before.values())

        until(is_back, "each pod has a new container that is ready", 120, every=0.5)
        machine = joined.nodes[-1].machine
        addresses = {space.address(each): each for each in names}
        for address, each in addresses.items():
            assert machine.read("curl", "-sf", "-m", "3", f"http://{address}:8080/hostname") == each
        until(lambda: reserved(machine) == set(addresses), "the pods' addresses alone are taken", 90, every=0.5)
        space.remove("pod", *names)
        until(lambda: not reserved(machine), "no address is taken", 90, every=0.5)
    finally:
        clusters.leave(joined, name)
