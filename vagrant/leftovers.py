# SPDX-License-Identifier: Apache-2.0
"""What of a machine is still on the host: processes, listening ports, files. `vm down` asks, and says if anything is.

QEMU's user network makes no link, bridge, route or rule, so there is none to look for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_LISTEN = "0A"


def found(directory: Path, port: int | None, memory: Path = Path("/dev/shm")) -> Iterator[str]:  # noqa: S108 - where freezing maps it
    """Whatever belongs to the machine of this directory; nothing after a `down` that did its work."""
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            words = Path("/proc", name, "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(word.startswith(f"{directory}/") or f"={directory}/" in word for word in words):
            yield f"process {name}: {' '.join(words)[:100]}"
    if port is not None and port in _listening():
        yield f"port {port} is listened on"
    if directory.exists():
        yield from (f"file {path}" for path in sorted(directory.iterdir()))
    yield from (f"memory {path}" for path in memory.glob("ketch-vm-*"))


def _listening() -> set[int]:
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return {int(each[1].rpartition(":")[2], 16) for each in fields if each[3] == _LISTEN}
