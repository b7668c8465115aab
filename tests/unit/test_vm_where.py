# SPDX-License-Identifier: Apache-2.0
"""The table of what ran where: a test that the machine skips and that ran in no VM is a failure."""

from pathlib import Path

import pytest

from vagrant import where
from vagrant.where import Outcome

_JUNIT = """<testsuites><testsuite>
<testcase classname="tests.linux.test_a" name="test_ran[1-x]"/>
<testcase classname="tests.linux.test_a" name="test_v2"><skipped message="needs cgroup2"/></testcase>
<testcase classname="tests.linux.test_a" name="test_leaks"/>
<testcase classname="tests.linux.test_a" name="test_leaks"><error message="left a mount"/></testcase>
</testsuite></testsuites>"""


def test_a_junit_file_gives_one_outcome_for_each_test(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_text(_JUNIT)
    assert where.read_junit(path) == {
        "tests/linux/test_a.py::test_ran[1-x]": Outcome("passed"),
        "tests/linux/test_a.py::test_v2": Outcome("skipped", "needs cgroup2"),
        "tests/linux/test_a.py::test_leaks": Outcome("failed"),
    }


def test_a_record_is_read_as_it_was_written() -> None:
    outcomes = {"tests/x.py::test_a[b c]": Outcome("passed"), "tests/x.py::test_b": Outcome("failed")}
    assert where.read_record(where.write_record(outcomes, "abc")) == outcomes


def test_what_ran_nowhere_is_named_and_fails() -> None:
    skipped = Outcome("skipped", "needs cgroup2")
    machine = {"t.py::test_part": skipped, "t.py::test_all": skipped, "t.py::test_none": skipped}
    text, status = where.table(
        machine,
        {"t.py::test_part": Outcome("passed"), "t.py::test_none": Outcome("failed")},
        {"t.py::test_all": Outcome("passed"), "t.py::test_none": skipped},
    )
    assert status == 1
    assert [line for line in text.splitlines() if "NOWHERE" in line] == [
        "failed   skipped  NOWHERE t.py::test_none: needs cgroup2"
    ]
    del machine["t.py::test_none"]
    assert where.table(machine, {"t.py::test_part": Outcome("passed")}, {"t.py::test_all": Outcome("passed")})[1] == 0


def test_without_a_run_of_the_vm_the_committed_one_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = tmp_path / "machine.xml"
    machine.write_text(_JUNIT)
    assert where.main(["table", str(machine)]) == 1
    assert "NOWHERE tests/linux/test_a.py::test_v2: needs cgroup2" in capsys.readouterr().out


def test_a_test_that_one_part_skipped_and_another_ran_has_run(tmp_path: Path) -> None:
    reports = [tmp_path / name for name in ("machine.xml", "clients.xml", "vm.xml")]
    for report in reports:
        report.write_text(_JUNIT)
    reports[1].write_text(_JUNIT.replace('<skipped message="needs cgroup2"/>', ""))
    assert where.main(["table", *map(str, reports)]) == 0
