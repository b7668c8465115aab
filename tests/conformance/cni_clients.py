# SPDX-License-Identifier: Apache-2.0
"""Clients that others wrote with our plugins: builds cnitool and the Go plugins, then runs the tests that meet them."""

from __future__ import annotations

import subprocess
import sys

from tests.e2e import go_build
from tests.e2e.runtimes import PROJECT


def main(words: list[str]) -> int:
    for name in ("cnitool", "cni-plugins", "containerd", "containerd-shim-runc-v2", "ctr", "runc"):
        go_build.program(name)
    command = [sys.executable, "-m", "pytest", "-v", "tests/linux/cni/test_real_clients.py", *words]
    return subprocess.run(command, cwd=PROJECT, check=False).returncode
