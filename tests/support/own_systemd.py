# SPDX-License-Identifier: Apache-2.0
"""systemd as PID 1 of a namespace in the world of one root test: for machines whose own PID 1 is another program."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = Path("/lib/systemd/systemd")

# The units of the machine stay out: only an empty target is started. `container` keeps it from looking for hardware,
# and the directory above the hierarchies, read-only, from mounting those that the test has not.
_BOOT = f"""
mount -n -o remount,bind,ro /sys/fs/cgroup
mount -n -t tmpfs none /run
mkdir -p /run/systemd/system /run/lock
printf '[Unit]\\nDefaultDependencies=no\\n' > /run/systemd/system/test.target
mount -n -t tmpfs none /etc/systemd/system
cd /
exec env -i container=test PATH="$PATH" {PROGRAM} --system --unit=test.target --show-status=no --log-target=console
"""


@contextmanager
def booted() -> Iterator[list[str]]:
    """Boot it; gives the words that come before a command which is to run beside it."""
    before = set(_groups())
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", _BOOT],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as outside:
        try:
            prefix = ["nsenter", "-p", "-m", "-t", _until_up(outside)]
            yield prefix
        finally:
            for pid in _children(outside.pid):
                subprocess.run(["kill", "-9", pid], check=True)
            outside.wait(10)
            _remove(set(_groups()) - before)


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _until_up(outside: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for pid in _children(outside.pid):
            words = ["nsenter", "-p", "-m", "-t", pid, "systemctl", "is-system-running"]
            said = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
            if said in ("running", "degraded"):
                return pid
        time.sleep(0.02)
    raise RuntimeError("systemd does not come up in a PID namespace of its own")


def _groups() -> Iterator[Path]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if " - cgroup" in line:
            yield from Path(line.split()[4]).rglob("*/")


def _remove(groups: set[Path]) -> None:
    deadline = time.monotonic() + 5
    for group in sorted(groups, reverse=True):
        while group.is_dir():
            try:
                group.rmdir()
            except OSError:  # the kernel still counts a process that has ended
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
