# SPDX-License-Identifier: Apache-2.0
"""Options of mounts and of commands that few use and each has a meaning to hold."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from runtime.linux import fdpass
from tests.support import instruments
from tests.support.containers import DEFAULT, Runtime


def with_mount(**mount: object) -> list[dict[str, object]]:
    return [*DEFAULT["mounts"], {"destination": "/there", **mount}]


def test_a_symlink_is_copied_or_mounted_itself_or_followed(box: Runtime, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    os.symlink("file", tmp_path / "link")
    look = "readlink /there; cat /there 2> /dev/null; true"

    def said(*options: str) -> str:
        (box.rootfs / "there").unlink(missing_ok=True)
        mounts = with_mount(source=str(tmp_path / "link"), options=["bind", *options])
        return box.said(look, mounts=mounts)

    assert said() == "content\n"
    assert said("copy-symlink") == "file\n"
    mounts = with_mount(source=str(tmp_path / "link"), options=["bind", "copy-symlink"])
    os.unlink(box.rootfs / "there")
    os.symlink("elsewhere", box.rootfs / "there")
    assert "File exists" in box.run("true", mounts=mounts).stderr


def test_a_symlink_at_the_destination_is_covered_where_that_is_asked_for(box: Runtime, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    (box.rootfs / "target").write_text("target\n")
    os.symlink("target", box.rootfs / "there")
    os.symlink("file", tmp_path / "link")
    options = ["bind", "src-nofollow", "dest-nofollow"]
    said = box.said("readlink /there; cat /target", mounts=with_mount(source=str(tmp_path / "link"), options=options))
    assert said == "file\ntarget\n"
    assert os.readlink(box.rootfs / "there") == "target"


def test_what_is_unbindable_is_not_bound_again(box: Runtime) -> None:
    mounts = with_mount(type="tmpfs", source="tmpfs", options=["unbindable"])
    line = next(s for s in box.said("cat /proc/self/mountinfo", mounts=mounts).splitlines() if " /there " in s)
    assert "unbindable" in line


def test_the_callers_groups_are_kept_where_that_is_asked_for(box: Runtime) -> None:
    box.write(**{"process.args": ["id", "-G"], "annotations": {"run.oci.keep_original_groups": "1"}})
    command = [instruments.command("ketch-runtime"), "--root", str(box.root), "run", "-b", str(box.bundle), "box"]
    groups = ["setpriv", "--groups", "7,8"]
    done = subprocess.run([*groups, *command], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    assert {"7", "8"} <= set(done.stdout.split())
    assert box.said("id -G", annotations={}).split() == ["0"]


def test_the_pid_is_told_by_a_file_and_a_socket(box: Runtime, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "pidfd"))
    listener.listen()
    box.write(**{"process.args": ["sleep", "1000"]})
    words = ["run", "-d", "-b", str(box.bundle), "--pid-file", str(tmp_path / "pid")]
    command = [instruments.command("ketch-runtime"), "--root", str(box.root), *words]
    null = subprocess.DEVNULL
    subprocess.run(
        [*command, "--pidfd-socket", str(tmp_path / "pidfd"), "box"], stdin=null, stdout=null, stderr=null, check=True
    )
    pid = int((tmp_path / "pid").read_text())
    assert pid == box.state()["pid"]
    plain = fdpass.Socket(fileno=listener.accept()[0].detach())
    _, (pidfd,) = fdpass.receive(plain)
    plain.close()
    signal.pidfd_send_signal(pidfd, 0)
    assert f"Pid:\t{pid}\n" in Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    os.close(pidfd)
    listener.close()


def test_a_container_has_a_keyring_of_its_own_unless_told_otherwise(box: Runtime) -> None:
    # A name of its own for each: the kernel collects the keyring of a container that ended only after a while.
    for flags, name, count in ((), "apart", "1\n"), (("--no-new-keyring",), "shared", "0\n"):
        look = ["sh", "-c", f"grep -c _ses.{name} /proc/keys"]
        box.write(**{"linux.maskedPaths": [], "process.args": look})
        assert box.call("run", *flags, "-b", str(box.bundle), name).stdout == count


def test_an_exec_into_a_paused_container_waits_only_where_that_is_asked_for(box: Runtime) -> None:
    box.start()
    box.ok("pause", "box")
    assert "it is paused" in box.call("exec", "box", "true").stderr
    command = [instruments.command("ketch-runtime"), "--root", str(box.root), "exec", "--ignore-paused", "box", "true"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.3)
        box.ok("resume", "box")
        assert waiting.wait(10) == 0
