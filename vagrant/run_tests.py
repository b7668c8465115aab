# SPDX-License-Identifier: Apache-2.0
"""Run the tests in the guest: build the pushed tree there, choose what runs, bring the reports back."""

from __future__ import annotations

import shlex
from pathlib import Path

from vagrant import machine

_TREE = "/srv/ketch"
_TIMEOUT_FACTOR = 15  # an emulated CPU is 4 to 30 times slower than the host's; nothing is timed in the guest


def run(chosen: machine.Machine, report: Path, words: list[str], *, everything: bool) -> int:
    _build(chosen)
    selection = words or (["tests"] if everything else ["tests", "--beyond-ci"])
    command = (
        f"cd {_TREE} && KETCH_TIMEOUT_FACTOR={_TIMEOUT_FACTOR} .venv/bin/pytest -q"
        f" --timeout={120 * _TIMEOUT_FACTOR} --junit-xml={_TREE}/build/report/junit.xml {shlex.join(selection)}"
    )
    status = machine.ssh(chosen, command, check=False).returncode
    machine.pull(chosen, f"{_TREE}/build/report", report)
    return status


def _build(chosen: machine.Machine) -> None:
    """The image holds the packages and a venv of all requirements, so nothing is downloaded here."""
    machine.ssh(
        chosen,
        # bash takes a socket on stdin for rshd's and reads bashrc, which make's `bash -u` does not survive
        f"exec < /dev/null; cd {_TREE} && mkdir -p build/report && if [ -d /opt/ketch/venv ] && [ ! -e .venv ]; then"
        " ln -s /opt/ketch/venv .venv && touch .venv/ready; fi && make -s build",
    )
