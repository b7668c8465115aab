# SPDX-License-Identifier: Apache-2.0
"""Who owns Ketch's files and who else may touch them, as the CIS benchmark for Kubernetes asks of a node."""

from __future__ import annotations

import os
import stat

from cri.hand.places import CONFIG, Places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cri.hand.doctor import Finding


def examine(places: Places) -> list[Finding]:
    """One finding per file or directory that is there; absent ones are nobody's danger."""
    config = places.config
    listed = [
        (CONFIG, "configuration", 0o644),
        (config.cri.socket, "socket of the CRI", 0o660),
        (places.state, "state", 0o755),
        (places.root, "images and volumes", 0o755),
        (config.network.conf_dir, "CNI configuration", 0o755),
        *((path, "CNI configuration", 0o644) for path in _files(config.network.conf_dir)),
        *((path, "CNI plugins", 0o755) for path in config.network.plugin_dirs),
    ]
    return [found for path, what, most in listed if (found := _look(path, what, most)) is not None]


def _files(folder: str) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [f"{folder}/{name}" for name in names if name.endswith((".conf", ".conflist", ".json"))]


def _look(path: str, what: str, most: int) -> Finding | None:
    try:
        facts = os.stat(path)
    except OSError:
        return None
    mode = stat.S_IMODE(facts.st_mode)
    wrong = []
    if (facts.st_uid, facts.st_gid) != (0, 0):
        wrong.append(f"chown root:root {path}")
    if mode & ~most:
        wrong.append(f"chmod {mode & most:o} {path}")
    return {
        "name": path,
        "present": not wrong,
        "cost": f"{what}: {facts.st_uid}:{facts.st_gid} {mode:04o}, should be 0:0 and at most {most:04o}",
        "fix": "; ".join(wrong),
        "what": what,
        "owner": f"{facts.st_uid}:{facts.st_gid}",
        "mode": f"{mode:04o}",
    }


def show(found: list[Finding]) -> str:
    """A line per file."""
    files = [each for each in found if "mode" in each]
    width = max((len(str(each["name"])) for each in files), default=0)
    lines = [f"  {each['name']!s:{width}}  {each['owner']}  {each['mode']}  {each['what']}" for each in files]
    return "\n".join(["Owner and mode of what is here:", *lines]) if lines else ""
