# SPDX-License-Identifier: Apache-2.0
"""What kubeadm says of a node before it makes one: its preflight asks the CRI socket itself."""

from __future__ import annotations

import json

import pytest

from tests.e2e import go_build
from tests.e2e.cluster import Cluster
from tests.e2e.go_programs import KUBERNETES_VERSION
from tests.e2e.runtimes import write

pytestmark = [pytest.mark.needs("root"), pytest.mark.own_namespaces, pytest.mark.timeout(300)]
SETTINGS = "/run/kubeadm.json"


def preflight(cluster: Cluster, endpoint: str) -> str:
    """Every check of `kubeadm init`; what a node of the rig is already (ports in use, files there) does not stop it."""
    api = "kubeadm.k8s.io/v1beta4"
    registration = {"criSocket": endpoint, "imagePullPolicy": "Never", "name": "node1"}
    init = {"apiVersion": api, "kind": "InitConfiguration", "nodeRegistration": registration}
    whole = {"apiVersion": api, "kind": "ClusterConfiguration", "kubernetesVersion": KUBERNETES_VERSION}
    machine = cluster.nodes[0].machine
    write(machine, SETTINGS, f"{json.dumps(init)}\n---\n{json.dumps(whole)}\n")
    words = ["init", "phase", "preflight", f"--config={SETTINGS}", "--ignore-preflight-errors=all"]
    done = machine.run(str(go_build.program("kubeadm")), *words, check=False)
    return done.stdout + done.stderr


def test_the_preflight_finds_no_fault_with_the_runtime(cluster: Cluster) -> None:
    said = preflight(cluster, cluster.nodes[0].runtime.endpoint)
    assert "[preflight] Running pre-flight checks" in said
    assert [line for line in said.splitlines() if "CRI" in line or "container runtime" in line.lower()] == []


def test_the_same_preflight_names_a_socket_where_nobody_answers(cluster: Cluster) -> None:
    assert "CRI]" in preflight(cluster, "unix:///run/nobody.sock")
