# SPDX-License-Identifier: Apache-2.0
"""From messages to the engine's request types: the only place that knows what the fields of the wire are called."""

from __future__ import annotations

from typing import Any

from cri.engine.errors import BadRequest
from cri.engine.request import (
    ContainerRequest,
    DeviceRequest,
    Dns,
    HugepageLimit,
    IdRange,
    Mode,
    MountRequest,
    Namespaces,
    PodRequest,
    PortMapping,
    Profile,
    ProfileKind,
    Propagation,
    Resources,
    SELinux,
    UserNamespace,
)
from proto import cri_pb2 as pb

MODES = {0: Mode.POD, 1: Mode.CONTAINER, 2: Mode.NODE, 3: Mode.TARGET}
PROPAGATIONS = {0: Propagation.PRIVATE, 1: Propagation.HOST_TO_CONTAINER, 2: Propagation.BIDIRECTIONAL}
PROFILES = {0: ProfileKind.RUNTIME_DEFAULT, 1: ProfileKind.UNCONFINED, 2: ProfileKind.LOCALHOST}
PROTOCOLS = {0: "TCP", 1: "UDP", 2: "SCTP"}


def choice(table: dict[int, Any], number: int, field: str) -> Any:
    """An enum of proto3 carries any number; those without a name are refused."""
    if number not in table:
        raise BadRequest(f"{field}: {number} is not one of {', '.join(str(n) for n in table)}")
    return table[number]


def required(text: str, field: str) -> str:
    if not text:
        raise BadRequest(f"{field}: missing")
    return text


def ranges(mappings: Any) -> tuple[IdRange, ...]:
    return tuple(IdRange(m.container_id, m.host_id, m.length) for m in mappings)


def namespaces(option: Any, field: str) -> Namespaces:
    user = UserNamespace()
    if option.HasField("userns_options"):
        asked = option.userns_options
        mode = choice(MODES, asked.mode, f"{field}.userns_options.mode")
        user = UserNamespace(mode, ranges(asked.uids), ranges(asked.gids))
    return Namespaces(
        network=choice(MODES, option.network, f"{field}.network"),
        pid=choice(MODES, option.pid, f"{field}.pid"),
        ipc=choice(MODES, option.ipc, f"{field}.ipc"),
        target_id=option.target_id,
        user=user,
    )


def profile(held: Any, name: str, old: str, field: str) -> Profile | None:
    """The profile field; where it is not set, the deprecated string beside it."""
    if held.HasField(name):
        asked = getattr(held, name)
        kind = choice(PROFILES, asked.profile_type, f"{field}.{name}.profile_type")
        if kind == ProfileKind.LOCALHOST and not asked.localhost_ref:
            raise BadRequest(f"{field}.{name}.localhost_ref: missing")
        return Profile(kind, asked.localhost_ref)
    if old in ("runtime/default", "docker/default"):
        return Profile(ProfileKind.RUNTIME_DEFAULT)
    if old in ("", "unconfined"):
        return Profile(ProfileKind.UNCONFINED) if old else None
    if old.startswith("localhost/"):
        return Profile(ProfileKind.LOCALHOST, old.removeprefix("localhost/"))
    raise BadRequest(f"{field}.{name}: {old!r} is not runtime/default, unconfined or localhost/NAME")


def selinux(options: Any) -> SELinux:
    return SELinux(options.user, options.role, options.type, options.level)


def resources(asked: Any) -> Resources:
    for field in ("cpu_period", "cpu_shares"):
        if getattr(asked, field) < 0:
            raise BadRequest(f"resources.{field}: {getattr(asked, field)} is negative")
    for field in ("cpu_quota", "memory_limit_in_bytes", "memory_swap_limit_in_bytes"):
        if getattr(asked, field) < -1:
            raise BadRequest(f"resources.{field}: {getattr(asked, field)} is below -1")
    if not -1000 <= asked.oom_score_adj <= 1000:
        raise BadRequest(f"resources.oom_score_adj: {asked.oom_score_adj} is not between -1000 and 1000")
    for field in ("cpuset_cpus", "cpuset_mems"):
        if any(c not in "0123456789,-" for c in getattr(asked, field)):
            raise BadRequest(f"resources.{field}: {getattr(asked, field)!r} is not a list such as 0-2,4")
    return Resources(
        cpu_period=asked.cpu_period,
        cpu_quota=asked.cpu_quota,
        cpu_shares=asked.cpu_shares,
        memory_limit_bytes=asked.memory_limit_in_bytes,
        memory_swap_limit_bytes=asked.memory_swap_limit_in_bytes,
        oom_score_adj=asked.oom_score_adj,
        cpuset_cpus=asked.cpuset_cpus,
        cpuset_mems=asked.cpuset_mems,
        hugepages=tuple(HugepageLimit(h.page_size, h.limit) for h in asked.hugepage_limits),
        unified=dict(asked.unified),
    )


def optional(held: Any, field: str) -> int | None:
    return getattr(held, field).value if held.HasField(field) else None


def pod(config: Any, handler: str) -> PodRequest:
    """A PodSandboxConfig."""
    context = config.linux.security_context
    where = "config.linux.security_context"
    return PodRequest(
        name=config.metadata.name,
        namespace=config.metadata.namespace,
        uid=config.metadata.uid,
        attempt=config.metadata.attempt,
        hostname=config.hostname,
        log_directory=config.log_directory,
        dns=dns(config.dns_config) if config.HasField("dns_config") else None,
        port_mappings=tuple(
            PortMapping(
                choice(PROTOCOLS, m.protocol, "config.port_mappings.protocol"), m.container_port, m.host_port, m.host_ip
            )
            for m in config.port_mappings
        ),
        labels=dict(config.labels),
        annotations=dict(config.annotations),
        cgroup_parent=config.linux.cgroup_parent,
        sysctls=dict(config.linux.sysctls),
        overhead=resources(config.linux.overhead) if config.linux.HasField("overhead") else None,
        resources=resources(config.linux.resources) if config.linux.HasField("resources") else None,
        namespaces=namespaces(context.namespace_options, f"{where}.namespace_options"),
        selinux=selinux(context.selinux_options),
        run_as_user=optional(context, "run_as_user"),
        run_as_group=optional(context, "run_as_group"),
        supplemental_groups=tuple(context.supplemental_groups),
        privileged=context.privileged,
        seccomp=profile(context, "seccomp", context.seccomp_profile_path, where),
        apparmor=profile(context, "apparmor", "", where),
        handler=handler,
    )


def dns(config: Any) -> Dns:
    return Dns(tuple(config.servers), tuple(config.searches), tuple(config.options))


def mount(asked: Any) -> MountRequest:
    return MountRequest(
        container_path=asked.container_path,
        host_path=asked.host_path,
        readonly=asked.readonly,
        recursive_readonly=asked.recursive_read_only,
        relabel=asked.selinux_relabel,
        propagation=choice(PROPAGATIONS, asked.propagation, "config.mounts.propagation"),
        uids=ranges(asked.uidMappings),
        gids=ranges(asked.gidMappings),
        image=asked.image.image,
        image_sub_path=asked.image_sub_path,
        options=tuple(asked.mount_options),
    )


def text(value: bytes, field: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadRequest(f"{field}: not UTF-8") from None


def stop_signal(number: int) -> str:
    """SIGTERM for SIGNAL_SIGTERM, RTMIN+3 for SIGNAL_SIGRTMINPLUS3; empty where the runtime may choose."""
    if number == 0:
        return ""
    if number not in pb.Signal.values():
        raise BadRequest(f"config.stop_signal: {number} is not a signal")
    name: str = pb.Signal.Name(number).removeprefix("SIGNAL_")
    return name.replace("PLUS", "+").replace("MINUS", "-")


def container(config: Any) -> ContainerRequest:
    """A ContainerConfig."""
    context = config.linux.security_context
    where = "config.linux.security_context"
    return ContainerRequest(
        name=config.metadata.name,
        attempt=config.metadata.attempt,
        image=config.image.image,
        user_specified_image=config.image.user_specified_image,
        image_annotations=dict(config.image.annotations),
        image_handler=config.image.runtime_handler,
        command=tuple(config.command),
        args=tuple(config.args),
        working_dir=config.working_dir,
        envs=tuple((e.key, text(e.value, f"config.envs[{e.key!r}]")) for e in config.envs),
        mounts=tuple(mount(m) for m in config.mounts),
        devices=tuple(
            DeviceRequest(d.container_path or d.host_path, d.host_path, d.permissions) for d in config.devices
        ),
        cdi_devices=tuple(d.name for d in config.CDI_devices),
        labels=dict(config.labels),
        annotations=dict(config.annotations),
        log_path=config.log_path,
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        stop_signal=stop_signal(config.stop_signal),
        resources=resources(config.linux.resources),
        add_capabilities=tuple(context.capabilities.add_capabilities),
        drop_capabilities=tuple(context.capabilities.drop_capabilities),
        ambient_capabilities=tuple(context.capabilities.add_ambient_capabilities),
        privileged=context.privileged,
        namespaces=namespaces(context.namespace_options, f"{where}.namespace_options")
        if context.HasField("namespace_options")
        else None,
        selinux=selinux(context.selinux_options),
        run_as_user=optional(context, "run_as_user"),
        run_as_group=optional(context, "run_as_group"),
        run_as_username=context.run_as_username,
        readonly_rootfs=context.readonly_rootfs,
        supplemental_groups=tuple(context.supplemental_groups),
        strict_groups=choice(
            {0: False, 1: True}, context.supplemental_groups_policy, f"{where}.supplemental_groups_policy"
        ),
        no_new_privileges=context.no_new_privs,
        masked_paths=tuple(context.masked_paths),
        readonly_paths=tuple(context.readonly_paths),
        seccomp=profile(context, "seccomp", context.seccomp_profile_path, where),
        apparmor=profile(context, "apparmor", context.apparmor_profile, where),
    )
