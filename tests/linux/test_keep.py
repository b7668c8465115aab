# SPDX-License-Identifier: Apache-2.0
"""Spawner and keepers: what a container's output, input and end become, and who may die meanwhile."""

import fcntl
import json
import os
import re
import resource
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import lifecycle
from runtime.keep import client as keep
from runtime.linux import cgroup
from tests.support.rootfs import make_rootfs

SPACES = ("pid", "ipc", "uts", "mount")
MOUNTS = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
]


class Node:
    """A state directory with its spawner, and bundles on one root filesystem."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.state = str(top / "state")
        self.client = keep.connect(self.state)
        self._root = make_rootfs(top / "rootfs")
        self.pids = {self.client.ping()["pid"]}

    def bundle(self, name: str, *command: str, **changes: Any) -> str:
        directory = self.top / "bundles" / name
        directory.mkdir(parents=True)
        config: dict[str, Any] = {
            "ociVersion": "1.2.0",
            "process": self.process(*command, terminal=changes.pop("tty", False), **changes.pop("process", {})),
            "root": {"path": str(self._root)},
            "mounts": MOUNTS,
            "linux": {"namespaces": [{"type": kind} for kind in SPACES], "cgroupsPath": f"/keep/{name}", **changes},
        }
        (directory / "config.json").write_text(json.dumps(config))
        return str(directory)

    @staticmethod
    def process(*command: str, **more: Any) -> dict[str, Any]:
        return {
            "args": list(command),
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
            **more,
        }

    def start(self, name: str, *command: str, request: dict[str, Any] | None = None, **changes: Any) -> keep.Started:
        asked = {"log_path": self.log_path(name), **(request or {})}
        bundle = self.bundle(name, *command, tty=asked.get("tty", False), **changes)
        return self.client.start(keep.StartRequest(id=name, bundle=bundle, **asked))

    def shell(self, name: str, script: str, **more: Any) -> keep.Started:
        return self.start(name, "sh", "-c", script, **more)

    def log_path(self, name: str) -> str:
        return str(self.top / f"{name}.log")

    def log(self, name: str) -> str:
        return Path(self.log_path(name)).read_text()

    def output(self, name: str, stream: str = "stdout") -> str:
        text = ""
        for line in self.log(name).splitlines():
            _, of, tag, content = line.split(" ", 3)
            if of == stream:
                text += content + ("\n" if tag == "F" else "")
        return text

    def exec(self, name: str, *command: str, **more: Any) -> keep.ExecResult:
        return self.client.exec_sync(keep.ExecRequest(name, self.process(*command), **more))

    def keeper_pids(self) -> list[int]:
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _comm(pid) == "ketch-keeper"]

    def spawner_pid(self) -> int:
        return int(self.client.ping()["pid"])

    def close(self) -> None:
        containers = Path(self.state, "containers")
        names = os.listdir(containers) if containers.is_dir() else []
        for name in names:
            kept = self.client.kept(name)
            if kept is not None and kept.pid and self.client.exit(name) is None:
                self.client.kill(name)
                self.client.wait(name, 10)
            lifecycle.delete(f"{self.state}/runtime", name, force=True)
        self.client.shutdown(force=True)
        wait_until(lambda: not self.keeper_pids())
        for pattern in ("keep", "*/keep"):  # version 2, version 1
            for directory in Path("/sys/fs/cgroup").glob(pattern):
                directory.rmdir()


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.005)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.close()


# --- output, input, endings ---


def test_output_becomes_log_lines_and_the_exit_becomes_a_file(node: Node) -> None:
    node.shell("a", "echo out; echo err >&2; printf half; exit 7")
    ended = node.client.wait("a", 10)
    assert ended is not None
    assert (ended.exit_code, ended.signal, ended.oom) == (7, None, False)
    assert abs(ended.finished_at - time.time_ns()) < 60e9
    pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout F out|stdout P half|stderr F err)"
    assert len([line for line in node.log("a").splitlines() if re.fullmatch(pattern, line)]) == 3
    assert json.loads(Path(node.state, "containers/a/exit").read_text())["exit_code"] == 7


def test_a_signal_is_told_as_128_and_its_number(node: Node) -> None:
    node.start("a", "sleep", "1000")
    assert node.client.kill("a", signal.SIGKILL)
    ended = node.client.wait("a", 10)
    assert ended is not None
    assert (ended.exit_code, ended.signal) == (137, signal.SIGKILL)
    assert not node.client.kill("a")


def test_stop_signals_first_and_kills_when_its_time_is_over(node: Node) -> None:
    node.shell("obeys", "trap 'exit 3' TERM; while :; do sleep 0.01; done")
    node.shell("deaf", "trap '' TERM; while :; do sleep 0.01; done")
    wait_until(lambda: len(_signals_caught(node, "obeys")) and True)
    assert node.client.stop("obeys", signal.SIGTERM, 10).exit_code == 3  # type: ignore[union-attr]
    assert node.client.stop("deaf", signal.SIGTERM, 0.1).exit_code == 137  # type: ignore[union-attr]


def _signals_caught(node: Node, name: str) -> str:
    status = Path(f"/proc/{node.client.kept(name).pid}/status").read_text()  # type: ignore[union-attr]
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return "x" if caught >> (signal.SIGTERM - 1) & 1 else ""


def test_a_failed_start_says_why_and_leaves_nothing(node: Node) -> None:
    with pytest.raises(keep.StartFailed, match="no-such-program"):
        node.start("a", "no-such-program")
    assert os.listdir(Path(node.state, "containers")) == []
    assert os.listdir(Path(node.state, "runtime")) in ([], [".cache"])
    assert node.client.kept("a") is None


def test_an_id_is_refused_while_it_is_taken_and_free_after_forget(node: Node) -> None:
    node.start("a", "true")
    node.client.wait("a", 10)
    with pytest.raises(keep.StartFailed, match="forget it first"):
        node.client.start(keep.StartRequest(id="a", bundle="/nowhere"))
    lifecycle.delete(f"{node.state}/runtime", "a", force=True)
    node.client.forget("a")
    assert node.client.exit("a") is None
    node.client.forget("a")


@pytest.mark.parametrize("identity", ["", "..", ".hidden", "a/b", "a b", "x" * 256])
def test_an_id_that_is_no_plain_name_is_refused(node: Node, identity: str) -> None:
    with pytest.raises(keep.Refused, match="is not a container id"):
        node.client.start(keep.StartRequest(id=identity, bundle="/nowhere"))


def test_stdin_once_ends_with_the_first_client(node: Node) -> None:
    node.start("a", "cat", request={"stdin": True, "stdin_once": True})
    with node.client.attach("a", stdin=True) as session:
        os.write(session.stdin, b"typed\n")
        session.close_stdin()
        assert session.wait(10) == 0
        assert os.read(session.stdout, 100) == b"typed\n"
    assert node.output("a") == "typed\n"


def test_stdin_that_is_not_once_outlives_its_clients(node: Node) -> None:
    node.start("a", "cat", request={"stdin": True})
    for word in (b"one\n", b"two\n"):
        with node.client.attach("a", stdin=True) as session:
            os.write(session.stdin, word)
            assert os.read(session.stdout, 100) == word
    assert node.client.wait("a", 0.05) is None
    node.client.close_stdin("a")
    assert node.client.wait("a", 10).exit_code == 0  # type: ignore[union-attr]
    assert node.output("a") == "one\ntwo\n"


def test_every_attached_client_sees_what_comes_from_then_on(node: Node) -> None:
    node.start("a", "sh", request={"stdin": True})
    with node.client.attach("a", stdin=True) as first:
        os.write(first.stdin, b"echo early\n")
        assert os.read(first.stdout, 100) == b"early\n"
        with node.client.attach("a", stdin=True) as late, node.client.attach("a", stdout=False) as errors:
            os.write(late.stdin, b"echo both; echo bad >&2; exit 4\n")
            assert [s.wait(10) for s in (first, late, errors)] == [4, 4, 4]
            assert os.read(first.stdout, 100) == os.read(late.stdout, 100) == b"both\n"
            assert (errors.stdout, os.read(errors.stderr, 100)) == (-1, b"bad\n")


def test_a_viewer_that_does_not_read_loses_nothing_and_a_killed_one_holds_nobody(node: Node) -> None:
    node.start("a", "sh", request={"stdin": True, "stdin_once": True})
    with node.client.attach("a", stdin=True) as slow, node.client.attach("a") as dying:
        os.write(slow.stdin, b"seq 100000; exit\n")
        wait_until(lambda: min(_waiting(slow.stdout), _waiting(dying.stdout)) >= 65536)
        dying.close()
        received = b""
        while chunk := os.read(slow.stdout, 65536):
            received += chunk
        assert received == b"".join(b"%d\n" % i for i in range(1, 100001))
        assert slow.wait(10) == 0
    assert node.output("a").encode() == received


def _waiting(fd: int) -> int:
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_terminal_has_a_size_and_its_stdio_is_one_stream(node: Node) -> None:
    node.start("a", "sh", request={"stdin": True, "tty": True})
    node.client.resize("a", 132, 43)
    with node.client.attach("a", stdin=True) as session:
        os.write(session.stdin, b"stty size; tty; echo err >&2; exit 5\n")
        assert session.wait(10) == 5
        assert session.stderr == -1
    assert "43 132" in node.output("a")
    assert "/dev/pts/0" in node.output("a")


def test_reopen_log_goes_on_in_a_new_file_that_is_there_at_once(node: Node) -> None:
    node.shell("a", "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.002; done")
    wait_until(lambda: node.log("a").count("\n") > 5)
    old = node.log_path("a") + ".old"
    os.rename(node.log_path("a"), old)
    node.client.reopen_log("a")
    assert os.path.exists(node.log_path("a"))
    size = os.path.getsize(old)
    wait_until(lambda: node.log("a").count("\n") > 5)
    node.client.stop("a", signal.SIGKILL, 0)
    assert os.path.getsize(old) == size
    lines = [line.split(" ", 3)[3] for line in (Path(old).read_text() + node.log("a")).splitlines()]
    assert lines == [f"line {i}" for i in range(len(lines))]


def test_a_container_with_another_user_may_open_its_streams_again(node: Node) -> None:
    node.shell("a", "echo again > /dev/stdout; echo bad > /dev/stderr", process={"user": {"uid": 1000, "gid": 1000}})
    node.client.wait("a", 10)
    assert node.output("a") == "again\n"
    assert node.output("a", "stderr") == "bad\n"


def test_a_hundred_megabytes_are_logged_without_a_loss(node: Node) -> None:
    node.shell("a", "yes 0123456789012345678901234567890123456789012345678901234567890123456789 | head -c 100000000")
    began = time.monotonic()
    assert node.client.wait("a", 60).exit_code == 0  # type: ignore[union-attr]
    took = time.monotonic() - began
    total = 0
    with open(node.log_path("a"), "rb") as log:
        for line in log:
            total += len(line) - 41 + (1 if line[38:39] == b"F" else 0)
    assert total == 100_000_000
    assert took < 20, f"{took:.1f} s for 100 MB"


def test_a_noisy_container_does_not_hold_back_a_quiet_one_of_the_same_keeper(node: Node) -> None:
    node.shell("noisy", "yes")
    node.start("quiet", "cat", request={"stdin": True})
    assert len(node.client.ping()["keepers"]) == 1
    with node.client.attach("quiet", stdin=True) as session:
        for _ in range(20):
            began = time.monotonic()
            os.write(session.stdin, b"x\n")
            assert os.read(session.stdout, 10) == b"x\n"
            assert time.monotonic() - began < 1.0


@pytest.mark.in_vm_too
def test_an_out_of_memory_kill_is_told_with_group_and_limit(node: Node) -> None:
    limits = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    node.start("a", "dd", "if=/dev/zero", "of=/dev/null", "bs=40M", resources=limits)
    ended = node.client.wait("a", 20)
    assert ended is not None
    assert (ended.exit_code, ended.oom) == (137, True)
    assert "/keep/a" in ended.oom_detail
    assert str(16 << 20) in ended.oom_detail
    if os.access("/dev/kmsg", os.R_OK):
        assert "killed dd (pid " in ended.oom_detail


@pytest.mark.in_vm_too
def test_a_kill_by_the_limit_of_a_group_above_names_that_group(node: Node) -> None:
    above = Path("/sys/fs/cgroup/memory/keep")
    if not above.parent.is_dir():
        above = Path("/sys/fs/cgroup/keep")
        cgroup.delegate_controllers(str(above.parent))
    above.mkdir()
    limit = above / ("memory.max" if (above / "memory.max").exists() else "memory.limit_in_bytes")
    if limit.name == "memory.limit_in_bytes":
        (above / "memory.use_hierarchy").write_text("1")
    limit.write_text(str(24 << 20))
    node.start("a", "dd", "if=/dev/zero", "of=/dev/null", "bs=60M")
    ended = node.client.wait("a", 20)
    assert ended is not None
    assert ended.oom
    if os.access("/dev/kmsg", os.R_OK):
        assert f"the limit of {above} was reached" in ended.oom_detail


def test_events_tell_every_exit_once(node: Node) -> None:
    seen: list[str] = []
    started = threading.Event()

    def listen() -> None:
        for event in node.client.events():
            started.set()
            if event.id:
                assert event.exit is not None
                seen.append(f"{event.id} {event.exit.exit_code}")
            if len(seen) == 5:
                return

    listener = threading.Thread(target=listen)
    listener.start()
    started.wait(5)
    for number in range(5):
        node.shell(f"c{number}", f"exit {number}")
    listener.join(20)
    assert sorted(seen) == [f"c{number} {number}" for number in range(5)]


def test_a_container_starts_from_a_nearly_empty_mount_namespace(node: Node) -> None:
    volume = node.top / "volume"
    volume.mkdir()
    (volume / "file").write_text("of the node")
    mounts = [*MOUNTS, {"destination": "/mnt", "type": "bind", "source": str(volume), "options": ["rbind", "ro"]}]
    bundle = Path(node.bundle("a", "sh", "-c", "cat /mnt/file; echo; cut -d ' ' -f 5 /proc/self/mountinfo"))
    config = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps({**config, "mounts": mounts}))
    node.client.start(keep.StartRequest(id="a", bundle=str(bundle), log_path=node.log_path("a")))
    assert node.client.wait("a", 10).exit_code == 0  # type: ignore[union-attr]
    text, *points = node.output("a").splitlines()
    assert text == "of the node"
    assert sorted(points) == ["/", "/dev", "/dev/pts", "/mnt", "/proc"]
    assert Path(node.state, "spawner.log").read_text() == ""


def test_a_container_has_the_limits_that_the_spawner_was_started_with(node: Node) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    node.shell("a", "ulimit -n; cat /proc/self/oom_score_adj; exec sleep 1000")
    wait_until(lambda: node.output("a").count("\n") == 2)
    own = Path("/proc/self/oom_score_adj").read_text().strip()
    assert node.output("a").split() == [str(soft), own]
    assert node.exec("a", "sh", "-c", "ulimit -n; cat /proc/self/oom_score_adj").stdout.decode().split() == [
        str(soft),
        own,
    ]
