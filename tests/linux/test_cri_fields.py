# SPDX-License-Identifier: Apache-2.0
"""The quieter fields of a request, each by what the process in the container, or who asks for a status, sees of it."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from proto import cri_pb2 as pb
from tests.support.needs import needs
from tests.support.pod_driver import BUSYBOX, Daemon, daemon, wait_for
from tests.support.spdy_client import exec_session

pytestmark = needs("root", "overlay", "veth", "bridge", "nft", "busybox")


@pytest.fixture
def cri(tmp_path: Path) -> Iterator[Daemon]:
    yield from daemon(tmp_path)


def test_command_arguments_environment_and_folder_are_the_requests(cri: Daemon) -> None:
    printed = cri.run_pod().start(
        *("sh", "-c"),
        args=['echo "$0 $1 $A|$B"; pwd', "zero", "one two"],
        envs=[{"key": "A", "value": "YSBi"}, {"key": "B", "value": ""}, {"key": "PATH", "value": "L2Jpbg=="}],
        working_dir="/made/for/it",
    )
    printed.wait()
    assert printed.output() == "zero one two a b|\n/made/for/it\n"


def test_the_images_own_settings_stand_where_the_request_says_nothing(cri: Daemon, tmp_path: Path) -> None:
    from cri.images.store import ImageStore

    said = {"Entrypoint": ["/bin/echo", "entry"], "Cmd": ["cmd"], "Env": ["A=image"], "StopSignal": "SIGUSR1"}
    root = tmp_path / "tree"
    (root / "bin").mkdir(parents=True)
    (root / "bin/echo").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin/echo").chmod(0o755)
    store = ImageStore(str(cri.root / "images"))
    store.build_from_directory(str(root), "ketch.local/said:1", config=said)
    store.close()
    pod = cri.run_pod()
    for number, (changes, expected) in enumerate(
        (({}, "entry cmd\n"), ({"args": ["args"]}, "entry args\n"), ({"command": ["/bin/echo", "x"]}, "x\n"))
    ):
        container = pod.start(image="ketch.local/said:1", name=f"c{number}", **changes)
        assert container.wait().stop_signal == pb.SIGNAL_SIGUSR1
        assert container.output() == expected


def test_the_stop_signal_is_the_one_that_was_asked_for(cri: Daemon) -> None:
    script = "trap 'exit 7' USR2; trap '' TERM; echo ready; while :; do sleep 0.05; done"
    container = cri.run_pod().start("sh", "-c", script, stop_signal="SIGNAL_SIGUSR2")
    wait_for(lambda: container.output() == "ready\n", 10, container.output)
    assert container.status().stop_signal == pb.SIGNAL_SIGUSR2
    container.stop(30)
    assert container.status().exit_code == 7


def test_stdin_once_ends_with_the_first_client_and_other_stdin_stays_open(cri: Daemon) -> None:
    pod = cri.run_pod()
    for once in (True, False):
        container = pod.start("cat", name=f"once-{once}", stdin=True, stdin_once=once)
        url = cri.call("Attach", container_id=container.id, stdin=True, stdout=True, stderr=True).url
        client, stdin = exec_session(url, stdin=True, tty=False)
        client.send(stdin, b"said\n", finished=True)
        wait_for(lambda c=container: c.output() == "said\n", 10, container.output)  # type: ignore[misc]
        client.sock.close()
        if once:
            assert container.wait().exit_code == 0
        assert (container.status().state == pb.CONTAINER_RUNNING) != once


def test_limits_of_processors_and_the_oom_score_reach_the_process(cri: Daemon) -> None:
    limits = {"cpuset_cpus": "0", "oom_score_adj": 500, "cpu_period": 50000, "cpu_quota": 25000}
    container = cri.run_pod().start("sleep", "1000", linux={"resources": limits})
    assert container.sh("cat /proc/1/oom_score_adj").strip() == "500"
    assert container.sh("grep Cpus_allowed_list /proc/1/status").split() == ["Cpus_allowed_list:", "0"]
    shown = container.status().resources.linux
    assert (shown.cpuset_cpus, shown.oom_score_adj, shown.cpu_period, shown.cpu_quota) == ("0", 500, 50000, 25000)


def test_a_debug_container_sees_the_processes_of_its_target_and_of_no_other(cri: Daemon) -> None:
    pod = cri.run_pod()
    target = pod.start("sleep", "1111", name="target")
    pod.start("sleep", "2222", name="other")
    wanted = {"linux": {"security_context": {"namespace_options": {"pid": "TARGET", "target_id": target.id}}}}
    debugger = pod.start("sleep", "3333", name="debugger", **wanted)
    seen = debugger.sh("ps")
    assert "sleep 1111" in seen
    assert "sleep 3333" in seen
    assert "sleep 2222" not in seen
    stranger = cri.run_pod()
    for who in (stranger, pod):
        if who is pod:
            target.stop()
        with pytest.raises(grpc.RpcError, match="target_id"):
            who.create("true", name="late", **wanted)  # type: ignore[arg-type]


def test_what_a_kubelet_only_keeps_is_shown_again(cri: Daemon) -> None:
    more = {"overhead": {"memory_limit_in_bytes": 7 << 20}, "resources": {"cpu_shares": 512}}
    pod = cri.run_pod(annotations={"a/b": "c"}, linux=more)
    assert dict(pod.status().annotations) == {"a/b": "c"}
    image = cri.call("ImageStatus", image={"image": BUSYBOX}).image.id
    config = pb.ContainerConfig(metadata={"name": "spec"}, command=["true"])
    config.image.CopyFrom(
        pb.ImageSpec(image=image, user_specified_image=BUSYBOX, annotations={"d": "e"}, runtime_handler="h")
    )
    made = cri.call("CreateContainer", pod_sandbox_id=pod.id, config=config, sandbox_config=pod.config)
    status = cri.call("ContainerStatus", container_id=made.container_id).status
    assert (status.image.image, status.image_id) == (BUSYBOX, image)
    assert (dict(status.image.annotations), status.image.runtime_handler) == ({"d": "e"}, "h")


def test_profiles_may_be_named_in_the_fields_of_older_kubelets(cri: Daemon) -> None:
    def mode(**context: str) -> str:
        container = cri.run_pod().start("sleep", "1000", linux={"security_context": context})
        return container.sh("grep ^Seccomp: /proc/1/status").split()[1]

    assert mode(seccomp_profile_path="runtime/default") == "2"
    assert mode(seccomp_profile_path="unconfined", apparmor_profile="unconfined") == "0"
    with pytest.raises(grpc.RpcError, match="magic"):
        mode(seccomp_profile_path="magic")


def test_what_is_not_offered_is_refused_by_its_name(cri: Daemon) -> None:
    pod = cri.run_pod()
    for changes, why in (
        ({"CDI_devices": [{"name": "a.b/c=d"}]}, "UNIMPLEMENTED.*CDI_devices"),
        ({"linux": {"resources": {"cpuset_cpus": "zero"}}}, "cpuset_cpus"),
        ({"linux": {"resources": {"oom_score_adj": 1001}}}, "oom_score_adj"),
        ({"linux": {"security_context": {"run_as_group": {"value": 1}}}}, "run_as_group"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            pod.create("true", **changes)
        text = f"{refused.value.code().name} {refused.value.details()}"
        assert why.rpartition("*")[2] in text, text
    assert not cri.call("ListContainers").containers
