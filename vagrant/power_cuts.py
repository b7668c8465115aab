# SPDX-License-Identifier: Apache-2.0
"""Cut the power of a guest under load, boot it on the same disk, look what is left; again and again.

prepare ──► load runs ── after a random time: SIGKILL to QEMU ──► boot, same disk ──► after_cut ──► one line
               ▲                                                                                       │
               └───────────────────────────────────────────────────────────────────────────────────────┘
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from vagrant import checkout, machine, speed

_RESULTS = "power-cuts.jsonl"
_LOAD_SECONDS = (2.0, 25.0)
_READY_SECONDS = 5.0


class Load:
    """The load in the guest, and what it has said so far."""

    def __init__(self, chosen: machine.Machine, factor: int) -> None:
        self.lines: list[str] = []
        self.process = machine.popen(chosen, _python(factor, "tests.guest.power_load", "run"))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(line.rstrip("\n") for line in self.process.stdout)

    def wait_until_loaded(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not any(line.startswith("done") for line in self.lines):
            if self.process.poll() is not None or time.monotonic() > end:
                raise machine.GuestError(f"the load does not get going; it said {self.lines[-5:]}")
            time.sleep(0.1)

    def end(self) -> list[str]:
        """After the cut: ssh notices, and what had arrived by then counts."""
        self.process.kill()
        self.process.wait()
        self._reader.join(10)
        return self.lines


def _python(factor: int, module: str, *words: str) -> str:
    return f"cd {checkout.TOP} && KETCH_TIMEOUT_FACTOR={factor} .venv/bin/python -m {module} {' '.join(words)}"


def run(chosen: machine.Machine, number: int, report: Path, seed: int | None) -> int:
    """Until `number` cuts of this commit are in the report; the status is 1 if anything was wrong or slow.

    Fifty take an emulated guest hours, so what an interrupted run has done counts in the next.
    """
    chance = random.Random(seed)  # noqa: S311 - when the power goes is no secret
    checkout.bring_in(chosen)
    factor = speed.timeout_factor(chosen)
    print("vm: installing, filling a registry", file=sys.stderr)
    machine.ssh(chosen, _python(factor, "tests.guest.power_load", "install"))
    found = _former(report)
    for cut in range(len(found) + 1, number + 1):
        found.append(_one(chosen, factor, chance.uniform(*_LOAD_SECONDS)))
        print(f"cut {cut:3}: {_told(found[-1])}", flush=True)
        report.mkdir(parents=True, exist_ok=True)
        (report / _RESULTS).write_text("\n".join([_commit(), *map(json.dumps, found)]) + "\n")
    bad = [line for line in found if line["wrong"]]
    slow = [line for line in found if line["ready_seconds"] > _READY_SECONDS]
    print(
        f"{len(found)} cuts, {len(bad)} with something wrong,"
        f" {len(slow)} not ready in {_READY_SECONDS:.0f} s of guest time"
    )
    return 1 if bad or slow else 0


def _former(report: Path) -> list[dict[str, Any]]:
    """What was found so far with this commit; the file's first line names its own."""
    lines = (report / _RESULTS).read_text().splitlines() if (report / _RESULTS).exists() else [""]
    return [json.loads(line) for line in lines[1:]] if lines[0] == _commit() else []


def _commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=checkout.TOP, capture_output=True, text=True, check=True
    ).stdout.strip()


def _told(line: dict[str, Any]) -> str:
    return (
        f"after {line['loaded_seconds']:4.1f} s of load, {line['pods']} pods, {line['pulls']} pulls;"
        f" ready {line['ready_seconds']:.1f} s after its start (a bare Python: {line['python_seconds']:.2f} s),"
        f" {line['up_seconds']:.0f} s after the kernel's ({line['boot_seconds']:.0f} s here):"
        f" {line['wrong'] or 'nothing wrong'}"
    )


def _one(chosen: machine.Machine, factor: int, seconds: float) -> dict[str, Any]:
    load = Load(chosen, factor)
    load.wait_until_loaded(20.0 * factor)
    time.sleep(seconds)  # the moment is the point, nothing is waited for
    boot = machine.reboot_after_power_cut(chosen)
    said = load.end()
    looked = machine.ssh(
        chosen,
        _python(factor, "tests.guest.after_cut"),
        check=False,
        input="\n".join(said) + "\n",
        stdout=subprocess.PIPE,
    )
    try:
        result: dict[str, Any] = json.loads(looked.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        times = dict.fromkeys(("ready_seconds", "up_seconds", "python_seconds"), 0.0)
        result = {**times, "pods": 0, "pulls": 0, "wrong": [f"the judge failed: {looked.stdout[-300:]}"]}
    return {"loaded_seconds": round(seconds, 1), "boot_seconds": round(boot, 1), **result}
