# SPDX-License-Identifier: Apache-2.0
"""Runs real engines over an OCI runtime, one script each: python -m tests.conformance engines --runtime PROGRAM."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.conformance import table
from tests.conformance.runtime_tools import runtime_path
from tests.conformance.table import Result
from tests.e2e import image_set, images, local_programs
from tests.e2e.images import Image
from tests.e2e.machine import Machine, power_on

HERE = Path(__file__).parent
SCRIPTS = ("podman", "rootless", "containerd", "buildah", "conmon")

# Debian's crun 1.8.1 refuses hosts with a cgroup2 mount with controllers beside those of v1, so it is shown none.
_HIDE_HYBRID = """
file=/sys/fs/cgroup/unified/cgroup.controllers
[ ! -e "$file" ] || { : > "$1/none"; mount --bind "$1/none" "$file"; }
"""


def lines_of(script: str, said: str, seconds: float) -> list[Result]:
    """Each line of TAP is a result; a script that did not come to its plan is one that failed."""
    found = []
    for line in said.splitlines():
        match = re.match(r"(not )?ok \d+ - (.*)", line)
        if match:
            sentence, _, why = match[2].partition(" (status ")
            found.append(Result(f"{script}: {sentence}", "failed" if match[1] else "passed", said=why))
    if not re.search(r"^1\.\.\d+", said, re.M):
        found.append(Result(f"{script}: comes to its end", "failed", seconds, said[-400:]))
    return found


def run_script(machine: Machine, script: str, runtime: str, folder: Path, seconds: float) -> list[Result]:
    started = time.monotonic()
    work = folder / script
    work.mkdir()
    given = {
        "RUNTIME": runtime,
        "ROOTFS": str(folder / "rootfs.tar.gz"),
        "IMAGE": str(folder / "image.tar"),
        "WORK": str(work),
        "PROGRAMS": str(folder / "bin"),
        "HOME": str(work),
        "XDG_RUNTIME_DIR": "/run",
    }
    command = ["env", *(f"{name}={value}" for name, value in given.items()), "sh", str(HERE / f"{script}.sh")]
    log = machine.log_of(script)
    try:
        with open(log, "wb") as output:
            subprocess.run(
                machine.inside_group(script, *command), stdout=output, stderr=output, timeout=seconds, check=False
            )
    except subprocess.TimeoutExpired:
        return [Result(f"{script}: comes to its end", "failed", seconds, f"did not end within {seconds:.0f} s")]
    return lines_of(script, log.read_text(errors="replace"), time.monotonic() - started)


def prepare(folder: Path, scripts: list[str]) -> None:
    """The image in both forms, and where containerd is wanted its programs."""
    layer = image_set.busybox_layer()
    (folder / "rootfs.tar.gz").write_bytes(layer.data)
    if "containerd" in scripts:
        # Debian's, because its crun refuses the version of the specification that later ones write
        (folder / "bin").symlink_to(local_programs.debian_package("containerd") / "usr/bin")
        image = Image("box", ("latest",), (layer,), {"Cmd": ["sh"], "Env": ["PATH=/bin"]})
        images.write_layout(folder / "image.tar", image, "localhost/box:latest")


def run(runtime: str, scripts: list[str], folder: Path, seconds: float) -> list[Result]:
    """The scripts one after the other, in a machine of their own."""
    prepare(folder, scripts)
    machine = power_on("engines", folder / "machine")
    try:
        machine.run("sh", "-c", _HIDE_HYBRID, "sh", str(folder))
        return [one for script in scripts for one in run_script(machine, script, runtime, folder, seconds)]
    finally:
        machine.power_off()


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="engines", description=__doc__)
    parser.add_argument("--runtime", default="ketch", help="ketch, runc, crun or another runtime's name or path")
    parser.add_argument("--seconds", type=float, default=600, help="for each script")
    parser.add_argument("--keep", type=Path, help="where the logs go (default: a new folder below /var/tmp)")
    parser.add_argument("script", nargs="*", help=f"only these of {', '.join(SCRIPTS)}")
    wanted = parser.parse_args(words)
    for script in wanted.script:
        if script not in SCRIPTS:
            parser.error(f"no script {script!r}; there are {', '.join(SCRIPTS)}")
    lacking = [name for name in ("podman", "buildah", "conmon") if shutil.which(name) is None]
    scripts = [name for name in wanted.script or SCRIPTS if name not in lacking]
    if lacking:
        print(f"engines: not installed, left out: {', '.join(lacking)} (apt-get install {' '.join(lacking)})")
    folder = wanted.keep or Path(tempfile.mkdtemp(prefix="ketch-engines-", dir="/var/tmp"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    results = run(runtime_path(wanted.runtime), scripts, folder, wanted.seconds)
    text, status = table.report(results, {}, is_whole_suite=not wanted.script)
    print(f"engines with {wanted.runtime}: {text}\nlogs: {folder}/machine/logs")
    return status
