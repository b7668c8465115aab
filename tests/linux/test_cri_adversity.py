# SPDX-License-Identifier: Apache-2.0
"""A node in trouble: full disks, clocks that jump, files removed or damaged, clients that misbehave; nothing hangs."""

import errno
import mmap
import resource
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import grpc
import pytest

from proto import cri_pb2 as pb
from runtime.linux import mounts
from tests.support import kernel
from tests.support.needs import needs
from tests.support.pod_driver import BUSYBOX, Container, Daemon, daemon, processes_of, wait_for
from tests.support.spdy_client import exec_session

pytestmark = needs("root", "overlay", "veth", "bridge", "nft", "busybox")


@pytest.fixture
def cri(tmp_path: Path) -> Iterator[Daemon]:
    yield from daemon(tmp_path)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Daemon]:
    """Its state lies on a tmpfs of one megabyte."""
    (tmp_path / "state").mkdir()
    kernel.mount("tmpfs", str(tmp_path / "state"), "tmpfs", 0, "size=1m,mode=711")
    yield from daemon(tmp_path)
    mounts.detach(str(tmp_path / "state"))


def fill(directory: Path) -> Path:
    """To the last byte."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            while wrote(file, size):
                pass
    return filler


def wrote(file: FileIO, size: int) -> bool:
    try:
        file.write(bytes(size))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


def test_a_full_disk_refuses_what_is_new_and_lets_go_of_what_is_old(small: Daemon, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    volume = [{"container_path": "/v", "host_path": str(tmp_path / "volume")}]
    pod = small.run_pod()
    ends = pod.start("sh", "-c", "until [ -e /v/go ]; do sleep 0.05; done; exit 7", name="ends", mounts=volume)
    lives = pod.start("sleep", "1000", name="lives")
    filler = fill(small.state)
    for attempt in (small.run_pod, lambda: pod.create("true", name="new")):
        with pytest.raises(grpc.RpcError, match="No space left on device"):
            attempt()
    assert lives.sh("echo alive") == "alive\n"
    (tmp_path / "volume/go").touch()
    assert ends.wait().exit_code == 7
    small.kill()
    small.start()
    assert ends.status().exit_code == 7
    lives.stop()
    ends.remove()
    pod.stop()
    assert pod.status().state == pb.SANDBOX_NOTREADY
    pod.remove()
    assert not small.call("ListPodSandbox").items
    assert not small.call("ListContainers").containers
    filler.unlink()
    assert small.run_pod().start("sleep", "1000").sh("echo again") == "again\n"


CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
static const volatile long *offset;
static int (*real)(clockid_t, struct timespec *);
__attribute__((constructor)) static void find(void) {
    real = dlsym(RTLD_NEXT, "clock_gettime");
    offset = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, open(getenv("CLOCK_OFFSET"), O_RDONLY | O_CLOEXEC), 0);
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += *offset;
    return result;
}
"""


class Clock:
    """The time of day of everything that is started with its environment."""

    def __init__(self, folder: Path) -> None:
        (folder / "clock.c").write_text(CLOCK)
        library, offset = folder / "clock.so", folder / "clock.offset"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, folder / "clock.c"], check=True)
        offset.write_bytes(bytes(8))
        with offset.open("r+b") as file:
            self._offset = mmap.mmap(file.fileno(), 8)
        self.environment = [f"LD_PRELOAD={library}", f"CLOCK_OFFSET={offset}"]

    def jump(self, seconds: int) -> None:
        struct.pack_into("@l", self._offset, 0, seconds)


@pytest.mark.parametrize("seconds", [-86400, 10 * 365 * 86400], ids=["back", "forward"])
def test_a_clock_that_jumps_disturbs_nothing(cri: Daemon, tmp_path: Path, seconds: int) -> None:
    cri.stop()
    clock = Clock(tmp_path)
    cri.command = ["env", *clock.environment, *cri.command]
    cri.start()
    pod = cri.run_pod()
    busy = pod.start("sh", "-c", "trap '' TERM; while :; do :; done")
    cri.call("ContainerStats", container_id=busy.id)
    url = cri.call("Exec", container_id=busy.id, cmd=["echo", "hello"], stdout=True, stderr=True).url
    clock.jump(seconds)
    assert abs(pod.create("true", name="later").status().created_at / 1e9 - time.time() - seconds) < 60
    client, _ = exec_session(url, stdin=False, tty=False)
    client.read_until_finished("stdout", "error")
    client.sock.close()
    assert client.received["stdout"] == b"hello\n"
    time.sleep(0.6)  # the shortest time over which a rate is told
    assert cri.call("ContainerStats", container_id=busy.id).stats.cpu.usage_nano_cores.value > 0
    started = time.monotonic()
    with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
        busy.exec("sleep", "100", seconds=1)
    busy.stop(1)
    assert 2 <= time.monotonic() - started < 15
    assert busy.status().exit_code == 137
    cri.kill()
    cri.start()
    assert busy.status().exit_code == 137
    pod.remove()
    assert not cri.call("ListContainers").containers


def hang_up(cri: Daemon, times: int = 1) -> None:
    assert cri.process is not None
    for _ in range(times):
        cri.process.send_signal(signal.SIGHUP)


def test_no_state_of_the_configuration_file_stops_a_running_daemon(cri: Daemon) -> None:
    good = cri.config.read_text()
    container = cri.run_pod().start("sleep", "1000")
    for broken in (b"\xff\xfe", b"[" * 100_000, b"[cri]\nlog_level = 3\n"):
        cri.config.write_bytes(broken)
        before = cri.log.read_text().count("not reloaded: ")
        hang_up(cri)
        wait_for(lambda n=before: cri.log.read_text().count("not reloaded: ") > n, 10, cri.log.read_text)  # type: ignore[misc]
    cri.config.unlink()
    cri.config.mkdir()
    hang_up(cri)
    wait_for(lambda: "Is a directory" in cri.log.read_text(), 10, cri.log.read_text)
    cri.config.rmdir()
    cri.config.write_text(good + '[images]\npinned = ["a"]\n')
    hang_up(cri, 2000)
    wait_for(lambda: f"reloaded {cri.config}" in cri.log.read_text(), 10, cri.log.read_text)
    assert container.sh("echo alive") == "alive\n"
    cri.config.write_text(good)


def sessions_kept() -> str:
    return subprocess.run(["pgrep", "-x", "ketch-exec"], capture_output=True, text=True).stdout


def test_sessions_end_with_the_daemon_and_their_programs_with_the_container(cri: Daemon) -> None:
    pod = cri.run_pod()
    container = pod.start("sleep", "1000")
    sessions = []
    for tty in (False, True):
        asked = pb.ExecRequest(container_id=container.id, cmd=["sleep", "777"], stdin=True, stdout=True, tty=tty)
        asked.stderr = not tty
        sessions.append(exec_session(cri.call("Exec", asked).url, stdin=True, tty=tty)[0])
    wait_for(lambda: container.sh("ps").count("sleep 777") == 2, 10, lambda: container.sh("ps"))
    cri.kill()
    for client in sessions:
        with pytest.raises((AssertionError, ConnectionResetError)):
            client.read_until_finished("error")
        client.sock.close()
    cri.start()
    # As everywhere: a terminal hangs up with its last user, and what has none goes on.
    wait_for(lambda: container.sh("ps").count("sleep 777") == 1, 10, lambda: container.sh("ps"))
    container.stop()
    wait_for(lambda: not processes_of(container), 10, lambda: str(processes_of(container)))
    wait_for(lambda: not sessions_kept(), 10, lambda: "a process of ours waits for ever")


def joined(crowd: list[socket.socket], cri: Daemon) -> bool:
    """Whether nobody else can be accepted, and as many wait as the kernel lets wait."""
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        try:
            client.connect(str(cri.socket))
        except BlockingIOError:
            client.close()
            return len(crowd) > 400 and "no client can be accepted" in cri.log.read_text()
        crowd.append(client)


def test_thousands_who_only_connect_do_not_keep_others_out(cri: Daemon) -> None:
    cri.stop()
    plain = cri.command
    cri.command = ["prlimit", "--nofile=400:400", *plain]
    cri.start()
    container = cri.run_pod().start("sleep", "1000")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    crowd: list[socket.socket] = []
    wait_for(lambda: joined(crowd, cri), 20, lambda: f"{len(crowd)} of them found room")
    assert container.status().state == pb.CONTAINER_RUNNING  # over the connection that was there before
    for client in crowd:
        client.close()
    channel = grpc.insecure_channel(f"unix:{cri.socket}", options=[("grpc.use_local_subchannel_pool", 1)])
    ask: Any = channel.unary_unary(
        "/runtime.v1.RuntimeService/Version", response_deserializer=pb.VersionResponse.FromString
    )
    assert ask(b"", timeout=30, wait_for_ready=True).runtime_name == "ketch"
    channel.close()
    assert container.sh("echo alive") == "alive\n"
    assert cri.log.read_text().count("no client can be accepted") == 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"metadata": {"name": "n" * 5000}}, "config.metadata.name: longer"),
        ({"log_path": f"{'l' * 300}.log"}, "config.log_path: "),
        ({"log_path": "d/" * 2500 + "l"}, "config.log_path: "),
        ({"labels": {"k": "v" * (2 << 20)}}, "config.labels and annotations"),
        ({"working_dir": "/" + "w" * 300}, "name too long"),
        ({"envs": [{"key": "K", "value": "dmFs" * 50_000}]}, "too long"),
        ({"args": ["a" * 100] * 30_000}, "too long"),
        ({"mounts": [{"container_path": "/" + "m" * 300, "host_path": "/tmp"}]}, "name too long"),
    ],
)
def test_what_is_too_long_is_refused_by_name(cri: Daemon, changes: dict[str, object], why: str) -> None:
    pod = cri.run_pod()
    with pytest.raises(grpc.RpcError) as refused:
        pod.start("sleep", "1000", **changes)
    assert why.lower() in str(refused.value.details()).lower()
    assert len(str(refused.value.details())) < 3000
    pod.remove()
    assert not cri.call("ListContainers").containers


def test_a_state_directory_that_somebody_removes_costs_no_more_than_what_was_in_it(cri: Daemon) -> None:
    pod = cri.run_pod()
    container = pod.start("sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done")
    pid = container.info()["pid"]
    for entry in list(cri.state.iterdir()):
        subprocess.run(["rm", "-rf", "--one-file-system", entry], capture_output=True)
    assert [c.id for c in cri.call("ListContainers").containers] == [container.id]
    container.stop(5)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), 10, lambda: "its process still runs")
    assert container.status().state in (pb.CONTAINER_EXITED, pb.CONTAINER_UNKNOWN)
    pod.remove()
    assert not cri.call("ListPodSandbox").items
    assert not cri.call("ListContainers").containers
    cri.stop()
    cri.start()
    assert cri.run_pod().start("sleep", "1000").sh("echo again") == "again\n"


def test_a_damaged_image_store_is_said_to_be_damaged_and_harms_no_running_container(cri: Daemon) -> None:
    pod = cri.run_pod()
    container = pod.start("sleep", "1000")
    images = cri.root / "images"
    digest = cri.call("ImageStatus", image={"image": BUSYBOX}).image.id.removeprefix("sha256:")
    configuration = images / "blobs/sha256" / digest
    whole = configuration.read_bytes()
    configuration.chmod(0o644)
    for damaged in (b"", whole[:50], whole.replace(b"PATH", b"HTAP")):
        configuration.write_bytes(damaged)
        with pytest.raises(grpc.RpcError, match="damaged"):
            pod.create("true", name="refused")
    configuration.rename(images / "aside")
    with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
        pod.create("true", name="refused")
    (images / "aside").write_bytes(whole)
    (images / "aside").rename(configuration)
    tree = next((images / "layers").iterdir())
    tree.rename(images / "aside")  # the next container makes it again, from its blob
    assert pod.start("sleep", "1000", name="anew").sh("echo whole") == "whole\n"
    assert cri.call("ImageFsInfo").image_filesystems
    record = next(path for path in (images / "images").iterdir() if path.suffix == ".json")
    shutil.copy(record, record.with_suffix(".aside"))
    record.write_bytes(record.read_bytes()[:100])
    cri.stop()
    cri.start()
    assert not cri.call("ListImages").images
    assert container.sh("echo alive") == "alive\n"
    record.with_suffix(".aside").rename(record)
    assert "a mistake of ours" not in cri.log.read_text()


def test_an_attachment_that_is_never_read_does_not_stop_the_container_for_ever(cri: Daemon) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i of very many that nobody reads; i=$((i+1)); done; sleep 1000"
    container: Container = cri.run_pod().start("sh", "-c", f"sleep 1; {script}")
    url = cri.call("Attach", container_id=container.id, stdout=True, stderr=True).url
    client, _ = exec_session(url, stdin=False, tty=False)
    wait_for(lambda: "line 19999 of" in container.output(), 40, lambda: container.output()[-100:])
    client.sock.close()
