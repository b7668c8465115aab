# SPDX-License-Identifier: Apache-2.0
"""`ketch` on a real terminal: prompts, sizes, Ctrl-C, the keys that leave, tables that fit."""

from __future__ import annotations

import pytest

from tests.support.hand import Ketch

pytestmark = pytest.mark.needs("root")


def test_a_shell_has_a_terminal_of_the_right_size_follows_it_and_can_be_left_and_joined(ketch: Ketch) -> None:
    shell = ketch.terminal("run", "-it", "--name", "box", "busybox", "sh", columns=77, rows=33)
    shell.expect("/ # ")
    shell.type("stty size; hostname\r")
    shell.expect("33 77")
    shell.expect(ketch("ps", "-q").strip())
    shell.expect("/ # ")
    shell.resize(120, 40)
    shell.type("until stty size | grep 40; do :; done\r")
    shell.expect("40 120")
    shell.type("echo rea''dy; sleep 1000\r")
    shell.expect("ready\r\n")
    while "sleep 1000" not in ketch("top", "box"):  # a shell between two commands has no use for Ctrl-C
        pass
    shell.type("\x03")
    shell.expect("/ # ")
    shell.type("\x10\x11")
    assert shell.end() == 0
    assert ketch("ps", "--format", "{{.State}}") == "running\n"
    joined = ketch.terminal("attach", "box")
    joined.type("echo joined\r")
    joined.expect("joined\r\n")
    joined.type("exit 5\r")
    assert joined.end() == 5
    assert ketch("inspect", "-f", "{{.State.ExitCode}}", "box") == "5\n"


def test_exec_on_a_terminal_has_its_own_size_and_code(ketch: Ketch) -> None:
    ketch("run", "-d", "--name", "box", "busybox", "sleep", "100")
    inside = ketch.terminal(
        "exec", "-it", "box", "sh", "-c", "stty size; read x; echo got $x; exit 3", columns=91, rows=20
    )
    inside.expect("20 91")
    inside.type("this\r")
    inside.expect("got this")
    assert inside.end() == 3


def test_ctrl_c_without_a_terminal_of_its_own_goes_to_the_container(ketch: Ketch) -> None:
    script = "trap 'echo bye; exit 9' INT; echo up; while :; do sleep 0.1; done"
    front = ketch.terminal("run", "--rm", "busybox", "sh", "-c", script)
    front.expect("up")
    front.type("\x03")
    front.expect("bye")
    assert front.end() == 9
    assert ketch.left() == []


def test_a_table_is_cut_to_the_terminal_and_has_no_colour_in_a_pipe(ketch: Ketch) -> None:
    ketch("run", "-d", "--name", "a_container_with_quite_a_long_name", "busybox", "sleep", "100")
    narrow = ketch.terminal("ps", columns=80)
    assert narrow.end() == 0
    assert all(len(line) <= 80 for line in narrow.shown.split("\r\n"))
    assert "\x1b" not in ketch("ps")
