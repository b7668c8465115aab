# SPDX-License-Identifier: Apache-2.0
"""What keeping costs: memory per container, forks, and page faults, which are most of the time after a fork."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import lifecycle
from runtime.keep import client as keep
from tests.linux.test_keep import Node, wait_until


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.close()


def pss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1])


def faults(pid: int) -> int:
    """Minor page faults of a process and of the children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[7]) + int(fields[8])


@pytest.mark.timeout(300)
def test_a_hundred_containers_cost_at_most_0_3_mib_each(node: Node) -> None:
    for number in range(100):
        node.shell(f"c{number}", "i=0; while [ $i -lt 50 ]; do echo line $i; i=$((i+1)); done; exec sleep 1000")
    wait_until(lambda: all(node.log(f"c{number}").count("\n") == 50 for number in range(100)), 60)
    keepers = node.keeper_pids()
    assert len(keepers) == 5
    total = sum(pss_kib(pid) for pid in (node.spawner_pid(), *_children(node.spawner_pid())))
    assert total / 100 <= 0.3 * 1024, f"{total / 100:.0f} KiB each"


def test_spawner_and_keeper_stay_below_15_mib_and_compile_no_filter(node: Node) -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}]}
    for name in ("a", "b"):  # the first is made by a process that ends, which compiles
        node.start(name, "sleep", "1000", seccomp=profile)
        assert node.exec(name, "true").exit_code == 0
    for pid in (node.spawner_pid(), *node.keeper_pids()):
        assert "libseccomp" not in Path(f"/proc/{pid}/maps").read_text()
        status = Path(f"/proc/{pid}/status").read_text().split()
        assert int(status[status.index("VmHWM:") + 1]) < 15 * 1024


def test_page_faults_of_an_exec_stay_within_their_budget(node: Node) -> None:
    node.start("a", "sleep", "1000")
    spawner = node.spawner_pid()
    request = keep.ExecRequest("a", node.process("true"))
    node.client.exec_sync(request)
    others = _children(spawner)
    before = faults(spawner)
    for _ in range(10):
        node.client.exec_sync(request)
    wait_until(lambda: _children(spawner) <= others)
    assert (faults(spawner) - before) / 10 < 200  # most are those of `true`


def _children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_nothing_is_left_open_after_a_thousand_requests(node: Node) -> None:
    node.start("a", "sleep", "1000")
    spawner, (keeper,) = node.spawner_pid(), node.keeper_pids()
    _many_requests(node)
    before = _open(spawner, keeper)
    _many_requests(node)
    wait_until(lambda: _open(spawner, keeper) <= before)


def _open(*pids: int) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


def _many_requests(node: Node) -> None:
    for _ in range(100):
        node.client.exec_sync(keep.ExecRequest("a", node.process("true")))
        node.client.attach("a").close()
        node.client.reopen_log("a")
        node.client.ping()
        node.client.wait("a", 0)


def private_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Private_Dirty:")).split()[1])


@pytest.mark.timeout(300)
def test_the_spawner_does_not_grow_with_the_containers_that_came_and_went(node: Node) -> None:
    bundle = node.bundle("c", "true")

    def come_and_go(number: int) -> None:
        for _ in range(number):
            node.client.start(keep.StartRequest("c", bundle))
            node.client.wait("c", 20)
            lifecycle.delete(f"{node.state}/runtime", "c", force=True)
            node.client.forget("c")

    come_and_go(110)
    before = private_kib(node.spawner_pid())
    come_and_go(200)
    assert private_kib(node.spawner_pid()) <= before + 40  # 76 KiB more without collections
