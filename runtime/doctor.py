# SPDX-License-Identifier: Apache-2.0
"""doctor: what this kernel and host offer and lack, found out by trying, and what a lack costs."""

from __future__ import annotations

import os
import sys

from runtime.errors import UsageError
from runtime.linux import capabilities, cgroup, json_text, labels, syscalls
from runtime.linux._core import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ENOSYS = -38


def _present(result: int) -> bool:
    """Called with impossible arguments, a system call that exists complains of them and not of itself."""
    return result != ENOSYS


def _fuse() -> bool:
    return os.path.exists("/dev/fuse")


CHECKS: tuple[tuple[str, str, str, Callable[[], bool]], ...] = (
    (
        "openat2",
        "5.6",
        "paths beneath a root cannot be resolved safely: nothing starts",
        lambda: _present(lib.k_openat2(-1, b"", 0, 0, 0)),
    ),
    (
        "open_tree",
        "5.2",
        "mounts cannot be made by descriptor: nothing starts",
        lambda: _present(lib.k_open_tree(-1, b"", 0)),
    ),
    (
        "move_mount",
        "5.2",
        "mounts cannot be made by descriptor: nothing starts",
        lambda: _present(lib.k_move_mount(-1, b"", -1, b"", 0)),
    ),
    (
        "mount_setattr",
        "5.12",
        "no recursive mount flags, no id-mapped mounts",
        lambda: _present(lib.k_mount_setattr(-1, b"", 0, 0, 0, 0, 0)),
    ),
    ("clone3", "5.3", "no process can be born in its namespaces", lambda: _present(lib.k_close_range(1, 0, 0))),
    ("close_range", "5.9", "descriptors cannot be closed in one call", lambda: _present(lib.k_close_range(1, 0, 0))),
    ("pidfd_open", "5.3", "processes cannot be held by descriptor", lambda: _present(lib.k_pidfd_open(-1, 0))),
    (
        "pidfd_getfd",
        "5.6",
        "no seccomp notifications",
        lambda: _present(
            lib.k_pidfd_getfd(
                -1,
                -1,
            )
        ),
    ),
    (
        "statmount",
        "6.8",
        "mounts are read from mountinfo, which is slower",
        lambda: _present(lib.k_statmount(0, 0, b"", 0)),
    ),
    ("user namespaces", "", "no user namespaces, no rootless containers", lambda: os.path.exists("/proc/self/ns/user")),
    ("time namespaces", "5.6", "linux.timeOffsets is refused", lambda: os.path.exists("/proc/self/ns/time")),
    (
        "cgroup namespaces",
        "4.6",
        "containers see the host's cgroup paths",
        lambda: os.path.exists("/proc/self/ns/cgroup"),
    ),
    ("AppArmor", "", "process.apparmorProfile is refused", lambda: "apparmor" in labels.enabled()),
    ("SELinux", "", "process.selinuxLabel is refused", lambda: "selinux" in labels.enabled()),
    ("fuse", "", "no fuse-overlayfs for rootless images", _fuse),
)


def examine() -> list[dict[str, object]]:
    """Every check with its outcome."""
    found: list[dict[str, object]] = []
    for name, since, cost, check in CHECKS:
        try:
            present = check()
        except OSError:
            present = False
        found.append({"name": name, "present": present, "since": since, "cost": cost})
    return found + _cgroups() + _privileges() + _seccomp()


def _cgroups() -> list[dict[str, object]]:
    layout = cgroup.layout()
    kind = "v2" if layout.v2 else "hybrid" if layout.hybrid else "v1"
    names = sorted(layout.mounts)
    if layout.v2:
        names = (cgroup.read(f"{layout.mounts[cgroup.UNIFIED]}/cgroup.controllers") or "").split()
    wanted = ("cpu", "cpuset", "memory", "pids", "io" if layout.v2 else "blkio", "hugetlb", "rdma")
    found: list[dict[str, object]] = [{"name": f"cgroup {kind}", "present": True, "since": "", "cost": ""}]
    if not layout.v2 and layout.hybrid:
        names += (cgroup.read(f"{layout.mounts[cgroup.UNIFIED]}/cgroup.controllers") or "").split()
    for name in wanted:
        cost = f"limits of {name} are refused"
        found.append({"name": f"cgroup controller {name}", "present": name in names, "since": "", "cost": cost})
    return found


def _privileges() -> list[dict[str, object]]:
    permitted = syscalls.capget()[1]
    costs = {
        "CAP_SYS_ADMIN": "only rootless containers",
        "CAP_SYS_RESOURCE": "oom_score_adj is not lowered, rlimits are not raised above our own",
        "CAP_NET_ADMIN": "no network devices for containers",
        "CAP_MKNOD": "device nodes are bound from the host",
        "CAP_BPF": "",
    }
    return [
        {"name": name, "present": bool(permitted >> capabilities.NUMBERS[name] & 1), "since": "", "cost": cost}
        for name, cost in costs.items()
        if cost
    ]


def _seccomp() -> list[dict[str, object]]:
    actions = {"KILL_PROCESS": "4.14", "USER_NOTIF": "5.0", "LOG": "4.14"}
    found: list[dict[str, object]] = []
    for action, since in actions.items():
        value = getattr(lib, f"SECCOMP_RET_{action}")
        present = lib.k_seccomp_action_known(value) == 0
        found.append(
            {
                "name": f"seccomp {action}",
                "present": present,
                "since": since,
                "cost": "profiles that use it are refused",
            }
        )
    return found


def show(form: str) -> int:
    """Print the examination; the exit status says whether containers can run at all."""
    if form not in ("text", "json"):
        raise UsageError(f"--format: expected text or json, got {form!r}")
    found = examine()
    if form == "json":
        sys.stdout.write(json_text.dumps(found, indent=2) + "\n")
    else:
        release = os.uname().release
        sys.stdout.write(f"Linux {release}\n")
        for fact in found:
            line = f"  {'yes' if fact['present'] else 'NO ':<4} {fact['name']}"
            if not fact["present"]:
                line += f": {fact['cost']}" + (f" (Linux {fact['since']} brings it)" if fact["since"] else "")
            sys.stdout.write(line + "\n")
    vital = {"openat2", "open_tree", "move_mount", "close_range", "pidfd_open"}
    return 0 if all(fact["present"] for fact in found if fact["name"] in vital) else 1
