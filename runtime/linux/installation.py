# SPDX-License-Identifier: Apache-2.0
"""Where our own programs are: the commands, for whoever starts one by exec, and two small ones in C."""

_LIBRARY = __file__.rpartition("/runtime/linux/")[0]

REAPER = f"{_LIBRARY}/runtime/linux/reaper"
ACT = f"{_LIBRARY}/runtime/linux/act"


def command(name: str) -> str:
    """The path of a command of ours: beside the venv's python when installed, in .venv/bin of a checkout."""
    if _LIBRARY.endswith("/site-packages"):
        return f"{_LIBRARY.rsplit('/', 3)[0]}/bin/{name}"
    return f"{_LIBRARY}/.venv/bin/{name}"
