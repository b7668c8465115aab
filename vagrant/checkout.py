# SPDX-License-Identifier: Apache-2.0
"""This checkout in the guest, at the path it has here: with what was built here, or built there.

A guest of the host's own Debian release runs the host's build, because its commands name their library by its path;
in a guest of another release the C parts are compiled anew, minutes of an emulated CPU.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from vagrant import guest, machine

TOP = Path(__file__).resolve().parent.parent
PYTHON = TOP / ".venv/bin/python"
REPORT = TOP / "build/report"
INSTALLED = TOP / "build/installed"  # what `make install` would put into the guest's /usr/local
_NEVER = (".git", ".venv", "/build/*", "dist", "*.egg-info", ".mypy_cache", ".ruff_cache", ".hypothesis", "*.image")
_COMPILED = ("*.so", "_*.c", "__pycache__", "/build", "/runtime/linux/reaper")


def bring_in(chosen: machine.Machine) -> None:
    """Push the tree and make its commands work there; a second time only what has changed is sent."""
    started = time.monotonic()
    is_built_here = guest.is_this_release(chosen.image.suite) and (TOP / ".venv/bin/ketch").exists()
    left_out = _NEVER if is_built_here else (*_COMPILED, *_NEVER)
    machine.ssh(chosen, f"mkdir -p {TOP}")
    if is_built_here:
        subprocess.run([PYTHON, "-m", "compileall", "-q", *_packages()], cwd=TOP, check=True)
    machine.push(chosen, TOP, ["--delete", "--include=/build/cni", *(f"--exclude={name}" for name in left_out)])
    machine.ssh(chosen, f"cd {TOP} && mkdir -p {REPORT} && {{ [ -e .venv ] || cp -al /opt/ketch/venv .venv; }}")
    if is_built_here:
        commands = ["--include=/bin", "--include=/bin/ketch*", "--include=/ready", "--exclude=*"]
        machine.push(chosen, TOP / ".venv", ["--hard-links", *commands])
        machine.ssh(chosen, f"cd {TOP} && .venv/bin/python -m runtime.linux.cold_writer > /dev/null")
    else:
        # bash takes a socket on stdin for rshd's and reads bashrc, which make's `bash -u` does not survive
        machine.ssh(chosen, f"exec < /dev/null; cd {TOP} && touch .venv/ready && make -s build")
    how = "as it was built here" if is_built_here else "and built there"
    print(f"vm: the tree is in the guest {how}, {time.monotonic() - started:.0f} s", file=sys.stderr)


def bring_installation_in(chosen: machine.Machine) -> None:
    """`make install` done here for the guest's /usr/local; a guest of another release does it itself."""
    if guest.is_this_release(chosen.image.suite):
        install = ["make", "-s", "install", f"DESTDIR={INSTALLED}", "PREFIX=/usr/local"]
        subprocess.run(install, cwd=TOP, stdout=subprocess.DEVNULL, check=True)
        machine.push(chosen, INSTALLED, ["--hard-links", "--delete"])


def _packages() -> list[str]:
    return ["runtime", "cni", "cri", "proto", "tests", "vagrant"]
