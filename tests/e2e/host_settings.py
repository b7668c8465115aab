# SPDX-License-Identifier: Apache-2.0
"""What a kubelet sets for the whole machine: kept by the first cluster that starts, put back by the last that goes."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e import cache

_NAMES = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def hold(user: Path) -> None:
    """Remember the values for this cluster; a second cluster must not remember what the first one's kubelet set."""
    with _kept() as state:
        if not state["users"]:
            state["values"] = {name: Path("/proc/sys", name).read_text().strip() for name in _NAMES}
        state["users"] = sorted({*state["users"], str(user)})


def let_go(user: Path) -> None:
    """The cluster is gone; with the last one the values come back."""
    with _kept() as state:
        if str(user) not in state["users"]:
            return
        state["users"].remove(str(user))
        if not state["users"]:
            for name, value in state["values"].items():
                setting = Path("/proc/sys", name)
                if setting.read_text().strip() != value:
                    setting.write_text(value)


@contextmanager
def _kept() -> Iterator[dict[str, Any]]:
    """The file of this boot, under a lock: after a boot the kernel's own values are there again."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    cache.root().mkdir(parents=True, exist_ok=True)
    with open(cache.root() / ".host-settings.json", "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        state = json.loads(text) if text else {}
        if state.get("boot") != boot:
            state = {"boot": boot, "users": [], "values": {}}
        yield state
        file.seek(0)
        file.truncate()
        json.dump(state, file)
