# SPDX-License-Identifier: Apache-2.0
"""Attacks on the OCI runtime, each tried for real: the outcome is that nothing of the host is reached or changed."""

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runtime.linux import cgroup
from tests.support import crash, instruments
from tests.support.containers import Runtime


def mounts_with(*more: dict[str, Any]) -> list[dict[str, Any]]:
    from tests.support.containers import DEFAULT

    return [*DEFAULT["mounts"], *more]


def create(box: Runtime, name: str = "box", **changes: Any) -> int:
    box.write(**changes)
    null = subprocess.DEVNULL
    command = [instruments.command("ketch-runtime"), "--root", str(box.root), "create", "-b", str(box.bundle), name]
    subprocess.run(command, stdin=null, stdout=null, stderr=null, check=True)
    return int(box.state(name)["pid"])


def test_a_symlink_as_mount_target_stays_inside_the_root(box: Runtime, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    os.symlink(str(outside), box.rootfs / "data")
    os.symlink("../../../../../../../.." + str(outside), box.rootfs / "other")
    tmpfs = {"type": "tmpfs", "source": "tmpfs"}
    said = box.said(
        "touch /data/in /other/in; ls /data /other",
        mounts=mounts_with({"destination": "/data", **tmpfs}, {"destination": "/other/deep", **tmpfs}),
    )
    assert "in" in said
    assert list(outside.iterdir()) == []


def test_a_symlinked_dev_makes_no_node_on_the_host(box: Runtime, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (box.rootfs / "dev").rmdir()
    os.symlink(str(outside), box.rootfs / "dev")
    without_dev = [mount for mount in mounts_with() if not mount["destination"].startswith("/dev")]
    box.run("true", mounts=without_dev)
    assert list(outside.iterdir()) == []


def test_a_node_of_the_image_is_not_taken_for_a_device(box: Runtime) -> None:
    os.symlink("/etc/passwd", box.rootfs / "dev/null")
    without_dev = [mount for mount in mounts_with() if not mount["destination"].startswith("/dev")]
    done = box.run("true", mounts=without_dev)
    assert "/dev/null in the root file system is something else" in done.stderr


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_proc_and_sys_must_be_directories(box: Runtime, name: str) -> None:
    (box.rootfs / name).rmdir()
    os.symlink("/tmp", box.rootfs / name)
    done = box.run("true")
    assert done.returncode == 1
    assert f"must be mounted on ordinary directory, and /{name} is none" in done.stderr


def test_a_symlink_of_the_image_leads_no_mount_into_proc(box: Runtime) -> None:
    os.symlink("/proc/sys", box.rootfs / "innocent")
    done = box.run("true", mounts=mounts_with({"destination": "/innocent", "type": "tmpfs", "source": "tmpfs"}))
    assert "leads into /proc, where nothing may be mounted" in done.stderr


def test_a_fake_procfs_swallows_no_sysctl_and_no_score(box: Runtime, tmp_path: Path) -> None:
    """CVE-2019-19921, CVE-2025-52881: what is written for the container goes to a procfs that nobody can cover."""
    fake = tmp_path / "fake"
    for file in ("sys/kernel/msgmax", "1/oom_score_adj", "self/oom_score_adj"):
        (fake / file).parent.mkdir(parents=True, exist_ok=True)
        (fake / file).write_text("fake\n")
    covered = [mount for mount in mounts_with() if mount["destination"] != "/proc"]
    proc = {"destination": "/proc", "source": str(fake), "options": ["bind"]}
    changes = {"linux.sysctl": {"kernel.msgmax": "77"}, "process.oomScoreAdj": 321}
    box.write(**{"mounts": [proc, *covered], "process.args": ["sleep", "1000"], **changes})
    words = [instruments.command("ketch-runtime"), "--root", str(box.root), "run", "-d", "-b", str(box.bundle), "box"]
    null = subprocess.DEVNULL
    subprocess.run(words, stdin=null, stdout=null, stderr=null, check=True)
    pid = box.state()["pid"]
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "321\n"
    seen = subprocess.run(
        ["nsenter", "-i", "-t", str(pid), "cat", "/proc/sys/kernel/msgmax"], capture_output=True, text=True, check=True
    )
    assert seen.stdout == "77\n"
    assert {path.read_text() for path in fake.rglob("*") if path.is_file()} == {"fake\n"}


def test_a_symlink_as_console_shows_the_terminal_nowhere_else(box: Runtime, tmp_path: Path) -> None:
    """CVE-2025-52565: the terminal is bound by descriptors, beneath the root."""
    outside = tmp_path / "outside"
    outside.write_text("host\n")
    (box.rootfs / "dev").mkdir(exist_ok=True)
    os.symlink("../../../../../../.." + str(outside), box.rootfs / "dev/console")
    without_dev = [mount for mount in mounts_with() if mount["destination"] != "/dev"]
    box.write(**{"mounts": without_dev, "process.terminal": True, "process.args": ["sh", "-c", "cat /proc/mounts"]})
    command = [instruments.command("ketch-runtime"), "--root", str(box.root), "run", "-b", str(box.bundle), "box"]
    subprocess.run(["script", "-qec", " ".join(command), "/dev/null"], stdin=subprocess.DEVNULL, check=False)
    assert outside.read_text() == "host\n"
    assert not any(str(outside) in line for line in Path("/proc/self/mounts").read_text().splitlines())


def test_inheritable_capabilities_are_only_those_that_are_asked_for(box: Runtime) -> None:
    """CVE-2022-29162."""
    script = "grep -E 'CapInh|CapAmb' /proc/self/status"
    assert box.said(script).split() == ["CapInh:", "0" * 16, "CapAmb:", "0" * 16]


@pytest.mark.parametrize("user", ["0x10", "1e3", "-1", "+5", "1000 ", "root", "1:2:3", "٣"])
def test_a_user_that_is_no_number_is_never_taken_for_root(box: Runtime, user: str) -> None:
    """CVE-2026-30892."""
    box.start()
    done = box.call("exec", f"--user={user}", "box", "id")
    assert done.returncode != 0
    assert "--user: expected UID or UID:GID as numbers" in done.stderr


@pytest.mark.parametrize("cwd", ["/proc/self/fd/7", "/proc/self/fd/3", "/proc/self/fd/8/../.."])
def test_a_descriptor_of_the_host_is_no_working_directory(box: Runtime, cwd: str) -> None:
    box.write(**{"process.cwd": cwd, "process.args": ["sh", "-c", "ls /; cat ../../../../etc/shadow"]})
    program = f"exec 7</ 8</; exec {instruments.command('ketch-runtime')} --root {box.root} run -b {box.bundle} box"
    done = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode != 0
    assert "root:" not in done.stdout


def test_a_waiting_init_holds_nothing_of_the_host(box: Runtime) -> None:
    pid = create(box)
    held = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    beyond = {fd: what for fd, what in held.items() if int(fd) > 2}
    assert all(what.startswith(("socket:", "/", "anon_inode:")) for what in beyond.values())
    for fd, what in beyond.items():
        facts = os.stat(f"/proc/{pid}/fd/{fd}")
        # procfs of the container is the only directory; everything else is a socket
        assert stat.S_ISSOCK(facts.st_mode) or what == "/", (fd, what)
    assert os.path.samefile(f"/proc/{pid}/root", f"/proc/{pid}/cwd")
    assert not os.path.exists(f"/proc/{pid}/root{box.rootfs}")
    with open(f"/proc/{pid}/status") as status:
        assert "Umask:\t0022" in status.read()


def test_a_neighbour_cannot_look_into_a_waiting_init(box: Runtime, tmp_path: Path) -> None:
    first = box.start("sleep", "1000")
    spaces = [{"type": kind} for kind in ("network", "ipc", "uts", "mount", "cgroup")]
    spaces.append({"type": "pid", "path": f"/proc/{first}/ns/pid"})
    create(box, "second", **{"linux.namespaces": spaces})
    capabilities = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_MKNOD",
        "CAP_SYS_CHROOT",
    ]
    process = {
        "args": ["sh", "-c", "for p in /proc/[0-9]*; do ls $p/root/ $p/fd/ > /dev/null 2>&1 && echo $p; done; true"],
        "cwd": "/",
        "env": ["PATH=/bin"],
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
    }
    (tmp_path / "process.json").write_text(json.dumps(process))
    readable = box.ok("exec", "--process", str(tmp_path / "process.json"), "box").split()
    assert "/proc/2" not in readable  # the waiting init of the neighbour
    assert "/proc/1" in readable or readable  # its own kind it may read


def test_nothing_of_the_container_is_imported(box: Runtime) -> None:
    trap = "raise SystemExit('hostile')\nopen('/hostile-was-here', 'w')\n"
    for folder in ("", "runtime", "runtime/linux", "encodings", "lib/python3.11", "usr/lib/python3.11"):
        where = box.rootfs / folder
        where.mkdir(parents=True, exist_ok=True)
        for name in ("json.py", "os.py", "signal.py", "select.py", "_socket.py", "labels.py", "__init__.py", "idna.py"):
            (where / name).write_text(trap)
    done = box.run(
        "echo unharmed", **{"process.env": ["PATH=/bin", "PYTHONPATH=/", "PYTHONHOME=/"], "hostname": "bücher"}
    )
    assert done.stdout == "unharmed\n"
    assert not (box.rootfs / "hostile-was-here").exists()
    box.start()
    assert box.ok("exec", "--cwd", "/encodings", "box", "echo", "unharmed") == "unharmed\n"


def test_passwd_is_read_as_a_plain_file(box: Runtime) -> None:
    (box.rootfs / "etc/passwd").unlink()
    os.mkfifo(box.rootfs / "etc/passwd")
    assert box.said("echo $HOME") == "/root\n"
    (box.rootfs / "etc/passwd").unlink()
    os.symlink("/../../../../../../etc/passwd", box.rootfs / "etc/passwd")
    box.run("true")


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda path: path.write_bytes(b"#!/no/such\n"), "its interpreter '/no/such'"),
        (lambda path: path.write_bytes(b"#!/bin/sh\r\necho\r\n"), "ends in CRLF"),
        (lambda path: path.write_bytes(b"plain text\n"), "exec format error"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.mkdir(), "is a directory"),
        (
            lambda path: path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00" + bytes(44)),
            "built for aarch64",
        ),
        (lambda path: os.symlink("/gone", path), "a symlink to '/gone', which does not exist"),
        (lambda path: None, "no such file or directory"),
    ],
)
def test_a_program_that_cannot_run_is_told_why(box: Runtime, make: Any, cause: str) -> None:
    path = box.rootfs / "program"
    make(path)
    if path.is_file() and not path.is_symlink():
        path.chmod(0o755)
    box.write(**{"process.args": ["/program"]})
    done = box.call("run", "-b", str(box.bundle), "box")
    assert done.returncode == 1
    assert cause in done.stderr, done.stderr


def test_a_program_without_its_loader_or_execute_bit_is_told_so(box: Runtime, tmp_path: Path) -> None:
    program = box.rootfs / "program"
    program.write_bytes(Path("/usr/bin/env").read_bytes())
    program.chmod(0o644)
    box.write(**{"process.args": ["/program"]})
    assert "no execute bit (chmod +x)" in box.call("run", "-b", str(box.bundle), "box").stderr
    program.chmod(0o755)
    assert (
        "its ELF loader '/lib64/ld-linux-x86-64.so.2' does not exist"
        in box.call("run", "-b", str(box.bundle), "box").stderr
    )
    noexec = {"destination": "/n", "source": str(box.rootfs / "bin"), "options": ["bind", "noexec"]}
    box.write(**{"process.args": ["/n/busybox"]}, mounts=mounts_with(noexec))
    assert "is mounted noexec" in box.call("run", "-b", str(box.bundle), "box").stderr


def test_a_cgroup_with_processes_is_not_shared_with_another_container(box: Runtime) -> None:
    pid = box.start(**{"linux.cgroupsPath": "/shared"})
    done = box.call("create", "-b", str(box.bundle), "other")
    assert done.returncode == 1
    assert "linux.cgroupsPath: the container's cgroup" in done.stderr
    assert f"is not empty: 1 process(es) found, the first is {pid}" in done.stderr
    assert not (box.root / "other").exists()
    box.ok("delete", "--force", "other")
    assert box.state()["status"] == "running"


def nothing_left(box: Runtime, name: str) -> None:
    assert not (box.root / name).exists()
    group = cgroup.Group(cgroup.layout().directories(name), v2=cgroup.layout().v2)
    assert not group.exists(), group.paths


@pytest.mark.timeout(300)
@pytest.mark.parametrize("verb", ["run", "start", "delete"])
def test_killed_at_any_call_delete_force_leaves_nothing(box: Runtime, verb: str) -> None:
    command = [instruments.command("ketch-runtime"), "--root", str(box.root)]
    program = ["true"] if verb == "run" else ["sleep", "1000"]  # the tracer waits for the end of all it traces
    box.write(**{"process.args": program, "linux.cgroupsPath": "/crashed"})
    create = ["create", "-b", str(box.bundle), "crashed"]
    words = {
        "run": ["run", "-b", str(box.bundle), "crashed"],
        "start": ["start", "crashed"],
        "delete": ["delete", "crashed"],
    }
    null = subprocess.DEVNULL

    def before() -> None:
        if verb != "run":
            subprocess.run([*command, *create], stdin=null, stdout=null, stderr=null, check=True)
        if verb == "delete":
            box.ok("kill", "crashed", "KILL")

    before()
    total = crash.count([*command, *words[verb]])
    box.ok("delete", "--force", "crashed")
    nothing_left(box, "crashed")
    for n in range(1, total + 1, max(1, total // 10)):
        before()
        crash.kill_at([*command, *words[verb]], n, everyone=n % 2 == 0)
        box.ok("delete", "--force", "crashed")
        nothing_left(box, "crashed")
