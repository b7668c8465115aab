# SPDX-License-Identifier: Apache-2.0
"""Twenty-nine things that users of a cluster do, on one node, each seen through kubectl or from inside a pod."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.cluster import MANIFESTS, Cluster
from tests.e2e.machine import until

pytestmark = [pytest.mark.needs("root"), pytest.mark.own_namespaces, pytest.mark.timeout(240)]

MANIFEST = (MANIFESTS / "user-checks.yaml").read_text()


@pytest.fixture(scope="module", autouse=True)
def workload(cluster: Cluster) -> Iterator[None]:
    until(lambda: cluster.get("serviceaccount", "default"), "the default service account exists", 30)
    cluster.apply(MANIFEST)
    yield
    cluster.run_kubectl("delete", "-f", "-", "--ignore-not-found", "--wait=true", given=MANIFEST, check=False)


def phase(cluster: Cluster, pod: str) -> str:
    seen = cluster.get("pod", pod)
    return str(seen["status"].get("phase", "")) if seen else ""


def wait_for_phase(cluster: Cluster, pod: str, wanted: str, seconds: float = 60) -> None:
    until(lambda: phase(cluster, pod) == wanted, f"pod {pod} is {wanted}", seconds, every=0.2)


def in_box(cluster: Cluster, *command: str) -> str:
    return cluster.kubectl("exec", "box", "--", *command)


def page(cluster: Cluster, url: str) -> str:
    """What a pod reads at this address."""
    return in_box(cluster, "wget", "-T", "3", "-qO-", url)


def first_status(cluster: Cluster, pod: str) -> dict[str, object]:
    status: dict[str, object] = cluster.get("pod", pod)["status"]["containerStatuses"][0]
    return status


def test_ten_of_ten_replicas_become_available(cluster: Cluster) -> None:
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=90s")


def test_coredns_becomes_available(cluster: Cluster) -> None:
    cluster.kubectl("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=60s")


def test_a_plain_pod_becomes_ready(cluster: Cluster) -> None:
    cluster.kubectl("wait", "--for=condition=Ready", "pod/box", "--timeout=30s")


def spreads(cluster: Cluster, host: str) -> bool:
    """Does every one of 60 questions reach a pod of web, and each pod one? kube-proxy hears of the last pods up to a
    second after the Deployment counts them as available."""
    pods = {pod["metadata"]["name"] for pod in cluster.get("pods", "-l", "app=web")["items"]}
    assert len(pods) == 10
    script = f"for i in $(seq 60); do timeout 3 wget -qO- http://{host}/hostname || exit 1; echo; done"
    asked = cluster.run_kubectl("exec", "box", "--", "sh", "-c", script, check=False)
    return asked.returncode == 0 and set(asked.stdout.split()) == pods


def test_a_service_address_spreads_over_its_pods(cluster: Cluster) -> None:
    address = cluster.get("service", "web")["spec"]["clusterIP"]
    until(lambda: spreads(cluster, address), "the address leads to all ten pods", 20)


def test_a_service_answers_the_node_itself(cluster: Cluster) -> None:
    address = cluster.get("service", "web")["spec"]["clusterIP"]
    assert cluster.nodes[0].machine.read("curl", "-sf", "-m", "5", f"http://{address}/hostname").startswith("web-")


def test_a_node_port_answers_a_pod(cluster: Cluster) -> None:
    assert page(cluster, f"http://{cluster.nodes[0].address}:30080/hostname").startswith("web-")


def test_a_pod_resolves_the_api_server(cluster: Cluster) -> None:
    ask = ("exec", "box", "--", "nslookup", "kubernetes.default.svc.cluster.local")
    until(lambda: "10.96.0.1" in cluster.run_kubectl(*ask, check=False).stdout, "the name resolves", 20, every=0.3)


def test_a_service_is_reached_by_its_name(cluster: Cluster) -> None:
    until(lambda: spreads(cluster, "web"), "the name leads to all ten pods", 20)


def test_exec_sees_the_container(cluster: Cluster) -> None:
    assert in_box(cluster, "cat", "/proc/1/comm").strip() == "sh"


def test_exec_hands_back_the_exit_code(cluster: Cluster) -> None:
    assert cluster.run_kubectl("exec", "box", "--", "sh", "-c", "exit 7", check=False).returncode == 7


def test_exec_passes_standard_input(cluster: Cluster) -> None:
    assert cluster.kubectl("exec", "-i", "box", "--", "cat", given="abc\n") == "abc\n"


def test_exec_gives_a_terminal(cluster: Cluster) -> None:
    command = cluster.site.inside(*cluster.kubectl_command("exec", "-it", "box", "--", "tty"))
    typed = subprocess.run(
        ["script", "-qec", " ".join(command), "/dev/null"], capture_output=True, text=True, timeout=30, check=True
    )
    assert "/dev/pts/" in typed.stdout


def test_logs_show_what_was_printed(cluster: Cluster) -> None:
    until(lambda: cluster.kubectl("logs", "box") == "hello from box\n", "the line is in the log", 20, every=0.3)


def test_logs_follow(cluster: Cluster) -> None:
    command = cluster.site.inside(*cluster.kubectl_command("logs", "-f", "box"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "hello from box\n"
        assert follower.poll() is None
        follower.terminate()


def test_port_forward_reaches_a_service(cluster: Cluster) -> None:
    command = cluster.site.inside(*cluster.kubectl_command("port-forward", "service/web", "18080:80"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forwarder:
        assert forwarder.stdout is not None
        assert "Forwarding from" in forwarder.stdout.readline()
        answer = cluster.site.read("curl", "-sf", "-m", "5", "http://127.0.0.1:18080/hostname")
        forwarder.terminate()
    assert answer.startswith("web-")


def test_attach_passes_both_directions(cluster: Cluster) -> None:
    wait_for_phase(cluster, "echo", "Running")
    command = cluster.site.inside(*cluster.kubectl_command("attach", "-q", "-i", "echo"))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as attached:
        assert attached.stdin is not None
        assert attached.stdout is not None
        attached.stdin.write("ping\n")
        attached.stdin.flush()
        assert attached.stdout.readline() == "ping\n"
        attached.terminate()


def test_cp_keeps_three_megabytes_whole(cluster: Cluster) -> None:
    sent, back = cluster.folder / "sent", cluster.folder / "back"
    sent.write_bytes(os.urandom(3_000_000))
    cluster.kubectl("cp", str(sent), "box:/tmp/copied")
    cluster.kubectl("cp", "box:/tmp/copied", str(back))
    assert back.read_bytes() == sent.read_bytes()


def test_a_failing_liveness_probe_restarts_the_container(cluster: Cluster) -> None:
    def restarts() -> bool:
        return int(str(first_status(cluster, "unhealthy")["restartCount"])) >= 1

    wait_for_phase(cluster, "unhealthy", "Running")
    until(restarts, "the unhealthy container is restarted", 60, every=0.2)


def test_a_memory_limit_kills_and_says_so(cluster: Cluster) -> None:
    wait_for_phase(cluster, "greedy", "Failed")
    ended = cluster.get("pod", "greedy")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


def test_init_container_and_sidecar_come_first(cluster: Cluster) -> None:
    wait_for_phase(cluster, "stages", "Succeeded")
    assert cluster.kubectl("logs", "stages", "-c", "main").split() == ["first", "sidecar"]
    statuses = cluster.get("pod", "stages")["status"]["containerStatuses"]
    assert statuses[0]["state"]["terminated"]["message"].strip() == "all done"


def test_three_of_three_ordered_pods_become_ready(cluster: Cluster) -> None:
    cluster.kubectl("rollout", "status", "statefulset/ordered", "--timeout=60s")


def test_an_ordered_pod_has_a_stable_name(cluster: Cluster) -> None:
    def answer() -> str:
        done = cluster.run_kubectl(
            "exec", "box", "--", "wget", "-T", "3", "-qO-", "http://ordered-1.ordered/hostname", check=False
        )
        return done.stdout

    assert until(answer, "the name of the pod resolves", 30, every=0.5) == "ordered-1"


def test_a_pod_reaches_itself_by_its_own_address(cluster: Cluster) -> None:
    address = cluster.get("pod", "ordered-0")["status"]["podIP"]
    url = f"http://{address}/hostname"
    assert cluster.kubectl("exec", "ordered-0", "--", "wget", "-T", "3", "-qO-", url) == "ordered-0"


def test_a_pod_ends_gracefully(cluster: Cluster) -> None:
    cluster.kubectl("wait", "--for=condition=Ready", "pod/graceful", "--timeout=30s")
    where = cluster.get("pod", "graceful")["spec"]["nodeName"]
    node = next(each for each in cluster.nodes if each.name == where)
    cluster.kubectl("delete", "pod", "graceful", "--wait=true")
    assert node.machine.read("cat", "/run/graceful/order").split() == ["prestop", "term", "bye"]


def quota(cluster: Cluster, pod: str) -> str:
    """The container's CPU quota as the kernel has it, in microseconds per period of 100 ms."""
    done = cluster.run_kubectl(
        "exec", pod, "--", "sh", "-c", "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us", check=False
    )
    return done.stdout.split()[0] if done.stdout.split() else ""


def test_a_resize_reaches_the_running_container(cluster: Cluster) -> None:
    cluster.kubectl("wait", "--for=condition=Ready", "pod/resized", "--timeout=30s")
    assert quota(cluster, "resized") == "10000"
    patch = '{"spec":{"containers":[{"name":"main","resources":{"limits":{"cpu":"200m"}}}]}}'
    cluster.kubectl("patch", "pod", "resized", "--subresource=resize", "-p", patch)
    until(lambda: quota(cluster, "resized") == "20000", "the quota is raised", 60, every=0.3)
    assert first_status(cluster, "resized")["restartCount"] == 0


def test_a_pod_may_have_users_of_its_own(cluster: Cluster) -> None:
    wait_for_phase(cluster, "mapped", "Succeeded")
    inside, outside, size = cluster.kubectl("logs", "mapped").split()[:3]
    assert (inside, size) == ("0", "65536")
    assert int(outside) >= 65536


def test_the_summary_lists_the_pods(cluster: Cluster) -> None:
    def with_cpu() -> int:
        said = cluster.kubectl("get", "--raw", f"/api/v1/nodes/{cluster.nodes[0].name}/proxy/stats/summary")
        return len([pod for pod in json.loads(said)["pods"] if "usageNanoCores" in pod.get("cpu", {})])

    until(lambda: with_cpu() >= 10, "ten pods have a CPU rate in the summary", 60, every=1)


def test_a_cron_job_runs(cluster: Cluster) -> None:
    def done() -> list[str]:
        return [job["metadata"]["name"] for job in cluster.get("jobs")["items"] if job["status"].get("succeeded")]

    name = until(done, "a job of the cron job succeeded", 100, every=0.5)[0]
    assert cluster.kubectl("logs", f"job/{name}") == "the clock struck\n"


def test_what_is_deleted_goes(cluster: Cluster) -> None:
    cluster.run_kubectl("delete", "-f", "-", "--ignore-not-found", "--wait=true", given=MANIFEST, check=False)
    until(lambda: not cluster.get("pods")["items"], "no pod is left", 60, every=0.3)
