# SPDX-License-Identifier: Apache-2.0
"""Deployments and Services: acceptance cases AC37 to AC51, asserted by what clients are answered."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.control_plane import SITE_ADDRESS
from tests.e2e.machine import Machine, until
from tests.e2e.objects import deployment, is_ready, pod, service, shell, web
from tests.e2e.space import Space

pytestmark = [pytest.mark.needs("root"), pytest.mark.own_namespaces, pytest.mark.timeout(300)]

STABLE = "registry.k8s.io/e2e-test-images/agnhost:2.63.0"
EDGE = "registry.k8s.io/e2e-test-images/agnhost:2.64.0"
# a page that differs between the two
PAGE = "shell?cmd=" + quote("test -e /etc/edge && echo edge || echo stable")
PACE_SECONDS = 10


@pytest.fixture(scope="module")
def space(cluster: Cluster) -> Iterator[Space]:
    with Space(cluster, "services") as made:
        made.apply(pod("client", shell()))
        made.wait_until_ready("client")
        yield made


def page(space: Space, url: str, pod_name: str = "client") -> str:
    return space.exec(pod_name, "wget", "-T", "3", "-qO-", url, check=False)


def wait_for_page(space: Space, url: str, seconds: float = 30) -> str:
    return str(until(lambda: page(space, url), f"{url} answers", seconds, every=0.3))


def wait_for_answer(machine: Machine, url: str, seconds: float = 30) -> str:
    """The first answer to a machine: each node's proxy hears of a Service in its own time."""
    ask = ("curl", "-sf", "-m", "5", url)
    return str(until(lambda: machine.run(*ask, check=False).stdout, f"{url} answers", seconds, every=0.3))


def answers(space: Space, url: str, number: int = 40) -> Counter[str]:
    script = f"for i in $(seq {number}); do wget -T 3 -qO- {url}; echo; done"
    return Counter(space.exec("client", "sh", "-c", script).split())


def test_ac37_ten_replicas_have_ten_addresses_and_one_replica_set(space: Space) -> None:
    rollout = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}}
    space.apply(deployment("hello", 10, web(image=STABLE), strategy=rollout, minReadySeconds=PACE_SECONDS))
    space.rollout("deployment/hello")
    found = space.get("pods", "-l", "app=hello")["items"]
    assert len({each["status"]["podIP"] for each in found}) == 10
    assert len(space.get("replicasets", "-l", "app=hello")["items"]) == 1


def test_ac38_a_node_port_answers_inside_and_outside_on_every_node(cluster: Cluster, space: Space) -> None:
    ports = {"type": "NodePort", "ports": [{"port": 8080, "targetPort": 8080, "nodePort": 30001}]}
    space.apply(service("hello-svc", {"app": "hello"}, 8080, 8080, **ports))
    assert wait_for_page(space, "http://hello-svc:8080/hostname").startswith("hello-")
    for node in cluster.nodes:
        assert wait_for_answer(cluster.site, f"http://{node.address}:30001/hostname").startswith("hello-")


def changes_within_bounds(space: Space, *words: str) -> None:
    """Change the deployment: 9 to 11 pods all the time, of both versions on one node, at the pace that it asks for."""
    here = f"--field-selector=spec.nodeName={space.cluster.nodes[0].name}"
    together: list[set[str]] = []

    def is_done() -> bool:
        seen = space.get("deployment", "hello")
        status = seen["status"]
        assert status.get("availableReplicas", 0) >= 9
        assert status["replicas"] <= 11
        pods = [each for each in space.get("pods", "-l", "app=hello", here)["items"] if is_ready(each)]
        together.append({each["spec"]["containers"][0]["image"] for each in pods})
        is_noticed = status["observedGeneration"] == seen["metadata"]["generation"]
        return bool(
            is_noticed and status.get("updatedReplicas") == status.get("availableReplicas") == status["replicas"] == 10
        )

    start = time.monotonic()
    space.kubectl(*words)
    until(is_done, "the change ends", 240, every=0.3)
    assert {STABLE, EDGE} in together
    # two at a time, and its controllers count whole seconds
    assert time.monotonic() - start > 5 * (PACE_SECONDS - 1)
    assert "successfully rolled out" in space.kubectl("rollout", "status", "deployment/hello")


def says(space: Space, text: str) -> bool:
    """Does every one of 20 answers from hello say this?"""
    said = answers(space, f"http://hello-svc:8080/{PAGE}", 20)
    return {json.loads(each)["output"].strip() for each in said} == {text}


def test_ac39_a_rolling_update_stays_within_its_bounds(space: Space) -> None:
    until(lambda: says(space, "stable"), "the first page", 20)
    changes_within_bounds(space, "set", "image", "deployment/hello", f"web={EDGE}")
    until(lambda: says(space, "edge"), "the new page", 20)


def test_ac40_a_rollback_brings_the_first_revision_back(space: Space) -> None:
    changes_within_bounds(space, "rollout", "undo", "deployment/hello", "--to-revision=1")
    assert space.get("deployment", "hello")["spec"]["template"]["spec"]["containers"][0]["image"] == STABLE
    until(lambda: says(space, "stable"), "the old page", 20)


def test_ac41_expose_finds_a_node_port_by_itself(space: Space) -> None:
    space.kubectl("expose", "deployment", "hello", "--name=exposed", "--type=NodePort", "--port=8080")
    port = space.get("service", "exposed")["spec"]["ports"][0]["nodePort"]
    assert 30000 <= port <= 32767
    url = f"http://{space.cluster.nodes[0].address}:{port}/hostname"
    assert wait_for_page(space, url).startswith("hello-")


def test_ac42_traffic_follows_the_selector(space: Space) -> None:
    for colour, image in (("blue", STABLE), ("green", EDGE)):
        labels = {"app": "bg", "version": colour}
        space.apply(deployment(colour, 2, web(image=image), labels=labels))
    for colour in ("blue", "green"):
        space.rollout(f"deployment/{colour}")
    space.apply(service("bg", {"app": "bg"}, 80, 8080))

    def colours() -> set[str]:
        return {name.split("-")[0] for name in answers(space, "http://bg/hostname", 20)}

    until(lambda: colours() == {"blue", "green"}, "both answer", 20, every=0.5)
    space.kubectl("patch", "service", "bg", "-p", '{"spec":{"selector":{"version":"green"}}}')
    until(lambda: colours() == {"green"}, "only green answers", 20, every=0.5)


def test_ac43_the_endpoints_follow_the_pods(space: Space) -> None:
    space.kubectl("scale", "deployment/hello", "--replicas=4")

    def addresses() -> set[str]:
        slices = space.get("endpointslices", "-l", "kubernetes.io/service-name=hello-svc")["items"]
        ready = [each for one in slices for each in one.get("endpoints") or [] if each["conditions"]["ready"]]
        return {each["addresses"][0] for each in ready}

    def pods() -> set[str]:
        return {each["status"]["podIP"] for each in space.get("pods", "-l", "app=hello")["items"] if is_ready(each)}

    until(lambda: len(pods()) == 4 and addresses() == pods(), "the four that are left are the endpoints", 60, every=0.3)


def test_ac44_a_service_maps_its_port(space: Space) -> None:
    space.apply(pod("web1", web(8081)), service("web1-svc", {"app": "web1"}, 80, 8081))
    space.wait_until_ready("web1")
    assert wait_for_page(space, "http://web1-svc/hostname") == "web1"


def test_ac45_a_node_port_outside_the_range_is_refused(space: Space) -> None:
    def with_port(number: int) -> dict[str, object]:
        return service(
            "service-1",
            {"app": "web1"},
            80,
            8081,
            type="NodePort",
            ports=[{"port": 80, "targetPort": 8081, "nodePort": number}],
        )

    with pytest.raises(RuntimeError, match="valid ports is 30000-32767"):
        space.apply(with_port(29763))
    space.apply(with_port(30763))
    assert wait_for_page(space, f"http://{space.cluster.nodes[0].address}:30763/hostname") == "web1"


def test_ac46_a_service_without_selector_leads_out_of_the_cluster(cluster: Cluster, space: Space) -> None:
    """The database stands in the site; what reaches it comes from the node, because its network knows no pods."""
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "db-1", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4",
        "ports": [{"port": 3909, "protocol": "TCP"}],
        "endpoints": [{"addresses": [SITE_ADDRESS]}],
    }
    plain = service("db", {}, 3909, 3909)
    del plain["spec"]["selector"]
    space.apply(plain, endpoints)
    cluster.site.start("db", "python3", "-c", _TELLS_THE_PEER)
    try:
        peer = wait_for_page(space, "http://db:3909/").strip()
        environment = space.run_to_the_end(pod("reads-env", shell("env | grep ^DB_SERVICE")))
    finally:
        cluster.site.stop("db")
    assert f"DB_SERVICE_HOST={space.get('service', 'db')['spec']['clusterIP']}" in environment
    assert "DB_SERVICE_PORT=3909" in environment
    assert peer in {node.address for node in cluster.nodes}


_TELLS_THE_PEER = """
import http.server
class Peer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(self.client_address[0].encode())
http.server.HTTPServer(("", 3909), Peer).serve_forever()
"""


def test_ac47_an_external_name_is_an_alias(space: Space) -> None:
    named = {"type": "ExternalName", "externalName": "web1-svc.services.svc.cluster.local"}
    space.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "prod-mongodb"}, "spec": named})
    question = ("nslookup", "prod-mongodb.services.svc.cluster.local")
    wanted = "canonical name = web1-svc.services.svc.cluster.local"
    until(lambda: wanted in space.exec("client", *question, check=False), "the alias is known", 20, every=0.3)


def test_ac48_a_load_balancer_answers_those_in_its_ranges(space: Space) -> None:
    ports = [{"port": 80, "targetPort": 8081, "nodePort": 30764}]
    ranges = ["142.43.0.0/16", "10.0.0.0/8"]
    spec = {"type": "LoadBalancer", "ports": ports, "loadBalancerSourceRanges": ranges}
    space.apply(service("balanced", {"app": "web1"}, 80, 8081, **spec))
    assert wait_for_page(space, f"http://{space.cluster.nodes[0].address}:30764/hostname") == "web1"
    # what a cloud would do; the proxy answers for this address on the node itself
    given = json.dumps({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}]}}})
    space.kubectl("patch", "service", "balanced", "--subresource=status", "-p", given)
    assert wait_for_page(space, "http://203.0.113.5/hostname") == "web1"
    space.kubectl("patch", "service", "balanced", "-p", json.dumps({"spec": {"loadBalancerSourceRanges": ranges[:1]}}))
    until(lambda: not page(space, "http://203.0.113.5/hostname"), "those outside the range are refused", 30)


def test_ac51_client_affinity_keeps_one_backend(space: Space) -> None:
    space.apply(service("sticky", {"app": "hello"}, 80, 8080))
    url = "http://sticky/hostname"
    until(lambda: len(answers(space, url)) == 4, "four answer", 30, every=0.3)
    space.kubectl("patch", "service", "sticky", "-p", '{"spec":{"sessionAffinity":"ClientIP"}}')
    until(lambda: len(answers(space, url)) == 1, "one answers all", 30, every=0.3)
    assert len(answers(space, url)) == 1


def test_a_pod_reaches_itself_through_its_own_service(space: Space) -> None:
    until(lambda: page(space, "http://web1-svc/hostname", "web1") == "web1", "it reaches itself", 20, every=0.3)


def test_ac35_a_host_port_reaches_its_pod_and_goes_with_it(cluster: Cluster, space: Space) -> None:
    ports = [{"containerPort": 8080, "hostPort": 18080}]
    space.apply(pod("hosted", web(ports=ports), nodeName=cluster.nodes[0].name))
    space.wait_until_ready("hosted")
    url = f"http://{cluster.nodes[0].address}:18080/hostname"
    assert cluster.site.read("curl", "-sf", "-m", "5", url) == "hosted"
    assert cluster.nodes[0].machine.read("curl", "-sf", "-m", "5", "http://127.0.0.1:18080/hostname") == "hosted"
    assert page(space, url) == "hosted"
    space.remove("pod", "hosted")
    assert cluster.site.run("curl", "-sf", "-m", "2", url, check=False).returncode != 0
