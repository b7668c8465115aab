# SPDX-License-Identifier: Apache-2.0
"""A pod's namespaces: pinned without a process, set up inside, and PID 1 shows nothing of the node."""

import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime.keep import client as keep
from runtime.keep.pins import share
from runtime.linux import mountinfo, mounts, processes
from tests.linux.test_keep import Node, wait_until
from tests.support.needs import needs


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.close()
    mounts.detach_all_beneath(str(tmp_path / "pins"))
    mounts.detach_all_beneath("/run/pins")
    if os.path.isdir("/run/pins"):
        os.rmdir("/run/pins")


def pins(*names: str) -> dict[str, str]:
    return {name: f"/run/pins/{name}" for name in names}


def inside(pid_or_path: str, kind: str, *command: str) -> str:
    return subprocess.run(
        ["nsenter", f"--{kind}={pid_or_path}", *command], capture_output=True, text=True, check=True
    ).stdout


def test_each_namespace_is_pinned_and_set_up(node: Node) -> None:
    wanted = pins("net", "ipc", "uts")
    sysctls = {
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv4.ping_group_range": "0 2147483647",
        "kernel.shm_rmid_forced": "1",
        "fs.mqueue.msg_max": "100",
    }
    made = node.client.pin_namespaces(keep.PinRequest(wanted, sysctls=sysctls, hostname="pod"))
    assert made.reaper is None
    for name, path in wanted.items():
        assert os.stat(path).st_ino != os.stat(f"/proc/self/ns/{name}").st_ino
    assert inside(wanted["uts"], "uts", "hostname") == "pod\n"
    assert "LOOPBACK,UP" in inside(wanted["net"], "net", "ip", "link", "show", "lo")
    read = ["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/net/ipv4/ping_group_range"]
    assert inside(wanted["net"], "net", *read).split() == ["0", "0", "2147483647"]
    read = ["cat", "/proc/sys/kernel/shm_rmid_forced", "/proc/sys/fs/mqueue/msg_max"]
    assert inside(wanted["ipc"], "ipc", *read).split() == ["1", "100"]
    assert Path("/proc/sys/kernel/shm_rmid_forced").read_text() == "0\n"
    node.client.unpin(wanted)
    node.client.unpin(wanted)
    assert os.listdir("/run/pins") == []


def test_pins_show_in_mount_namespaces_that_are_older(node: Node) -> None:
    node.client.unpin(pins())
    node.client.pin_namespaces(keep.PinRequest({"uts": "/run/pins/first"}))
    other = subprocess.Popen(["unshare", "-m", "--propagation", "unchanged", "sleep", "1000"])
    try:
        node.client.pin_namespaces(keep.PinRequest({"uts": "/run/pins/second"}))
        points = [entry.point for entry in mountinfo.read(other.pid)]
        assert "/run/pins/second" in points
        node.client.unpin({"a": "/run/pins/first", "b": "/run/pins/second"})
        assert not any(entry.point.startswith("/run/pins/") for entry in mountinfo.read(other.pid))
    finally:
        other.kill()
        other.wait()


def test_the_folder_of_pins_is_mounted_once_when_two_are_first(tmp_path: Path) -> None:
    """Both have opened it before either has mounted; a third one holds the lock until that is so."""
    folder = tmp_path / "pins"
    folder.mkdir()
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    waiting = f":{folder.stat().st_ino} 0 EOF"  # once for who has the lock, once for each who waits
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(share, str(folder)) for _ in range(2)]
        wait_until(lambda: Path("/proc/locks").read_text().count(waiting) == 3)
        os.close(lock)
        for one in both:
            one.result()
    assert [entry.point for entry in mountinfo.read()].count(str(folder)) == 1
    mounts.detach(str(folder))


@needs("userns")
def test_a_user_namespace_owns_the_others(node: Node) -> None:
    mapping = (keep.IdMapping(0, 200000, 65536),)
    wanted = pins("user", "net", "ipc", "uts", "pid")
    request = keep.PinRequest(wanted, uid_mappings=mapping, gid_mappings=mapping)
    made = node.client.pin_namespaces(request)
    assert made.reaper is not None
    uid_map = Path(f"/proc/{made.reaper.pid}/uid_map").read_text().split()
    assert uid_map == ["0", "200000", "65536"]
    assert os.stat(f"/proc/{made.reaper.pid}").st_uid == 200000
    processes.signal(made.reaper.pid, made.reaper.start_time, signal.SIGKILL)
    node.client.unpin(wanted)


def test_pid_one_has_an_empty_root_no_descriptors_and_no_rights(node: Node) -> None:
    groups = ["/sys/fs/cgroup/memory/pins", "/sys/fs/cgroup/pids/pins"]
    groups = [group for group in groups if os.path.isdir(os.path.dirname(group))]
    for group in groups:
        os.mkdir(group)
    wanted = pins("net", "ipc", "uts", "pid")
    request = keep.PinRequest(wanted, reaper_cgroups=groups, reaper_oom_score_adj=500)
    reaper = node.client.pin_namespaces(request).reaper
    assert reaper is not None
    proc = Path(f"/proc/{reaper.pid}")
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
    assert status["NSpid"].split()[-1] == "1"
    assert {status[name] for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert os.listdir(proc / "fd") == []
    assert os.listdir(proc / "root") == []
    assert os.statvfs(proc / "root").f_flag & os.ST_RDONLY
    assert (proc / "environ").read_bytes() == b""
    assert (proc / "oom_score_adj").read_text() == "500\n"
    for name in ("net", "ipc", "uts", "pid"):
        assert os.stat(proc / "ns" / name).st_ino == os.stat(wanted[name]).st_ino
    binary = os.open(proc / "exe", os.O_PATH)
    for group in groups:
        assert str(reaper.pid) in Path(group, "cgroup.procs").read_text().split()
    assert processes.signal(reaper.pid, reaper.start_time, signal.SIGTERM)
    subprocess.run(["tail", "--pid", str(reaper.pid), "-f", "/dev/null"], check=True, timeout=10)
    with pytest.raises(OSError, match="Read-only file system"):
        os.open(f"/proc/self/fd/{binary}", os.O_WRONLY)  # as CVE-2019-5736 does once nobody executes it
    os.close(binary)
    node.client.unpin(wanted)
    for group in groups:
        os.rmdir(group)


def test_it_reaps_what_the_pod_orphans(node: Node) -> None:
    wanted = pins("pid")
    reaper = node.client.pin_namespaces(keep.PinRequest(wanted)).reaper
    assert reaper is not None
    spaces = [{"type": "pid", "path": wanted["pid"]}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]
    node.shell("a", "(sleep 0.1 &); (sleep 0.1 &); cat /proc/1/comm; sleep 0.5", namespaces=spaces)
    assert node.client.wait("a", 10).exit_code == 0  # type: ignore[union-attr]
    assert Path(f"/proc/{reaper.pid}/task/{reaper.pid}/children").read_text() == ""
    assert node.output("a").strip() not in ("sh", "")
    processes.signal(reaper.pid, reaper.start_time, signal.SIGKILL)
    node.client.unpin(wanted)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (keep.PinRequest({"uts": "/run/pins/a"}, sysctls={"kernel.panic": "1"}), "kernel.panic"),
        (keep.PinRequest({"uts": "/run/pins/a"}, sysctls={"net.ipv4.ip_forward": "1"}), "shares the node's net"),
        (keep.PinRequest({"net": "/run/pins/a"}, sysctls={"net.no.such": "1"}), "net.no.such"),
        (keep.PinRequest({"mnt": "/run/pins/a"}), "'mnt'"),
        pytest.param(
            keep.PinRequest({"user": "/run/pins/a"}, uid_mappings=(keep.IdMapping(0, 1, 0),)),
            "uid mapping",
            marks=needs("userns"),
        ),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_no_pin(node: Node, request_: keep.PinRequest, says: str) -> None:
    with pytest.raises(keep.Refused, match=says):
        node.client.pin_namespaces(request_)
    assert not os.path.isdir("/run/pins") or os.listdir("/run/pins") == []


@needs("userns")
def test_containers_of_a_pod_with_users_or_a_shared_root_start_from_the_hosts_mounts(node: Node) -> None:
    mapping = (keep.IdMapping(0, 200000, 65536),)
    wanted = pins("user", "net", "ipc", "uts", "pid")
    reaper = node.client.pin_namespaces(keep.PinRequest(wanted, uid_mappings=mapping, gid_mappings=mapping)).reaper
    assert reaper is not None
    kinds = {"net": "network"}
    spaces = [{"type": kinds.get(name, name), "path": path} for name, path in wanted.items()] + [{"type": "mount"}]
    os.chmod(node.top, 0o755)
    for directory in node.top.parents:
        os.chmod(directory, os.stat(directory).st_mode | 0o011)
    ids = [{"containerID": 0, "hostID": 200000, "size": 65536}]
    node.shell("a", "cat /proc/self/uid_map", namespaces=spaces, uidMappings=ids, gidMappings=ids)
    assert node.client.wait("a", 10).exit_code == 0  # type: ignore[union-attr]
    assert node.output("a").split() == ["0", "200000", "65536"]
    shared = [{"type": "pid"}, {"type": "mount"}]
    node.shell("b", "echo shared", namespaces=shared, rootfsPropagation="rshared")
    assert node.client.wait("b", 10).exit_code == 0  # type: ignore[union-attr]
    processes.signal(reaper.pid, reaper.start_time, signal.SIGKILL)
    node.client.unpin(wanted)
