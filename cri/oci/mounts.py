# SPDX-License-Identifier: Apache-2.0
"""What a container sees mounted: the system's own filesystems, the pod's files, its volumes."""

from __future__ import annotations

from cri.engine.request import ContainerRequest, IdRange, Mode, MountRequest, Propagation
from cri.oci.facts import BoundMount, PodPlace, Refused
from cri.oci.namespaces import of_container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROPAGATION = {
    Propagation.PRIVATE: "rprivate",
    Propagation.HOST_TO_CONTAINER: "rslave",
    Propagation.BIDIRECTIONAL: "rshared",
}
SHM = "/dev/shm"  # noqa: S108 - a mount point of the container, not a file of ours
# What a mount may say beyond ro/rw and propagation: flags that only take rights away, or say how times are kept.
TMPFS_OPTIONS = frozenset(("size", "mode", "uid", "gid", "nr_inodes"))
EXTRA_OPTIONS = frozenset(
    [
        "noexec",
        "nosuid",
        "nodev",
        "noatime",
        "nodiratime",
        "relatime",
        "norelatime",
        "strictatime",
        "nosymfollow",
        "rnoexec",
        "rnosuid",
        "rnodev",
        "rnoatime",
        "exec",
        "suid",
        "dev",
        "atime",
        "diratime",
        "symfollow",
        "lazytime",
    ]
)


def normal(path: str) -> str:
    """A clean absolute path; `..` cannot climb out."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def check(mount: MountRequest) -> None:
    """Refuse what cannot be granted, before anything is made."""
    where = f"mounts[{mount.container_path!r}]"
    if not mount.container_path:
        raise Refused("mounts: container_path is empty")
    if mount.image and mount.host_path:
        raise Refused(f"{where}: an image and a host_path at once")
    if mount.image and not mount.readonly:
        raise Refused(f"{where}: an image volume must be readonly")
    if mount.image and mount.propagation != Propagation.PRIVATE:
        raise Refused(f"{where}: an image volume cannot propagate mounts")
    if not mount.image and not mount.host_path and mount.kind == "bind":
        raise Refused(f"{where}: neither host_path nor image")
    if mount.host_path and not mount.host_path.startswith("/"):
        raise Refused(f"{where}: host_path {mount.host_path!r} is not absolute")
    if mount.image_sub_path and not mount.image:
        raise Refused(f"{where}: image_sub_path without an image")
    if mount.recursive_readonly and not mount.readonly:
        raise Refused(f"{where}: recursive_read_only needs readonly")
    if mount.recursive_readonly and mount.propagation != Propagation.PRIVATE:
        raise Refused(f"{where}: recursive_read_only needs PROPAGATION_PRIVATE")
    if bool(mount.uids) != bool(mount.gids):
        raise Refused(f"{where}: uidMappings and gidMappings must be given together")
    for option in mount.options:
        of_tmpfs = mount.kind == "tmpfs" and option.partition("=")[0] in TMPFS_OPTIONS
        if option not in EXTRA_OPTIONS and not of_tmpfs:
            raise Refused(f"{where}: mount_options: {option!r} is not one of {', '.join(sorted(EXTRA_OPTIONS))}")


def bind_options(mount: MountRequest) -> tuple[str, ...]:
    """The options of a volume, as runc understands them."""
    read = "rro" if mount.recursive_readonly else "ro" if mount.readonly else "rw"
    return ("rbind", PROPAGATION[mount.propagation], read, *mount.options)


def rootfs_propagation(request: ContainerRequest) -> str:
    """The root must let through what any of its mounts needs."""
    asked = {mount.propagation for mount in request.mounts}
    if Propagation.BIDIRECTIONAL in asked:
        return "rshared"
    return "rslave" if Propagation.HOST_TO_CONTAINER in asked else ""


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def system_mounts(request: ContainerRequest, pod: PodPlace) -> list[dict[str, Any]]:
    """proc, dev, sys and cgroup, as every container expects them."""
    host_network = not pod.network_namespace
    write = "rw" if request.privileged else "ro"
    # sysfs shows the network namespace of its mounter; a user namespace cannot mount that of the node.
    sys = (
        _mount("/sys", "bind", "/sys", "rbind", "nosuid", "noexec", "nodev", "ro")
        if pod.user_namespace and host_network
        else _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", write)
    )
    mounts = [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
        ),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        sys,
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", write),
    ]
    if pod.user_namespace and of_container(request, pod).ipc == Mode.NODE:
        mounts[3] = _mount("/dev/mqueue", "bind", "/dev/mqueue", "rbind", "nosuid", "noexec", "nodev")
    return mounts


def pod_mounts(request: ContainerRequest, pod: PodPlace) -> list[dict[str, Any]]:
    """Shared memory and the files of /etc that the containers of a pod share; a volume at the same place wins."""
    taken = {normal(mount.container_path) for mount in request.mounts}
    write = "ro" if request.readonly_rootfs else "rw"
    mounts = []
    for destination, source in (
        ("/etc/hostname", pod.etc_hostname),
        ("/etc/hosts", pod.etc_hosts),
        ("/etc/resolv.conf", pod.resolv_conf),
    ):
        if source and destination not in taken:
            mounts.append(_mount(destination, "bind", source, "rbind", "rprivate", write))
    if SHM not in taken and pod.shm:
        mounts.append(_mount(SHM, "bind", pod.shm, "rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"))
    return mounts


def volume(mount: BoundMount) -> dict[str, Any]:
    built = _mount(normal(mount.destination), mount.kind, mount.source, *mount.options)
    if mount.uids:
        built["uidMappings"] = id_map(mount.uids)
        built["gidMappings"] = id_map(mount.gids)
        built["options"].append("ridmap")
    return built


def id_map(ranges: tuple[IdRange, ...]) -> list[dict[str, int]]:
    return [{"containerID": r.container_id, "hostID": r.host_id, "size": r.length} for r in ranges]


def mounts(request: ContainerRequest, pod: PodPlace, volumes: tuple[BoundMount, ...]) -> list[dict[str, Any]]:
    """All of them, parents before children; a volume at the place of a system mount replaces it."""
    bound = [volume(mount) for mount in volumes]
    taken = {mount["destination"] for mount in bound}
    system = [mount for mount in system_mounts(request, pod) if mount["destination"] not in taken]
    rest = [*pod_mounts(request, pod), *bound]
    return system + sorted(rest, key=lambda mount: mount["destination"].count("/"))
