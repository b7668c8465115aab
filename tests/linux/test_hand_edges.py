# SPDX-License-Identifier: Apache-2.0
"""docker's options to their edges: what the reference of `docker run` and of its neighbours promises, one by one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.hand import Ketch
from tests.support.instruments import command

pytestmark = pytest.mark.needs("root")


def test_variables_come_from_here_from_files_and_from_words(ketch: Ketch, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# said nowhere\n  A=from the file  \nFROM_HERE\nNOT_HERE\nB=1\n")
    ketch.environment["FROM_HERE"] = "taken"
    shown = ketch("run", "--rm", "--env-file", str(tmp_path / "env"), "-e", "B=2", "-e", "EMPTY=", "busybox", "env")
    lines = shown.splitlines()
    assert {"A=from the file  ", "FROM_HERE=taken", "B=2", "EMPTY="} <= set(lines)
    assert not any(line.startswith("NOT_HERE") for line in lines)


def test_this_machine_and_others_are_named_in_etc_hosts(ketch: Ketch) -> None:
    hosts = ketch(
        "run", "--rm", "--add-host", "me:host-gateway", "--add-host", "v6=fd00::1", "busybox", "cat", "/etc/hosts"
    )
    assert "172.17.0.1\tme\n" in hosts
    assert "fd00::1\tv6\n" in hosts


def test_of_a_range_of_ports_the_first_free_one_is_taken(ketch: Ketch) -> None:
    for name in ("one", "two"):
        ketch("run", "-d", "--name", name, "-p", "127.0.0.1:18000-18001:80/udp", "busybox", "sleep", "60")
    form = "{{range $p, $conf := .NetworkSettings.Ports}}{{$p}} -> {{(index $conf 0).HostPort}}{{end}}"
    assert ketch("inspect", "-f", form, "one", "two") == "80/udp -> 18000\n80/udp -> 18001\n"
    assert "between 18000 and 18001 is free" in ketch.refused("run", "-p", "18000-18001:80/udp", "busybox", "true")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--network", "container:x", "-p", "80:80"], "--publish conflicts"),
        (["--network", "container:x", "--hostname", "h"], "--hostname conflicts"),
        (["--memory-swap", "1g"], "--memory as well"),
        (["--cpus", "4096"], "the processors of this machine"),
        (["--add-host", "name"], "NAME:ADDRESS"),
        (["--add-host", ":10.0.0.1"], "NAME:ADDRESS"),
        (["--security-opt", "seccomp=nosuch.json"], "no such file"),
        (["--restart", "always"], "--restart"),
    ],
)
def test_what_docker_refuses_is_refused_and_leaves_nothing(ketch: Ketch, words: list[str], why: str) -> None:
    assert why in ketch.refused("run", *words, "busybox", "true")
    assert ketch.left() == []


def test_an_id_file_that_is_there_is_refused_before_anything_is_made(ketch: Ketch, tmp_path: Path) -> None:
    (tmp_path / "cid").touch()
    assert "is there already" in ketch.refused("create", "--cidfile", str(tmp_path / "cid"), "busybox")
    assert ketch("ps", "-aq") == ""


def test_a_volume_may_begin_empty(ketch: Ketch) -> None:
    ketch("run", "--rm", "-v", "full:/bin", "busybox", "true")
    assert ketch("run", "--rm", "-v", "full:/v", "busybox", "ls", "/v/sh") == "/v/sh\n"
    ketch("create", "-v", "empty:/bin:nocopy", "busybox", "true")
    assert ketch("run", "--rm", "-v", "empty:/v", "busybox", "ls", "/v") == ""


def test_ps_filters_of_one_key_are_alternatives_and_those_of_two_are_not(ketch: Ketch) -> None:
    for name in ("web", "web2", "db"):
        ketch("create", "--name", name, "--label", f"tier={name[:3]}", "busybox", "true")

    def names(*filters: str) -> set[str]:
        words = [word for one in filters for word in ("--filter", one)]
        return set(ketch("ps", "-a", *words, "--format", "{{.Names}}").split())

    assert names("name=web") == {"web", "web2"}
    assert names("name=^web$") == names("name=^/web$") == {"web"}
    assert names("name=^web$", "name=db") == {"web", "db"}
    assert names("name=web", "label=tier=db") == set()
    assert names("before=db") == {"web", "web2"}
    assert names("since=web2") == {"db"}
    assert names("ancestor=busybox") == names("ancestor=busybox:latest") == {"web", "web2", "db"}
    assert names("ancestor=busybox:1") == set()


def test_top_hands_options_to_ps_and_keeps_the_containers_lines(ketch: Ketch) -> None:
    ketch("run", "-d", "--name", "box", "busybox", "sleep", "60")
    head, *lines = ketch("top", "box", "-o", "pid,comm").splitlines()
    assert head.split() == ["PID", "COMMAND"]
    assert [line.split()[1] for line in lines] == ["sleep"]
    assert "no PID" in ketch.refused("top", "box", "-o", "comm")


def test_events_tell_what_has_been_and_end_when_asked(ketch: Ketch) -> None:
    ketch("run", "--name", "short", "busybox", "true")
    ketch("create", "--name", "other", "busybox", "true")
    words = ["events", "--since", "1m", "--until", "0s", "--format", "{{.Action}} {{.Actor.Attributes.name}}"]
    assert ketch(*words, "--filter", "container=short").splitlines() == ["create short", "start short", "die short"]
    assert ketch(*words, "--filter", "event=create").splitlines() == ["create short", "create other"]


def test_prunes_ask_and_take_only_what_nobody_uses(ketch: Ketch) -> None:
    ketch("network", "create", "used")
    ketch("network", "create", "unused")
    ketch("run", "-d", "--name", "runs", "--network", "used", "busybox", "sleep", "60")
    ended = ketch("create", "--name", "ended", "-v", "/anonymous", "busybox").strip()
    asked = ketch("container", "prune", stdin="n\n")
    assert "[y/N]" in asked
    assert ended[:12] in ketch("ps", "-aq")
    told = ketch("system", "prune", "--volumes", stdin="y\n")
    assert f"Deleted Containers:\n{ended}\n" in told
    assert "Deleted Networks:\nunused\n" in told
    assert "Deleted Volumes:\n" in told
    assert ketch("ps", "-a", "--format", "{{.Names}}").split() == ["runs"]
    assert "used" in ketch("network", "ls", "--format", "{{.Name}}").split()
    assert ketch("images", "-q") != ""


# A shell ignores SIGINT for what it starts in the background, and all of its descendants inherit that.
INTERRUPTIBLE = ["env", "--default-signal=INT"]


def test_without_a_proxy_for_signals_ctrl_c_leaves_the_container_running(ketch: Ketch) -> None:
    run = [
        *INTERRUPTIBLE,
        command("ketch"),
        "run",
        "--rm",
        "--name",
        "box",
        "--sig-proxy=false",
        "busybox",
        "sh",
        "-c",
        "echo up; sleep 60",
    ]
    with subprocess.Popen(run, stdout=subprocess.PIPE, env=ketch.environment, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert ketch("ps", "--format", "{{.Names}}") == "box\n"


def press_until_it_ends(process: subprocess.Popen[str]) -> tuple[str, str]:
    for _ in range(10):
        try:
            return process.communicate(timeout=2)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
    raise AssertionError("it does not end, however often Ctrl-C is pressed")


def test_ctrl_c_at_any_moment_of_a_run_leaves_nothing(ketch: Ketch) -> None:
    """The signal comes earlier and later; until the program runs it ends us, then it is the container's own. What comes
    in the millisecond before the shell has its trap is lost on process 1, so whoever waits in vain presses again."""
    ketch("run", "--rm", "busybox", "true")  # the spawner is there
    loop = "trap 'exit 9' INT; while :; do sleep 0.01; done"
    run = [*INTERRUPTIBLE, command("ketch"), "run", "--rm", "busybox", "sh", "-c", loop]
    for step in range(24):
        process = subprocess.Popen(
            run, env=ketch.environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        time.sleep(step * 0.01)  # the moment to be hit, not a wait for anything
        os.killpg(process.pid, signal.SIGINT)
        try:
            _, said = press_until_it_ends(process)
        finally:
            process.kill()
        assert process.returncode in (9, 130, -signal.SIGINT), (step, process.returncode, said)
        assert "Traceback" not in said, (step, said)
        assert ketch("ps", "-aq") == "", step
        assert ketch.left() == [], step


def test_every_exposed_port_is_published_on_a_free_one(ketch: Ketch) -> None:
    ketch("run", "-d", "--name", "box", "-P", "-p", "18002:80", "--expose", "80", "--expose", "90-91/udp", "busybox",
          "sleep", "60")  # fmt: skip
    published = dict(line.split(" -> ") for line in ketch("port", "box").splitlines() if "[::]" not in line)
    assert sorted(published) == ["80/tcp", "90/udp", "91/udp"]
    assert published["80/tcp"] == "0.0.0.0:18002"
    assert all(int(published[port].rpartition(":")[2]) >= 32768 for port in ("90/udp", "91/udp"))
    ketch("run", "-d", "--name", "quiet", "--expose", "80", "busybox", "sleep", "60")
    assert ketch("ps", "--filter", "name=quiet", "--format", "{{.Ports}}") == "80/tcp\n"
    assert ketch("port", "quiet") == ""


def test_limits_of_a_container_change_while_it_runs_and_before_it_starts(ketch: Ketch) -> None:
    ketch("run", "-d", "--name", "box", "-m", "32m", "busybox", "sleep", "60")
    ketch(
        "create", "--name", "waits", "busybox", "sh", "-c", "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max"
    )
    assert ketch("update", "-m", "64m", "--cpus", "0.5", "--pids-limit", "77", "box", "waits") == "box\nwaits\n"
    shown = ketch("inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}", "box")
    assert shown == "67108864 500000000 77\n"
    inside = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null || true"
    assert ketch("exec", "box", "sh", "-c", inside) == "67108864\n"
    assert ketch.call("start", "-a", "waits").stdout == "77\n"
    assert "no limit is given" in ketch.refused("update", "box")
    assert "too little" in ketch.refused("update", "-m", "1k", "box")
    assert "has ended" in ketch.refused("update", "-m", "64m", "waits")


def test_users_of_a_mapped_container_are_who_was_asked_for(ketch: Ketch) -> None:
    """AC14: root inside, 1001 outside."""
    ketch("run", "-d", "--name", "box", "--uidmap", "0:1001:1000", "busybox", "sleep", "60")
    assert ketch("exec", "box", "id", "-u") == "0\n"
    pid = ketch("inspect", "-f", "{{.State.Pid}}", "box").strip()
    assert os.stat(f"/proc/{pid}").st_uid == 1001
    for wrong in ("1:1001:1", "0:x:1", "0:1001:0", "0:4294967295:2"):
        assert "--uidmap" in ketch.refused("run", "--uidmap", wrong, "busybox", "true")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["run", "--link", "db:db", "busybox"], "ketch network create"),
        (["run", "-P", "--network", "host", "busybox"], "nothing to publish"),
        (["run", "--expose", "80:80", "busybox", "true"], "--expose"),
        (["exec", "box", "nonsense"], "ketch: exec: 'nonsense': executable file not found in $PATH"),
        (["exec", "box", ""], "ketch: exec: '': executable file not found in $PATH"),
        (["run", "--rm", "busybox", ""], "ketch: exec: '': executable file not found in $PATH"),
        (["cp", "box:/etc/passwd", "/missing/dir/"], "/missing/dir: no such folder (mkdir -p /missing/dir)"),
        (["cp", "box:/etc/passwd", "/missing/file"], "/missing: no such folder"),
        (["cp", "box:/etc", "/missing/dir/etc"], "/missing/dir: no such folder"),
        (["cp", "box:/etc/passwd", "/proc/version"], "cannot copy box:/etc/passwd to /proc/version: "),
        ([""], "unknown command ''"),
        (["logs", ""], "no such container"),
    ],
)
def test_what_went_wrong_is_said_once_and_in_words(ketch: Ketch, words: list[str], why: str) -> None:
    ketch("run", "-d", "--name", "box", "busybox", "sleep", "60")
    sentence = ketch.refused(*words)
    assert why.lower() in sentence.lower()
    assert "Errno" not in sentence
    assert "cannot exec in" not in sentence


def test_a_full_output_and_a_folder_that_is_gone_are_told_plainly(ketch: Ketch, tmp_path: Path) -> None:
    ketch("create", "--name", "box", "busybox", "true")
    with open("/dev/full", "w") as full:
        done = subprocess.run([command("ketch"), "ps", "-a"], stdout=full, stderr=subprocess.PIPE, text=True,
                              env=ketch.environment, check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "ketch: cannot write to our output: No space left on device\n")
    gone = tmp_path / "gone"
    words = f"cd {gone} && rmdir {gone} && exec {command('ketch')} run --rm"
    for more, code in (("busybox true", 0), ("-v ./x:/x busybox true", 125)):
        gone.mkdir()
        done = subprocess.run(["sh", "-c", f"{words} {more}"], stderr=subprocess.PIPE, text=True, env=ketch.environment,
                              check=False)  # fmt: skip
        assert done.returncode == code, done.stderr
        assert done.stderr in ("", "ketch: the folder we are in has been removed (cd to one that is there)\n")


def test_a_reader_that_goes_away_does_not_keep_a_container_of_rm(ketch: Ketch) -> None:
    talk = "i=0; while [ $i -lt 20000 ]; do echo a line; i=$((i+1)); done"
    line = f"{command('ketch')} run --rm --name box busybox sh -c '{talk}' | head -1"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, env=ketch.environment, check=True)
    assert done.stdout == "a line\n"
    deadline = time.monotonic() + 20
    while ketch.left() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ketch.left() == []
