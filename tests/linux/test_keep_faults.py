# SPDX-License-Identifier: Apache-2.0
"""kill -9 of client, spawner, keepers: no container notices, logs lose a buffer at most, no exit code is invented."""

import fcntl
import itertools
import os
import random
import shutil
import signal
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import lifecycle
from runtime.keep import client as keep
from runtime.keep.log_file import READ_BYTES
from tests.linux.test_keep import Node, wait_until
from tests.support import crash

ENDLESS = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.001; done"
COUNTING = "i=0; while [ $i -lt {n} ]; do echo line $i; i=$((i+1)); done; exit {code}"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.close()


def kill_keepers(node: Node) -> None:
    pids = node.keeper_pids()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not set(pids) & set(node.keeper_pids()))


def kill_spawner(node: Node) -> None:
    pid = node.spawner_pid()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))


def pids_of(comm: str) -> list[int]:
    """Processes of this name; the test's own namespace holds no others' ones."""
    found = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [int(entry.name) for entry in found if (entry / "comm").read_text() == f"{comm}\n"]


def readers(node: Node, name: str) -> list[int]:
    """The keepers that have a container's stdout open."""
    fifo = f"{node.state}/containers/{name}/stdout"
    return [pid for pid in node.keeper_pids() if any(_leads_to(fd, fifo) for fd in Path(f"/proc/{pid}/fd").iterdir())]


def _leads_to(link: Path, path: str) -> bool:
    return os.readlink(link) == path


def waiting_bytes(node: Node, name: str) -> int:
    """How much nobody has read yet of what a container has printed."""
    fifo = os.open(f"{node.state}/containers/{name}/stdout", os.O_RDONLY | os.O_NONBLOCK)
    try:
        return int.from_bytes(fcntl.ioctl(fifo, termios.FIONREAD, bytes(4)), sys.byteorder)
    finally:
        os.close(fifo)


def lines_of(node: Node, name: str) -> list[int]:
    return [int(line.split(" ")[1]) for line in node.output(name).splitlines()]


def test_a_container_outlives_its_keeper_and_its_log_goes_on(node: Node) -> None:
    node.shell("a", "trap 'exit 9' TERM; i=0; while :; do echo line $i; i=$((i+1)); sleep 0.001; done")
    wait_until(lambda: len(lines_of(node, "a")) > 20)
    for _ in range(3):
        kill_keepers(node)
        seen = len(lines_of(node, "a"))
        wait_until(lambda seen=seen: len(lines_of(node, "a")) > seen + 20)
    ended = node.client.stop("a", signal.SIGTERM, 10)
    assert ended is not None
    assert ended.exit_code == 9
    lines = lines_of(node, "a")
    assert lines == sorted(set(lines))
    missing = lines[-1] + 1 - len(lines)
    assert missing * 10 <= 3 * 65536
    assert missing <= 30, "a slow writer's buffer holds a line or two"


@pytest.mark.parametrize("moment", ["read", "write"])
def test_a_dead_keeper_has_lost_what_it_had_read_and_not_written_and_nothing_else(node: Node, moment: str) -> None:
    """However many lines have come together meanwhile: what one read takes is one buffer."""
    node.shell("a", ENDLESS)
    wait_until(lambda: len(lines_of(node, "a")) > 20)
    [keeper] = node.keeper_pids()
    crash.seize(keeper)
    wait_until(lambda: waiting_bytes(node, "a") > 4000)
    crash.step_to(keeper, moment)
    os.kill(keeper, signal.SIGKILL)
    os.waitpid(keeper, crash.WALL)
    seen = len(lines_of(node, "a"))
    wait_until(lambda: len(lines_of(node, "a")) > seen + 20)
    gaps = [range(last + 1, following) for last, following in itertools.pairwise(lines_of(node, "a"))]
    lost = [sum(len(f"line {number}\n") for number in gap) for gap in gaps if gap]
    if moment == "read":
        assert lost == []
    else:
        assert len(lost) == 1
        assert 4000 < lost[0] <= READ_BYTES


def test_who_was_told_to_adopt_when_its_spawner_died_stays_the_only_reader(node: Node) -> None:
    node.shell("a", ENDLESS)
    [keeper] = node.keeper_pids()
    [nursery] = pids_of("ketch-nursery")
    crash.seize(nursery, crash.FORKS)
    os.kill(keeper, signal.SIGKILL)
    heir = crash.next_child(nursery)  # held before its first step; what it shall do waits in its channel
    kill_spawner(node)
    assert node.spawner_pid()  # of another one, which hears nothing from the heir
    crash.detach(heir)
    wait_until(lambda: ["a"] in node.client.ping()["keepers"].values())
    assert readers(node, "a") == [heir]
    kill_keepers(node)
    seen = len(lines_of(node, "a"))
    wait_until(lambda: len(lines_of(node, "a")) > seen + 20)
    lines = lines_of(node, "a")
    assert lines == sorted(set(lines))


def test_a_keeper_goes_to_the_last_of_several_spawners_that_asked_for_it(node: Node) -> None:
    node.shell("a", ENDLESS)
    [keeper] = node.keeper_pids()
    os.kill(keeper, signal.SIGSTOP)
    for _ in range(2):
        kill_spawner(node)
        assert node.spawner_pid()
    os.kill(keeper, signal.SIGCONT)
    wait_until(lambda: ["a"] in node.client.ping()["keepers"].values())
    assert readers(node, "a") == [keeper]


def test_a_writer_that_blocks_without_a_keeper_gets_no_sigpipe(node: Node) -> None:
    node.shell("a", COUNTING.format(n=30000, code=5))
    kill_spawner(node)
    for pid in node.keeper_pids():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not node.keeper_pids())
    time.sleep(0.2)  # the FIFO is full long before: it waits for a reader
    assert node.client.kept("a").pid in map(int, filter(str.isdigit, os.listdir("/proc")))  # type: ignore[union-attr]
    ended = node.client.wait("a", 30)
    assert ended is not None
    assert ended.exit_code in (5, None)
    lines = lines_of(node, "a")
    assert lines[-1] == 29999
    assert (30000 - len(lines)) * 8 <= 65536


def test_a_dead_keepers_container_ends_with_the_exit_code_that_the_spawner_reaped(node: Node) -> None:
    for code in range(3):
        node.start(f"c{code}", "sh", request={"stdin": True, "stdin_once": True})
    kill_keepers(node)
    for code in range(3):
        with node.client.attach(f"c{code}", stdin=True) as session:
            os.write(session.stdin, f"echo still; exit {code}\n".encode())
            assert session.wait(10) == code
        assert node.output(f"c{code}") == "still\n"


def test_a_terminal_outlives_its_keeper(node: Node) -> None:
    node.start("a", "sh", request={"stdin": True, "tty": True})
    kill_keepers(node)
    node.client.reopen_log("a")
    node.client.resize("a", 99, 33)
    with node.client.attach("a", stdin=True) as session:
        os.write(session.stdin, b"stty size; exit 6\n")
        assert session.wait(10) == 6
    assert "33 99" in node.output("a")


def test_keepers_go_on_without_a_spawner_and_a_new_one_takes_them(node: Node) -> None:
    node.start("a", "sh", request={"stdin": True})
    before = node.keeper_pids()
    kill_spawner(node)
    with keep.Client(node.state, start=False).attach("a", stdin=True) as session:
        os.write(session.stdin, b"echo alone\n")
        assert os.read(session.stdout, 100) == b"alone\n"
    node.start("b", "true")
    assert node.client.wait("b", 10).exit_code == 0  # type: ignore[union-attr]
    assert before[0] in node.keeper_pids()
    assert any("a" in names for names in node.client.ping()["keepers"].values())
    kill_keepers(node)
    with node.client.attach("a", stdin=True) as session:
        os.write(session.stdin, b"exit 8\n")
        session.close_stdin()
        session.wait(10)
    ended = node.client.wait("a", 10)
    assert ended is not None
    assert ended.exit_code in (8, None)  # its parent is the machine's init: the code is known from Linux 6.15 on


def test_an_exit_that_nobody_could_see_is_unknown(node: Node) -> None:
    node.start("a", "sleep", "1000")
    kill_spawner(node)
    for pid in node.keeper_pids():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not node.keeper_pids())
    pid = node.client.kept("a").pid  # type: ignore[union-attr]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    ended = node.client.wait("a", 10)
    assert ended is not None
    assert ended.exit_code is None


def test_a_storm_of_kills_touches_no_container_and_invents_no_exit_code(node: Node) -> None:
    chance = random.Random(7)
    codes = {}
    for number in range(24):
        name = f"c{number}"
        codes[name] = number + 1
        while True:
            try:
                node.shell(
                    name,
                    f"i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); sleep 0.005; done; exit {number + 1}",
                )
                break
            except keep.KeepError:
                # The keeper was killed before it answered: what is there is taken away, as an engine does.
                _take_away(node, name)
        if chance.random() < 0.3:
            os.kill(chance.choice(node.keeper_pids()), signal.SIGKILL)
        if chance.random() < 0.1:
            kill_spawner(node)
    lost = 0
    for name, code in codes.items():
        ended = node.client.wait(name, 60)
        assert ended is not None
        assert ended.exit_code in (code, None), name
        lines = lines_of(node, name)
        assert lines == sorted(set(lines))
        lost += 200 - len(lines)
    assert lost <= 24 * 5


def _take_away(node: Node, name: str) -> None:
    lifecycle.delete(f"{node.state}/runtime", name, force=True)
    node.client.forget(name)
    shutil.move(node.top / "bundles" / name, node.top / f"old-{name}-{time.monotonic_ns()}")


def test_a_killed_client_ends_no_container_and_holds_nothing(node: Node) -> None:
    bundle = node.bundle("a", "sh", "-c", "sleep 0.3; exit 4")
    for number in range(10):
        client = os.fork()
        if client == 0:
            own = keep.Client(node.state)
            if number == 0:
                own.start(keep.StartRequest(id="a", bundle=bundle, log_path=node.log_path("a")))
            own.attach("a")
            own.wait("a")
            os._exit(0)
        if number == 0:
            wait_until(lambda: (node.client.kept("a") or _NOBODY).pid)
        os.kill(client, signal.SIGKILL)
        os.waitpid(client, 0)
    assert node.client.wait("a", 10).exit_code == 4  # type: ignore[union-attr]


_NOBODY = keep.Kept("", 0, 0, "", "", False, False)


def test_a_newer_release_replaces_the_spawner_and_touches_no_container(node: Node) -> None:
    node.start("old", "sh", request={"stdin": True, "stdin_once": True})
    before = node.spawner_pid()
    node.client.replace_spawner()
    after = node.spawner_pid()
    assert before != after
    node.start("new", "true")
    assert node.client.wait("new", 10).exit_code == 0  # type: ignore[union-attr]
    with pytest.raises(keep.Refused, match="has not ended"):
        node.client.forget("old")
    with node.client.attach("old", stdin=True) as session:
        os.write(session.stdin, b"exit 3\n")
        assert session.wait(10) == 3
    wait_until(lambda: not os.path.exists(f"/proc/{before}"))
