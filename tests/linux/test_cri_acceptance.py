# SPDX-License-Identifier: Apache-2.0
"""What users of pods take for granted, each through the calls that a kubelet makes for it.

Cases of the list that stand in other files: pods, logs and limits (AC22-AC24, AC26-AC29, AC77) in test_cri_pods,
security (AC72-AC76) in test_cri_security.
"""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from proto import cri_pb2 as pb
from runtime.linux import mounts
from tests.support import kernel
from tests.support.needs import needs
from tests.support.pod_driver import Container, Daemon, daemon, wait_for
from tests.support.spdy_client import exec_session

pytestmark = needs("root", "overlay", "veth", "bridge", "nft", "busybox")
SERVE = "mkdir /w; cd /w; echo {page} > index.html; exec httpd -f -p {port}"


@pytest.fixture
def cri(tmp_path: Path) -> Iterator[Daemon]:
    yield from daemon(tmp_path)


def fetch(address: str, port: int) -> str:
    """A page, or nothing while nobody listens."""
    try:
        with socket.create_connection((address, port), 2) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer: str = connection.makefile("rb").read().decode()
            return answer.rpartition("\r\n\r\n")[2].strip()
    except OSError:
        return ""


def test_ac25_a_terminal_in_the_pod_reaches_its_own_page(cri: Daemon) -> None:
    container = cri.run_pod().start("sh", "-c", SERVE.format(page="hello", port=8080))
    answer = cri.call("Exec", container_id=container.id, cmd=["sh"], tty=True, stdin=True, stdout=True)
    client, stdin = exec_session(answer.url, stdin=True, tty=True)
    client.send(stdin, b"tty; until wget -qO- localhost:8080; do sleep 0.1; done; exit 4\n")
    client.read_until_finished("stdout", "error")
    client.sock.close()
    shown = client.received["stdout"].decode()
    assert "/dev/pts/" in shown
    assert "hello" in shown
    assert b'"4"' in client.received["error"]


def test_ac30_pods_have_one_address_each_and_all_their_ports_on_it(cri: Daemon) -> None:
    pods = {}
    for name, ports in (("x", (8080, 9090)), ("y", (8000, 9000))):
        pod = cri.run_pod(name)
        for port in ports:
            pod.start("sh", "-c", SERVE.format(page=f"{name}{port}", port=port), name=f"c{port}")
        pods[name] = (pod.status().network.ip, ports)
    assert pods["x"][0] != pods["y"][0]
    for name, (address, ports) in pods.items():
        for port in ports:
            wait_for(lambda a=address, p=port, n=name: fetch(a, p) == f"{n}{p}", 10, lambda: "a page is missing")


def test_ac31_a_killed_container_stays_ended_and_its_pod_can_be_replaced(cri: Daemon) -> None:
    pod = cri.run_pod("static")
    container = pod.start("sleep", "1000")
    os.kill(container.info()["pid"], 9)
    status = container.wait()
    assert (status.state, status.exit_code) == (pb.CONTAINER_EXITED, 137)
    time.sleep(0.5)
    assert [c.id for c in cri.call("ListContainers").containers] == [container.id]
    again = pod.start("sleep", "1000", metadata={"attempt": 1})
    assert again.id != container.id
    assert again.status().state == pb.CONTAINER_RUNNING


def test_ac36_the_runtime_says_what_it_is(cri: Daemon) -> None:
    version = cri.call("Version", version="v1")
    assert version.runtime_name == "ketch"
    assert version.runtime_version[0].isdigit()
    assert version.runtime_api_version == "v1"


def test_ac70_nothing_is_mounted_that_was_not_asked_for(cri: Daemon) -> None:
    container = cri.run_pod().start("sleep", "1000")
    assert container.exec("ls", "/var/run/secrets").exit_code != 0
    assert container.exec("ls", "/run/secrets").exit_code != 0


def test_ac71_a_projected_token_is_a_read_only_tmpfs(cri: Daemon, tmp_path: Path) -> None:
    source = tmp_path / "token"
    source.mkdir()
    kernel.mount("tmpfs", str(source), "tmpfs")
    try:
        (source / "vault-token").write_text("secret")
        where = "/var/run/secrets/tokens"
        mount = {"container_path": where, "host_path": str(source), "readonly": True}
        container = cri.run_pod().start("sleep", "1000", mounts=[mount])
        assert container.sh(f"cat {where}/vault-token") == "secret"
        assert b"Read-only" in container.exec("touch", f"{where}/x").stderr
        assert " tmpfs ro," in container.sh(f"grep {where} /proc/mounts")
        (source / "vault-token").write_text("rotated")
        assert container.sh(f"cat {where}/vault-token") == "rotated"
        container.remove()
    finally:
        mounts.detach(str(source))


def test_ac78_all_of_a_runtimes_state_is_beneath_the_folders_that_an_auditor_watches(cri: Daemon) -> None:
    container = cri.run_pod().start("sleep", "1000")
    pid = container.info()["pid"]
    command = ["find", "/run", "/var/lib", "/tmp", "-newer", str(cri.config), "-name", f"*{container.id[:32]}*"]
    found = subprocess.run(command, capture_output=True, text=True).stdout.split()
    allowed = (str(cri.state), str(cri.root), str(cri.folder))
    assert [path for path in found if not path.startswith(allowed)] == []
    assert Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("target", ["/proc/self/exe", "/proc/1/exe"])
def test_ac79_the_hosts_binaries_cannot_be_written_through_a_containers_processes(cri: Daemon, target: str) -> None:
    """CVE-2019-5736: a container replaces its own program by a link to /proc/self/exe and waits for an exec."""
    container = cri.run_pod().start("sh", "-c", f"ln -s {target} /evil; sleep 1000")
    programs = [Path(p).resolve() for p in ("/usr/bin/python3", cri.command[0])]
    before = [(p.stat().st_mtime_ns, p.stat().st_size) for p in programs]
    wait_for(lambda: container.exec("test", "-L", "/evil").exit_code == 0, 5, lambda: "no link")
    try:
        container.exec("/evil", "-c", "true")
    except grpc.RpcError as refused:
        assert "exec" in str(refused)  # noqa: PT017 - it may run or be refused; what counts is what it could write
    script = "for p in /proc/[0-9]*; do (echo bad > $p/exe) 2>/dev/null && readlink $p/exe; done; true"
    written = container.sh(script).split()
    assert not [name for name in written if name not in ("/bin/busybox", "/bin/sh")], written
    assert [(p.stat().st_mtime_ns, p.stat().st_size) for p in programs] == before


def test_ac81_a_runtime_class_uses_its_handler_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    """The handler is a script around our own runtime, so that what it is asked can be read."""
    said = tmp_path / "said"
    script = tmp_path / "sandboxed"
    ours = Path(__file__).parents[2] / ".venv/bin/ketch-runtime"
    script.write_text(f'#!/bin/sh\necho "$@" >> {said}\nexec {ours} --root {tmp_path}/other "$@"\n')
    script.chmod(0o755)
    made = daemon(tmp_path, config=f'[runtime.handlers.gvisor]\ncommand = ["{script}"]\n')
    cri = next(made)
    try:
        container: Container = cri.run_pod(handler="gvisor").start("sleep", "1000")
        assert container.sh("echo inside") == "inside\n"
        assert "create" in said.read_text()
        assert "start" in said.read_text()
        with pytest.raises(grpc.RpcError, match="kata"):
            cri.run_pod(handler="kata")
        assert "gvisor" in [h.name for h in cri.call("Status").runtime_handlers]
    finally:
        made.close()
