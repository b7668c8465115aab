# SPDX-License-Identifier: Apache-2.0
"""Names: acceptance cases AC52 to AC57."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.control_plane import DNS_ADDRESS, SERVICE_ADDRESS
from tests.e2e.image_set import BUSYBOX
from tests.e2e.machine import until
from tests.e2e.objects import deployment, is_ready, pod, service, shell, web
from tests.e2e.space import Space

pytestmark = [pytest.mark.needs("root"), pytest.mark.own_namespaces, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def dev(cluster: Cluster) -> Iterator[Space]:
    """AC53: the same names in two namespaces, and a pod to jump from."""
    spaces = [Space(cluster, "dev"), Space(cluster, "prod")]
    for space in spaces:
        space.create()
        space.apply(deployment("enterprise", 2, web()), service("ent", {"app": "enterprise"}, 8080, 8080))
    jump = shell("sleep 3600", tty=True, stdin=True)
    spaces[0].apply(pod("jump", jump, terminationGracePeriodSeconds=5))
    spaces[0].wait_until_ready("jump")
    for space in spaces:
        space.rollout("deployment/enterprise")
    yield spaces[0]
    for space in spaces:
        space.delete()


def has_resolved(dev: Space) -> bool:
    """Does the jump pod know the API server by its name?"""
    name = "kubernetes.default.svc.cluster.local"
    return SERVICE_ADDRESS in dev.exec("jump", "nslookup", name, DNS_ADDRESS, check=False)


def test_ac52_the_dns_service_answers_over_udp_and_tcp(dev: Space) -> None:
    system = Space(dev.cluster, "kube-system")
    assert system.get("service", "kube-dns")["spec"]["clusterIP"] == DNS_ADDRESS
    until(lambda: len(ready_servers(system)) == 2, "two of two servers are ready", 60, every=0.3)
    until(lambda: has_resolved(dev), "the name of the API server resolves", 30, every=0.3)
    probe = f"echo | nc -w 2 {DNS_ADDRESS} 53 && echo open"
    assert "open" in dev.exec("jump", "sh", "-c", probe)
    metrics = f"http://{DNS_ADDRESS}:9153/metrics"
    assert "coredns_build_info" in dev.exec("jump", "wget", "-T", "3", "-qO-", metrics)


def ready_servers(system: Space) -> set[str]:
    """CoreDNS' pods that are ready and stay."""
    found = system.get("pods", "-l", "k8s-app=kube-dns")["items"]
    return {each["metadata"]["name"] for each in found if is_ready(each)}


def test_ac54_the_resolver_searches_the_namespace_first(dev: Space) -> None:
    lines = dev.exec("jump", "cat", "/etc/resolv.conf").splitlines()
    assert f"nameserver {DNS_ADDRESS}" in lines
    assert any(line.startswith("search dev.svc.cluster.local svc.cluster.local cluster.local") for line in lines)
    assert "options ndots:5" in lines


def backend(dev: Space, host: str) -> str:
    return str(
        until(lambda: dev.exec("jump", "wget", "-T", "2", "-qO-", f"http://{host}:8080/hostname", check=False), host)
    )


def test_ac55_the_short_name_is_here_and_the_long_one_there(cluster: Cluster, dev: Space) -> None:
    prod = Space(cluster, "prod")
    names = {
        space.name: {each["metadata"]["name"] for each in space.get("pods", "-l", "app=enterprise")["items"]}
        for space in (dev, prod)
    }
    assert backend(dev, "ent") in names["dev"]
    assert backend(dev, "ent.prod.svc.cluster.local") in names["prod"]


def test_ac56_a_pod_made_for_one_question_answers_it(dev: Space) -> None:
    words = ["run", "dnsutils", "-i", "--rm", "--quiet", "--restart=Never", f"--image={BUSYBOX}", "--"]
    assert SERVICE_ADDRESS in dev.kubectl(*words, "nslookup", "kubernetes.default.svc.cluster.local")


def test_ac57_dns_comes_back_after_its_pods_are_deleted(cluster: Cluster, dev: Space) -> None:
    system = Space(cluster, "kube-system")
    before = ready_servers(system)
    system.kubectl("delete", "pods", "-l", "k8s-app=kube-dns", "--wait=true")
    until(lambda: len(ready_servers(system)) == 2, "two new servers are ready", 60, every=0.3)
    after = ready_servers(system)
    assert not after & before
    assert all("CoreDNS" in system.logs(name) for name in after)
    until(lambda: has_resolved(dev), "names resolve again", 30, every=0.5)
