# SPDX-License-Identifier: Apache-2.0
"""Three instruments beside the clock: modules imported, system calls made, processes forked."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support import crash

TOP = Path(__file__).parents[2]
INTERPRETER = os.path.realpath(sys.executable)

# What costs 3 to 16 ms each to import, and nobody on a cold path may pay for.
SLOW_MODULES = {
    *("argparse", "asyncio", "collections", "contextlib", "dataclasses", "enum", "functools", "google", "grpc"),
    *("inspect", "iptc", "json", "logging", "pathlib", "pyroute2", "re", "signal", "socket", "ssl", "subprocess"),
    "typing",
}


def command(name: str) -> str:
    """One of our commands, or a plugin's link."""
    plugin = TOP / "build/cni/bin" / name
    return str(plugin if plugin.is_symlink() else TOP / ".venv/bin" / name)


# Before the launcher's lines: at its end, each process tells what it has loaded. `-X importtime` would tell of searches
# only, and what comes out of the cold image in one go is not searched for.
_TELL = """
import posix, sys
def tell(code, known=frozenset(sys.modules), end=posix._exit):
    posix.write(2, "".join(f"loaded: {name}\\n" for name in [*sys.modules] if name not in known).encode())
    end(code)
posix._exit = tell
"""


def modules_imported(
    arguments: list[str], *, stdin: bytes = b"", environment: Mapping[str, str] | None = None
) -> list[str]:
    """The modules that a command of ours imports, in order, beyond those of a Python that does nothing.

    The command is started as its launcher starts it.
    """
    site = next((TOP / ".venv/lib").glob("python3*/site-packages"))
    launched = [INTERPRETER, "-I", "-S", "-c", _TELL + launcher_code(), str(TOP), str(site), *arguments]
    done = subprocess.run(launched, input=stdin, env=environment, capture_output=True, check=False)
    told = [line for line in done.stderr.decode(errors="replace").splitlines() if line.startswith("loaded: ")]
    return list(dict.fromkeys(line.removeprefix("loaded: ") for line in told))


def system_calls(arguments: list[str]) -> dict[str, int]:
    """How often a command makes each system call, the launcher's and its descendants' included."""
    return crash.profile(arguments).by_name


def processes_forked(arguments: list[str]) -> int:
    """How many processes a command and its descendants fork."""
    return crash.profile(arguments).processes


def launcher_code() -> str:
    """The text that launcher.c hands to the interpreter, taken from its source so that the two cannot differ."""
    source = (TOP / "runtime/linux/launcher.c").read_text()
    literal = re.search(r'code\[\] =\s*((?:"(?:[^"\\]|\\.)*"\s*)+);', source)
    assert literal is not None, "launcher.c no longer holds its code as one literal"
    return "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', literal[1])).encode().decode("unicode_escape")
