# SPDX-License-Identifier: Apache-2.0
"""The checkers are tests, so that one command checks everything."""

import subprocess
import sys
from pathlib import Path

from tests.lint.sources import TOP

CHECKED = ("runtime", "cni", "cri", "tests", "vagrant", "setup.py")


def run(tool: str, *arguments: str) -> None:
    program = Path(sys.executable).parent / tool
    done = subprocess.run([program, *arguments], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"\n{done.stdout}{done.stderr}"


def test_ruff_finds_nothing() -> None:
    run("ruff", "check", "--quiet", *CHECKED)


def test_every_file_is_formatted() -> None:
    run("ruff", "format", "--check", "--quiet", *CHECKED)


def test_types_are_right() -> None:
    run("mypy")
