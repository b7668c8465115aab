# SPDX-License-Identifier: Apache-2.0
"""After `vm down` nothing of the machine is on the host; what is, is named."""

import socket
import subprocess
import sys
from pathlib import Path

from vagrant import leftovers


def test_a_machine_that_is_gone_has_left_nothing(tmp_path: Path) -> None:
    assert list(leftovers.found(tmp_path / "run/gone", None, tmp_path)) == []


def test_a_process_a_port_a_file_and_memory_are_named(tmp_path: Path) -> None:
    directory = tmp_path / "run/left"
    directory.mkdir(parents=True)
    (directory / "disk.qcow2").touch()
    (tmp_path / "ketch-vm-x").touch()
    waits = [sys.executable, "-c", "print(flush=True); input()", f"file={directory}/disk.qcow2"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with socket.create_server(("127.0.0.1", 0)) as server, subprocess.Popen(waits, **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the kernel shows no words yet in the moment of execve
        named = [entry.split()[0] for entry in leftovers.found(directory, server.getsockname()[1], tmp_path)]
        process.kill()
    assert named == ["process", "port", "file", "memory"]
