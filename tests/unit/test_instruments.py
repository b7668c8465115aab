# SPDX-License-Identifier: Apache-2.0
"""The instruments count what happens: budgets stand on them."""

from tests.support import crash, instruments


def test_forked_processes_are_counted_and_threads_are_not() -> None:
    assert instruments.processes_forked(["sh", "-c", "true"]) == 0
    assert instruments.processes_forked(["sh", "-c", "/bin/true; /bin/true; :"]) == 2
    with_threads = "import threading as t; [x.start() for x in [t.Thread(target=print) for _ in range(3)]]"
    assert instruments.processes_forked([instruments.INTERPRETER, "-I", "-S", "-c", with_threads]) == 0


def test_system_calls_are_counted_by_name() -> None:
    make = ["sh", "-c", "cd /; cd /tmp"]
    calls = instruments.system_calls(make)
    assert calls["chdir"] == 2
    assert sum(calls.values()) == crash.count(make)
