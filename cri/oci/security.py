# SPDX-License-Identifier: Apache-2.0
"""What a container may do: capabilities, seccomp, AppArmor, hidden and read-only paths."""

from __future__ import annotations

import json

from cri.engine.request import ContainerRequest, Mode, Profile, ProfileKind
from cri.oci import seccomp_default
from cri.oci.apparmor_default import NAME as DEFAULT_APPARMOR
from cri.oci.facts import Node, PodPlace, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_CAPABILITIES = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
_NAMES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT
SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP
MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
ALL_CAPABILITIES = tuple(f"CAP_{name}" for name in _NAMES.split())
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def full_name(capability: str) -> str:
    """CAP_X for x, X and CAP_X; refuses what no kernel knows."""
    name = capability.upper()
    name = name if name.startswith("CAP_") else f"CAP_{name}"
    if name not in ALL_CAPABILITIES:
        raise Refused(
            f"security_context.capabilities: unknown capability {capability!r} (a name such as NET_ADMIN, or ALL)"
        )
    return name


def effective_capabilities(request: ContainerRequest, node: Node) -> set[str]:
    """ALL is applied first, single names after it: `drop ALL, add CHOWN` leaves CHOWN."""
    available = set(node.capabilities or ALL_CAPABILITIES)
    if request.privileged:
        return available
    add = [name.upper() for name in request.add_capabilities]
    drop = [name.upper() for name in request.drop_capabilities]
    wanted = set(DEFAULT_CAPABILITIES)
    if "ALL" in add:
        wanted = set(ALL_CAPABILITIES)
    if "ALL" in drop:
        wanted = set()
    wanted |= {full_name(name) for name in add if name != "ALL"}
    wanted |= {full_name(name) for name in request.ambient_capabilities if name.upper() != "ALL"}
    wanted -= {full_name(name) for name in drop if name != "ALL"}
    return wanted & available


def capabilities(request: ContainerRequest, node: Node) -> dict[str, list[str]]:
    """The inheritable set stays empty (CVE-2022-24769), save for what is ambient."""
    names = sorted(effective_capabilities(request, node))
    ambient = sorted({full_name(name) for name in request.ambient_capabilities} & set(names))
    return {"bounding": names, "effective": names, "permitted": names, "inheritable": ambient, "ambient": ambient}


def seccomp(request: ContainerRequest, node: Node, localhost: str | None) -> dict[str, Any] | None:
    """The filter as OCI wants it; None for unconfined. `localhost` is the text of the profile the request names."""
    profile = request.seccomp
    if request.privileged or profile is None or profile.kind == ProfileKind.UNCONFINED:
        return None
    if not node.seccomp:
        raise Refused("security_context.seccomp: this kernel has no seccomp (CONFIG_SECCOMP_FILTER)")
    if profile.kind == ProfileKind.RUNTIME_DEFAULT:
        return seccomp_default.profile(effective_capabilities(request, node), kernel=node.kernel)
    return parse_localhost(profile, localhost)


def parse_localhost(profile: Profile, text: str | None) -> dict[str, Any]:
    """A profile file holds the `linux.seccomp` object of OCI; docker's `name` for one system call is understood too."""
    where = f"security_context.seccomp.localhost_ref {profile.reference!r}"
    if text is None:
        raise Refused(f"{where}: no such file on this node (an absolute path of a JSON profile)")
    try:
        loaded = json.loads(text)
    except ValueError as e:
        raise Refused(f"{where}: not JSON: {e}") from None
    if not isinstance(loaded, dict) or not isinstance(loaded.get("defaultAction"), str):
        raise Refused(f"{where}: no defaultAction in it")
    known = ("defaultAction", "defaultErrnoRet", "architectures", "flags", "listenerPath", "listenerMetadata")
    built: dict[str, Any] = {key: loaded[key] for key in known if key in loaded}
    calls = []
    for call in loaded.get("syscalls") or ():
        if not isinstance(call, dict):
            raise Refused(f"{where}: syscalls: expected objects, got {call!r}")
        names = call.get("names") or ([call["name"]] if call.get("name") else [])
        kept: dict[str, Any] = {"names": names, "action": call.get("action", "SCMP_ACT_ERRNO")}
        kept.update({key: call[key] for key in ("errnoRet", "args") if call.get(key) is not None})
        calls.append(kept)
    built["syscalls"] = calls
    return built


def apparmor_profile(request: ContainerRequest, node: Node) -> str:
    """The name of the profile; nothing on a kernel without AppArmor unless one was asked for by name. As Kubernetes has
    it, a container that says nothing gets the default one, and a privileged one only what it names."""
    profile = request.apparmor
    if profile is not None and profile.kind == ProfileKind.UNCONFINED:
        return ""
    if profile is not None and profile.kind == ProfileKind.LOCALHOST:
        if not node.apparmor:
            raise Refused(f"security_context.apparmor {profile.reference!r}: this kernel has no AppArmor")
        return profile.reference.removeprefix("localhost/")
    return DEFAULT_APPARMOR if node.apparmor and not request.privileged else ""


def hidden_paths(request: ContainerRequest, pod: PodPlace) -> tuple[list[str], list[str]]:
    """(masked, read-only). An empty list on the wire means both `unmasked` and `nothing said`: only in a user
    namespace, where Kubernetes allows the former, is nothing masked."""
    if request.privileged:
        return [], []
    unmasked = pod.request.namespaces.user.mode == Mode.POD
    masked = request.masked_paths or (() if unmasked else MASKED_PATHS)
    readonly = request.readonly_paths or (() if unmasked else READONLY_PATHS)
    return list(masked), list(readonly)
