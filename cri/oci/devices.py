# SPDX-License-Identifier: Apache-2.0
"""The host's device nodes that a container is given: asked for one by one, by folder, or all for a privileged one."""

from __future__ import annotations

import os
import stat

from cri.engine.request import ContainerRequest, DeviceRequest
from cri.oci.facts import Device, Refused

# Mounted or made anew in every container.
OWN = frozenset({"pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"})
MADE_BY_RUNTIME = frozenset({"null", "zero", "full", "random", "urandom", "tty", "ptmx"})


def device_at(path: str, shown: str, permissions: str) -> Device | None:
    """The node at a host path; None where there is something else."""
    found = os.stat(path)
    if stat.S_ISCHR(found.st_mode):
        kind = "c"
    elif stat.S_ISBLK(found.st_mode):
        kind = "b"
    else:
        return None
    major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
    return Device(shown, kind, major, minor, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, permissions)


def below(folder: str, shown: str, permissions: str) -> list[Device]:
    """Every device node under a folder of the host."""
    found = []
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        inside = f"{shown}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            if not (folder == "/dev" and entry.name in OWN):
                found += below(entry.path, inside, permissions)
        elif not entry.is_symlink():
            device = device_at(entry.path, inside, permissions)
            if device is not None:
                found.append(device)
    return found


def one(request: DeviceRequest) -> list[Device]:
    """A path may name a node, a link to one, or a folder of them."""
    permissions = request.permissions or "rwm"
    if set(permissions) - set("rwm"):
        raise Refused(f"devices[{request.host_path!r}]: permissions {permissions!r}: only r, w and m are known")
    try:
        real = os.path.realpath(request.host_path, strict=True)
        if os.path.isdir(real):
            return below(real, request.container_path, permissions)
        device = device_at(real, request.container_path, permissions)
    except OSError as e:
        raise Refused(f"devices[{request.host_path!r}]: {e.strerror}") from None
    if device is None:
        raise Refused(f"devices[{request.host_path!r}]: not a device node")
    return [device]


def devices(request: ContainerRequest) -> tuple[Device, ...]:
    """All of a container's; what the runtime makes in every container is left to it."""
    if request.privileged:
        return tuple(d for d in below("/dev", "/dev", "rwm") if d.path[5:] not in MADE_BY_RUNTIME)
    return tuple(device for asked in request.devices for device in one(asked))
