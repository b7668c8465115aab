# SPDX-License-Identifier: Apache-2.0
"""crun's annotations, a mount on the root, and what is inherited: one way in, one thing seen in the container."""

import base64
import os
import socket
import struct
import subprocess
from pathlib import Path

from runtime.linux import fdpass
from tests.support import instruments
from tests.support.containers import DEFAULT, Runtime
from tests.support.needs import needs


def listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def received(listener: socket.socket) -> tuple[bytes, list[int]]:
    connection, _ = listener.accept()
    plain = fdpass.Socket(fileno=connection.detach())
    try:
        return fdpass.receive(plain)
    finally:
        plain.close()


def test_hooks_of_every_point_write_to_the_files_that_annotations_name(box: Runtime, tmp_path: Path) -> None:
    points = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    script = ["sh", "-c", "echo said $0; echo wrong $0 >&2"]
    hooks = {point: [{"path": "/bin/sh", "args": [*script, point]}] for point in points}
    files = {"run.oci.hooks.stdout": str(tmp_path / "out"), "run.oci.hooks.stderr": str(tmp_path / "err")}
    done = box.run("echo program", hooks=hooks, annotations=files)
    assert (done.stdout, done.stderr) == ("program\n", "")
    assert (tmp_path / "out").read_text() == "".join(f"said {point}\n" for point in points)
    assert (tmp_path / "err").read_text() == "".join(f"wrong {point}\n" for point in points)


def test_a_hook_in_the_container_has_the_programs_environment_if_it_has_none(box: Runtime) -> None:
    script = "test $WORD = yes && test $HOME = /root"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script]}
    assert (
        box.said("echo ran", hooks={"startContainer": [hook]}, **{"process.env": ["PATH=/bin", "WORD=yes"]}) == "ran\n"
    )
    other = hook | {"env": ["WORD=no"]}
    assert box.run("echo ran", hooks={"startContainer": [other]}).returncode == 1


def test_a_pidfd_is_sent_to_the_receiver(box: Runtime, tmp_path: Path) -> None:
    listener = listening(tmp_path / "receiver")
    pid = box.start(annotations={"run.oci.pidfd_receiver": str(tmp_path / "receiver")})
    _, (pidfd,) = received(listener)
    assert f"Pid:\t{pid}\n" in Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    os.close(pidfd)
    listener.close()


def test_a_seccomp_receiver_stands_for_the_listener_path(box: Runtime, tmp_path: Path) -> None:
    listener = listening(tmp_path / "agent")
    rule = {"names": ["sethostname"], "action": "SCMP_ACT_NOTIFY"}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    box.start(annotations={"run.oci.seccomp.receiver": str(tmp_path / "agent")}, **{"linux.seccomp": profile})
    data, (fd,) = received(listener)
    assert b'"seccompFd"' in data
    os.close(fd)
    listener.close()


def test_an_unknown_system_call_is_a_mistake_where_that_is_asked_for(box: Runtime) -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["no_such"], "action": "SCMP_ACT_ERRNO"}]}
    assert box.said("echo ran", **{"linux.seccomp": profile}) == "ran\n"
    done = box.run("true", annotations={"run.oci.seccomp_fail_unknown_syscall": "1"}, **{"linux.seccomp": profile})
    assert "knows no system call 'no_such'" in done.stderr


def test_a_compiled_filter_takes_the_place_of_the_profile(box: Runtime) -> None:
    number = 83  # mkdir on x86_64
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),  # load the number
            (0x15, 0, 1, number),
            (0x06, 0, 0, 0x00050000 | 99),  # ERRNO
            (0x06, 0, 0, 0x7FFF0000),  # ALLOW
        )
    )
    annotations = {"run.oci.seccomp_bpf_data": base64.b64encode(program).decode()}
    profile = {"defaultAction": "SCMP_ACT_KILL"}
    said = box.said("mkdir /x 2>&1; true", annotations=annotations, **{"linux.seccomp": profile})
    assert "Cannot assign requested address" in said


def test_what_asks_for_another_handler_is_refused(box: Runtime) -> None:
    done = box.run("true", annotations={"run.oci.handler": "krun"})
    assert "annotations.run.oci.handler: 'krun' is not supported" in done.stderr


def test_sockets_of_systemd_go_on_to_the_program(box: Runtime) -> None:
    reading, writing = os.pipe()
    script = "echo $LISTEN_FDS $LISTEN_PID; readlink /proc/$$/fd/3"
    box.write(**{"process.args": ["sh", "-c", script]})
    words = [instruments.command("ketch-runtime"), "--root", str(box.root), "run", "-b", str(box.bundle), "box"]

    def run(meant_for: str) -> list[str]:
        # 3 is the first of systemd's; LISTEN_PID is the process that was meant
        shell = f'exec 3<&{reading}; export LISTEN_FDS=1 LISTEN_PID={meant_for}; exec "$@"'
        return subprocess.run(
            ["bash", "-c", shell, "bash", *words], pass_fds=[reading], capture_output=True, text=True, check=False
        ).stdout.split()

    pipe = os.readlink(f"/proc/self/fd/{reading}")
    assert run("$$") == ["1", "1", pipe]
    assert run("1") == []
    os.close(reading)
    os.close(writing)


def test_more_preserved_descriptors_than_there_are_leak_none_of_ours(box: Runtime) -> None:
    box.write(**{"process.args": ["sh", "-c", "ls /proc/$$/fd; :"]})
    assert box.ok("run", "--preserve-fds", "50", "-b", str(box.bundle), "box").split() == ["0", "1", "2"]
    box.start()
    assert box.ok("exec", "--preserve-fds", "50", "box", "sh", "-c", "ls /proc/$$/fd; :").split() == ["0", "1", "2"]


def test_the_last_value_of_a_variable_counts(box: Runtime) -> None:
    box.start(**{"process.env": ["PATH=/bin", "A=1", "B=2", "A=3"]})
    assert box.ok("exec", "-e", "B=4", "box", "env").split()[:3] == ["PATH=/bin", "A=3", "B=4"]


@needs("userns")
def test_a_mount_on_the_root_is_the_root(box: Runtime) -> None:
    """Id-mapped: what the ids of the container own on disk belongs to root on the host."""
    os.chmod(box.root.parent, 0o755)
    for folder in (box.bundle, *box.bundle.parents):
        os.chmod(folder, os.stat(folder).st_mode | 0o5)
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    root = {"destination": "/", "source": str(box.rootfs), "options": ["rbind", "idmap"]}
    names = ("pid", "network", "ipc", "uts", "mount", "user", "cgroup")
    said = box.said(
        "touch /made; stat -c %u /bin/sh /made",
        mounts=[root, *DEFAULT["mounts"]],
        **{
            "linux.namespaces": [{"type": kind} for kind in names],
            "linux.uidMappings": mapping,
            "linux.gidMappings": mapping,
        },
    )
    assert said.split() == ["0", "0"]
    assert (box.rootfs / "made").stat().st_uid == 0


def test_a_throw_away_layer_over_a_read_only_root(box: Runtime, tmp_path: Path) -> None:
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    data = [f"lowerdir={box.rootfs}", f"upperdir={tmp_path / 'upper'}", f"workdir={tmp_path / 'work'}"]
    layer = {"destination": "/", "type": "overlay", "source": "overlay", "options": data}
    assert (
        box.said("touch /made && echo made", mounts=[layer, *DEFAULT["mounts"]], **{"root.readonly": False}) == "made\n"
    )
    assert (tmp_path / "upper/made").exists()
    assert not (box.rootfs / "made").exists()


@needs("userns")
def test_a_root_that_its_ids_cannot_walk_to_is_reached(box: Runtime, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    names = ("pid", "network", "ipc", "uts", "mount", "user", "cgroup")
    changes = {"linux.uidMappings": mapping, "linux.gidMappings": mapping}
    assert box.said("id -u", **{"linux.namespaces": [{"type": kind} for kind in names], **changes}) == "0\n"
