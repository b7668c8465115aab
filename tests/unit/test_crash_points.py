# SPDX-License-Identifier: Apache-2.0
"""Crash points hit the call they name: before it happens, in whoever makes it, and the rest is left alone."""

import os
import signal
import subprocess
from pathlib import Path

from tests.support import crash


def test_a_function_dies_before_its_nth_call(tmp_path: Path) -> None:
    def make_three() -> None:
        for name in "abc":
            os.mkdir(tmp_path / name)

    outcome = crash.kill_at(make_three, 2, only=["mkdir", "mkdirat"])
    assert outcome.reached
    assert outcome.call == "mkdir"
    assert outcome.exit_code == -signal.SIGKILL
    assert os.listdir(tmp_path) == ["a"]


def test_what_never_reaches_the_point_runs_to_its_end(tmp_path: Path) -> None:
    outcome = crash.kill_at(lambda: os.mkdir(tmp_path / "a"), 2, only=["mkdir"])
    assert (outcome.reached, outcome.calls, outcome.exit_code) == (False, 1, 0)


def test_every_point_of_a_command_is_visited_once() -> None:
    outcomes = list(crash.every_point(["true"], only=["openat", "exit_group"]))
    assert [n for n, _ in outcomes] == list(range(1, len(outcomes) + 1))
    assert [outcome.reached for _, outcome in outcomes] == [True] * (len(outcomes) - 1) + [False]
    assert crash.count(["true"], only=["openat", "exit_group"]) == len(outcomes) - 1


def test_a_descendant_is_hit_too_and_its_parent_sees_it_die(tmp_path: Path) -> None:
    def parent() -> None:
        done = subprocess.run(["mkdir", str(tmp_path / "x")], check=False)
        (tmp_path / "code").write_text(str(done.returncode))

    outcome = crash.kill_at(parent, 1, only=["mkdir", "mkdirat"])
    assert outcome.reached
    assert outcome.exit_code == 0
    assert (tmp_path / "code").read_text() == "-9"


def test_everyone_of_a_family_can_die_at_once(tmp_path: Path) -> None:
    outcome = crash.kill_at(["sh", "-c", f"mkdir {tmp_path}/x; mkdir {tmp_path}/y"], 1, only=["mkdir"], everyone=True)
    assert outcome.exit_code == -signal.SIGKILL
    assert os.listdir(tmp_path) == []


def test_a_held_process_waits_before_the_call_and_goes_on_afterwards(tmp_path: Path) -> None:
    with crash.held_at(lambda: os.mkdir(tmp_path / "x"), 1, only=["mkdir"]) as outcome:
        assert Path(f"/proc/{outcome.pid}/stat").read_text().rsplit(")")[1].split()[0] == "t"
        assert os.listdir(tmp_path) == []
    assert os.listdir(tmp_path) == ["x"]
