# SPDX-License-Identifier: Apache-2.0
"""An exec without an interpreter is the same as one with: what the program gets, and what a failure says."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.keep import client as keep
from tests.linux.test_keep import Node, wait_until

# What a program can see of itself. The shell's own descriptors and numbers that differ by nature are left out.
LOOK = """
grep -E '^(Uid|Gid|Groups|Cap|NoNew|Seccomp|Umask|SigBlk|SigIgn|Shd)' /proc/self/status
id; pwd; env | sort; umask; ulimit -a; ls /proc/self/fd | grep -v 255; cat /proc/self/oom_score_adj
cat /proc/self/cgroup; readlink /proc/self/ns/*; grep -c . /proc/self/mountinfo; echo $PPID
stat -L -c %u /proc/self/fd/1
"""
CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
SETS = ("bounding", "effective", "permitted")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.close()


def long_way(node: Node, process: dict[str, Any]) -> tuple[int | None, bytes]:
    with node.client.exec(keep.ExecRequest("a", process, timeout_seconds=30)) as session:
        out = b""
        while chunk := os.read(session.stdout, 65536):
            out += chunk
        return session.wait(), out


PROCESSES: list[dict[str, Any]] = [
    {},
    {"noNewPrivileges": True, "capabilities": dict.fromkeys(SETS, CAPABILITIES)},
    {"user": {"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o77}, "cwd": "/tmp"},
    {"user": {"uid": 1000, "gid": 0}, "capabilities": dict.fromkeys((*SETS, "inheritable", "ambient"), CAPABILITIES)},
    {"env": ["PATH=/bin", "HOME=/mine", "A=b"], "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 100}]},
    {"oomScoreAdj": 500, "user": {"uid": 77, "gid": 77}},
    {"user": {"uid": 1000, "gid": 1000}, "cwd": "/only-root"},
]


@pytest.mark.parametrize("changes", PROCESSES)
@pytest.mark.parametrize("seccomp", [None, {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
    {"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}]}])  # fmt: skip
def test_both_ways_give_the_program_the_same(node: Node, changes: dict[str, Any], seccomp: Any) -> None:
    # The user is there last: whoever reads it finds all the rest.
    script = "mkdir -p /tmp; mkdir -pm 700 /only-root; echo me:x:1000:1000::/home/me:/bin/sh >/etc/passwd; sleep 1000"
    node.start("a", "sh", "-c", script, **({"seccomp": seccomp} if seccomp else {}))
    wait_until(lambda: (node.top / "rootfs/etc/passwd").read_text().startswith("me:"))
    process = node.process("sh", "-c", LOOK, **changes)
    code, out = long_way(node, process)
    assert code == 0
    quick = node.client.exec_sync(keep.ExecRequest("a", process, timeout_seconds=30))
    assert quick.stdout.decode() == out.decode()
    assert forked_by_an_exec(node, process) == 1


def forked_by_an_exec(node: Node, process: dict[str, Any]) -> int:
    """Processes of ours: those that the spawner waits for, but for what runs in between for a moment."""
    spawner = node.spawner_pid()
    plain = {**process, "args": ["sleep", "0.5"]}
    session = node.client._exec(keep.ExecRequest("a", plain), sync=True)
    listed = Path(f"/proc/{spawner}/task/{spawner}/children").read_text().split()
    names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in listed]
    assert session.wait() == 0
    session.close()
    return len([name for name in names if name not in ("ketch-keeper", "ketch-nursery")])


@pytest.mark.parametrize(
    ("args", "cwd", "said"),
    [
        (["nosuch"], "/", "executable file not found"),
        (["/etc"], "/", "is a directory"),
        (["true"], "/bin/true", "cannot work in /bin/true"),
    ],
)
def test_a_failure_finds_its_words(node: Node, args: list[str], cwd: str, said: str) -> None:
    node.start("a", "sleep", "1000")
    with pytest.raises(keep.ExecFailed, match=said):
        node.client.exec_sync(keep.ExecRequest("a", node.process(*args, cwd=cwd)))


def test_a_missing_working_directory_is_made(node: Node) -> None:
    node.start("a", "sleep", "1000")
    done = node.client.exec_sync(keep.ExecRequest("a", node.process("pwd", cwd="/made/here")))
    assert done.stdout == b"/made/here\n"


@pytest.mark.in_vm_too
def test_a_paused_container_is_not_joined(node: Node) -> None:
    node.start("a", "sleep", "1000")
    assert node.exec("a", "true").exit_code == 0
    state = next(Path("/sys/fs/cgroup").glob("freezer/keep/a/freezer.state"), None)
    frozen = state or Path("/sys/fs/cgroup/keep/a/cgroup.freeze")
    frozen.write_text("FROZEN" if state else "1")
    try:
        with pytest.raises(keep.ExecFailed, match="paused"):
            node.exec("a", "true")
    finally:
        frozen.write_text("THAWED" if state else "0")


def test_the_same_id_again_is_another_container(node: Node) -> None:
    for text in ("one", "two"):
        node.start("a", "sleep", "1000", process={"user": {"uid": 0, "gid": 0}})
        assert node.exec("a", "hostname").exit_code == 0
        node.client.kill("a")
        node.client.wait("a", 10)
        node.client.forget("a")
        from runtime import lifecycle

        lifecycle.delete(f"{node.state}/runtime", "a", force=True)
        (node.top / "bundles/a").rename(node.top / f"bundles/{text}")
