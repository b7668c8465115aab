# SPDX-License-Identifier: Apache-2.0
"""What this machine offers: looked at once, at start."""

from __future__ import annotations

import os
import resource

from cri.config import Config
from cri.oci.facts import Node
from runtime.linux import capabilities, mountinfo

CAP_SYS_RESOURCE = "CAP_SYS_RESOURCE"


def cgroup_version() -> int:
    """2 where /sys/fs/cgroup itself is a cgroup2 filesystem; hybrid hosts count as 1."""
    entry = mountinfo.holding("/sys/fs/cgroup")
    return 2 if entry is not None and entry.kind == "cgroup2" and os.path.exists("/sys/fs/cgroup/cgroup.procs") else 1


def cgroup_driver(wanted: str, version: int) -> str:
    if wanted != "auto":
        return wanted
    return "systemd" if version == 2 and os.path.isdir("/run/systemd/system") else "cgroupfs"


def enabled(path: str, yes: tuple[str, ...]) -> bool:
    try:
        with open(path) as file:
            return file.read().strip() in yes
    except OSError:
        return False


def can_limit_hugepages(version: int) -> bool:
    """A kubelet sends a limit of 0 for every size, also where no controller could hold it to that."""
    if version == 1:
        return os.path.isdir("/sys/fs/cgroup/hugetlb")
    try:
        with open("/sys/fs/cgroup/cgroup.controllers") as file:
            return "hugetlb" in file.read().split()
    except FileNotFoundError:
        return False


def hugepage_sizes() -> tuple[str, ...]:
    """As the CRI writes them: 2MB, 1GB."""
    try:
        names = os.listdir("/sys/kernel/mm/hugepages")
    except FileNotFoundError:
        return ()
    kilobytes = sorted(int(name[len("hugepages-") : -2]) for name in names if name.startswith("hugepages-"))
    return tuple(
        f"{kb >> 20}GB" if kb >= 1 << 20 else f"{kb >> 10}MB" if kb >= 1 << 10 else f"{kb}KB" for kb in kilobytes
    )


def nofile(config: Config) -> tuple[int, int]:
    """Without CAP_SYS_RESOURCE the hard limit can only fall."""
    hard = config.runtime.nofile_hard
    ours = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if CAP_SYS_RESOURCE not in capabilities.names_of(capabilities.bounding()) and ours != resource.RLIM_INFINITY:
        hard = min(hard, ours)
    return min(config.runtime.nofile_soft, hard), hard


def oom_floor(names: list[str]) -> int:
    if CAP_SYS_RESOURCE in names:
        return -1000
    with open("/proc/self/oom_score_adj") as file:
        return int(file.read())


def look(config: Config) -> Node:
    """The facts for the builders of config.json."""
    version = cgroup_version()
    names = capabilities.names_of(capabilities.bounding())
    major, minor = (int("".join(c for c in part if c.isdigit()) or 0) for part in os.uname().release.split(".")[:2])
    return Node(
        cgroup_version=version,
        cgroup_driver=cgroup_driver(config.runtime.cgroup_driver, version),
        apparmor=enabled("/sys/module/apparmor/parameters/enabled", ("Y",)),
        selinux=enabled("/sys/fs/selinux/enforce", ("0", "1")),
        seccomp=os.path.exists("/proc/sys/kernel/seccomp/actions_avail"),
        capabilities=tuple(names),
        oom_score_adj_floor=oom_floor(names),
        nofile=nofile(config),
        kernel=(major, minor),
        hugepage_sizes=hugepage_sizes() if can_limit_hugepages(version) else (),
        default_cgroup_parent=config.runtime.default_cgroup_parent,
    )
