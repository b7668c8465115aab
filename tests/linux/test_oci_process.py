# SPDX-License-Identifier: Apache-2.0
"""What few containers ask for and every one may: scheduling, CPUs, memory nodes, execution domain, no pivot."""

import json
import os
import subprocess
from pathlib import Path

from tests.support.containers import DEFAULT, Runtime
from tests.support.needs import needs


def joined(box: Runtime, script: str, **changes: object) -> str:
    """What a process prints that joins as a process object says."""
    process = DEFAULT["process"] | {"args": ["sh", "-c", script]} | changes
    path = box.root.parent / "process.json"
    path.write_text(json.dumps(process))
    return box.ok("exec", "--process", str(path), "box")


def test_a_process_is_scheduled_as_asked(box: Runtime) -> None:
    pid = box.start(**{"process.scheduler": {"policy": "SCHED_BATCH", "nice": 5}})
    assert os.sched_getscheduler(pid) == os.SCHED_BATCH
    assert os.getpriority(os.PRIO_PROCESS, pid) == 5


def test_input_and_output_have_their_priority(box: Runtime) -> None:
    pid = box.start(**{"process.ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6}})
    said = subprocess.run(["ionice", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    assert said == "best-effort: prio 6\n"


def test_the_execution_domain_is_that_of_every_process(box: Runtime) -> None:
    box.start(**{"linux.personality": {"domain": "LINUX32"}})
    assert box.ok("exec", "box", "uname", "-m") == "i686\n"
    assert joined(box, "uname -m") == "i686\n"


def test_memory_comes_from_the_nodes_that_the_policy_names(box: Runtime) -> None:
    policy = {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}
    box.start(**{"linux.memoryPolicy": policy})
    assert "bind=static:0" in box.ok("exec", "box", "cat", "/proc/self/numa_maps")


def test_an_exec_runs_on_the_cpus_of_its_affinity(box: Runtime) -> None:
    box.start()
    last = max(os.sched_getaffinity(0))
    look = "grep Cpus_allowed_list /proc/self/status"
    assert joined(box, look, execCPUAffinity={"initial": str(last)}).split()[1] == str(last)
    assert joined(box, look, execCPUAffinity={"initial": str(last), "final": "0"}).split()[1] == "0"


def test_a_root_is_moved_where_it_cannot_be_pivoted(box: Runtime) -> None:
    box.write(**{"process.args": ["sh", "-c", "ls /; cat /proc/self/mountinfo"]})
    said = box.ok("run", "--no-pivot", "-b", str(box.bundle), "box")
    assert "bin\n" in said
    assert not (box.rootfs / "proc/self").exists()


@needs("userns")
def test_the_mounts_beneath_an_id_mapped_mount_are_mapped_too(box: Runtime, tmp_path: Path) -> None:
    inner = tmp_path / "owned/inner"
    inner.mkdir(parents=True)
    subprocess.run(["mount", "-n", "-t", "tmpfs", "-o", "uid=1000,gid=1000", "none", str(inner)], check=True)
    mapping = [{"containerID": 1000, "hostID": 7, "size": 1}]
    mount = {"destination": "/owned", "source": str(inner.parent), "uidMappings": mapping, "gidMappings": mapping}
    for option, owner in (("ridmap", "7"), ("idmap", "1000")):
        mounts = [*DEFAULT["mounts"], mount | {"options": ["rbind", option]}]
        assert box.said("stat -c %u /owned/inner", mounts=mounts) == f"{owner}\n"
    subprocess.run(["umount", "-n", str(inner)], check=True)


@needs("userns")
def test_an_id_mapping_may_be_relative_to_the_user_namespace(box: Runtime, tmp_path: Path) -> None:
    for path in (box.bundle, *list(box.bundle.parents)[:-1]):
        path.chmod(path.stat().st_mode | 0o055)
    subprocess.run(["chown", "-R", "100000:100000", str(box.rootfs)], check=True)
    (tmp_path / "owned").mkdir()
    os.chown(tmp_path / "owned", 50, 50)
    option = "idmap=uids=@50-3-1;gids=@50-3-1"  # 50 on disk is what the container knows as 3
    mount = {"destination": "/owned", "source": str(tmp_path / "owned"), "options": ["bind", option]}
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    names = ("pid", "network", "ipc", "uts", "mount", "user", "cgroup")
    said = box.said(
        "stat -c %u /owned",
        mounts=[*DEFAULT["mounts"], mount],
        **{
            "linux.namespaces": [{"type": kind} for kind in names],
            "linux.uidMappings": mapping,
            "linux.gidMappings": mapping,
        },
    )
    assert said == "3\n"
