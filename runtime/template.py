# SPDX-License-Identifier: Apache-2.0
"""spec: a config.json to start from, as strict as the defaults of the engines."""

from __future__ import annotations

import os

from runtime.errors import RuntimeFailure
from runtime.linux import json_text
from runtime.version import SPEC_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
MASKED = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
]
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def config(*, rootless: bool) -> dict[str, Any]:
    """The document."""
    spaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
    document: dict[str, Any] = {
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "ketch",
        "mounts": mounts(rootless=rootless),
        "linux": {
            "namespaces": [{"type": kind} for kind in spaces],
            "maskedPaths": MASKED,
            "readonlyPaths": READONLY,
        },
    }
    linux = document["linux"]
    if rootless:
        linux["namespaces"] = [{"type": kind} for kind in spaces if kind != "network"] + [{"type": "user"}]
        linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    else:
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    return document


def mounts(*, rootless: bool) -> list[dict[str, Any]]:
    """What a Linux program expects to be mounted."""
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    quiet = ["nosuid", "noexec", "nodev"]
    sys_mount: dict[str, Any] = {"type": "sysfs", "source": "sysfs", "options": [*quiet, "ro"]}
    if rootless:
        sys_mount = {"type": "none", "source": "/sys", "options": ["rbind", *quiet, "ro"]}
    tmp = {"type": "tmpfs", "source": "tmpfs"}
    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", **tmp, "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": pts + ([] if rootless else ["gid=5"]),
        },
        {"destination": "/dev/shm", **tmp, "options": [*quiet, "mode=1777", "size=65536k"]},  # noqa: S108
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": quiet},
        {"destination": "/sys", **sys_mount},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*quiet, "relatime", "ro"]},
    ]


def write(bundle: str, path: str, *, rootless: bool) -> None:
    """Write it, over nothing that is there already."""
    target = path or f"{bundle}/config.json"
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise RuntimeFailure(f"{target} exists already; remove it first") from None
    except OSError as error:
        raise RuntimeFailure(f"cannot write {target}: {error.strerror}") from None
    with open(fd, "w") as file:
        file.write(json_text.dumps(config(rootless=rootless), indent=2) + "\n")
