# SPDX-License-Identifier: Apache-2.0
"""Where our own programs are: the commands, for whoever starts one by exec, and two small ones in C."""

import os

_LIBRARY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

REAPER = os.path.join(_LIBRARY, "runtime", "linux", "reaper")
ACT = os.path.join(_LIBRARY, "runtime", "linux", "act")


def command(name: str) -> str:
    """The path of a command of ours: beside the venv's python when installed, in .venv/bin of a checkout."""
    if os.path.basename(_LIBRARY) == "site-packages":
        return os.path.normpath(os.path.join(_LIBRARY, "..", "..", "..", "bin", name))
    return os.path.join(_LIBRARY, ".venv", "bin", name)
