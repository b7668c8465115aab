# SPDX-License-Identifier: Apache-2.0
"""Where what is built once is kept: folders named by the content that they were made from."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def root() -> Path:
    """The cache folder: $KETCH_CACHE, else ~/.cache/ketch."""
    chosen = os.environ.get("KETCH_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "ketch")
    return Path(chosen)


def key(*parts: str | bytes) -> str:
    """A short name for these inputs: the same inputs give the same folder."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def made_once(name: str, content_key: str, make: Callable[[Path], None]) -> Path:
    """The folder name-key; if it is not there yet, make(empty folder) fills it. Several callers build it once.

    The folder gets its name only when it is whole, so a build that was killed leaves nothing that looks ready.
    """
    home = root()
    home.mkdir(parents=True, exist_ok=True)
    wanted = home / f"{name}-{content_key}"
    if wanted.is_dir():
        return wanted
    with open(home / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if wanted.is_dir():
            return wanted
        unfinished = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=home))
        make(unfinished)
        unfinished.chmod(0o755)
        unfinished.rename(wanted)
    return wanted
