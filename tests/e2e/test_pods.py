# SPDX-License-Identifier: Apache-2.0
"""Pods as their authors see them: acceptance cases AC22 to AC31."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e import go_build
from tests.e2e.cluster import Cluster
from tests.e2e.image_set import AGNHOST
from tests.e2e.machine import until
from tests.e2e.objects import IDLE, pod, service, shell, shown_as, web
from tests.e2e.space import Space

pytestmark = [pytest.mark.needs("root"), pytest.mark.own_namespaces, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def space(cluster: Cluster) -> Iterator[Space]:
    with Space(cluster, "pods") as made:
        yield made


def test_ac22_a_pod_goes_from_creating_to_running_with_its_events(space: Space) -> None:
    labels, start = {"zone": "prod", "version": "v1"}, space.version()
    space.apply(pod("hello-pod", web(imagePullPolicy="Always"), labels=labels))
    space.wait_until_ready("hello-pod")
    seen = space.get("pod", "hello-pod")
    assert seen["metadata"]["labels"] == labels
    words = list(dict.fromkeys(shown_as(each) for each in space.history("hello-pod", start)))
    assert words == ["Pending", "ContainerCreating", "Running"]

    def reasons() -> set[str]:
        events = space.get("events", "--field-selector=involvedObject.name=hello-pod")["items"]
        return {event["reason"] for event in events}

    wanted = {"Scheduled", "Pulling", "Pulled", "Created", "Started"}
    until(lambda: wanted <= reasons(), f"the events {wanted} are there", 20, every=0.3)


def test_ac23_the_status_holds_address_start_and_policy(space: Space) -> None:
    seen = space.get("pod", "hello-pod")
    assert seen["status"]["podIP"].startswith("10.244.")
    assert seen["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    assert seen["status"]["containerStatuses"][0]["imageID"]
    assert seen["spec"]["containers"][0]["imagePullPolicy"] == "Always"
    assert seen["status"]["podIP"] in space.kubectl("describe", "pod", "hello-pod")


def test_ac24_the_program_is_process_one_and_root(space: Space) -> None:
    lines = [line.split(None, 3) for line in space.exec("hello-pod", "ps", "-o", "pid,user,comm").splitlines()]
    assert ["1", "root", "agnhost"] in lines
    assert any(line[2] == "ps" for line in lines)


def test_ac25_a_shell_in_the_pod_reaches_its_server(space: Space) -> None:
    words = space.cluster.kubectl_command("-n", space.name, "exec", "-it", "hello-pod", "--", "sh")
    typed = subprocess.run(
        ["script", "-qec", " ".join(space.cluster.site.inside(*words)), "/dev/null"],
        input="tty; wget -qO- http://localhost:8080/hostname; echo; exit\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    lines = typed.stdout.replace("\r", "").splitlines()
    assert "/dev/pts/0" in lines
    assert "hello-pod" in lines


def traces(cluster: Cluster) -> dict[str, int]:
    """What pods leave on a node while they live: links on the bridge, named networks, mounts, groups, addresses."""
    machine = cluster.nodes[0].machine
    groups = "/sys/fs/cgroup/memory/kubepods /sys/fs/cgroup/kubepods"
    questions = {
        "links": "ip -o link show master cni0 | wc -l",
        "networks": "ls /run/netns | wc -l",
        "mounts": "wc -l < /proc/self/mountinfo",
        "groups": f"find {groups} -type d 2> /dev/null | wc -l",
        "addresses": "find /var/lib/cni /var/lib/ketch/cni -name '10.*' 2> /dev/null | wc -l",
    }
    return {what: int(machine.read("sh", "-c", question)) for what, question in questions.items()}


def settled_traces(cluster: Cluster) -> dict[str, int]:
    """The same, once what earlier tests deleted is gone: a kubelet removes sandboxes and folders once a minute."""
    node = cluster.nodes[0]
    crictl = (str(go_build.program("crictl")), "-r", node.runtime.endpoint, "pods", "-q")
    here = ("get", "pods", "-A", f"--field-selector=spec.nodeName={node.name}", "-o", "name")
    seen = [traces(cluster)]

    def is_settled() -> bool:
        if len(node.machine.read(*crictl).split()) != len(cluster.kubectl(*here).split()):
            return False
        seen.append(traces(cluster))
        return len(seen) > 4 and seen[-4:] == seen[-1:] * 4

    until(is_settled, "the node comes to rest", 120, every=0.5)
    return seen[-1]


def test_ac26_a_deleted_pod_leaves_nothing_on_the_node(cluster: Cluster, space: Space) -> None:
    before = settled_traces(cluster)
    volumes = [{"name": "scratch", "emptyDir": {"medium": "Memory"}}]
    mounts = [{"name": "scratch", "mountPath": "/scratch"}]
    here = cluster.nodes[0].name
    space.apply(pod("short-lived", web(volumeMounts=mounts), volumes=volumes, nodeName=here))
    space.wait_until_ready("short-lived")
    assert space.exec("short-lived", "wget", "-qO-", "http://localhost:8080/hostname") == "short-lived"
    assert "HTTP server on port 8080" in space.logs("short-lived")
    assert all(now > then for now, then in zip(traces(cluster).values(), before.values(), strict=True))
    space.remove("pod", "short-lived")
    try:
        # A kubelet removes the sandboxes of pods that are gone once a minute; until then their folder stays a mount.
        until(lambda: traces(cluster) == before, "the node is as before", 90, every=0.5)
    except TimeoutError:
        assert traces(cluster) == before


def test_ac27_containers_of_a_pod_share_one_network(space: Space) -> None:
    space.apply(pod("pair", web(5000, name="back"), web(80, name="front")))
    space.wait_until_ready("pair")
    assert space.exec("pair", "wget", "-qO-", "http://localhost:5000/hostname", container="front") == "pair"
    outside = space.exec("hello-pod", "wget", "-qO-", f"http://{space.address('pair')}:80/hostname")
    assert outside == "pair"


def test_ac27_the_same_port_twice_in_a_pod_clashes(space: Space) -> None:
    space.apply(pod("clash", web(5000, name="one"), shell("exec httpd -f -p 5000", name="two"), restartPolicy="Never"))

    def ended() -> list[int]:
        statuses = space.get("pod", "clash")["status"].get("containerStatuses", [])
        states = [status["state"].get("terminated") for status in statuses]
        return [state["exitCode"] for state in states if state]

    codes = until(ended, "one of the two servers gives up", 60, every=0.3)
    assert codes[0] != 0


def test_ac28_a_sidecar_feeds_its_server_under_a_lower_limit(space: Space) -> None:
    mounts = [{"name": "site", "mountPath": "/site"}]
    serve = shell(
        "exec httpd -f -p 8080 -h /site",
        name="web",
        volumeMounts=mounts,
        resources={"limits": {"memory": "128Mi", "cpu": "500m"}},
    )
    feed = shell(
        "echo first > /site/page; " + IDLE,
        name="sync",
        volumeMounts=mounts,
        resources={"limits": {"memory": "32Mi", "cpu": "100m"}},
    )
    space.apply(pod("synced", serve, feed, volumes=[{"name": "site", "emptyDir": {}}]))
    space.wait_until_ready("synced")
    url = f"http://{space.address('synced')}:8080/page"
    until(lambda: space.exec("hello-pod", "wget", "-qO-", url, check=False) == "first\n", "the first page", 20)
    space.exec("synced", "sh", "-c", "echo second > /site/page", container="sync")
    assert space.exec("hello-pod", "wget", "-qO-", url) == "second\n"
    assert [memory_limit(space, "synced", name) for name in ("web", "sync")] == [128 << 20, 32 << 20]


def memory_limit(space: Space, name: str, container: str) -> int:
    files = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2> /dev/null"
    return int(space.exec(name, "sh", "-c", files, container=container, check=False).split()[0])


def test_ac29_signals_and_shared_memory_cross_containers(space: Space) -> None:
    ends = shell("trap 'echo got term; exit 0' TERM; while :; do sleep 1 & wait; done", name="target")
    space.apply(pod("shared", ends, shell(name="sender"), shareProcessNamespace=True, restartPolicy="Never"))
    space.wait_until_ready("shared")
    space.exec("shared", "sh", "-c", "echo word > /dev/shm/between", container="target")
    assert space.exec("shared", "cat", "/dev/shm/between", container="sender") == "word\n"
    # a file made in this file system is a POSIX message queue
    space.exec("shared", "touch", "/dev/mqueue/between", container="target")
    assert space.exec("shared", "ls", "/dev/mqueue", container="sender") == "between\n"
    space.exec("shared", "sh", "-c", "pkill -TERM -f 'got term'", container="sender", check=False)
    until(lambda: "got term" in space.logs("shared", "target"), "the signal arrives", 20, every=0.3)


def test_ac30_two_pods_are_behind_four_services(space: Space) -> None:
    ports = {"x": (8080, 9090), "y": (8000, 9000)}
    for name, (first, second) in ports.items():
        space.apply(pod(name, web(first, name="one"), web(second, name="two")))
        for port in (first, second):
            space.apply(service(f"{name}-{port}", {"app": name}, 80, port))
    space.wait_until_ready(*ports)
    assert [len(space.get("pod", name)["status"]["podIPs"]) for name in ports] == [1, 1]
    addresses = [space.get("service", f"{name}-{port}")["spec"]["clusterIP"] for name in ports for port in ports[name]]
    assert len(set(addresses)) == 4
    answers = [wait_for_answer(space, address) for address in addresses]
    assert answers == ["x", "x", "y", "y"]


def wait_for_answer(space: Space, address: str) -> str:
    """The first answer from this address: kube-proxy needs a moment after the Service is made."""
    ask = ["wget", "-T", "2", "-qO-", f"http://{address}/hostname"]
    return str(until(lambda: space.exec("hello-pod", *ask, check=False), f"{address} answers", 20, every=0.3))


def test_ac31_a_pod_of_its_own_is_not_made_again(space: Space) -> None:
    space.apply(pod("alone", web()))
    space.wait_until_ready("alone")
    first = space.get("pod", "alone")
    space.remove("pod", "alone")
    assert space.get("pod", "alone") is None
    space.apply(pod("alone", web()))
    space.wait_until_ready("alone")
    second = space.get("pod", "alone")
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert second["status"]["podIP"] != first["status"]["podIP"]
    statuses = [seen["status"]["containerStatuses"][0]["containerID"] for seen in (first, second)]
    assert statuses[0] != statuses[1]


def test_ac31_a_static_pod_is_kept_by_its_node(cluster: Cluster) -> None:
    machine, name = cluster.nodes[0].machine, f"static-{cluster.nodes[0].name}"
    manifest = pod("static", shell(), labels={"kept": "by-node"}) | {}
    manifest["metadata"]["namespace"] = "default"
    folder, file = "/run/static-pods", "/run/static-pods/static.json"
    machine.run("sh", "-c", f"cat > {folder}/.new && mv {folder}/.new {file}", given=json.dumps(manifest))
    ready = "jsonpath={.status.containerStatuses[0].containerID}"

    def container() -> str:
        return cluster.kubectl("get", "pod", name, "-o", ready, check=False)

    first = until(container, "the static pod runs", 60, every=0.3)
    # all processes of the container end with its first one, perhaps the one that sent the signal before it could return
    cluster.run_kubectl("exec", name, "--", "kill", "-TERM", "1", check=False)
    until(lambda: container() not in ("", first), "its container is started again", 60, every=0.3)
    machine.run("rm", file)
    until(lambda: cluster.get("pod", name) is None, "the static pod goes with its file", 60, every=0.3)


def test_ac23_the_image_in_use_is_named_as_it_was_asked_for(space: Space) -> None:
    status = space.get("pod", "hello-pod")["status"]["containerStatuses"][0]
    assert status["image"] == AGNHOST
