# SPDX-License-Identifier: Apache-2.0
"""Runs the OCI project's validation programs: python -m tests.conformance runtime-tools --runtime PROGRAM."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests.conformance import table
from tests.conformance.table import Result
from tests.e2e import go_build, image_set
from tests.e2e.machine import PATIENCE, Machine, power_on
from tests.e2e.runtimes import PROJECT

HERE = Path(__file__).parent
_HELPERS = ("runtimetest", "oci-runtime-tool")

# Some programs look at controllers of v1 that a host need not have mounted. A new hierarchy may only be made from the
# first cgroup namespace.
_MOUNT = """
[ -e /sys/fs/cgroup/memory ] || exit 0
for name in net_cls net_prio hugetlb; do
    at=/sys/fs/cgroup/$name
    grep -q "^$name[[:space:]]*0[[:space:]]" /proc/cgroups || continue
    mkdir -p "$at" && mount -t cgroup -o "$name" cgroup "$at" && echo "$name"
done
"""
# It outlives its last mount where there was a group in it a moment before, and then ends with the next one.
_END = """
mount -t tmpfs none /mnt
for name in "$@"; do
    for _ in $(seq 100); do
        ! grep -q "^$name[[:space:]]*0[[:space:]]" /proc/cgroups || break
        mount -t cgroup -o "$name" cgroup /mnt || continue
        find /mnt -mindepth 1 -depth -type d -exec rmdir {} +
        umount /mnt
        sleep 0.2
    done
done 2> /dev/null
"""


def runtime_path(name: str) -> str:
    """ketch is this tree's; runc is the pinned module; any other name or path is looked up as a shell would."""
    if name == "ketch":
        return str(PROJECT / ".venv/bin/ketch-runtime")
    if name == "runc":
        return str(go_build.program("runc"))
    found = shutil.which(name)
    if found is None:
        raise SystemExit(f"runtime-tools: no runtime {name!r} on PATH")
    return found


def run_one(machine: Machine, program: Path, runtime: str, work: Path, seconds: float) -> Result:
    """One program; it prints TAP. It passed if it ended well and every line that is no skip is ok."""
    started = time.monotonic()
    environment = ["env", "-C", str(work), f"RUNTIME={runtime}", "TMPDIR=/run"]
    command = machine.inside_group("validation", *environment, str(program))
    log = machine.log_of(program.name)
    try:
        with open(log, "wb") as output:
            status = subprocess.run(command, stdout=output, stderr=output, timeout=seconds, check=False).returncode
    except subprocess.TimeoutExpired:
        return Result(program.name, "failed", seconds, f"did not end within {seconds:.0f} s")
    said = log.read_text(errors="replace")
    return judge(program.name, status, said, time.monotonic() - started)


def judge(name: str, status: int, said: str, seconds: float) -> Result:
    """What a program's status and TAP lines mean."""
    wrong = [line for line in said.splitlines() if re.match(r"\s*not ok\b", line) and "# SKIP" not in line.upper()]
    # some programs count nothing: they print an empty plan, and an error above it if there was one
    counted = re.search(r"^\s*(not )?ok\b", said, re.M)
    errors = [] if counted else re.findall(r'^\s*"error": (.*)', said, re.M)
    has_plan = re.search(r"^1\.\.\d+", said, re.M)
    # a program that counts its tests prints "error" in the notes of those too that expect one and pass
    counted = re.search(r"^1\.\.[1-9]", said, re.M)
    if status == 0 and not wrong and (counted or not errors) and (has_plan or _expects_failure(said)):
        return Result(name, "passed", seconds)
    last = said.strip().splitlines()[-1:] if said.strip() else ["no output"]
    return Result(name, "failed", seconds, "; ".join(wrong[:4] or errors[:2] or [f"status {status}", *last]))


def _expects_failure(said: str) -> bool:
    """The *_fail programs want create to fail; where it does they print its message, no plan, and end with status 0."""
    return said.startswith("failed to create the container")


def run(runtime: str, names: list[str], folder: Path, seconds: float) -> list[Result]:
    """The programs one after the other, in a machine of their own."""
    programs = go_build.program("runtime-tools")
    work = folder / "work"
    work.mkdir(parents=True)
    shutil.copy(programs / "runtimetest", work / "runtimetest")
    (work / "rootfs-amd64.tar.gz").write_bytes(image_set.busybox_layer().data)
    machine = power_on("validation", folder / "machine")
    hierarchies = mount_hierarchies(machine)
    # Some want a device beside lo, and net_prio knows those of the first network namespace only: a name from there.
    machine.run("ip", "link", "add", "other", "type", "veth", "peer", "name", socket.if_nameindex()[-1][1])
    try:
        wanted = names or sorted(name for name in os.listdir(programs) if name not in _HELPERS)
        return [run_one(machine, programs / name, runtime, work, seconds) for name in wanted]
    finally:
        machine.power_off()
        subprocess.run(["unshare", "--mount", "sh", "-c", _END, "sh", *hierarchies], check=True)


def mount_hierarchies(machine: Machine) -> list[str]:
    """In the machine's mounts but the host's cgroup namespace; gives their names."""
    command = ["nsenter", f"--target={machine.pid}", "--mount", "sh", "-c", _MOUNT]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="runtime-tools", description=__doc__)
    parser.add_argument("--runtime", default="ketch", help="ketch, runc, or another runtime's name or path")
    parser.add_argument("--seconds", type=float, default=60 * PATIENCE, help="for each program")
    parser.add_argument("--keep", type=Path, help="where the logs go (default: a new folder below /tmp)")
    parser.add_argument("program", nargs="*", help="only these")
    wanted = parser.parse_args(words)
    folder = wanted.keep or Path(tempfile.mkdtemp(prefix="ketch-runtime-tools-"))
    results = run(runtime_path(wanted.runtime), wanted.program, folder, wanted.seconds)
    expected_file = HERE / f"runtime-tools-{wanted.runtime}.expected"
    expected = table.parse_expected(expected_file.read_text()) if expected_file.exists() else {}
    text, status = table.report(results, expected, is_whole_suite=not wanted.program)
    print(f"runtime-tools with {wanted.runtime}: {text}\nlogs: {folder}/machine/logs")
    return status
