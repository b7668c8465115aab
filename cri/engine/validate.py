# SPDX-License-Identifier: Apache-2.0
"""What can be refused before anything is looked up or made: pure checks of requests."""

from __future__ import annotations

import re

from cri.engine.errors import BadRequest, Unsupported
from cri.engine.pod_files import check_dns
from cri.engine.request import ContainerRequest, IdRange, Mode, Namespaces, PodRequest, PortMapping, UserNamespace
from cri.oci import mounts
from cri.oci.facts import Refused

# Sysctls that live in a namespace of the pod; all others would change the node.
IPC_SYSCTLS = frozenset(
    "kernel." + name
    for name in (
        "msgmax",
        "msgmnb",
        "msgmni",
        "sem",
        "shmall",
        "shmmax",
        "shmmni",
        "shm_rmid_forced",
        "msg_next_id",
        "sem_next_id",
        "shm_next_id",
        "auto_msgmni",
    )
)
SYSCTL = re.compile(r"[a-zA-Z0-9_*-]+([./][a-zA-Z0-9_*@:-]+)+")
MAX_LABELS_BYTES = 1 << 20
CGROUP_PARENT = re.compile(r"[A-Za-z0-9_.:@/\\-]*")


def pod(request: PodRequest) -> None:
    """Raise BadRequest for the first field that cannot be."""
    for field, value in (("name", request.name), ("namespace", request.namespace), ("uid", request.uid)):
        if not value:
            raise BadRequest(f"config.metadata.{field}: missing")
        no_control(f"config.metadata.{field}", value)
    hostname(request.hostname)
    cgroup_parent(request.cgroup_parent)
    absolute("config.log_directory", request.log_directory)
    if request.dns is not None:
        check_dns(request.dns)
    for mapping in request.port_mappings:
        port(mapping)
    sizes("config", request.labels, request.annotations)
    namespaces(request.namespaces, "config.linux.security_context.namespace_options")
    for name in request.sysctls:
        sysctl(name, request.namespaces)


def container(request: ContainerRequest) -> None:
    if not request.name:
        raise BadRequest("config.metadata.name: missing")
    no_control("config.metadata.name", request.name)
    if not request.image:
        raise BadRequest("config.image.image: missing")
    if request.log_path:
        no_control("config.log_path", request.log_path)
        if ".." in request.log_path.split("/"):
            raise BadRequest(f"config.log_path: {request.log_path!r} leaves the pod's log directory")
        if any(len(name.encode()) > 255 for name in request.log_path.split("/")):
            raise BadRequest("config.log_path: a name in it is longer than 255 bytes")
    if request.working_dir and not request.working_dir.startswith("/"):
        raise BadRequest(f"config.working_dir: {request.working_dir!r} is not absolute")
    for name, value in request.envs:
        if not name or "=" in name or "\0" in name + value:
            raise BadRequest(f"config.envs: {name!r} cannot be the name of a variable")
    for argument in (*request.command, *request.args):
        if "\0" in argument:
            raise BadRequest("config.command: an argument holds a NUL byte")
    sizes("config", request.labels, request.annotations)
    if request.namespaces is not None:
        namespaces(request.namespaces, "config.linux.security_context.namespace_options")
    for mount in request.mounts:
        no_control("config.mounts", mount.container_path + mount.host_path)
        try:
            mounts.check(mount)
        except Refused as e:
            raise BadRequest(f"config.{e}") from None
    if request.cdi_devices:
        raise Unsupported(f"config.CDI_devices: {request.cdi_devices[0]!r}: CDI is not offered yet; use devices")


def no_control(field: str, text: str) -> None:
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise BadRequest(f"{field}: {text!r} holds a control character")
    if len(text) > 4096:
        raise BadRequest(f"{field}: longer than 4096 characters")


def absolute(field: str, path: str) -> None:
    if path:
        no_control(field, path)
        if not path.startswith("/") or ".." in path.split("/"):
            raise BadRequest(f"{field}: {path!r} is not a plain absolute path")


def hostname(name: str) -> None:
    if len(name) > 64 or any(c.isspace() or ord(c) < 33 or c == "/" for c in name):
        raise BadRequest(f"config.hostname: {name!r} cannot be a hostname (at most 64 characters, no blanks)")


def cgroup_parent(path: str) -> None:
    if ".." in path.split("/") or not CGROUP_PARENT.fullmatch(path) or len(path) > 1024:
        raise BadRequest(f"config.linux.cgroup_parent: {path!r} cannot be a cgroup")


def port(mapping: PortMapping) -> None:
    if not 0 <= mapping.host_port <= 65535:
        raise BadRequest(f"config.port_mappings: host_port {mapping.host_port} is not between 0 and 65535")
    if mapping.host_port and not 1 <= mapping.container_port <= 65535:
        raise BadRequest(f"config.port_mappings: container_port {mapping.container_port} is not between 1 and 65535")
    if mapping.host_ip:
        import ipaddress

        try:
            ipaddress.ip_address(mapping.host_ip)
        except ValueError:
            raise BadRequest(f"config.port_mappings: host_ip {mapping.host_ip!r} is not an address") from None


def sizes(field: str, labels: dict[str, str], annotations: dict[str, str]) -> None:
    total = sum(len(k) + len(v) for held in (labels, annotations) for k, v in held.items())
    if total > MAX_LABELS_BYTES:
        raise BadRequest(f"{field}.labels and annotations: {total} bytes, at most {MAX_LABELS_BYTES}")


def namespaces(asked: Namespaces, field: str) -> None:
    for name in ("network", "ipc"):
        if getattr(asked, name) in (Mode.CONTAINER, Mode.TARGET):
            raise BadRequest(f"{field}.{name}: only POD and NODE are possible")
    if asked.pid == Mode.TARGET and not asked.target_id:
        raise BadRequest(f"{field}.target_id: missing, with pid TARGET")
    user_namespace(asked.user, f"{field}.userns_options")


def user_namespace(asked: UserNamespace, field: str) -> None:
    if asked.mode in (Mode.CONTAINER, Mode.TARGET):
        raise BadRequest(f"{field}.mode: only POD and NODE are possible")
    if asked.mode == Mode.NODE:
        if asked.uids or asked.gids:
            raise BadRequest(f"{field}: mappings with mode NODE")
        return
    if asked.uids != asked.gids:
        raise BadRequest(f"{field}: uids and gids must be the same")
    id_ranges(asked.uids, f"{field}.uids")


def id_ranges(ranges: tuple[IdRange, ...], field: str) -> None:
    if len(ranges) != 1:
        raise BadRequest(f"{field}: exactly one mapping is possible, got {len(ranges)}")
    line = ranges[0]
    if line.container_id != 0:
        raise BadRequest(f"{field}: must begin with container id 0, got {line.container_id}")
    if line.length < 1 or line.host_id + line.length > 2**32 - 1:
        raise BadRequest(f"{field}: {line.length} ids from {line.host_id} leave the range of ids")


def sysctl(name: str, asked: Namespaces) -> None:
    """A pod may set what belongs to its own namespaces, and nothing of the node's."""
    dotted = name.replace("/", ".")
    if not SYSCTL.fullmatch(name):
        raise BadRequest(f"config.linux.sysctls: {name!r} is not the name of a sysctl")
    if dotted.startswith("net."):
        if asked.network == Mode.NODE:
            raise BadRequest(f"config.linux.sysctls: {name}: the pod shares the node's network")
    elif dotted in IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
        if asked.ipc == Mode.NODE:
            raise BadRequest(f"config.linux.sysctls: {name}: the pod shares the node's IPC")
    else:
        raise BadRequest(f"config.linux.sysctls: {name}: not a sysctl of a pod's namespace (net.*, IPC, fs.mqueue.*)")
