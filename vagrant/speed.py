# SPDX-License-Identifier: Apache-2.0
"""How much slower the guest is than this host, measured: what the tests' timeouts are multiplied with."""

from __future__ import annotations

import subprocess

from vagrant import machine

# What tests are made of: an interpreter that starts, loops and forks. The best of three, for neighbours come and go.
_SAMPLE = """
import os, subprocess, sys, time
def once():
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import json, socket; sum(range(200000))"], check=True)
    for _ in range(20):
        if (pid := os.fork()) == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    return time.monotonic() - began
print(min(once() for _ in range(3)))
"""
_MARGIN = 2.0  # the sample's best is compared, and a test may meet the worst
_PYTHON = "/usr/bin/python3"


def timeout_factor(chosen: machine.Machine) -> int:
    """At least 2: a guest on KVM is as quick as its host, but may wait for it."""
    here = subprocess.run([_PYTHON, "-"], input=_SAMPLE, capture_output=True, text=True, check=True).stdout
    there = machine.ssh(chosen, f"{_PYTHON} -", input=_SAMPLE, stdout=subprocess.PIPE).stdout
    return max(2, round(_MARGIN * float(there) / float(here)))
