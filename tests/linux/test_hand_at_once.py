# SPDX-License-Identifier: Apache-2.0
"""Commands that are killed, interrupted, run at once or by the wrong user, and words that nobody expects."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime.linux import beneath
from tests.support.hand import Ketch
from tests.support.instruments import command

pytestmark = pytest.mark.needs("root")
INTERRUPTIBLE = ["env", "--default-signal=INT"]  # see test_hand_edges


def _links() -> set[str]:
    return {name for name in os.listdir("/sys/class/net") if name.startswith("veth")}


def _pinned(ketch: Ketch) -> list[str]:
    return os.listdir(ketch.directory / "netns")


@pytest.mark.timeout(600)
def test_runs_that_are_killed_at_any_moment_leave_nothing_once_they_are_removed(ketch: Ketch) -> None:
    ketch("run", "--rm", "busybox", "true")  # the spawner and the bridge are there
    links, mounts = _links(), Path("/proc/self/mountinfo").read_text().count("\n")
    chance = random.Random(8)
    for number in range(int(os.environ.get("KETCH_KILLS", "30"))):
        words = ["run", "--name", f"killed{number}", "-p", f"{20000 + number}:80", "busybox", "sleep", "0.1"]
        with subprocess.Popen([command("ketch"), *words], env=ketch.environment, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as made:  # fmt: skip
            time.sleep(chance.uniform(0.0, 0.4))  # the moment to be hit, not a wait for anything
            made.kill()
    assert set(ketch("ps", "-a", "--format", "{{.Names}}").split()) <= {f"killed{n}" for n in range(1000)}
    ketch("rm", "-f", "-a")
    deadline = (
        time.monotonic() + 20
    )  # the kernel frees a link later, the spawner may still be at what the last one asked
    while (ketch.left() or _pinned(ketch) or _links() - links) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (ketch.left(), _pinned(ketch), _links() - links) == ([], [], set())
    assert Path("/proc/self/mountinfo").read_text().count("\n") == mounts
    ketch("run", "--rm", "-p", "20000:80", "busybox", "true")  # no port is held


def test_commands_at_once_on_one_container_leave_it_whole_or_gone(ketch: Ketch) -> None:
    verbs = [
        ("start",),
        ("stop", "-t", "0"),
        ("rm", "-f"),
        ("exec", "true"),
        ("kill",),
        ("restart", "-t", "0"),
        ("rm",),
    ]
    chance = random.Random(5)
    for number in range(6):
        name = f"box{number}"
        ketch("create", "--name", name, "busybox", "sleep", "60")
        chosen = chance.sample(verbs, 4)
        lines = [[verb[0], name, *verb[1:]] if verb[0] == "exec" else [*verb, name] for verb in chosen]
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda line: ketch.call(*line), lines))
        for line, one in zip(lines, done, strict=True):
            assert one.returncode in (0, 1, 125, 126, 137), (line, one.returncode, one.stderr)
            assert "Traceback" not in one.stderr, (line, one.stderr)
            assert "Errno" not in one.stderr, (line, one.stderr)
        ketch.call("rm", "-f", name)
        assert name not in ketch("ps", "-a", "--format", "{{.Names}}").split(), lines
        assert ketch.left() == [], lines


def test_two_of_one_name_at_once_make_one(ketch: Ketch) -> None:
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda _: ketch.call("create", "--name", "only", "busybox", "true"), range(6)))
    assert [one.returncode for one in done].count(0) == 1
    assert all("the name 'only' is taken" in one.stderr for one in done if one.returncode)
    ketch("rm", "only")
    assert ketch.left() == []


def test_ctrl_c_ends_a_pull_at_once_and_leaves_no_half_of_an_image(ketch: Ketch) -> None:
    """From a registry that accepts, says nothing, and would keep us for ever."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = f"127.0.0.1:{server.getsockname()[1]}/slow:1"
        accepted = []
        thread = threading.Thread(target=lambda: accepted.append(server.accept()))
        thread.start()
        for words in (["pull", name], ["run", "--rm", name, "true"]):
            with subprocess.Popen([*INTERRUPTIBLE, command("ketch"), *words], env=ketch.environment, text=True,
                                  stderr=subprocess.PIPE, stdout=subprocess.PIPE) as pull:  # fmt: skip
                if words[0] == "pull":
                    thread.join(20)
                    assert accepted
                else:
                    assert pull.stderr is not None
                    assert pull.stderr.readline() == f"Unable to find image '{name}' locally\n"
                started = time.monotonic()
                pull.send_signal(signal.SIGINT)
                _, said = pull.communicate(timeout=20)
            assert pull.returncode in (130, -signal.SIGINT), (pull.returncode, said)
            assert "Traceback" not in said
            assert time.monotonic() - started < 10
        accepted[0][0].close()
    assert ketch.left() == []
    assert [p.name for p in (ketch.root / "images/partial").iterdir()] == []


AS_ROOT_ONLY = """
ps; ps -a; run busybox true; create busybox; start box; stop box; rm -f box; kill box; exec box true; logs box
attach box; diff box; commit box x; update -m 64m box; cp box:/etc /tmp/x; cp /etc/hosts box:/; rename box b
top box; images; inspect box; rmi busybox; tag busybox b; pull busybox; push busybox; save -o /tmp/x busybox
load -i /tmp/x; history busybox; stats --no-stream; port box; wait box; pause box; unpause box; why box
restart box; events --until 0s; pod ls; volume create v; volume ls; volume rm v; network create n; network rm n
system prune -f; system shutdown
"""


def test_who_is_not_root_is_told_so_by_every_command() -> None:
    directory = Path("/run/not-root")  # pytest's folders are closed to others, as /run/ketch is not
    directory.mkdir()
    ketch = Ketch(directory)
    try:
        ketch("image", "local")
        ketch("run", "-d", "--name", "box", "-v", "v:/v", "busybox", "sleep", "60")
        (ketch.root / "volumes").chmod(0o700)
        wrong = {}
        for words in (line.split() for line in AS_ROOT_ONLY.replace("\n", ";").split(";") if line.strip()):
            nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", command("ketch"), *words]
            done = subprocess.run(nobody, capture_output=True, text=True, env=ketch.environment, check=False)
            if done.returncode == 0 or "sudo ketch" not in done.stderr or done.stderr.count("\n") != 1:
                wrong[" ".join(words)] = f"{done.returncode}: {done.stderr or done.stdout}"
        assert wrong == {}
        assert ketch("ps", "--format", "{{.Names}}") == "box\n"
    finally:
        ketch.close()
        beneath.remove_tree(str(directory))


@pytest.mark.parametrize("name", ["with space", "a/b", "../x", "-x", "ü", "a\nb", "x" * 300, "$(id)", "a;b"])
def test_a_name_that_is_none_is_refused(ketch: Ketch, name: str) -> None:
    assert "cannot be a name" in ketch.refused("create", f"--name={name}", "busybox")
    assert ketch.left() == []


def test_labels_and_variables_hold_what_was_put_into_them(ketch: Ketch) -> None:
    odd = "tab\there \"quotes\" 'single' $HOME `x` {{.}} = ü 漢 \\ end"
    large = "x" * 100_000  # the kernel's own limit for one word is 128 KiB
    words = ["--label", f"odd={odd}", "--label", "bare", "-e", f"ODD={odd}", "-e", f"LARGE={large}"]
    ketch("run", "--name", "box", *words, "busybox", "sh", "-c", 'printf "%s|%s" "$ODD" "${#LARGE}"')
    assert ketch("logs", "box") == f"{odd}|100000"
    (described,) = ketch.json("inspect", "box")
    assert described["Config"]["Labels"] == {"odd": odd, "bare": ""}
    assert ketch("ps", "-aq", "--filter", f"label=odd={odd}") != ""
    assert ketch("inspect", "-f", '{{index .Config.Labels "odd"}}', "box") == f"{odd}\n"


def test_two_hundred_folders_are_mounted(ketch: Ketch, tmp_path: Path) -> None:
    words = []
    for number in range(200):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}/here").write_text(str(number))
        words += ["-v", f"{tmp_path}/d{number}:/d/{number}:ro"]
    shown = ketch("run", "--rm", *words, "busybox", "sh", "-c", "cat /d/*/here | wc -c; ls /d | wc -l")
    assert shown.split() == ["490", "200"]
    assert ketch.left() == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--memory", "-1"], "--memory: '-1' is not a size"),
        (["--memory", "1k"], "too little"),
        (["--memory", "1e3"], "too little"),
        (["--cpus", "0"], "--cpus"),
        (["--cpus", "nan"], "--cpus"),
        (["--pids-limit", "x"], "--pids-limit"),
        (["--cpuset-cpus", "99"], "cpuset"),
        (["--log-driver", "syslog"], "--log-driver"),
        (["--log-opt", "nonsense=1"], "--log-opt"),
        (["-e", "=x"], "NAME=VALUE"),
        (["--ulimit", "nofile=2:1"], "soft limit is above"),
        (["--sysctl", "kernel.panic=1"], "kernel.panic"),
        (["--device", "/dev/nothing"], "/dev/nothing"),
        (["--user", "nobody:nogroup:x"], "group 'nogroup:x'"),
        (["--workdir", "relative"], "--workdir: 'relative' is not an absolute path"),
        (["--hostname", "x" * 300], "hostname"),
    ],
)
def test_a_senseless_value_is_refused_in_one_sentence(ketch: Ketch, words: list[str], why: str) -> None:
    assert why in ketch.refused("run", "--rm", *words, "busybox", "true")
    assert ketch.left() == []


def test_no_limit_can_be_said_as_docker_says_it(ketch: Ketch) -> None:
    ketch("run", "--rm", "--memory", "0", "--pids-limit", "-1", "--log-driver", "json-file", "busybox", "true")


def test_ctrl_z_stops_a_program_on_its_terminal_and_fg_goes_on_with_it(ketch: Ketch) -> None:
    shell = ketch.terminal("run", "-it", "--rm", "--name", "box", "busybox", "sh")
    shell.expect("/ # ")
    shell.type("cat -u\r")
    while "cat -u" not in ketch("top", "box"):
        pass
    shell.type("one\r")
    shell.expect("one\r\none\r\n")
    shell.type("\x1a")
    shell.expect("Stopped")
    shell.expect("/ # ")
    shell.type("fg\r")
    shell.expect("cat")
    shell.type("two\r")
    shell.expect("two\r\ntwo\r\n")
    shell.type("\x04")
    shell.expect("/ # ")
    shell.type("exit\r")
    assert shell.end() == 0
    assert ketch.left() == []


def test_keys_that_only_begin_like_those_that_leave_reach_the_program(ketch: Ketch) -> None:
    shell = ketch.terminal("run", "-it", "--rm", "--detach-keys", "ctrl-a,b", "busybox",
                           "sh", "-c", "echo up; exec cat -v")  # fmt: skip
    shell.expect("up\r\n")
    shell.type("x\x01y\x10z\r")  # ctrl-p is docker's own, and others were chosen
    shell.expect("x^Ay^Pz\r\n")
    shell.type("\x04")
    assert shell.end() == 0
