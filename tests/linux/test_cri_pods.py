# SPDX-License-Identifier: Apache-2.0
"""Pods and containers as a kubelet makes them: what the processes inside see, and what is left afterwards."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from proto import cri_pb2 as pb
from runtime.version import VERSION
from tests.support.needs import needs
from tests.support.pod_driver import BUSYBOX, NETWORK, TOP, Daemon, daemon, processes_of, wait_for

pytestmark = needs("root", "overlay", "veth", "bridge", "nft", "busybox")


@pytest.fixture
def cri(tmp_path: Path) -> Iterator[Daemon]:
    yield from daemon(tmp_path)


def refused(code: grpc.StatusCode) -> "pytest.RaisesExc[grpc.RpcError]":
    return pytest.raises(grpc.RpcError, match=f"StatusCode.{code.name}")


def test_a_kubelet_is_told_what_it_asks_first(cri: Daemon) -> None:
    version = cri.call("Version", version="0.1.0")
    assert (version.version, version.runtime_name, version.runtime_api_version) == ("0.1.0", "ketch", "v1")
    assert version.runtime_version == VERSION
    status = cri.call("Status", verbose=True)
    assert {c.type: c.status for c in status.status.conditions} == {"RuntimeReady": True, "NetworkReady": True}
    assert "" in [h.name for h in status.runtime_handlers]
    assert json.loads(status.info["config"])["stateDir"] == str(cri.state)
    assert cri.call("RuntimeConfig").linux.cgroup_driver in (pb.CGROUPFS, pb.SYSTEMD)
    assert cri.call("ImageFsInfo").image_filesystems[0].fs_id.mountpoint


@pytest.mark.in_vm_too
def test_a_pod_lives_from_run_to_remove_and_leaves_nothing(cri: Daemon) -> None:
    pod = cri.run_pod("hello", labels={"zone": "prod", "version": "v1"})
    status = pod.status()
    assert status.state == pb.SANDBOX_READY
    assert status.network.ip.startswith("10.88.")
    assert dict(status.labels) == {"zone": "prod", "version": "v1"}
    container = pod.start("sh", "-c", "echo to stdout; echo to stderr >&2; sleep 1000")
    assert container.status().state == pb.CONTAINER_RUNNING
    assert container.sh("echo $$").strip() != "1"
    wait_for(lambda: len(container.lines()) == 2, 5, container.output)
    assert sorted(container.lines()) == [("stderr", "F", "to stderr"), ("stdout", "F", "to stdout")]
    assert container.exec("sh", "-c", "exit 7").exit_code == 7
    container.stop()
    ended = container.status()
    assert (ended.state, ended.exit_code) == (pb.CONTAINER_EXITED, 137)
    pod.stop()
    assert pod.status().state == pb.SANDBOX_NOTREADY
    assert pod.status().network.ip == ""
    pod.remove()
    with refused(grpc.StatusCode.NOT_FOUND):
        pod.status()
    assert not os.listdir(cri.state / "pods")
    assert not os.listdir(cri.state / "bundles")
    assert not os.listdir(cri.folder / "netns")


def test_stop_and_remove_may_be_repeated_and_unknown_ids_are_fine(cri: Daemon) -> None:
    pod = cri.run_pod()
    container = pod.start("sleep", "1000")
    for _ in range(2):
        container.stop()
    for _ in range(2):
        container.remove()
    for _ in range(2):
        pod.stop()
    for _ in range(2):
        pod.remove()
    for method, field in (
        ("StopContainer", "container_id"),
        ("RemoveContainer", "container_id"),
        ("StopPodSandbox", "pod_sandbox_id"),
        ("RemovePodSandbox", "pod_sandbox_id"),
    ):
        cri.call(method, **{field: "f" * 64})


def test_ps_in_a_container_begins_with_its_own_program(cri: Daemon) -> None:
    container = cri.run_pod().start("sleep", "1000")
    assert container.sh("ps | sed -n 2p").split() == ["1", "root", "sleep", "1000"]


def test_two_containers_share_the_network_and_clash_on_a_port(cri: Daemon) -> None:
    pod = cri.run_pod()
    pod.start("sh", "-c", "echo found > /tmp/index.html; exec httpd -f -p 5000 -h /tmp", name="web")
    client = pod.start("sleep", "1000", name="client")
    wait_for(lambda: client.exec("wget", "-qO-", "http://127.0.0.1:5000").stdout == b"found\n", 5, lambda: "no answer")
    ip = pod.status().network.ip
    with socket.create_connection((ip, 5000), 5):
        pass
    second = pod.start("httpd", "-f", "-p", "5000", name="second")
    assert second.wait().exit_code == 1
    assert "in use" in second.output()


@pytest.mark.in_vm_too
def test_containers_share_a_volume_and_have_limits_of_their_own(cri: Daemon, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    mounts = [{"container_path": "/content", "host_path": str(shared)}]
    pod = cri.run_pod()
    web = pod.start("sleep", "1000", name="web", mounts=mounts)
    limits = {"resources": {"memory_limit_in_bytes": 32 << 20, "cpu_shares": 102}}
    sync = pod.start("sh", "-c", "echo new > /content/page; sleep 1000", name="sync", mounts=mounts, linux=limits)
    wait_for(lambda: web.exec("cat", "/content/page").stdout == b"new\n", 5, lambda: "nothing in the volume")
    if not Path("/sys/fs/cgroup/cgroup.procs").exists():
        assert sync.sh("cat /sys/fs/cgroup/memory/memory.limit_in_bytes").strip() == str(32 << 20)
        assert web.sh("cat /sys/fs/cgroup/memory/memory.limit_in_bytes").strip() != str(32 << 20)


def test_a_pod_shares_ipc_and_processes_when_asked(cri: Daemon) -> None:
    options = {"linux": {"security_context": {"namespace_options": {"pid": "POD"}}}}
    pod = cri.run_pod(**options)
    victim = pod.start("sh", "-c", "trap 'exit 42' TERM; while :; do sleep 0.1; done", name="victim", **options)
    other = pod.start("sleep", "1000", name="other", **options)
    other.sh("echo shared > /dev/shm/x")
    assert victim.sh("cat /dev/shm/x") == "shared\n"
    pid = other.sh("ps | grep '[t]rap' | head -1").split()[0]
    assert pid != "1"
    other.sh(f"kill -TERM {pid}")
    assert victim.wait().exit_code == 42
    assert other.sh("tr '\\0' ' ' < /proc/1/cmdline") != ""


def test_a_removed_pod_comes_back_with_another_id_and_address(cri: Daemon) -> None:
    first = cri.run_pod("same")
    ip = first.status().network.ip
    first.stop()
    second = cri.run_pod("same", metadata={"attempt": 1})
    assert second.id != first.id
    assert second.status().network.ip != ip


def test_a_pod_name_is_taken_once(cri: Daemon) -> None:
    cri.run_pod("same")
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        cri.run_pod("same")


def test_dns_and_hostname_are_what_was_asked(cri: Daemon) -> None:
    pod = cri.run_pod(
        hostname="web-0", dns_config={"servers": ["10.0.0.10"], "searches": ["a.local"], "options": ["ndots:5"]}
    )
    container = pod.start("sleep", "1000")
    assert container.sh("cat /etc/resolv.conf") == "search a.local\nnameserver 10.0.0.10\noptions ndots:5\n"
    assert container.sh("hostname; echo $HOSTNAME") == "web-0\nweb-0\n"
    assert pod.status().network.ip in container.sh("cat /etc/hosts")


def test_a_host_port_leads_to_the_pod(cri: Daemon) -> None:
    pod = cri.run_pod(port_mappings=[{"host_port": 12000, "container_port": 80}])
    pod.start("sh", "-c", "echo page > /tmp/index.html; exec httpd -f -p 80 -h /tmp")

    def page() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", 12000), 2) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return connection.makefile("rb").read().endswith(b"page\n")
        except OSError:
            return False

    wait_for(page, 5, lambda: "nothing answers on the host port")


def test_sysctls_of_the_pod_are_set_and_those_of_the_node_refused(cri: Daemon) -> None:
    pod = cri.run_pod(linux={"sysctls": {"kernel.shm_rmid_forced": "1", "net.ipv4.ip_forward": "1"}})
    container = pod.start("sleep", "1000")
    assert container.sh("cat /proc/sys/kernel/shm_rmid_forced").strip() == "1"
    assert container.sh("cat /proc/sys/net/ipv4/ip_forward").strip() == "1"
    assert container.sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start").strip() == "0"
    assert container.sh("cat /proc/sys/net/ipv4/ping_group_range").split() == ["0", "2147483647"]
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        cri.run_pod(linux={"sysctls": {"kernel.panic": "1"}})


def test_an_unknown_handler_is_refused_by_name(cri: Daemon) -> None:
    with pytest.raises(grpc.RpcError, match="kata"):
        cri.run_pod(handler="kata")
    assert cri.call("ListPodSandbox").items == []


@pytest.mark.in_vm_too
def test_a_container_killed_for_memory_says_so(cri: Daemon) -> None:
    limits = {"linux": {"resources": {"memory_limit_in_bytes": 15 << 20, "memory_swap_limit_in_bytes": 15 << 20}}}
    status = cri.run_pod().start("sh", "-c", "exec dd if=/dev/zero of=/dev/null bs=20M", **limits).wait()
    assert (status.reason, status.exit_code) == ("OOMKilled", 137)


@pytest.mark.in_vm_too
def test_a_fork_bomb_stays_in_its_pod(cri: Daemon) -> None:
    config = "pids_limit = 32\n"
    cri.stop()
    cri.config.write_text(cri.config.read_text() + f"[runtime]\n{config}")
    cri.start()
    container = cri.run_pod().start("sh", "-c", "for i in $(seq 100); do sleep 1000 & done; wait")
    wait_for(lambda: "fork" in container.output(), 10, container.output)
    assert len(processes_of(container)) <= 32


def test_an_exec_that_takes_too_long_is_killed_with_its_children(cri: Daemon) -> None:
    container = cri.run_pod().start("sleep", "1000")
    started = time.monotonic()
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
        container.exec("sh", "-c", "sleep 77 & sleep 77", seconds=1)
    assert time.monotonic() - started < 5
    wait_for(lambda: "sleep 77" not in container.sh("ps"), 5, lambda: container.sh("ps"))


def test_an_exec_that_prints_too_much_keeps_its_exit_code(cri: Daemon) -> None:
    container = cri.run_pod().start("sleep", "1000")
    answer = container.exec("sh", "-c", "yes | head -c 17000000; yes n | head -c 9000000 >&2; exit 4", seconds=60)
    assert answer.exit_code == 4
    assert (answer.stdout[:4], answer.stderr[:4]) == (b"y\ny\n", b"n\nn\n")
    assert (16 << 20) - 2048 < len(answer.stdout) + len(answer.stderr) < 16 << 20


def test_a_log_is_opened_again_when_the_call_returns(cri: Daemon) -> None:
    container = cri.run_pod().start("sh", "-c", "while :; do echo line; sleep 0.05; done")
    path = Path(container.status().log_path)
    wait_for(lambda: path.stat().st_size > 0, 5, lambda: "no log")
    path.rename(path.with_suffix(".old"))
    cri.call("ReopenContainerLog", container_id=container.id)
    assert path.exists()
    wait_for(lambda: path.stat().st_size > 0, 5, lambda: "nothing in the new log")


@pytest.mark.in_vm_too
def test_limits_can_be_changed_while_it_runs(cri: Daemon) -> None:
    container = cri.run_pod().start("sleep", "1000", linux={"resources": {"memory_limit_in_bytes": 32 << 20}})
    for size in (64 << 20, 16 << 20):
        cri.call(
            "UpdateContainerResources",
            container_id=container.id,
            linux=pb.LinuxContainerResources(memory_limit_in_bytes=size, cpu_quota=5000, cpu_period=10000),
        )
        assert container.status().resources.linux.memory_limit_in_bytes == size
        stats = cri.call("ContainerStats", container_id=container.id).stats
        assert stats.memory.available_bytes.value + stats.memory.working_set_bytes.value == size


@pytest.mark.in_vm_too
def test_stats_and_metrics_of_pods_and_containers_are_there(cri: Daemon) -> None:
    pod = cri.run_pod()
    container = pod.start("sh", "-c", "dd if=/dev/zero of=/file bs=1M count=5; sleep 1000", labels={"a": "b"})
    stats = cri.call("ContainerStats", container_id=container.id).stats
    assert stats.cpu.usage_core_nano_seconds.value > 0
    assert stats.memory.working_set_bytes.value > 0
    assert len(cri.call("ListContainerStats", filter=pb.ContainerStatsFilter(label_selector={"a": "b"})).stats) == 1
    assert not cri.call("ListContainerStats", filter=pb.ContainerStatsFilter(label_selector={"a": "c"})).stats
    of_pod = cri.call("PodSandboxStats", pod_sandbox_id=pod.id).stats
    assert of_pod.linux.network.default_interface.name == "eth0"
    assert of_pod.linux.process.process_count.value >= 1
    assert [c.attributes.id for c in of_pod.linux.containers] == [container.id]
    for wanted, expected in ((pod.id, [pod.id]), (container.id, [])):
        listed = cri.call("ListPodSandboxStats", filter=pb.PodSandboxStatsFilter(id=wanted)).stats
        assert [of.attributes.id for of in listed] == expected
    descriptors = {d.name: d for d in cri.call("ListMetricDescriptors").descriptors}
    metrics = cri.call("ListPodSandboxMetrics").pod_metrics
    seen = set()
    for sample in [*metrics[0].metrics, *metrics[0].container_metrics[0].metrics]:
        assert len(sample.label_values) == len(descriptors[sample.name].label_keys), sample.name
        seen.add(sample.name)
    assert {"container_cpu_usage_seconds_total", "container_threads", "container_network_receive_bytes_total"} <= seen
    # also where nothing has been read from a disk or written to one
    assert {"container_fs_reads_total", "container_fs_writes_bytes_total", "container_blkio_device_usage_total"} <= seen


def test_the_range_that_a_kubelet_names_is_that_of_later_pods(tmp_path: Path) -> None:
    network = json.loads(json.dumps(NETWORK))
    network["plugins"][0]["ipam"]["ranges"] = [[{"subnet": "usePodCidr"}]]
    made = daemon(tmp_path, network=network)
    cri = next(made)
    try:
        with refused(grpc.StatusCode.INVALID_ARGUMENT):
            cri.call("UpdateRuntimeConfig", runtime_config={"network_config": {"pod_cidr": "10.77.0.0/99"}})
        cri.call("UpdateRuntimeConfig", runtime_config={"network_config": {"pod_cidr": "10.77.0.0/24"}})
        assert cri.run_pod().status().network.ip == "10.77.0.2"
    finally:
        made.close()


def test_what_a_kubelet_has_set_on_a_pods_cgroup_is_kept_for_who_asks(cri: Daemon) -> None:
    pod = cri.run_pod()
    resources = pb.LinuxContainerResources(memory_limit_in_bytes=64 << 20)
    cri.call("UpdatePodSandboxResources", pod_sandbox_id=pod.id, overhead={"cpu_shares": 7}, resources=resources)
    cri.kill()
    cri.start()
    kept = json.loads(cri.call("PodSandboxStatus", pod_sandbox_id=pod.id, verbose=True).info["info"])["request"]
    assert (kept["resources"]["memory_limit_bytes"], kept["overhead"]["cpu_shares"]) == (64 << 20, 7)
    pod.stop()
    with refused(grpc.StatusCode.FAILED_PRECONDITION):
        cri.call("UpdatePodSandboxResources", pod_sandbox_id=pod.id, resources=resources)


def test_the_stream_variants_answer_what_the_lists_answer(cri: Daemon) -> None:
    pod = cri.run_pod()
    container = pod.start("sleep", "1000")
    assert [p.id for m in cri.call("StreamPodSandboxes") for p in m.pod_sandboxes] == [pod.id]
    assert [c.id for m in cri.call("StreamContainers") for c in m.containers] == [container.id]
    assert [s.attributes.id for m in cri.call("StreamContainerStats") for s in m.container_stats] == [container.id]
    assert [s.attributes.id for m in cri.call("StreamPodSandboxStats") for s in m.pod_sandbox_stats] == [pod.id]
    assert [p.pod_sandbox_id for m in cri.call("StreamPodSandboxMetrics") for p in m.pod_sandbox_metrics] == [pod.id]
    assert [i.repo_tags[0] for m in cri.call("StreamImages") for i in m.images] == [BUSYBOX]


def test_events_tell_the_life_of_a_container(cri: Daemon) -> None:
    stream = cri.call("GetContainerEvents", deadline=30)
    heard: list[tuple[str, int]] = []
    time.sleep(0.2)  # the subscription has no answer of its own
    pod = cri.run_pod()
    container = pod.start("true")
    container.wait()
    container.remove()
    for event in stream:
        heard.append((event.container_id, event.container_event_type))
        if heard[-1] == (container.id, pb.CONTAINER_DELETED_EVENT):
            break
    stream.cancel()
    assert [kind for who, kind in heard if who == container.id] == [
        pb.CONTAINER_CREATED_EVENT,
        pb.CONTAINER_STARTED_EVENT,
        pb.CONTAINER_STOPPED_EVENT,
        pb.CONTAINER_DELETED_EVENT,
    ]
    assert (pod.id, pb.CONTAINER_STARTED_EVENT) in heard


def test_checkpoints_are_refused_as_unimplemented(cri: Daemon) -> None:
    for method in ("CheckpointContainer", "CheckpointPod", "RestorePod"):
        with refused(grpc.StatusCode.UNIMPLEMENTED):
            cri.call(method)


def test_containers_run_on_while_the_daemon_is_killed_and_their_ends_are_known(cri: Daemon) -> None:
    pod = cri.run_pod()
    lives = pod.start("sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done", name="lives")
    ends = pod.start("sh", "-c", "sleep 0.5; exit 3", name="ends")
    cri.kill()
    time.sleep(1)
    cri.start()
    assert lives.status().state == pb.CONTAINER_RUNNING
    assert ends.status().exit_code == 3
    assert pod.status().network.ip
    numbers = [int(text) for _, _, text in lives.lines()]
    assert numbers == list(range(len(numbers)))
    assert lives.sh("echo in") == "in\n"


def test_a_second_daemon_on_the_same_state_is_refused(cri: Daemon) -> None:
    command = [TOP / ".venv/bin/ketch-cri", "--config", cri.config]
    third = subprocess.run([*command, "--listen", cri.folder / "other.sock"], capture_output=True, text=True)
    assert third.returncode == 1
    assert "another ketch-cri serves this state directory" in third.stderr
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 1
    assert "another server answers there" in second.stderr
