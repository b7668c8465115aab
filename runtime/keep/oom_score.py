# SPDX-License-Identifier: Apache-2.0
"""The spawner and the keepers are the last that the kernel kills for memory; their containers are not."""

_FILE = "/proc/self/oom_score_adj"
_PROTECTED = -999  # as kubelet and containerd have it; -1000 would make the kernel panic rather than choose us
_before: list[str] = []


def protect() -> None:
    """Lower our score; without CAP_SYS_RESOURCE it stays as it is."""
    with open(_FILE, encoding="ascii") as file:
        score = file.read()
    try:
        with open(_FILE, "w", encoding="ascii") as file:
            file.write(str(_PROTECTED))
    except PermissionError:
        return
    _before.append(score)


def expose() -> None:
    """In a child that becomes a container: back to what it was, which is what a config without a score means."""
    if _before:
        with open(_FILE, "w", encoding="ascii") as file:
            file.write(_before[0])
