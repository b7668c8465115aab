# SPDX-License-Identifier: Apache-2.0
"""A whole container planned: config in, plan out. Pure but for looking whether two namespaces are the same.

The plan has two halves. The parent's: control groups with their limits, namespaces, id mappings, hooks. The child's:
mounts, names, devices, confinement. `inside.init.run` applies the child's half, `launch` the parent's; `explain` prints
both.
"""

from __future__ import annotations

from runtime.linux import namespaces as linux_namespaces
from runtime.linux import paths
from runtime.linux.frozen import Frozen
from runtime.linux.steps import Step
from runtime.plan import confine, device_filter, identity, limits
from runtime.plan import mounts as mount_plan
from runtime.plan.rootfs import BindRoot, DeviceNode, owns_dev, plan_root
from runtime.spec.model import DeviceRule
from runtime.spec.reader import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.plan.confine import CapabilitySets
    from runtime.plan.limits import CgroupWrite
    from runtime.plan.scope import Scope
    from runtime.spec.model import Config, Hook, Hooks, IDMapping, Linux, MemoryPolicy, Mount, Process, Seccomp

SPEC_NAMES = {"net": "network", "mnt": "mount"}


class HostFacts(Frozen):
    """What the plan must know about the host."""

    cgroup_v2: bool
    capabilities: int
    euid: int
    egid: int
    rootless: bool = False  # also as root of a user namespace


class CreateOptions(Frozen):
    """Flags of create and run that change the container."""

    no_pivot: bool = False
    no_new_keyring: bool = False
    preserve_fds: int = 0
    rootless: bool = False


class NamespacePlan(Frozen):
    """What is cloned, what is joined, and whether that takes a process in between."""

    clone_flags: int
    joined: tuple[tuple[str, str], ...]
    new_cgroup: bool
    new_time: bool
    new: tuple[str, ...]
    uid_mappings: tuple[IDMapping, ...]
    gid_mappings: tuple[IDMapping, ...]
    time_offsets: Mapping[str, tuple[int, int]]
    prepared_outside: bool

    @property
    def in_between(self) -> bool:
        """A process between parent and init: for namespaces that only children enter, and to prepare with the rights
        of the host what an init in a user namespace may not."""
        if self.prepared_outside:
            return True
        return (
            "user" in self.new
            or self.new_time
            or any(kind in ("user", "pid", "time", "mnt") for kind, _ in self.joined)
        )


class Plan(Frozen):
    """Everything that create, start and the init do."""

    id: str
    bundle: str
    root_path: str
    config: Config
    options: CreateOptions
    namespaces: NamespacePlan
    cgroup_paths: Mapping[str, str]
    cgroup_v2: bool
    limits: tuple[CgroupWrite, ...]
    device_rules: tuple[DeviceRule, ...]
    bind_root: BindRoot
    mounts: tuple[mount_plan.MountStep, ...]
    furnish: tuple[Step, ...]
    names: tuple[Step, ...]
    masks: tuple[Step, ...]
    pivot: Step
    process_steps: tuple[Step, ...]
    confinement: tuple[Step, ...]
    seccomp: Seccomp | None
    capabilities: CapabilitySets | None
    hooks: Hooks
    warnings: tuple[str, ...]
    scope: Scope | None = None
    rootless: bool = False

    @property
    def userns(self) -> bool:
        """Whether the container lives in a user namespace of its own or joined."""
        return "user" in self.namespaces.new or any(kind == "user" for kind, _ in self.namespaces.joined)

    @property
    def group_owner(self) -> int | None:
        """Whose the group is to be, by the host's number: the user's who sees nothing above it and may write to it."""
        process = self.config.process
        if process is None or not (self.cgroup_v2 and self.namespaces.new_cgroup and self._has_writable_groups()):
            return None
        if not self.userns:
            return process.uid or None
        for mapping in self.namespaces.uid_mappings:
            if 0 <= process.uid - mapping.inside < mapping.size:
                return mapping.host + process.uid - mapping.inside
        return None

    def _has_writable_groups(self) -> bool:
        return any(
            mount.destination == "/sys/fs/cgroup" and mount_plan.is_writable_cgroup(mount) for mount in self.mounts
        )

    @property
    def moved_by_systemd(self) -> bool:
        """A user may not move processes out of his session himself: his manager has it done, and the init waits."""
        return self.scope is not None and self.scope.user

    def all_hooks(self) -> list[tuple[str, Hook]]:
        """Every hook with the point at which it runs."""
        hooks = self.hooks
        named = (
            ("prestart", hooks.prestart),
            ("createRuntime", hooks.create_runtime),
            ("createContainer", hooks.create_container),
            ("startContainer", hooks.start_container),
            ("poststart", hooks.poststart),
            ("poststop", hooks.poststop),
        )
        return [(name, hook) for name, several in named for hook in several]


def build(
    config: Config,
    *,
    container_id: str,
    bundle: str,
    host: HostFacts,
    options: CreateOptions,
    cgroup_paths: Mapping[str, str],
    scope: Scope | None = None,
) -> Plan:
    """Plan a container. Raises SpecError for what cannot be; makes and changes nothing."""
    linux = config.linux
    spaces = plan_namespaces(config)
    userns = "user" in spaces.new or any(kind == "user" for kind, _ in spaces.joined)
    root_path = config.root.path if config.root.path.startswith("/") else f"{bundle}/{config.root.path}"
    _check_combinations(config, spaces, userns=userns, options=options)
    bind = userns or host.rootless
    root = plan_root(config, paths.normal(root_path), bind_devices=bind, no_pivot=options.no_pivot)
    view = mount_plan.CgroupView(cgroup_paths, v2=host.cgroup_v2, namespace=spaces.new_cgroup)
    mappings = (linux.uid_mappings, linux.gid_mappings)
    label, label_warnings = _mount_label(linux)
    mounts = mount_plan.plan_mounts(
        config.mounts,
        bundle=bundle,
        cgroup=view,
        mount_label=(config.extensions.mount_context_type, label) if label else None,
        user_mappings=mappings,
        systemd_v1_at=config.extensions.systemd_v1_at,
    )
    process_steps, confinement, sets, warnings = _plan_process(config, host, userns=userns)
    return Plan(
        id=container_id,
        bundle=bundle,
        root_path=paths.normal(root_path),
        config=config,
        options=options,
        namespaces=spaces,
        cgroup_paths=cgroup_paths,
        cgroup_v2=host.cgroup_v2,
        limits=tuple(limits.plan(linux.resources, v2=host.cgroup_v2)),
        device_rules=device_rules(config),
        bind_root=root.bind,
        mounts=tuple(mounts),
        furnish=root.after_mounts,
        names=tuple(identity.plan_names(config)),
        masks=root.masks,
        pivot=root.pivot,
        process_steps=tuple(process_steps),
        confinement=tuple(confinement),
        seccomp=linux.seccomp if linux.seccomp is not None and filters(linux.seccomp) else None,
        capabilities=sets,
        hooks=config.hooks,
        warnings=(*warnings, *label_warnings),
        scope=scope,
        rootless=host.rootless,
    )


def device_rules(config: Config) -> tuple[DeviceRule, ...]:
    """What devices the container may use: as asked, and the nodes that it gets."""
    nodes = tuple(
        DeviceRule(allow=True, kind="b" if d.kind == "b" else "c", major=d.major, minor=d.minor, access="rwm")
        for d in config.linux.devices
        if d.kind != "p" and owns_dev(config)
    )
    return device_filter.rules(config.linux.resources.devices, nodes)


def filters(seccomp: Seccomp) -> bool:
    """A profile that allows everything is no filter."""
    return bool(seccomp.syscalls or seccomp.program) or seccomp.default_action != "SCMP_ACT_ALLOW"


def plan_namespaces(config: Config) -> NamespacePlan:
    """Sort the namespaces into cloned, joined and entered later."""
    linux = config.linux
    joined = [(space.kind, space.path) for space in linux.namespaces if space.path]
    new = [space.kind for space in linux.namespaces if not space.path]
    if linux.time_offsets and "time" not in new:
        raise SpecError("linux.timeOffsets", "needs a new time namespace in linux.namespaces")
    # A new cgroup namespace is entered after the cgroups are (its root is where its maker stands), a time namespace
    # only by children; the rest is born with the process.
    cloned = [kind for kind in new if kind not in ("cgroup", "time")]
    return NamespacePlan(
        clone_flags=linux_namespaces.flags_of(cloned),
        joined=tuple(joined),
        new_cgroup="cgroup" in new,
        new_time="time" in new,
        new=tuple(new),
        uid_mappings=linux.uid_mappings,
        gid_mappings=linux.gid_mappings,
        time_offsets=linux.time_offsets,
        # An id mapping is borrowed from a helper whose files in /proc are found by its pid: the host's, not a new
        # namespace's.
        prepared_outside=any(mount.uid_mappings or _asks_for_idmap(mount) for mount in config.mounts),
    )


def _asks_for_idmap(mount: Mount) -> bool:
    return any(option.removeprefix("r").startswith("idmap") for option in mount.options)


def _check_combinations(config: Config, spaces: NamespacePlan, *, userns: bool, options: CreateOptions) -> None:
    linux = config.linux
    new_user = "user" in spaces.new
    if new_user and not (linux.uid_mappings and linux.gid_mappings):
        raise SpecError("linux.uidMappings", "a new user namespace needs uidMappings and gidMappings")
    if (linux.uid_mappings or linux.gid_mappings) and not userns:
        raise SpecError("linux.uidMappings", "id mappings need a user namespace in linux.namespaces")
    if options.rootless and not userns:
        raise SpecError("linux.namespaces", "a rootless container needs a user namespace")
    if linux.net_devices and config.namespace("net") is None:
        raise SpecError("linux.netDevices", "needs a network namespace of the container's own")
    for name, new_name in linux.net_devices.items():
        for text in (name, new_name):
            if (
                not text
                or len(text) > 15
                or "/" in text
                or text in (".", "..")
                or any(c.isspace() or c in ":%" for c in text)
            ):
                raise SpecError(f"linux.netDevices.{name}", f"{text!r} is not a valid name of a network device")
    if config.process is not None and config.process.selinux_label:
        _need_lsm("selinux", "process.selinuxLabel")
    if config.namespace("mnt") is None and (userns or linux.rootfs_propagation or options.no_pivot):
        raise SpecError("linux.namespaces", "without a mount namespace there is neither user namespace nor propagation")
    if config.process is not None and config.process.apparmor_profile not in ("", "unconfined"):
        _need_lsm("apparmor", "process.apparmorProfile")
    _check_seccomp(linux)


def _mount_label(linux: Linux) -> tuple[str, list[str]]:
    """The context= of mounts. Without SELinux it means nothing, and the file systems do not know the option."""
    if not linux.mount_label:
        return "", []
    from runtime.linux import labels

    if "selinux" in labels.enabled():
        return linux.mount_label, []
    return "", ["linux.mountLabel: this kernel runs without SELinux; the label is left out"]


def _need_lsm(name: str, where: str) -> None:
    from runtime.linux import labels

    if name not in labels.enabled():
        proper = {"selinux": "SELinux", "apparmor": "AppArmor"}[name]
        raise SpecError(where, f"this kernel runs without {proper}; remove the label, or boot with lsm={name}")


def _check_seccomp(linux: Linux) -> None:
    profile = linux.seccomp
    if profile is None:
        return
    notify = profile.default_action == "SCMP_ACT_NOTIFY" or any(r.action == "SCMP_ACT_NOTIFY" for r in profile.syscalls)
    if notify and not profile.listener_path:
        raise SpecError("linux.seccomp.listenerPath", "missing; SCMP_ACT_NOTIFY needs an agent that listens there")
    if profile.default_action == "SCMP_ACT_NOTIFY":
        raise SpecError(
            "linux.seccomp.defaultAction", "SCMP_ACT_NOTIFY for everything would stop the agent's own start"
        )
    if profile.listener_metadata and not profile.listener_path:
        raise SpecError("linux.seccomp.listenerMetadata", "makes no sense without listenerPath")


def _plan_process(
    config: Config, host: HostFacts, *, userns: bool
) -> tuple[list[Step], list[Step], CapabilitySets | None, list[str]]:
    if config.process is None:
        return [], [], None, []
    return plan_joining(config, config.process, host, userns=userns)


def check_policy(policy: MemoryPolicy) -> MemoryPolicy:
    """The kernel's own rules about modes and nodes, with a sentence instead of EINVAL."""
    if policy.mode in ("MPOL_DEFAULT", "MPOL_LOCAL") and policy.nodes:
        raise SpecError("linux.memoryPolicy.nodes", f"{policy.mode} takes no nodes")
    return policy


def plan_joining(
    config: Config, process: Process, host: HostFacts, *, userns: bool
) -> tuple[list[Step], list[Step], CapabilitySets, list[str]]:
    """The steps that an init and an exec share: limits of the process, then its confinement."""
    available = (1 << 64) - 1 if userns else host.capabilities
    sets, warnings = confine.capability_sets(process.capabilities, available)
    confinement = confine.plan_confinement(
        process,
        sets,
        seccomp=config.linux.seccomp is not None,
        keep_groups=config.extensions.keep_original_groups,
        mappings=(config.linux.uid_mappings, config.linux.gid_mappings),
    )
    return identity.plan_process(process) + _plan_domain(config.linux), confinement, sets, warnings


def _plan_domain(linux: Linux) -> list[Step]:
    """What every process of the container has, and the section of a single one does not name."""
    steps: list[Step] = []
    if linux.personality is not None:
        steps.append(identity.SetPersonality(linux.personality[0]))
        if linux.personality[1]:
            raise SpecError("linux.personality.flags", "no flags are defined for it")
    if linux.memory_policy is not None:
        steps.append(identity.SetMemoryPolicy(check_policy(linux.memory_policy)))
    return steps


def needs_host(step: Step) -> bool:
    """Whether a step prepares something outside the container."""
    return isinstance(step, (mount_plan.MountStep, BindRoot)) or (isinstance(step, DeviceNode) and step.bind)


def fits_seed(plan: Plan) -> bool:
    """Whether all of the host that the init needs can be opened before it leaves the host's mounts for a nearly empty
    namespace: its hooks, shared mounts and file systems with sources of their own need the real one."""
    spaces = plan.namespaces
    simple = ("proc", "sysfs", "tmpfs", "devpts", "mqueue")
    return (
        "mnt" in spaces.new
        and not spaces.in_between
        and not plan.hooks.create_container
        and not plan.options.no_pivot
        and plan.bind_root.propagation not in ("shared", "rshared")
        and all(not isinstance(s, mount_plan.FilesystemMount) or s.kind in simple for s in plan.mounts)
    )


def describe(plan: Plan) -> list[tuple[str, str]]:
    """Every step in order, as (phase, sentence)."""
    lines: list[tuple[str, str]] = []
    spaces = plan.namespaces
    shown = dict.fromkeys(plan.cgroup_paths.values())
    if plan.scope is not None:
        lines += [("cgroup", line) for line in plan.scope.describe()]
    lines += [("cgroup", f"make {path}") for path in shown]
    lines += [("cgroup", step.describe()) for step in plan.limits]
    for rule in plan.device_rules:
        major, minor = ("*" if n is None else n for n in (rule.major, rule.minor))
        verb = "allow" if rule.allow else "deny"
        lines.append(("devices", f"{verb} {rule.kind} {major}:{minor} {rule.access}"))
    lines += [("namespaces", f"new {SPEC_NAMES.get(kind, kind)}") for kind in spaces.new]
    lines += [("namespaces", f"join {SPEC_NAMES.get(kind, kind)} at {path}") for kind, path in spaces.joined]
    for name, ranges in (("uid", spaces.uid_mappings), ("gid", spaces.gid_mappings)):
        lines += [("namespaces", f"map {name}s {m.inside}..{m.inside + m.size - 1} to {m.host}..") for m in ranges]
    lines += [("namespaces", f"shift clock {clock} by {s} s {n} ns") for clock, (s, n) in spaces.time_offsets.items()]
    hooks = plan.all_hooks()
    lines += [("hook", f"{point}: {hook.path}") for point, hook in hooks if point in ("prestart", "createRuntime")]
    lines += [("network", f"move device {old} in as {new}") for old, new in plan.config.linux.net_devices.items()]
    lines.append(("root", plan.bind_root.describe()))
    lines += [("mount", step.describe()) for step in plan.mounts]
    lines += [("device", step.describe()) for step in plan.furnish]
    lines += [("hook", f"{point}: {hook.path}") for point, hook in hooks if point == "createContainer"]
    lines += [("name", step.describe()) for step in plan.names]
    lines += [("mask", step.describe()) for step in plan.masks]
    lines.append(("root", plan.pivot.describe()))
    lines += [("process", step.describe()) for step in plan.process_steps]
    lines += [("hook", f"{point}: {hook.path}") for point, hook in hooks if point == "startContainer"]
    lines += [("confine", step.describe()) for step in plan.confinement]
    if plan.seccomp is not None:
        count = sum(len(rule.names) for rule in plan.seccomp.syscalls)
        lines.append(("confine", f"filter system calls: {plan.seccomp.default_action} but for {count} names"))
    if plan.config.process is not None:
        lines.append(("exec", " ".join(plan.config.process.args)))
    lines += [("hook", f"{point}: {hook.path}") for point, hook in hooks if point in ("poststart", "poststop")]
    return lines
