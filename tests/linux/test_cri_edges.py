# SPDX-License-Identifier: Apache-2.0
"""Less usual requests by what is seen inside, and much at once: addresses of both families, volumes, streams, logs.

KETCH_COPY_MB and KETCH_LOG_MB set how much goes through (by hand: 1000).
"""

import array
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from runtime.linux import mounts
from tests.support import kernel
from tests.support.needs import needs
from tests.support.pod_driver import BUSYBOX, NETWORK, Container, Daemon, daemon, wait_for
from tests.support.spdy_client import exec_session

pytestmark = needs("root", "overlay", "veth", "bridge", "nft", "busybox")
COPY_MB = int(os.environ.get("KETCH_COPY_MB", "64"))
LOG_MB = int(os.environ.get("KETCH_LOG_MB", "50"))
MAPPING = [{"host_id": 100000, "container_id": 0, "length": 65536}]


@pytest.fixture
def cri(tmp_path: Path) -> Iterator[Daemon]:
    yield from daemon(tmp_path)


@needs("ipv6")
def test_a_dual_stack_pod_has_both_addresses_in_its_status_and_on_its_interface(tmp_path: Path) -> None:
    network = json.loads(json.dumps(NETWORK))
    network["plugins"][0]["ipam"]["ranges"].append([{"subnet": "fd00:88::/64"}])
    network["plugins"][0]["ipam"]["routes"].append({"dst": "::/0"})
    made = daemon(tmp_path, network=network)
    cri = next(made)
    try:
        pod = cri.run_pod()
        status = pod.status().network
        assert status.ip.startswith("10.88.")
        assert status.additional_ips[0].ip.startswith("fd00:88::")
        container = pod.start("sleep", "1000")
        assert status.additional_ips[0].ip in container.sh("ip -6 addr show eth0")
        assert status.additional_ips[0].ip in container.sh("cat /etc/hosts")
    finally:
        made.close()


def test_a_seccomp_agent_is_given_the_listener_of_a_localhost_profile(cri: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(path))
        agent.listen()
        agent.settimeout(20)
        profile = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": str(path),
            "listenerMetadata": "ours",
            "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_NOTIFY"}],
        }
        (tmp_path / "profile.json").write_text(json.dumps(profile))
        seccomp = {"profile_type": "Localhost", "localhost_ref": str(tmp_path / "profile.json")}
        container = cri.run_pod().start("sleep", "1000", linux={"security_context": {"seccomp": seccomp}})
        connection, _ = agent.accept()
        with connection:
            data, control, _, _ = connection.recvmsg(65536, 4096)
    told = json.loads(data)
    assert (told["metadata"], told["state"]["id"]) == ("ours", container.id)
    (fd,) = array.array("i", control[0][2])
    assert "seccomp" in os.readlink(f"/proc/self/fd/{fd}")
    os.close(fd)


@needs("userns")
def test_a_volume_is_seen_with_the_ids_of_the_pods_user_namespace(cri: Daemon, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "file").write_text("x")
    options = {"namespace_options": {"pid": "CONTAINER"}}
    options["namespace_options"]["userns_options"] = {"mode": "POD", "uids": MAPPING, "gids": MAPPING}  # type: ignore[assignment]
    pod = cri.run_pod(linux={"security_context": options})
    mount = {"container_path": "/v", "host_path": str(volume), "uidMappings": MAPPING, "gidMappings": MAPPING}
    container = pod.start("sleep", "1000", mounts=[mount], linux={"security_context": options})
    assert container.sh("stat -c %u /v/file; touch /v/made; stat -c %u /v/made").split() == ["0", "0"]
    assert (volume / "made").stat().st_uid == 0


def test_an_image_volume_says_which_image_it_is(cri: Daemon) -> None:
    mount = {"container_path": "/image", "image": {"image": BUSYBOX}, "readonly": True, "image_sub_path": "bin"}
    container = cri.run_pod().start("sleep", "1000", mounts=[mount])
    assert container.exec("/image/true").exit_code == 0
    assert b"Read-only" in container.exec("touch", "/image/x").stderr
    (shown,) = container.status().mounts
    assert shown.container_path == "/image"
    assert shown.image.image_ref == cri.call("ImageStatus", image={"image": BUSYBOX}).image.id
    with pytest.raises(grpc.RpcError, match="nowhere"):
        cri.run_pod().start("true", mounts=[{**mount, "image_sub_path": "nowhere"}])


@needs("cgroup2")
def test_hugepages_are_limited_by_their_controller(cri: Daemon) -> None:
    limits = [{"page_size": "2MB", "limit": 4 << 20}]
    container = cri.run_pod().start("sleep", "1000", linux={"resources": {"hugepage_limits": limits}})
    assert container.sh("cat /sys/fs/cgroup/hugetlb.2MB.max").strip() == str(4 << 20)


def session(cri: Daemon, container: Container, *command: str) -> object:
    answer = cri.call("Exec", container_id=container.id, cmd=command, stdin=True, stdout=True, stderr=True)
    return exec_session(answer.url, stdin=True, tty=False)


def test_an_exec_ends_with_its_process_although_its_stdin_is_open(cri: Daemon) -> None:
    container = cri.run_pod().start("sleep", "1000")
    client, _ = session(cri, container, "sh", "-c", "echo out; exit 3")  # type: ignore[misc]
    client.read_until_finished("stdout", "stderr", "error")
    client.sock.close()
    assert client.received["stdout"] == b"out\n"
    assert b'"3"' in client.received["error"]


@pytest.mark.timeout(300)
def test_a_hundred_sessions_at_once_do_not_meet(cri: Daemon) -> None:
    container = cri.run_pod().start("sleep", "1000")

    def one(number: int) -> tuple[bytes, bytes]:
        client, stdin = session(cri, container, "sh", "-c", "read a; echo $a; exit 7")  # type: ignore[misc]
        together.wait(120)
        client.send(stdin, b"line %d\n" % number)
        client.read_until_finished("stdout", "error")
        client.sock.close()
        return bytes(client.received["stdout"]), bytes(client.received["error"])

    together = threading.Barrier(100)
    with ThreadPoolExecutor(100) as pool:
        for number, (out, error) in enumerate(pool.map(one, range(100))):
            assert out == b"line %d\n" % number
            assert b'"7"' in error
    assert cri.call("Version").runtime_name == "ketch"


@pytest.mark.timeout(300)
def test_a_copy_goes_through_whole_in_both_directions(cri: Daemon, tmp_path: Path) -> None:
    """What `kubectl cp` does: tar's stream through stdin, and back through stdout."""
    container = cri.run_pod().start("sleep", "1000")
    block = os.urandom(1 << 20)
    client, stdin = session(cri, container, "sh", "-c", "cat > /file")  # type: ignore[misc]
    started = time.monotonic()
    for _ in range(COPY_MB):
        client.send(stdin, block)
    client.send(stdin, b"", finished=True)
    client.read_until_finished("stdout", "error")
    into = COPY_MB / (time.monotonic() - started)
    client.sock.close()
    client, _ = session(cri, container, "cat", "/file")  # type: ignore[misc]
    started = time.monotonic()
    client.read_until_finished("stdout", "error")
    out = COPY_MB / (time.monotonic() - started)
    client.sock.close()
    assert bytes(client.received["stdout"]) == block * COPY_MB
    print(f"{COPY_MB} MiB: {into:.0f} MiB/s in, {out:.0f} MiB/s out")


@pytest.mark.timeout(300)
def test_a_log_loses_nothing_at_full_speed(cri: Daemon) -> None:
    lines = LOG_MB * (1 << 20) // 100
    started = time.monotonic()
    script = f"yes {'x' * 99} | head -n {lines}"
    container = cri.run_pod().start("sh", "-c", script)
    container.wait(200)
    taken = time.monotonic() - started
    path = Path(container.status().log_path)
    found = 0
    with path.open("rb") as file:
        for line in file:
            assert line.endswith(b" stdout F " + b"x" * 99 + b"\n"), line
            found += 1
    assert found == lines
    print(f"{LOG_MB} MiB of output in {lines} lines: {LOG_MB / taken:.0f} MiB/s")


def test_a_full_disk_costs_log_lines_but_not_the_container(cri: Daemon, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    kernel.mount("tmpfs", str(place), "tmpfs", 0, "size=64k")
    try:
        pod = cri.run_pod(log_directory=str(place))
        script = "i=0; while [ $i -lt 5000 ]; do echo line $i of many that fill the disk; i=$((i+1)); done; sleep 1000"
        container = pod.start("sh", "-c", script)
        path = place / "c.log"
        wait_for(lambda: path.stat().st_size > 50_000, 10, lambda: f"{path.stat().st_size}")
        wait_for(lambda: "sleep" in container.sh("ps"), 20, lambda: "the container waits for its log")
        assert container.status().state == 1
        container.remove()
        pod.remove()
    finally:
        mounts.detach(str(place))
