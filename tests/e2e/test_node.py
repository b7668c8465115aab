# SPDX-License-Identifier: Apache-2.0
"""How a node behaves from its first minute on: a node of its own joins the cluster for these tests."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e import cluster as clusters
from tests.e2e import go_build
from tests.e2e import node as nodes
from tests.e2e.cluster import Cluster
from tests.e2e.image_set import AGNHOST, BUSYBOX
from tests.e2e.machine import until
from tests.e2e.node import Node
from tests.e2e.objects import IDLE, Object, pod, shell, web
from tests.e2e.runtimes import CNI_CONFIGURATION, Network
from tests.e2e.space import Space

pytestmark = [pytest.mark.needs("root"), pytest.mark.own_namespaces, pytest.mark.timeout(300)]


@dataclass(frozen=True, slots=True)
class Fresh:
    """The new node, and a namespace whose pods are put on it by name."""

    cluster: Cluster
    node: Node
    space: Space

    def apply(self, *pods: Object) -> None:
        self.space.apply(*(self.here(each) for each in pods))

    def here(self, wanted: Object) -> Object:
        return wanted | {"spec": {"nodeName": self.node.name} | wanted["spec"]}

    def crictl(self, *words: str) -> Any:
        program = str(go_build.program("crictl"))
        return json.loads(self.node.machine.read(program, "-r", self.node.runtime.endpoint, *words, "-o", "json"))

    def container(self, name: str) -> dict[str, Any]:
        statuses: list[dict[str, Any]] = self.space.get("pod", name)["status"].get("containerStatuses", [{}])
        return statuses[0]


@pytest.fixture(scope="module")
def fresh(cluster: Cluster) -> Iterator[Fresh]:
    joined = clusters.join(cluster, cluster.nodes[0].runtime, {"imageMinimumGCAge": "10s", "imageMaximumGCAge": "1m0s"})
    space = Space(joined, "fresh-node")
    space.create()
    try:
        yield Fresh(joined, joined.nodes[-1], space)
    finally:
        space.delete()
        clusters.leave(joined, joined.nodes[-1].name)


def test_without_a_network_a_node_is_not_ready_and_says_why(fresh: Fresh) -> None:
    def complains() -> bool:
        status, message = fresh.cluster.node_condition(fresh.node.name)
        return status == "False" and "network" in message.lower()

    until(complains, "the node names the missing network", 30, every=0.3)


def network_daemon(fresh: Fresh) -> Object:
    """A stand-in for a network add-on: privileged, on the host's network, it writes the configuration and stays."""
    conflist = Network(clusters.pod_range(fresh.cluster, fresh.node)).conflist(
        has_exceptions=fresh.node.runtime.has_masquerade_exceptions
    )
    write = f"cat > /cni/.new <<'END'\n{conflist}\nEND\nmv /cni/.new /cni/10-pods.conflist; {IDLE}"
    main = shell(write, securityContext={"privileged": True}, volumeMounts=[{"name": "cni", "mountPath": "/cni"}])
    labels = {"app": "network-daemon"}
    spec = {
        "hostNetwork": True,
        "nodeSelector": {"kubernetes.io/hostname": fresh.node.name},
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 1,
        "containers": [main],
        "volumes": [{"name": "cni", "hostPath": {"path": CNI_CONFIGURATION}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "network-daemon"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
    }


def test_ac33_a_network_daemon_makes_the_node_ready_within_half_a_second(fresh: Fresh) -> None:
    status = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}{"\\n"}'
    words = fresh.cluster.kubectl_command("get", "node", fresh.node.name, "--watch", "-o", status)
    with subprocess.Popen(fresh.cluster.site.inside(*words), stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        assert watch.stdout.readline() == "False\n"
        fresh.space.apply(network_daemon(fresh))
        assert "True\n" in watch.stdout
        ready = time.time()
        watch.terminate()
    written = float(fresh.node.machine.read("stat", "-c", "%.9Y", f"{CNI_CONFIGURATION}/10-pods.conflist"))
    assert ready - written < 0.5


def test_probes_of_all_kinds_are_made(fresh: Fresh) -> None:
    health = {"name": "grpc", "image": AGNHOST, "args": ["grpc-health-checking", "--port=5000", "--http-port=8090"]}
    probes = {"readinessProbe": {"grpc": {"port": 5000}, "periodSeconds": 1}}
    tcp = web(8081, name="tcp") | {"readinessProbe": {"tcpSocket": {"port": 8081}, "periodSeconds": 1}}
    started = web(8082, name="startup") | {"startupProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}}
    fresh.apply(pod("probed", web(8080), tcp, started, health | probes))
    fresh.space.wait_until_ready("probed")


def test_pods_stay_through_a_restart_of_the_kubelet(fresh: Fresh) -> None:
    fresh.apply(pod("steady", web()))
    fresh.space.wait_until_ready("steady")
    before = fresh.container("steady")
    fresh.node.machine.stop("kubelet")
    nodes.restart_kubelet(fresh.node, fresh.cluster.pki)
    fresh.apply(pod("after-kubelet", web()))
    fresh.space.wait_until_ready("after-kubelet")
    after = fresh.container("steady")
    assert (after["containerID"], after["restartCount"]) == (before["containerID"], 0)


def test_pods_stay_when_the_runtime_is_killed_and_comes_back(fresh: Fresh) -> None:
    before = fresh.container("steady")
    runtime, machine = fresh.node.runtime, fresh.node.machine
    machine.stop(runtime.name, signal.SIGKILL)
    address = fresh.space.address("steady")
    assert machine.read("curl", "-sf", "-m", "3", f"http://{address}:8080/hostname") == "steady"
    runtime.restart(machine)

    def works() -> bool:
        return fresh.space.exec("steady", "echo", "here", check=False) == "here\n"

    until(works, "exec works again", 30, every=0.3)
    fresh.apply(pod("after-runtime", web()))
    fresh.space.wait_until_ready("after-runtime")
    after = fresh.container("steady")
    assert (after["containerID"], after["restartCount"]) == (before["containerID"], 0)
    assert fresh.space.logs("steady")


def test_debug_looks_into_a_running_container(fresh: Fresh) -> None:
    words = ["debug", "steady", f"--image={BUSYBOX}", "--target=web", "-c", "looker", "--quiet"]
    fresh.space.kubectl(*words, "--", "sh", "-c", "cat /proc/1/comm; echo looked")

    def said() -> str:
        return fresh.space.run("logs", "steady", "-c", "looker", check=False).stdout

    assert until(lambda: "looked" in said() and said(), "the ephemeral container ran", 30) == "agnhost\nlooked\n"


def test_logs_are_rotated_and_go_on(fresh: Fresh) -> None:
    script = (
        "i=0; while [ $i -lt 30000 ]; do echo line $i of many, padded with some words to be longer; i=$((i+1)); done; "
    )
    fresh.apply(pod("noisy", shell(script + "sleep 8; echo last line; " + IDLE)))
    fresh.space.wait_until_ready("noisy")
    find = "ls /var/log/pods/fresh-node_noisy_*/main | wc -l"
    machine = fresh.node.machine
    until(lambda: int(machine.read("sh", "-c", find)) >= 2, "the log is rotated", 60, every=0.5)
    until(lambda: "last line" in fresh.space.kubectl("logs", "noisy", "--tail=5"), "what comes later is kept", 60)


def test_a_pod_over_its_storage_limit_is_evicted_and_only_that(fresh: Fresh) -> None:
    limits = {"limits": {"ephemeral-storage": "4Mi"}, "requests": {"ephemeral-storage": "1Mi"}}
    fresh.apply(pod("big", shell("dd if=/dev/zero of=/big bs=1M count=20; " + IDLE, resources=limits)))
    fresh.apply(pod("small", shell("dd if=/dev/zero of=/small bs=1M count=1; " + IDLE, resources=limits)))

    def evicted(name: str) -> list[str]:
        chosen = f"--field-selector=reason=Evicted,involvedObject.name={name}"
        return [event["message"] for event in fresh.space.get("events", chosen)["items"]]

    until(lambda: evicted("big"), "the pod is evicted", 150, every=0.5)
    assert "ephemeral" in evicted("big")[0]
    # A program that ends with 0 when told to may turn the kubelet's Failed into Succeeded, on every runtime.
    until(lambda: fresh.space.phase("big") in ("Failed", "Succeeded"), "its containers are ended", 60, every=0.5)
    assert evicted("small") == []
    assert fresh.space.phase("small") == "Running"


def test_an_image_is_a_volume(fresh: Fresh) -> None:
    volume = {"name": "data", "image": {"reference": "registry.k8s.io/e2e-test-images/volume-data:1"}}
    mounts = [
        {"name": "data", "mountPath": "/volume"},
        {"name": "data", "mountPath": "/nested", "subPath": "nested"},
    ]
    script = "cat /volume/data.json /nested/deep.txt; touch /volume/x 2> /dev/null || echo read-only"
    said = fresh.space.run_to_the_end(
        fresh.here(pod("image-volume", shell(script, volumeMounts=mounts), volumes=[volume]))
    )
    assert said == '{"image": "volume"}\ndeep\nread-only\n'


def test_ac81_two_runtimes_work_on_one_node(fresh: Fresh) -> None:
    kind = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "runc"}, "handler": "runc"}
    fresh.space.apply(kind)
    fresh.apply(pod("by-runc", web(), runtimeClassName="runc"), pod("by-default", web()))
    fresh.space.wait_until_ready("by-runc", "by-default")
    url = f"http://{fresh.space.address('by-runc')}:8080/hostname"
    assert fresh.space.exec("by-default", "wget", "-qO-", url) == "by-runc"
    assert fresh.space.exec("by-runc", "hostname") == "by-runc\n"
    fresh.space.remove("pod", "by-runc", "by-default")
    fresh.space.remove("runtimeclass", "runc")


def test_dead_containers_are_collected(fresh: Fresh) -> None:
    fresh.apply(pod("dies", shell("exit 1")))
    until(lambda: fresh.container("dies").get("restartCount", 0) >= 2, "it is restarted twice", 90, every=0.5)
    fresh.space.remove("pod", "dies")

    def left() -> list[Any]:
        found: list[Any] = fresh.crictl("ps", "-a", "--label", "io.kubernetes.pod.name=dies")["containers"]
        return found

    until(lambda: not left(), "no container of the pod is left", 90, every=1)


def test_the_summary_is_whole(fresh: Fresh) -> None:
    """What the Summary API, kubectl top and the eviction manager read."""

    def whole() -> bool:
        path = f"/api/v1/nodes/{fresh.node.name}/proxy/stats/summary"
        pods = json.loads(fresh.cluster.kubectl("get", "--raw", path))["pods"]
        steady = next((each for each in pods if each["podRef"]["name"] == "steady"), None)
        if steady is None or not steady["containers"]:
            return False
        main = steady["containers"][0]
        has_rates = "usageNanoCores" in steady["cpu"] and "usageNanoCores" in main["cpu"]
        return bool(
            has_rates
            and steady["memory"]["workingSetBytes"] > 0
            and main["memory"]["workingSetBytes"] > 0
            and main["rootfs"]["usedBytes"] >= 0
            and main["logs"]["usedBytes"] > 0
            and steady["network"]["rxBytes"] > 0
        )

    def is_whole() -> bool:
        try:
            return whole()
        except (KeyError, TypeError):
            return False

    until(is_whole, "the summary of the pod has cpu, memory, network, file systems and logs", 90, every=1)


def test_resource_metrics_name_each_container(fresh: Fresh) -> None:
    path = f"/api/v1/nodes/{fresh.node.name}/proxy/metrics/resource"

    def there() -> bool:
        text = fresh.cluster.kubectl("get", "--raw", path)
        wanted = ('container_cpu_usage_seconds_total{container="web"', "pod_memory_working_set_bytes{")
        return all(each in text for each in wanted) and 'pod="steady"' in text

    until(there, "the metrics of the container are there", 60, every=1)


@pytest.mark.timeout(600)
def test_images_that_nobody_uses_are_collected(fresh: Fresh) -> None:
    """The kubelet looks every five minutes; on this node what was not used for one minute goes."""

    def tags() -> set[str]:
        return {tag for image in fresh.crictl("images")["images"] for tag in image["repoTags"]}

    unused = "registry.k8s.io/e2e-test-images/nonroot:1.5"
    fresh.apply(pod("once", shell("true", image=unused), restartPolicy="Never"))
    until(lambda: fresh.space.phase("once") == "Succeeded", "the image was used", 60, every=0.5)
    assert unused in tags()
    fresh.space.remove("pod", "once")
    until(lambda: unused not in tags(), "the unused image is collected", 480, every=2)
    assert AGNHOST in tags()
