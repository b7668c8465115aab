# SPDX-License-Identifier: Apache-2.0
"""Programs of Debian packages that `make setup` unpacks into build/tools and does not install, or installed ones."""

import shutil
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "build" / "tools"


def program(name: str) -> str | None:
    """Its path, the installed one first."""
    folders = [str(TOOLS / folder) for folder in ("usr/bin", "usr/sbin", "sbin", "bin")]
    return shutil.which(name) or shutil.which(name, path=":".join(["/usr/sbin", "/sbin", *folders]))
