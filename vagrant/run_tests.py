# SPDX-License-Identifier: Apache-2.0
"""Run tests and suites in the guest: build the pushed tree there, choose what runs, bring the reports back."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path

from vagrant import machine

_TREE = "/srv/ketch"
_TIMEOUT_FACTOR = 15  # an emulated CPU is 4 to 30 times slower than the host's; nothing is timed in the guest
# What the suites of others are made of: built on the host (the guest has no network), kept under these names there.
_PROGRAMS = {
    "critest": ("critest", "critest-local", "crictl", "runc", "registry-critest", "debian-docker-registry", "pause"),
    "runtime-tools": ("runtime-tools", "runc"),
    "cni": ("cni-plugins", "cnitool"),
    "e2e": (
        "kubelet", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl", "etcd",
        "runc", "cni-plugins", "registry-cluster", "debian-docker-registry", "debian-nginx", "pause", "crictl",
        "effective_uid",
    ),
}  # fmt: skip
_NEEDED_BY_ALL = ("busybox", "agnhost", "coredns")  # images are described by the digest of these programs


def run(chosen: machine.Machine, report: Path, words: list[str], *, everything: bool) -> int:
    """pytest in the guest; the report is junit.xml and a table of outcomes, below the folder `report`."""
    build(chosen)
    selection = words or (["tests"] if everything else ["tests", "--beyond-ci"])
    status = machine.ssh(
        chosen,
        f"cd {_TREE} && KETCH_TIMEOUT_FACTOR={_TIMEOUT_FACTOR} KETCH_TEST_SETTLE_SECONDS={2 * _TIMEOUT_FACTOR}"
        f" .venv/bin/pytest -q --timeout={120 * _TIMEOUT_FACTOR} --junit-xml={_TREE}/build/report/junit.xml"
        f" -o junit_family=xunit2 {shlex.join(selection)}",
        check=False,
    ).returncode
    machine.pull(chosen, f"{_TREE}/build/report", report)
    return status


def suite(chosen: machine.Machine, report: Path, name: str, words: list[str]) -> int:
    """One suite of others in the guest, on programs that were built on the host."""
    build(chosen)
    _push_programs(chosen, [*_PROGRAMS[name], *_NEEDED_BY_ALL])
    command = (
        f"tests/e2e/run {shlex.join(words)}" if name == "e2e" else f"tests/conformance/run {shlex.join([name, *words])}"
    )
    log = f"{_TREE}/build/report/{name}.log"
    status = machine.ssh(
        chosen,
        # the log is the report; pipefail keeps the suite's own status
        f"cd {_TREE} && set -o pipefail && export KETCH_TIMEOUT_FACTOR={_TIMEOUT_FACTOR} && {command} 2>&1 | tee {log}",
        check=False,
    ).returncode
    machine.pull(chosen, f"{_TREE}/build/report", report)
    return status


def build(chosen: machine.Machine) -> None:
    """The image holds the packages and a venv of all requirements, so nothing is downloaded here."""
    started = time.monotonic()
    machine.ssh(
        chosen,
        # bash takes a socket on stdin for rshd's and reads bashrc, which make's `bash -u` does not survive
        f"exec < /dev/null; cd {_TREE} && mkdir -p build/report && if [ -d /opt/ketch/venv ] && [ ! -e .venv ]; then"
        " ln -s /opt/ketch/venv .venv; fi && touch .venv/ready && make -s build",
    )
    print(f"vm: built in the guest in {time.monotonic() - started:.0f} s", file=sys.stderr)


def _push_programs(chosen: machine.Machine, names: list[str]) -> None:
    """The newest folder of each name: names end in a dash and the key of what they were made from."""
    home = Path(os.environ.get("KETCH_PROGRAMS") or Path("~/.cache/ketch").expanduser())
    for name in names:
        found = sorted(home.glob(f"{name}-{'?' * 16}"), key=lambda folder: folder.stat().st_mtime)
        if not found:
            raise machine.GuestError(f"no {name} in {home} (try: .venv/bin/python -m tests.e2e.go_build {name})")
        machine.copy_in(chosen, found[-1], f"/root/.cache/ketch/{found[-1].name}")
