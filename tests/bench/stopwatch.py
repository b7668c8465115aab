# SPDX-License-Identifier: Apache-2.0
"""One run of one command: wall time, CPU, peak RSS; by a small C program, so that we do not measure ourselves."""

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = Path(__file__).parents[2] / "build/bench"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run took; memory is the peak RSS of a command, or what a daemon's suite put there."""

    wall_ms: float
    cpu_ms: float | None
    memory_kib: float | None


class Failed(Exception):
    """A command of a contender ended otherwise than with 0; the message holds what it said."""


def compiled(name: str) -> str:
    """The static program of a C file beside this one."""
    source, program = Path(__file__).with_name(f"{name}.c"), PROGRAMS / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(parents=True, exist_ok=True)
        bare = ["-nostdlib", "-fno-stack-protector"] if "bare.h" in source.read_text() else []
        subprocess.run(["cc", "-O2", "-static", *bare, "-o", program, source], check=True)
    return str(program)


def run(command: list[str], *, stdin: bytes = b"", environment: dict[str, str] | None = None) -> Cost:
    """Run command (by its full path) to its end; its output is kept for the message should it fail."""
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
        given.write(stdin)
        given.seek(0)
        pid = os.posix_spawn(
            compiled("stopwatch"),
            [compiled("stopwatch"), *command],
            os.environ if environment is None else environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, given.fileno(), 0),
                (os.POSIX_SPAWN_DUP2, said.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, said.fileno(), 2),
                (os.POSIX_SPAWN_DUP2, writer, 3),
            ],
        )
        os.close(writer)
        with os.fdopen(reader) as stream:
            figures = stream.read().split()
        os.waitpid(pid, 0)
        if len(figures) != 4 or figures[3] != "0":
            said.seek(0)
            text = said.read().decode(errors="replace").strip()
            raise Failed(f"{' '.join(command)} ended with {figures[3] if len(figures) == 4 else '?'}: {text[-500:]}")
    return Cost(int(figures[0]) / 1e6, int(figures[1]) / 1e3, float(figures[2]))
