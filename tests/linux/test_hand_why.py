# SPDX-License-Identifier: Apache-2.0
"""`ketch why` against fifty containers that do not run for a known cause: it must name the true one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.hand import Ketch

pytestmark = [pytest.mark.needs("root"), pytest.mark.timeout(600)]


def files(folder: Path) -> None:
    """Programs that cannot be executed, each for another reason."""
    folder.mkdir()

    def put(name: str, data: bytes, mode: int = 0o755) -> None:
        (folder / name).write_bytes(data)
        (folder / name).chmod(mode)

    put("perl-script", b"#!/usr/bin/perl\nprint 1;\n")
    put("env-python", b"#!/usr/bin/env python3\nprint(1)\n")
    put("windows", b"#!/bin/sh\r\necho hi\r\n")
    put("no-shebang", b"echo hi\n")
    put("not-executable", b"#!/bin/sh\necho hi\n", 0o644)
    put("empty", b"")
    put("no-python", b"#!/usr/bin/python3\n")
    arm = bytearray(64)
    arm[:7], arm[16:20] = b"\x7fELF\x02\x01\x01", b"\x02\x00\xb7\x00"
    put("for-arm", bytes(arm) + b"\0" * 100)
    put("damaged", (b"\x7fELF\x02\x01\x01" + b"\0" * 9 + b"\x02\x00\x3e\x00" + b"\0" * 20))
    shutil.copy("/bin/ls", folder / "dynamic")
    put("only-root", b"#!/bin/sh\necho hi\n", 0o700)


SH = ("busybox", "sh", "-c")
# (what the true cause is, options and words of `run`); /p holds the programs above.
CASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("no-program", ("busybox", "nonsense")),
    ("no-program", ("busybox", "/usr/bin/nonsense")),
    ("no-program", ("busybox", "pyhton3")),
    ("no-program", ("busybox", "./run.sh")),
    ("no-program", ("-w", "/tmp", "busybox", "start")),
    ("no-program", ("--entrypoint", "/entry.sh", "busybox")),
    ("no-program", ("-e", "PATH=/nowhere", "busybox", "ls")),
    ("no-program", ("busybox", "--verbose")),
    ("quoting", ("busybox", "echo hello")),
    ("quoting", ("busybox", "ls -l /")),
    ("directory", ("busybox", "/etc")),
    ("directory", ("--entrypoint", "/bin", "busybox")),
    ("interpreter", ("busybox", "/p/perl-script")),
    ("interpreter", ("busybox", "/p/no-python")),
    ("interpreter", ("busybox", "/p/windows")),
    ("interpreter", ("busybox", "/p/env-python")),
    ("loader", ("busybox", "/p/dynamic")),
    ("no-shebang", ("busybox", "/p/no-shebang")),
    ("empty", ("busybox", "/p/empty")),
    ("architecture", ("busybox", "/p/for-arm")),
    ("format", ("busybox", "/p/damaged")),
    ("not-executable", ("busybox", "/p/not-executable")),
    ("permission", ("-u", "1000", "busybox", "/p/only-root")),
    ("oom", ("-m", "12m", *SH, "dd if=/dev/zero of=/dev/shm/x bs=20M count=1")),
    ("oom", ("-m", "12m", "busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")),
    ("oom", ("-m", "10m", *SH, "head -c 60000000 /dev/zero | tail -c 60000000 >/dev/null; exit 1")),
    ("crash", (*SH, "kill -SEGV $$")),
    ("abort", (*SH, "kill -ABRT $$")),
    ("bus", (*SH, "kill -BUS $$")),
    ("illegal", (*SH, "kill -ILL $$")),
    ("arithmetic", (*SH, "kill -FPE $$")),
    ("cpu-limit", ("--ulimit", "cpu=1:9", "--init", *SH, "while :; do :; done")),
    ("finished", ("busybox", "true")),
    ("finished", (*SH, "echo done")),
    ("finished", (*SH, "sleep 100 & echo started")),
    ("no-input", ("busybox", "sh")),
    ("failed", (*SH, "exit 42")),
    ("failed", (*SH, "echo the database is not configured; exit 3")),
    ("failed", ("busybox", "false")),
    ("read-only", ("--read-only", "busybox", "touch", "/file")),
    ("read-only", ("--read-only", *SH, "echo x > /data")),
    ("permission", ("-u", "1000", "busybox", "touch", "/file")),
    ("permission", ("-u", "1000", "busybox", "cat", "/p/only-root")),
    ("privilege", ("busybox", "hostname", "other")),
    ("privilege", ("busybox", "mount", "-t", "tmpfs", "none", "/mnt")),
    ("privilege", ("--cap-drop", "ALL", "busybox", "chown", "1000", "/bin")),
    ("disk-full", (*SH, "dd if=/dev/zero of=/dev/shm/x bs=1M count=100")),
    ("name", ("--network", "none", "busybox", "ping", "-c", "1", "example.test")),
    ("name", ("--dns", "127.0.0.1", "busybox", "ping", "-c", "1", "example.test")),
    ("unreachable", ("--network", "none", "busybox", "ping", "-c", "1", "10.1.2.3")),
    ("refused", ("busybox", "nc", "127.0.0.1", "81")),
    ("port-taken", (*SH, "nc -l -p 80 & sleep 0.3; httpd -f -p 80")),
    ("missing-file", ("busybox", "cat", "/etc/my.conf")),
    ("missing-file", ("busybox", "sh", "/start.sh")),
    ("shell", (*SH, "exec 2>/dev/null; nonsense")),
    ("not-found", (*SH, "nonsense --serve")),
    ("workdir", ("-w", "/bin/busybox", "busybox", "true")),
    ("killed", (*SH, "kill -9 $$")),
)  # fmt: skip


def test_why_names_the_true_cause(ketch: Ketch, tmp_path: Path) -> None:
    files(tmp_path / "programs")
    wrong = []
    for index, (cause, words) in enumerate(CASES):
        name = f"case{index}"
        extra = ("--init",) if cause in _NOT_AS_ONE else ()
        done = ketch.call("run", "--name", name, "-v", f"{tmp_path}/programs:/p:ro", *extra, *words)
        if name not in ketch("ps", "-a", "--format", "{{.Names}}"):
            wrong.append(f"{cause}: {' '.join(words)}: no container: {done.stderr.strip()}")
            continue
        said = ketch.json("why", "--format", "json", name)
        if said["cause"] != cause:
            wrong.append(f"{cause}: {' '.join(words)}: {said['cause']}: {said['sentence']} {said['evidence']}")
        ketch("rm", "-f", name)
    assert os.environ.get("KETCH_SHOW_CAUSES") is None or not wrong, "\n".join(wrong)
    assert len(CASES) - len(wrong) >= len(CASES) * 47 // 50, "\n".join(wrong)


# Process 1 of a PID namespace ignores the signals that it has no handler for, so these need an init before them.
_NOT_AS_ONE = ("crash", "abort", "bus", "illegal", "arithmetic", "killed")
