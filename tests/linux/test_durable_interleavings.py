# SPDX-License-Identifier: Apache-2.0
"""Durable files under 1,000 random interleavings of two writers, with deaths at every step."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def test_a_thousand_random_interleavings_with_crashes_never_tear_or_lose_a_file() -> None:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # fsync costs nothing there
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        command = [sys.executable, "-m", "tests.support.interleavings", "20261121", "1000", directory]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1000 interleavings, ")
    assert int(done.stdout.split()[2]) > 100  # crashes that would have shown
