# SPDX-License-Identifier: Apache-2.0
"""ketch-runtime on the real kernel: the life of a container, and what its config asks for."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from runtime.linux import cgroup, fdpass
from tests.support.containers import Runtime
from tests.support.needs import needs


def create(box: Runtime, name: str = "box", **changes: object) -> None:
    box.write(**changes)
    log = box.root.parent / f"{name}.out"
    with open(log, "wb") as out:
        done = subprocess.run(
            [box_command(), "--root", str(box.root), "create", "-b", str(box.bundle), name],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            check=False,
        )
    assert done.returncode == 0, log.read_text()


def box_command() -> str:
    from tests.support import instruments

    return instruments.command("ketch-runtime")


def output(box: Runtime, name: str = "box") -> str:
    return (box.root.parent / f"{name}.out").read_text()


def received(connection: socket.socket) -> tuple[bytes, list[int]]:
    plain = fdpass.Socket(fileno=connection.detach())
    try:
        return fdpass.receive(plain)
    finally:
        plain.close()


def wait_for(box: Runtime, status: str, name: str = "box") -> None:
    deadline = time.monotonic() + 10
    while box.state(name)["status"] != status:
        assert time.monotonic() < deadline, box.state(name)
        time.sleep(0.02)


def test_a_container_is_created_started_stopped_and_deleted(box: Runtime) -> None:
    create(box, **{"process.args": ["sh", "-c", "echo it runs; exec sleep 1000"]})
    state = box.state()
    assert state["status"] == "created"
    assert os.readlink(f"/proc/{state['pid']}/ns/pid") != os.readlink("/proc/self/ns/pid")
    assert output(box) == ""
    box.ok("start", "box")
    wait_for(box, "running")
    assert output(box) == "it runs\n"
    assert "and only a created one can be" in box.call("start", "box").stderr
    assert "stop it first" in box.call("delete", "box").stderr
    box.ok("kill", "box", "KILL")
    wait_for(box, "stopped")
    assert box.state()["pid"] == 0
    assert box.call("kill", "box").stderr == "ketch-runtime: error: container not running\n"
    assert len(box.ok("ps", "box").splitlines()) == 1  # its headings, as with runc
    assert box.ok("ps", "--format", "json", "box").strip() == "[]"
    box.ok("delete", "box")
    assert "does not exist" in box.call("state", "box").stderr
    assert not cgroup.Group(cgroup.layout().directories("box"), v2=False).exists()


def test_the_exit_status_of_run_is_the_programs(box: Runtime) -> None:
    assert box.run("exit 7").returncode == 7
    assert box.run("kill -9 $$").returncode == 137 or box.run("kill -9 $$").returncode == 0  # pid 1 is immune to itself
    assert box.run("exec true").returncode == 0


def test_what_a_config_asks_for_is_what_a_container_gets(box: Runtime) -> None:
    said = box.said(
        "hostname; id -u; id -g; pwd; umask; echo $A; ulimit -n; "
        "grep -E 'CapEff|NoNewPrivs' /proc/self/status; echo $HOME",
        **{
            "process.user": {"uid": 1000, "gid": 1000, "umask": 0o27, "additionalGids": [1001]},
            "process.cwd": "/tmp",
            "process.env": ["PATH=/bin", "A=b c"],
            "process.noNewPrivileges": True,
            "process.rlimits": [{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 100}],
        },
    ).split("\n")
    assert said[:7] == ["box", "1000", "1000", "/tmp", "0027", "b c", "99"]
    assert said[7].split() == ["CapEff:", "0" * 16]
    assert said[8].split() == ["NoNewPrivs:", "1"]
    assert said[9] == "/home/user"


def test_mounts_have_the_options_that_were_asked_for(box: Runtime, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "file").write_text("from the host\n")
    box.write()
    mounts = json.loads((box.bundle / "config.json").read_text())["mounts"]
    mounts += [
        {"destination": "/data", "source": str(tmp_path / "shared"), "options": ["rbind", "ro", "nosuid"]},
        {"destination": "/one", "source": str(tmp_path / "shared/file"), "options": ["bind"]},
        {"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "mode=700", "noexec"]},
        {"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]},
        {"destination": "relative/deep", "type": "tmpfs", "source": "tmpfs"},
    ]
    said = box.said(
        "cat /data/file /one; echo x > /data/y; cat /etc/hostname; touch /etc/new && echo copied; "
        "grep -E ' (/data|/scratch|/relative/deep) ' /proc/mounts",
        mounts=mounts,
    )
    assert said.startswith("from the host\nfrom the host\nketch\ncopied\n")
    options = {line.split()[1]: line.split()[3].split(",") for line in said.splitlines()[4:]}
    assert {"ro", "nosuid"} <= set(options["/data"])
    assert {"rw", "noexec", "size=64k", "mode=700"} <= set(options["/scratch"])
    assert "/relative/deep" in options
    assert not (tmp_path / "shared/y").exists()


def test_masked_paths_are_empty_and_readonly_paths_refuse_writes(box: Runtime) -> None:
    said = box.said(
        "cat /proc/keys | wc -c; ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/domainname; echo $?",
        **{"root.readonly": True},
    )
    assert said.split() == ["0", "0", "1"]
    assert box.run("touch /x", **{"root.readonly": True}).returncode == 1


@pytest.mark.in_vm_too
def test_limits_arrive_in_the_control_groups(box: Runtime) -> None:
    box.start(
        **{
            "linux.resources": {
                "memory": {"limit": 1 << 25},
                "cpu": {"shares": 512, "quota": 50000, "period": 100000},
                "pids": {"limit": 20},
            }
        }
    )
    layout = cgroup.layout()
    group = cgroup.Group(layout.directories("box"), v2=layout.v2)
    if layout.v2:
        wanted = {
            ("memory", "memory.max"): str(1 << 25),
            ("cpu", "cpu.max"): "50000 100000",
            ("pids", "pids.max"): "20",
        }
    else:
        wanted = {
            ("memory", "memory.limit_in_bytes"): str(1 << 25),
            ("cpu", "cpu.shares"): "512",
            ("cpu", "cpu.cfs_quota_us"): "50000",
            ("pids", "pids.max"): "20",
        }
    assert {key: group.read(*key) for key in wanted} == wanted
    box.ok("update", "--pids-limit", "30", "--memory", "64m", "box")
    assert group.read("pids", "pids.max") == "30"
    events = json.loads(box.ok("events", "--stats", "box"))
    assert events["type"] == "stats"
    assert events["data"]["pids"]["current"] >= 1
    assert events["data"]["memory"]["usage"]["limit"] == 64 << 20


@pytest.mark.in_vm_too
def test_only_allowed_devices_can_be_opened(box: Runtime) -> None:
    said = box.said(
        "echo x > /dev/null && echo null; mknod /dev/mem2 c 1 1; cat /dev/mem2 2>&1 | grep -c 'not permitted'",
        **{
            "linux.resources.devices": [{"allow": False, "access": "rwm"}],
            "process.capabilities": {kind: ["CAP_MKNOD"] for kind in ("bounding", "effective", "permitted")},
        },
    )
    assert said.split() == ["null", "1"]


def test_a_process_joins_a_container(box: Runtime) -> None:
    box.start("sleep", "1000")
    done = box.call("exec", "-e", "X=y", "box", "sh", "-c", "echo $X; ps | wc -l; exit 3")
    assert done.returncode == 3
    assert done.stdout.split()[0] == "y"
    assert box.call("exec", "box", "nosuch").returncode == 255
    process = {"args": ["id", "-u"], "cwd": "/", "user": {"uid": 65534, "gid": 65534}, "env": ["PATH=/bin"]}
    (box.bundle / "process.json").write_text(json.dumps(process))
    assert box.ok("exec", "--process", str(box.bundle / "process.json"), "box") == "65534\n"
    assert box.ok("exec", "-u", "1000:1000", "box", "id", "-u") == "1000\n"
    assert "expected UID or UID:GID" in box.call("exec", "-u", "root", "box", "id").stderr
    pids = json.loads(box.ok("ps", "--format", "json", "box"))
    assert pids == [box.state()["pid"]]


def test_what_keeps_a_command_from_running_is_told_from_its_own_status(box: Runtime) -> None:
    box.start("sleep", "1000")
    for words in (
        ("nosuch", "true"),
        ("-u", "root", "box", "id"),
        ("--cwd", "relative", "box", "true"),
        ("-e", "A", "box", "true"),
        ("--process", "/nosuch", "box"),
        ("-t", "-d", "box", "true"),
        ("-t", "--console-socket", "/nosuch/socket", "box", "true"),
    ):
        done = box.call("exec", *words)
        assert (done.returncode, done.stderr.count("\n")) == (255, 1), done
        assert "Errno" not in done.stderr
    box.ok("pause", "box")
    assert box.call("exec", "box", "true").returncode == 255
    box.ok("resume", "box")


def test_a_joined_program_whose_pid_cannot_be_told_is_ended(box: Runtime) -> None:
    box.start("sleep", "1000")
    done = box.call("exec", "-d", "--pid-file", "/nosuch/pid", "box", "sleep", "2000", timeout=10)
    assert done.returncode == 255
    assert "--pid-file /nosuch/pid: cannot write: No such file or directory" in done.stderr
    assert json.loads(box.ok("ps", "--format", "json", "box")) == [box.state()["pid"]]


def test_a_preserved_number_that_the_caller_left_free_holds_nothing_of_ours(box: Runtime) -> None:
    look = "for fd in 3 4 5 6 7 8 9; do [ ! -L /proc/$$/fd/$fd ] || readlink /proc/$$/fd/$fd; done"
    with_four = ["sh", "-c", 'exec 4</dev/zero "$@"', "sh", box_command(), "--root", str(box.root)]
    box.write(**{"process.args": ["sh", "-c", look]})
    run = [*with_four, "run", "--preserve-fds", "7", "-b", str(box.bundle), "box"]
    assert subprocess.check_output(run, text=True) == "/dev/zero\n"
    box.start("sleep", "1000")
    join = [*with_four, "exec", "--preserve-fds", "7", "box", "sh", "-c", look]
    assert subprocess.check_output(join, text=True) == "/dev/zero\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_standard_descriptor_is_nothing_to_commands_and_containers(box: Runtime, closed: str) -> None:
    def without(*words: str) -> int:
        command = ["sh", "-c", f'exec "$@" {closed}', "sh", box_command(), "--root", str(box.root), *words]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode

    assert [without(word) for word in ("list", "features", "--version")] == [0, 0, 0]
    assert without("state", "nosuch") == 1
    look = "exec 9>/tmp/fds; for fd in 0 1 2 3 4 5 6 7 8; do echo $(readlink /proc/1/fd/$fd) >&9; done; exit 7"
    box.write(**{"process.args": ["sh", "-c", look]})
    assert without("run", "-b", str(box.bundle), "box") == 7
    held = (box.rootfs / "tmp/fds").read_text().split()
    assert held.count("/dev/null") >= len(closed.split()), held
    assert all(link.startswith(("/dev/null", "pipe:")) for link in held), held


def test_too_little_memory_to_join_a_pods_processes_is_told(box: Runtime) -> None:
    pid = box.start("sleep", "1000")
    spaces = [{"type": "pid", "path": f"/proc/{pid}/ns/pid"}, {"type": "mount"}]
    little = {"linux.resources.memory": {"limit": 4096}, "linux.cgroupsPath": "/little", "hostname": None}
    box.write(**{"linux.namespaces": spaces, **little})
    done = box.call("create", "-b", str(box.bundle), "little", timeout=20)
    assert done.returncode == 1
    assert "whose limit is" in done.stderr


@pytest.mark.in_vm_too
def test_a_paused_container_stands_still(box: Runtime) -> None:
    create(box, **{"process.args": ["sh", "-c", "while :; do echo x; sleep 0.02; done"]})
    box.ok("start", "box")
    box.ok("pause", "box")
    assert box.state()["status"] == "paused"
    before = output(box)
    assert "it is paused" in box.call("exec", "box", "true").stderr
    time.sleep(0.2)
    assert output(box) == before
    box.ok("resume", "box")
    assert box.state()["status"] == "running"
    box.ok("pause", "box")
    box.remove()


def test_seccomp_answers_as_the_profile_says(box: Runtime) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}],
    }
    script = "mkdir /x 2>&1; grep Seccomp: /proc/self/status"
    for user in ({"uid": 0, "gid": 0}, {"uid": 1000, "gid": 1000}):
        said = box.said(script, **{"linux.seccomp": profile, "process.user": user})
        assert "Cannot assign requested address" in said  # errno 99
        assert said.split()[-1] == "2"
    assert len(list((box.root / ".cache/seccomp").iterdir())) == 1


def test_a_seccomp_agent_is_given_the_listener(box: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    agent = socket.socket(socket.AF_UNIX)
    agent.bind(str(path))
    agent.listen()
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(path),
        "listenerMetadata": "for the agent",
        "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_NOTIFY"}],
    }
    box.start(**{"linux.seccomp": profile})
    connection, _ = agent.accept()
    data, fds = received(connection)
    told = json.loads(data)
    assert told["metadata"] == "for the agent"
    assert told["fds"] == ["seccompFd"]
    assert told["state"]["id"] == "box"
    assert len(fds) == 1
    assert "seccomp" in os.readlink(f"/proc/self/fd/{fds[0]}")
    os.close(fds[0])
    agent.close()


@needs("userns")
def test_a_user_namespace_maps_the_ids(box: Runtime) -> None:
    subprocess.run(["chown", "-R", "100000:100000", str(box.rootfs)], check=True)
    os.chmod(box.root.parent, 0o755)
    for folder in (box.bundle, *box.bundle.parents):
        os.chmod(folder, os.stat(folder).st_mode | 0o5)
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    names = ("pid", "network", "ipc", "uts", "mount", "user", "cgroup")
    said = box.said(
        "cat /proc/self/uid_map; id -u; touch /made; echo x > /dev/null && echo null; stat -c %u /bin/sh",
        **{
            "linux.namespaces": [{"type": kind} for kind in names],
            "linux.uidMappings": mapping,
            "linux.gidMappings": mapping,
        },
    )
    assert said.split() == ["0", "100000", "65536", "0", "null", "0"]
    assert (box.rootfs / "made").stat().st_uid == 100000


def test_hooks_run_in_their_order_with_the_state(box: Runtime, tmp_path: Path) -> None:
    log = tmp_path / "hooks"
    points = ("prestart", "createRuntime", "poststart", "poststop")
    hooks = {
        point: [
            {"path": "/bin/sh", "args": ["sh", "-c", f"echo {point} $(cat) >> {log}"], "env": ["PATH=/bin:/usr/bin"]}
        ]
        for point in points
    }
    hooks["createContainer"] = [
        {"path": "/bin/sh", "args": ["sh", "-c", f"cat > /dev/null; echo createContainer {{}} >> {log}"]}
    ]
    hooks["startContainer"] = [{"path": "/bin/sh", "args": ["sh", "-c", "cat > /dev/null; echo started > /tmp/in"]}]
    assert box.run("cat /tmp/in", hooks=hooks).stdout == "started\n"
    lines = [line.split(" ", 1) for line in log.read_text().splitlines()]
    assert [point for point, _ in lines] == ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    states = {point: json.loads(text) for point, text in lines if text != "{}"}
    assert states["createRuntime"]["status"] == "creating"
    assert states["poststart"]["status"] == "running"
    assert states["poststop"]["status"] == "stopped"
    assert all(state["id"] == "box" for state in states.values())


@pytest.mark.parametrize("point", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"])
def test_a_failing_hook_leaves_nothing(box: Runtime, point: str) -> None:
    done = box.run("sleep 1000", hooks={point: [{"path": "/bin/sh", "args": ["sh", "-c", "exit 9"]}]})
    assert done.returncode == 1
    assert f"hooks.{point}[0]: /bin/sh ended with exit status 9" in done.stderr
    assert box.ok("list", "-q") == ""


def test_a_hook_that_takes_too_long_is_killed(box: Runtime) -> None:
    hook = {"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}
    done = box.run("true", hooks={"createRuntime": [hook]})
    assert "did not end within its timeout of 1 s" in done.stderr


def test_a_terminal_is_handed_over_a_socket(box: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "console.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    box.write(
        **{
            "process.terminal": True,
            "process.args": ["sh", "-c", "tty; stty size"],
            "process.consoleSize": {"height": 40, "width": 99},
        }
    )
    command = [box_command(), "--root", str(box.root), "create", "-b", str(box.bundle), "--console-socket", str(path)]
    # pipes, as containerd's shim gives and reads to their end: the init must not hold them while it waits
    done = subprocess.run([*command, "box"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True)
    assert done.stdout + done.stderr == b""
    connection, _ = listener.accept()
    _, fds = received(connection)
    box.ok("start", "box")
    said = b""
    while b"40 99" not in said:
        said += os.read(fds[0], 4096)
    assert said.startswith((b"/dev/pts/0", b"/dev/console"))
    os.close(fds[0])
    listener.close()
    assert "--console-socket is needed" in box.call("create", "-b", str(box.bundle), "other").stderr


def test_signals_reach_the_program_through_run(box: Runtime) -> None:
    box.write(**{"process.args": ["sh", "-c", "trap 'exit 42' TERM; echo ready; while :; do sleep 0.05; done"]})
    command = [box_command(), "--root", str(box.root), "run", "-b", str(box.bundle), "box"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 42


def test_descriptors_are_passed_only_when_asked(box: Runtime) -> None:
    reading, writing = os.pipe()
    box.write(**{"process.args": ["sh", "-c", "ls /proc/self/fd | wc -l; ls -l /proc/$$/fd | grep -c pipe:"]})
    command = [box_command(), "--root", str(box.root), "run", "-b", str(box.bundle)]
    kept = subprocess.run(
        [*command, "box"], stdin=subprocess.DEVNULL, capture_output=True, text=True, pass_fds=(writing,), check=True
    )
    assert kept.stdout.split()[0] == "4"
    os.close(reading)
    os.close(writing)


def test_delete_force_takes_down_what_init_left_behind(box: Runtime) -> None:
    spaces = [{"type": kind} for kind in ("network", "ipc", "uts", "mount")]
    box.start("sh", "-c", "sleep 1000 & sleep 1001 & exec sleep 1002", **{"linux.namespaces": spaces})
    layout = cgroup.layout()
    group = cgroup.Group(layout.directories("box"), v2=layout.v2)
    deadline = time.monotonic() + 5
    while len(group.processes()) < 3:
        assert time.monotonic() < deadline
    box.remove()
    assert group.processes() == []
    assert not group.exists()


def test_a_fork_bomb_is_held_and_removed(box: Runtime) -> None:
    box.start("sh", "-c", "f() { f | f & }; f; sleep 1000", **{"linux.resources.pids": {"limit": 50}})
    time.sleep(0.3)
    box.remove()


def test_two_creations_of_one_id_meet(box: Runtime) -> None:
    box.start()
    done = box.run("true")
    assert done.returncode == 1
    assert "container 'box' already exists" in done.stderr
    assert box.state()["status"] == "running"


def test_spec_writes_a_config_that_runs(box: Runtime, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    os.rename(box.rootfs, tmp_path / "made/rootfs")
    box.ok("spec", "--bundle", str(tmp_path / "made"))
    assert "exists already" in box.call("spec", "--bundle", str(tmp_path / "made")).stderr
    path = tmp_path / "made/config.json"
    document = json.loads(path.read_text())
    document["process"]["terminal"] = False
    document["process"]["args"] = ["hostname"]
    path.write_text(json.dumps(document))
    assert box.ok("run", "-b", str(tmp_path / "made"), "made") == "ketch\n"


def test_features_and_doctor_speak_json(box: Runtime) -> None:
    features = json.loads(box.ok("features"))
    assert features["ociVersionMax"] == "1.3.0"
    assert "rro" in features["mountOptions"]
    facts = json.loads(box.ok("doctor", "--format", "json"))
    assert {"name", "present", "since", "cost"} == set(facts[0])


def test_explain_has_no_effect(box: Runtime) -> None:
    box.write()
    told = json.loads(box.ok("explain", "--format", "json", "-b", str(box.bundle)))
    phases = [step["phase"] for step in told["steps"]]
    assert phases.index("namespaces") < phases.index("mount") < phases.index("confine") < phases.index("exec")
    assert not box.root.exists()


def test_a_network_device_moves_in_with_its_address(box: Runtime) -> None:
    subprocess.run(["ip", "link", "add", "moved", "type", "veth", "peer", "name", "stays"], check=True)
    subprocess.run(["ip", "address", "add", "10.9.8.7/24", "dev", "moved"], check=True)
    said = box.said("ip -o -4 address show inner", **{"linux.netDevices": {"moved": {"name": "inner"}}})
    assert "10.9.8.7/24" in said
    done = box.run("true", **{"linux.netDevices": {"absent": {}}})
    assert "linux.netDevices.absent: the host has no network device of this name" in done.stderr


def test_the_notify_socket_of_a_service_is_reached(box: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "notify"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(path))
    box.write(**{"process.args": ["sh", "-c", "echo $NOTIFY_SOCKET; test -S $NOTIFY_SOCKET && echo there"]})
    env = os.environ | {"NOTIFY_SOCKET": str(path)}
    assert box.ok("run", "-b", str(box.bundle), "box", env=env).split() == ["/run/notify/notify.sock", "there"]
    listener.close()


def test_time_namespaces_shift_the_clock(box: Runtime) -> None:
    names = ("pid", "network", "ipc", "uts", "mount", "time")
    said = box.said(
        "cat /proc/uptime",
        **{
            "linux.namespaces": [{"type": kind} for kind in names],
            "linux.timeOffsets": {"boottime": {"secs": 1_000_000_000}},
        },
    )
    assert float(said.split()[0]) > 1_000_000_000


def test_a_container_without_a_mount_namespace_leaves_no_mount(box: Runtime) -> None:
    said = box.said("ls /proc/self/status", **{"linux.namespaces": [{"type": "pid"}], "hostname": None})
    assert said == "/proc/self/status\n"
    with open("/proc/self/mountinfo") as table:
        assert str(box.rootfs) not in table.read()


@needs("userns")
def test_id_mapped_mounts_show_other_owners(box: Runtime, tmp_path: Path) -> None:
    (tmp_path / "owned").mkdir()
    (tmp_path / "owned/file").write_text("x")
    os.chown(tmp_path / "owned/file", 1000, 1000)
    mapping = [{"containerID": 1000, "hostID": 7, "size": 1}]
    mount = {
        "destination": "/owned",
        "source": str(tmp_path / "owned"),
        "options": ["bind"],
        "uidMappings": mapping,
        "gidMappings": mapping,
    }
    from tests.support.containers import DEFAULT

    assert box.said("stat -c %u /owned/file", mounts=[*DEFAULT["mounts"], mount]) == "7\n"


def test_a_created_container_is_deleted_without_force(box: Runtime) -> None:
    """containerd's shim does so with a task that was never started."""
    create(box)
    box.ok("delete", "box")
    assert box.ok("list", "-q") == ""


def test_the_working_directory_is_made_beneath_a_read_only_root(box: Runtime) -> None:
    said = box.said("pwd", **{"process.cwd": "/made/for/it", "root.readonly": True})
    assert said == "/made/for/it\n"


def test_a_working_directory_that_only_root_may_enter_is_entered(box: Runtime) -> None:
    mount = {"destination": "/closed", "type": "tmpfs", "source": "tmpfs", "options": ["mode=700"]}
    box.write()
    mounts = [*json.loads((box.bundle / "config.json").read_text())["mounts"], mount]
    changes = {"process.cwd": "/closed", "process.user": {"uid": 7, "gid": 7}, "mounts": mounts}
    assert box.said("pwd", **changes) == "/closed\n"


def test_a_mask_is_no_peer_of_the_hosts_devices(box: Runtime) -> None:
    subprocess.run(["mount", "--make-rshared", "/"], check=True)
    line = next(s for s in box.said("cat /proc/self/mountinfo").splitlines() if " /proc/keys " in s)
    assert "shared:" not in line
    assert " ro,relatime" in line or " ro" in line.split(" - ")[0]


HUNGRY = "x=$(head -c 100000000 /dev/zero | tr '\\0' a); echo $x | wc -c"


def test_a_kill_for_memory_names_the_group_its_limit_and_the_victim(box: Runtime) -> None:
    limited = {"linux.resources": {"memory": {"limit": 24 << 20, "swap": 24 << 20}}}
    done = box.run(HUNGRY, **limited)
    assert done.returncode == 137
    assert "the kernel killed sh (pid " in done.stderr
    assert f"whose limit is {24 << 20} bytes" in done.stderr
    assert "box" in done.stderr.partition("of cgroup ")[2]


def test_a_limit_too_small_for_the_start_is_named(box: Runtime) -> None:
    box.write(**{"linux.resources": {"memory": {"limit": 256 << 10, "swap": 256 << 10}}})
    done = box.call("create", "-b", str(box.bundle), "box")
    assert done.returncode == 1
    assert "the kernel killed" in done.stderr
    assert f"{256 << 10} bytes" in done.stderr
    assert box.ok("list", "-q") == ""


def test_an_oom_score_is_set_in_a_user_namespace_too(box: Runtime) -> None:
    mappings = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    subprocess.run(["chown", "-R", "100000:100000", str(box.rootfs)], check=True)
    for path in (box.bundle, *list(box.bundle.parents)[:-1]):
        path.chmod(path.stat().st_mode | 0o055)
    namespaces = [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network", "cgroup", "user")]
    changes = {"linux.namespaces": namespaces, "linux.uidMappings": mappings, "linux.gidMappings": mappings}
    box.start("sleep", "1000", **{"process.oomScoreAdj": 321}, **changes)
    assert Path(f"/proc/{box.state()['pid']}/oom_score_adj").read_text() == "321\n"
    assert box.ok("exec", "box", "cat", "/proc/self/oom_score_adj") == "321\n"
