# SPDX-License-Identifier: Apache-2.0
"""Clients that others wrote with our plugins: cnitool, podman, ctr, the Go plugins; containerd by way of the CRI."""

from __future__ import annotations

import subprocess
import sys

from tests.conformance import critest
from tests.e2e import go_build
from tests.e2e.runtimes import PROJECT


def main(words: list[str]) -> int:
    for name in ("cnitool", "cni-plugins", "containerd", "containerd-shim-runc-v2", "ctr", "runc"):
        go_build.program(name)
    command = [sys.executable, "-m", "pytest", "-v", "tests/linux/cni/test_real_clients.py", *words]
    status = subprocess.run(command, cwd=PROJECT, check=False).returncode
    by_cri = critest.main(["--runtime", "containerd-ketch-cni", "--focus", "Networking|PodSandbox|portforward"])
    return status or by_cri
