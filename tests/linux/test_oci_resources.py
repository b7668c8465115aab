# SPDX-License-Identifier: Apache-2.0
"""What ketch-runtime must survive: many containers and mounts, a huge config, a fork bomb; how little it takes."""

import json
import os
import subprocess

import pytest

from runtime.linux import cgroup
from tests.bench import stopwatch
from tests.support import instruments
from tests.support.containers import DEFAULT, Runtime

CONTAINERS = int(os.environ.get("KETCH_CONTAINERS", "25"))  # by hand: 1000
MEBIBYTE = 1 << 20


@pytest.mark.timeout(900)
def test_many_containers_live_side_by_side_and_go_without_a_trace(box: Runtime) -> None:
    names = [f"c{number}" for number in range(CONTAINERS)]
    for name in names:
        box.start("sleep", "100000", name=name)
    states = json.loads(box.ok("list", "--format", "json"))
    assert sorted(state["id"] for state in states) == sorted(names)
    assert {state["status"] for state in states} == {"running"}
    for name in names:
        box.remove(name)
    assert box.ok("list", "-q") == ""
    layout = cgroup.layout()
    assert not any(cgroup.Group(layout.directories(name), v2=layout.v2).exists() for name in names)


@pytest.mark.timeout(300)
def test_four_thousand_mounts_are_made(box: Runtime) -> None:
    (box.root.parent / "shared").mkdir()
    source = str(box.root.parent / "shared")
    many = [{"destination": f"/many/{number}", "source": source, "options": ["bind", "ro"]} for number in range(4096)]
    said = box.said("grep -c ' /many/' /proc/self/mountinfo", mounts=[*DEFAULT["mounts"], *many])
    assert said == "4096\n"


def test_a_config_of_ten_megabytes_is_read(box: Runtime) -> None:
    words = {f"word.{number}": "x" * 1000 for number in range(10 * MEBIBYTE // 1000)}
    assert box.said("echo small", annotations=words) == "small\n"
    assert (box.bundle / "config.json").stat().st_size > 10 * MEBIBYTE


def test_a_fork_bomb_ends_with_its_container(box: Runtime) -> None:
    box.start("sh", "-c", "b() { b | b & b; }; b", **{"linux.resources": {"pids": {"limit": 100}}})
    layout = cgroup.layout()
    group = cgroup.Group(layout.directories("box"), v2=layout.v2)
    assert group.exists()
    box.ok("delete", "--force", "box")
    assert not group.exists()


@pytest.mark.parametrize("command", ["run", "create", "start", "exec", "state", "list", "kill", "delete"])
def test_no_command_takes_fifteen_mebibytes(box: Runtime, command: str) -> None:
    words = [command, "box"]
    if command in ("run", "create"):
        box.write()
        words = [command, "-b", str(box.bundle), "box"]
    elif command == "start":
        box.write()
        with open(box.root.parent / "out", "wb") as out:
            prepared = [instruments.command("ketch-runtime"), "--root", str(box.root), "create", "-b", str(box.bundle)]
            subprocess.run([*prepared, "box"], check=True, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    else:
        box.start()
    words += {"exec": ["true"], "kill": ["KILL"], "delete": []}.get(command, [])
    words = ["list"] if command == "list" else ["delete", "--force", "box"] if command == "delete" else words
    cost = stopwatch.run([instruments.command("ketch-runtime"), "--root", str(box.root), *words])
    assert cost.memory_kib is not None
    assert cost.memory_kib < 15 << 10
