# SPDX-License-Identifier: Apache-2.0
"""Programs that join a kept container: their streams, their ends, and that nothing of them is left."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.keep import client as keep
from tests.linux.test_keep import Node, wait_until


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    made.shell("a", "trap 'exit 0' TERM; while :; do wait; sleep 0.05; done")
    yield made
    made.close()


def test_both_streams_and_the_exit_code_come_back(node: Node) -> None:
    result = node.exec("a", "sh", "-c", "printf out; printf err >&2; exit 5")
    assert (result.exit_code, result.stdout, result.stderr) == (5, b"out", b"err")
    assert node.exec("a", "sh", "-c", "kill -9 $$").exit_code == 137


def test_it_sees_the_container_and_not_the_node(node: Node) -> None:
    seen = node.exec("a", "sh", "-c", "hostname; cat /proc/1/comm; ls /proc/$$/fd | tr '\\n' ' '; pwd").stdout.decode()
    assert "sh\n" in seen
    assert seen.endswith(("0 1 2 3 /\n", "0 1 2 /\n"))


def test_output_beyond_the_limit_is_thrown_away_and_holds_nobody(node: Node) -> None:
    result = node.client.exec_sync(keep.ExecRequest("a", node.process("sh", "-c", "yes | head -c 5000000")), limit=1000)
    assert (result.exit_code, len(result.stdout)) == (0, 1000)


def test_a_background_child_that_holds_the_streams_is_not_waited_for(node: Node) -> None:
    began = time.monotonic()
    result = node.exec("a", "sh", "-c", "sleep 30 & echo done")
    assert (result.exit_code, result.stdout) == (0, b"done\n")
    assert time.monotonic() - began < 5
    node.exec("a", "sh", "-c", "killall sleep; true")


def test_a_time_limit_ends_everything_the_command_started(node: Node) -> None:
    script = (
        "sleep 1001 & setsid sleep 1002 & (sh -c 'setsid sleep 1003 &' &) ; "
        'sh -c \'(trap "" TERM HUP; setsid sh -c "sleep 1004; true" &)\'; echo started; sleep 1005'
    )
    with pytest.raises(keep.ExecTimeout) as caught:
        node.exec("a", "sh", "-c", script, timeout_seconds=0.7)
    assert caught.value.stdout == b"started\n"
    wait_until(lambda: "sleep 100" not in node.exec("a", "ps").stdout.decode())


def test_a_command_that_ends_in_time_is_not_touched_by_its_limit(node: Node) -> None:
    result = node.exec("a", "sh", "-c", "echo fine", timeout_seconds=30)
    assert (result.exit_code, result.stdout) == (0, b"fine\n")


def test_a_missing_program_is_one_sentence(node: Node) -> None:
    with pytest.raises(keep.ExecFailed, match="no-such-program") as caught:
        node.exec("a", "no-such-program")
    assert "\n" not in str(caught.value)


def test_an_ended_container_is_joined_by_nobody(node: Node) -> None:
    node.client.stop("a", signal.SIGKILL, 0)
    with pytest.raises(keep.KeepError):
        node.exec("a", "true")
    with pytest.raises(keep.NoSuchContainer):
        node.exec("other", "true")


def test_stdin_reaches_the_program_and_its_end_too(node: Node) -> None:
    with node.client.exec(keep.ExecRequest("a", node.process("cat"), stdin=True)) as session:
        os.write(session.stdin, b"through")
        session.close_stdin()
        assert session.wait(10) == 0
        assert os.read(session.stdout, 100) == b"through"


def test_a_terminal_has_the_size_that_was_asked_for_and_can_change_it(node: Node) -> None:
    asked = keep.ExecRequest("a", node.process("sh"), tty=True, stdin=True, columns=91, rows=27)
    with node.client.exec(asked) as session:
        os.write(session.stdin, b"stty size; tty\n")
        seen = b""
        while b"/dev/pts" not in seen:
            seen += os.read(session.stdout, 1000)
        assert b"27 91" in seen
        session.resize(70, 20)
        seen = b""
        while b"20 70" not in seen:  # the size goes by way of the keeper, what is typed does not
            os.write(session.stdin, b"stty size\n")
            seen += os.read(session.stdout, 1000)
        os.write(session.stdin, b"exit 3\n")
        assert session.wait(10) == 3


def test_a_terminal_that_is_let_go_hangs_up(node: Node) -> None:
    session = node.client.exec(keep.ExecRequest("a", node.process("sleep", "1006"), tty=True, stdin=True))
    session.close()
    wait_until(lambda: "sleep 1006" not in node.exec("a", "ps").stdout.decode())


def test_it_can_be_signalled(node: Node) -> None:
    with node.client.exec(keep.ExecRequest("a", node.process("sleep", "1007"))) as session:
        session.kill(signal.SIGINT)
        assert session.wait(10) == 128 + signal.SIGINT


def test_a_hundred_at_once_all_answer(node: Node) -> None:
    sessions = [node.client.exec(keep.ExecRequest("a", node.process("cat"), stdin=True)) for _ in range(100)]
    for number, session in enumerate(sessions):
        os.write(session.stdin, b"%d" % number)
        session.close_stdin()
    for number, session in enumerate(sessions):
        with session:
            assert session.wait(20) == 0
            assert os.read(session.stdout, 10) == b"%d" % number
