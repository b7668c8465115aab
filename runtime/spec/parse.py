# SPDX-License-Identifier: Apache-2.0
"""A config.json becomes a Config: the only code that sees raw JSON."""

from __future__ import annotations

from runtime.spec import model
from runtime.spec.reader import MAX_UINT32, MAX_UINT64, Object, SpecError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

NAMESPACE_KINDS = {
    "pid": "pid",
    "network": "net",
    "mount": "mnt",
    "ipc": "ipc",
    "uts": "uts",
    "user": "user",
    "cgroup": "cgroup",
    "time": "time",
}
ID = (0, MAX_UINT32 - 1)


def config(raw: Any) -> model.Config:
    """The whole document."""
    if not isinstance(raw, dict):
        raise SpecError("", f"expected a JSON object, got {shown(raw)}")
    top = Object(raw, "")
    annotations = top.string_map("annotations")
    extensions = _extensions(annotations)
    return model.Config(
        oci_version=_version(top),
        root=_root(top),
        mounts=tuple(_mount(item) for item in top.objects("mounts")),
        process=process(top.object("process")) if top.has("process") else None,
        hostname=top.string("hostname"),
        domainname=top.string("domainname"),
        hooks=_hooks(top.object("hooks")),
        annotations=annotations,
        extensions=extensions,
        linux=_linux(top.object("linux"), extensions),
    )


def _extensions(annotations: Mapping[str, str]) -> model.Extensions:
    if not any(name.startswith("run.oci.") for name in annotations):
        return model.Extensions()
    from runtime.spec import extensions

    return extensions.read(annotations)


def _version(top: Object) -> str:
    top.required("ociVersion", 'a version of the runtime-spec such as "1.3.0"')
    version = top.string("ociVersion")
    core = version.split("+")[0].split("-")[0].split(".")
    if len(core) != 3 or not all(part.isascii() and part.isdigit() for part in core):
        raise SpecError("ociVersion", f"expected a semantic version such as 1.3.0, got {shown(version)}")
    if core[0] != "1":
        raise SpecError("ociVersion", f"{version} is not supported; expected 1.x.y")
    return version


def _root(top: Object) -> model.Root:
    top.required("root", 'an object with the path of the root file system, {"path": "rootfs"}')
    root = top.object("root")
    root.required("path", "the path of the root file system")
    path = root.string("path")
    if not path:
        raise SpecError("root.path", "expected a path, got an empty string")
    return model.Root(path=path, readonly=root.boolean("readonly"))


def _mappings(owner: Object, key: str) -> tuple[model.IDMapping, ...]:
    found = []
    for item in owner.objects(key):
        for name in ("containerID", "hostID", "size"):
            item.required(name, "an id")
        found.append(
            model.IDMapping(
                inside=item.integer("containerID", 0, MAX_UINT32),
                host=item.integer("hostID", 0, MAX_UINT32),
                size=item.integer("size", 1, MAX_UINT32),
            )
        )
    return tuple(found)


def _mount(item: Object) -> model.Mount:
    item.required("destination", "a path in the container")
    destination = item.string("destination")
    if not destination:
        raise SpecError(item.at("destination"), "expected a path in the container, got an empty string")
    return model.Mount(
        destination=destination,
        kind=item.string("type"),
        source=item.string("source"),
        options=item.strings("options"),
        uid_mappings=_mappings(item, "uidMappings"),
        gid_mappings=_mappings(item, "gidMappings"),
        where=item.path,
    )


def process(item: Object) -> model.Process:
    """The process section; also what `exec --process` is given."""
    item.required("args", "the command to run")
    args = item.strings("args")
    if not args:
        raise SpecError(item.at("args"), "expected the command to run, got an empty array")
    item.required("cwd", "an absolute path")
    user = item.object("user")
    console = item.object("consoleSize")
    affinity = item.object("execCPUAffinity")
    return model.Process(
        terminal=item.boolean("terminal"),
        console_size=(console.integer("height", 0, 65535), console.integer("width", 0, 65535))
        if console.present
        else None,
        cwd=item.path_string("cwd"),
        args=args,
        env=_environment(item),
        uid=user.integer("uid", *ID),
        gid=user.integer("gid", *ID),
        umask=user.optional_integer("umask", 0, 0o7777),
        additional_gids=user.integers("additionalGids", *ID),
        username=user.string("username"),
        capabilities=_capabilities(item.object("capabilities")),
        rlimits=_rlimits(item),
        no_new_privileges=item.boolean("noNewPrivileges"),
        apparmor_profile=item.string("apparmorProfile"),
        selinux_label=item.string("selinuxLabel"),
        oom_score_adj=item.optional_integer("oomScoreAdj", -1000, 1000),
        scheduler=_scheduler(item.object("scheduler")),
        io_priority=_io_priority(item.object("ioPriority")),
        cpu_affinity_initial=_cpu_list(affinity, "initial"),
        cpu_affinity_final=_cpu_list(affinity, "final"),
    )


def _environment(item: Object) -> tuple[str, ...]:
    """Of a name that is given twice the last value counts; programs would look at the first one."""
    env: dict[str, str] = {}
    for index, entry in enumerate(item.strings("env")):
        name, equals, _ = entry.partition("=")
        if not name or not equals:
            raise SpecError(f"{item.at('env')}[{index}]", f"expected KEY=value, got {shown(entry)}")
        env[name] = entry
    return tuple(env.values())


def _cpu_list(item: Object, key: str) -> str:
    text = item.string(key)
    if text:
        try:
            cpu_numbers(text)
        except ValueError:
            raise SpecError(item.at(key), f"expected a list of CPUs such as 0-3,7, got {shown(text)}") from None
    return text


def cpu_numbers(text: str) -> set[int]:
    """The CPUs of a list such as 0-3,7."""
    found: set[int] = set()
    for part in text.replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        if not first.isascii() or not first.isdigit() or (dash and not (last.isascii() and last.isdigit())):
            raise ValueError(part)
        low, high = int(first), int(last or first)
        if high < low or high > 8191:
            raise ValueError(part)
        found.update(range(low, high + 1))
    return found


def _capabilities(item: Object) -> model.Capabilities | None:
    if not item.present:
        return None
    return model.Capabilities(
        bounding=item.strings("bounding"),
        effective=item.strings("effective"),
        inheritable=item.strings("inheritable"),
        permitted=item.strings("permitted"),
        ambient=item.strings("ambient"),
    )


def _rlimits(item: Object) -> tuple[model.Rlimit, ...]:
    found: list[model.Rlimit] = []
    for limit in item.objects("rlimits"):
        for key in ("type", "soft", "hard"):
            limit.required(key, "a name such as RLIMIT_NOFILE" if key == "type" else "a number")
        kind = limit.string("type")
        if kind not in RLIMITS:
            raise SpecError(limit.at("type"), f"unknown resource {shown(kind)}; expected one of {', '.join(RLIMITS)}")
        if any(kind == other.kind for other in found):
            raise SpecError(limit.at("type"), f"{kind} is given twice")
        soft, hard = limit.integer("soft", -1, MAX_UINT64), limit.integer("hard", -1, MAX_UINT64)
        soft, hard = soft & MAX_UINT64, hard & MAX_UINT64
        if soft > hard:
            raise SpecError(limit.at("soft"), f"the soft limit {soft} is above the hard limit {hard}")
        found.append(model.Rlimit(kind=kind, soft=soft, hard=hard))
    return tuple(found)


RLIMITS = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}
SCHEDULERS = ("SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_ISO", "SCHED_IDLE", "SCHED_DEADLINE")


def _scheduler(item: Object) -> model.Scheduler | None:
    if not item.present:
        return None
    item.required("policy", "one of " + ", ".join(SCHEDULERS))
    return model.Scheduler(
        policy=item.one_of("policy", SCHEDULERS),
        nice=item.integer("nice", -20, 19),
        priority=item.integer("priority", 0, 99),
        flags=item.strings("flags"),
        runtime=item.integer("runtime", 0, MAX_UINT64),
        deadline=item.integer("deadline", 0, MAX_UINT64),
        period=item.integer("period", 0, MAX_UINT64),
    )


def _io_priority(item: Object) -> model.IOPriority | None:
    if not item.present:
        return None
    classes = ("IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE")
    item.required("class", "one of " + ", ".join(classes))
    return model.IOPriority(klass=item.one_of("class", classes), priority=item.integer("priority", 0, 7))


def _hooks(item: Object) -> model.Hooks:
    return model.Hooks(
        prestart=_hook_list(item, "prestart"),
        create_runtime=_hook_list(item, "createRuntime"),
        create_container=_hook_list(item, "createContainer"),
        start_container=_hook_list(item, "startContainer"),
        poststart=_hook_list(item, "poststart"),
        poststop=_hook_list(item, "poststop"),
    )


def _hook_list(owner: Object, key: str) -> tuple[model.Hook, ...]:
    return tuple(
        model.Hook(
            path=item.path_string("path"),
            args=item.strings("args"),
            env=_environment(item),
            timeout=item.optional_integer("timeout", 1, 1 << 31),
            where=item.path,
        )
        for item in owner.objects(key)
    )


def _linux(item: Object, extensions: model.Extensions) -> model.Linux:
    for refused in ("intelRdt",):
        if item.has(refused):
            raise SpecError(item.at(refused), "not supported yet; remove it, or use another runtime for this container")
    persona = item.object("personality")
    return model.Linux(
        namespaces=_namespaces(item),
        uid_mappings=_mappings(item, "uidMappings"),
        gid_mappings=_mappings(item, "gidMappings"),
        time_offsets=_time_offsets(item.object("timeOffsets")),
        devices=tuple(_device(device) for device in item.objects("devices")),
        net_devices=_net_devices(item.object("netDevices")),
        cgroups_path=item.string("cgroupsPath"),
        resources=resources(item.object("resources")),
        rootfs_propagation=item.one_of("rootfsPropagation", PROPAGATIONS),
        seccomp=_seccomp(item.object("seccomp"), extensions),
        sysctl=item.string_map("sysctl"),
        masked_paths=_paths(item, "maskedPaths"),
        readonly_paths=_paths(item, "readonlyPaths"),
        mount_label=item.string("mountLabel"),
        personality=_personality(persona) if persona.present else None,
        memory_policy=_memory_policy(item.object("memoryPolicy")),
    )


PROPAGATIONS = ("shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable")


def _paths(item: Object, key: str) -> tuple[str, ...]:
    paths = item.strings(key)
    for index, path in enumerate(paths):
        if not path.startswith("/"):
            raise SpecError(f"{item.at(key)}[{index}]", f"expected an absolute path, got {shown(path)}")
    return paths


def _personality(item: Object) -> tuple[str, tuple[str, ...]]:
    item.required("domain", "LINUX or LINUX32")
    return item.one_of("domain", ("LINUX", "LINUX32")), item.strings("flags")


def _namespaces(item: Object) -> tuple[model.Namespace, ...]:
    found: list[model.Namespace] = []
    for entry in item.objects("namespaces"):
        entry.required("type", "one of " + ", ".join(NAMESPACE_KINDS))
        given = entry.string("type")
        if given not in NAMESPACE_KINDS:
            expected = ", ".join(NAMESPACE_KINDS)
            raise SpecError(entry.at("type"), f"unknown namespace {shown(given)}; expected one of {expected}")
        if any(other.kind == NAMESPACE_KINDS[given] for other in found):
            raise SpecError(entry.at("type"), f"the {given} namespace is given twice")
        if entry.string("path"):
            entry.path_string("path")
        found.append(model.Namespace(kind=NAMESPACE_KINDS[given], path=entry.string("path")))
    return tuple(found)


def _time_offsets(item: Object) -> Mapping[str, tuple[int, int]]:
    found = {}
    for clock in item.value:
        if clock not in ("monotonic", "boottime"):
            raise SpecError(item.at(clock), "unknown clock; expected monotonic or boottime")
        offset = item.object(clock)
        found[clock] = (offset.integer("secs"), offset.integer("nanosecs", 0, 999_999_999))
    return found


def _device(item: Object) -> model.Device:
    item.required("type", "c, b, u or p")
    kind = item.one_of("type", ("c", "b", "u", "p"))
    if kind != "p":
        item.required("major", "a number")
        item.required("minor", "a number")
    return model.Device(
        path=item.path_string("path"),
        kind=kind,
        major=item.integer("major", 0, (1 << 32) - 1),
        minor=item.integer("minor", 0, (1 << 32) - 1),
        mode=item.optional_integer("fileMode", 0, 0o177777),
        uid=item.integer("uid", *ID),
        gid=item.integer("gid", *ID),
    )


def _net_devices(item: Object) -> Mapping[str, str]:
    return {host: item.object(host).string("name") or host for host in item.value}


def resources(item: Object) -> model.Resources:
    """The resources section; also what `update --resources` is given."""
    pids = item.object("pids")
    network = item.object("network")
    return model.Resources(
        devices=tuple(_device_rule(rule) for rule in item.objects("devices")),
        memory=_memory(item.object("memory")),
        cpu=_cpu(item.object("cpu")),
        pids_limit=pids.optional_integer("limit", -1),
        block_io=_block_io(item.object("blockIO")),
        hugepages=tuple(_hugepage(page) for page in item.objects("hugepageLimits")),
        network_class=network.optional_integer("classID", 0, MAX_UINT32),
        network_priorities=tuple(
            (entry.string("name"), entry.integer("priority", 0, MAX_UINT32)) for entry in network.objects("priorities")
        ),
        rdma=_rdma(item.object("rdma")),
        unified=_unified(item),
    )


def _unified(item: Object) -> Mapping[str, str]:
    found = item.string_map("unified")
    for name in found:
        if "/" in name or name in ("", ".", ".."):
            raise SpecError(item.at("unified"), f"{shown(name)} is not the name of a cgroup file")
    return found


def _hugepage(item: Object) -> tuple[str, int]:
    item.required("pageSize", "a size such as 2MB")
    item.required("limit", "a number of bytes")
    size = item.string("pageSize")
    digits = size.removesuffix("KB").removesuffix("MB").removesuffix("GB")
    if not digits.isascii() or not digits.isdigit() or digits == size:
        raise SpecError(item.at("pageSize"), f"expected a size such as 64KB, 2MB or 1GB, got {shown(size)}")
    return size, item.integer("limit", 0, MAX_UINT64)


def _rdma(item: Object) -> tuple[tuple[str, int | None, int | None], ...]:
    return tuple(
        (
            device,
            item.object(device).optional_integer("hcaHandles", 0, MAX_UINT32),
            item.object(device).optional_integer("hcaObjects", 0, MAX_UINT32),
        )
        for device in item.value
    )


def _device_rule(item: Object) -> model.DeviceRule:
    item.required("allow", "true or false")
    kind = item.one_of("type", ("a", "b", "c"), "a")
    access = item.string("access") or "rwm"
    if set(access) - set("rwm"):
        raise SpecError(item.at("access"), f"expected letters out of rwm, got {shown(access)}")
    major, minor = (item.optional_integer(key, -1, MAX_UINT32) for key in ("major", "minor"))
    return model.DeviceRule(
        allow=item.boolean("allow"),
        kind=kind,
        major=None if major == -1 else major,
        minor=None if minor == -1 else minor,
        access=access,
    )


def _memory(item: Object) -> model.Memory | None:
    if not item.present:
        return None
    return model.Memory(
        limit=item.optional_integer("limit", -1),
        reservation=item.optional_integer("reservation", -1),
        swap=item.optional_integer("swap", -1),
        kernel=item.optional_integer("kernel", -1),
        kernel_tcp=item.optional_integer("kernelTCP", -1),
        swappiness=item.optional_integer("swappiness", 0, MAX_UINT64),
        disable_oom_killer=item.optional_boolean("disableOOMKiller"),
        use_hierarchy=item.optional_boolean("useHierarchy"),
        check_before_update=item.boolean("checkBeforeUpdate"),
    )


def _cpu(item: Object) -> model.CPU | None:
    if not item.present:
        return None
    return model.CPU(
        shares=item.optional_integer("shares", 0, MAX_UINT64),
        quota=item.optional_integer("quota"),
        burst=item.optional_integer("burst", 0, MAX_UINT64),
        period=item.optional_integer("period", 0, MAX_UINT64),
        realtime_runtime=item.optional_integer("realtimeRuntime"),
        realtime_period=item.optional_integer("realtimePeriod", 0, MAX_UINT64),
        cpus=_cpu_list(item, "cpus"),
        mems=_cpu_list(item, "mems"),
        idle=item.optional_integer("idle", 0, 1),
    )


def _block_io(item: Object) -> model.BlockIO | None:
    if not item.present:
        return None
    return model.BlockIO(
        weight=item.optional_integer("weight", 0, 65535),
        leaf_weight=item.optional_integer("leafWeight", 0, 65535),
        weight_devices=tuple(
            model.WeightDevice(
                major=device.integer("major", 0),
                minor=device.integer("minor", 0),
                weight=device.optional_integer("weight", 0, 65535),
                leaf_weight=device.optional_integer("leafWeight", 0, 65535),
            )
            for device in item.objects("weightDevice")
        ),
        read_bps=_throttles(item, "throttleReadBpsDevice"),
        write_bps=_throttles(item, "throttleWriteBpsDevice"),
        read_iops=_throttles(item, "throttleReadIOPSDevice"),
        write_iops=_throttles(item, "throttleWriteIOPSDevice"),
    )


def _throttles(item: Object, key: str) -> tuple[model.ThrottleDevice, ...]:
    return tuple(
        model.ThrottleDevice(
            major=device.integer("major", 0),
            minor=device.integer("minor", 0),
            rate=device.integer("rate", 0, MAX_UINT64),
        )
        for device in item.objects(key)
    )


ACTIONS = (
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
)
OPERATORS = (
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
)
ARCHITECTURES = (
    "AARCH64 ARM LOONGARCH64 M68K MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PARISC PARISC64 PPC PPC64 PPC64LE "
    "RISCV64 S390 S390X SH SHEB X32 X86 X86_64"
)
SECCOMP_FLAGS = (
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
)


def _seccomp(item: Object, extensions: model.Extensions) -> model.Seccomp | None:
    if extensions.seccomp_program:  # instead of the section
        item = Object({"defaultAction": "SCMP_ACT_ALLOW"}, item.path)
    if not item.present:
        return None
    item.required("defaultAction", "one of " + ", ".join(ACTIONS))
    flags = item.strings("flags")
    for index, flag in enumerate(flags):
        if flag not in SECCOMP_FLAGS:
            expected = ", ".join(SECCOMP_FLAGS)
            raise SpecError(f"{item.at('flags')}[{index}]", f"unknown flag {shown(flag)}; expected one of {expected}")
    return model.Seccomp(
        default_action=item.one_of("defaultAction", ACTIONS),
        default_errno_ret=item.optional_integer("defaultErrnoRet", 0, 65535),
        architectures=_architectures(item),
        flags=flags,
        listener_path=item.string("listenerPath") or extensions.seccomp_receiver,
        listener_metadata=item.string("listenerMetadata"),
        syscalls=tuple(_syscall_rule(rule) for rule in item.objects("syscalls")),
        fail_unknown=extensions.seccomp_fail_unknown,
        program=extensions.seccomp_program,
    )


def _architectures(item: Object) -> tuple[str, ...]:
    names = item.strings("architectures")
    for index, name in enumerate(names):
        if name.removeprefix("SCMP_ARCH_") not in ARCHITECTURES.split() or not name.startswith("SCMP_ARCH_"):
            where = f"{item.at('architectures')}[{index}]"
            raise SpecError(where, f"expected a name such as SCMP_ARCH_X86_64, got {shown(name)}")
    return names


def _syscall_rule(item: Object) -> model.SyscallRule:
    item.required("names", "names of system calls")
    item.required("action", "one of " + ", ".join(ACTIONS))
    names = item.strings("names")
    if not names:
        raise SpecError(item.at("names"), "expected names of system calls, got an empty array")
    return model.SyscallRule(
        names=names,
        action=item.one_of("action", ACTIONS),
        errno_ret=item.optional_integer("errnoRet", 0, 65535),
        args=tuple(_syscall_argument(argument) for argument in item.objects("args")),
    )


def _syscall_argument(item: Object) -> model.SyscallArgument:
    for key in ("index", "value", "op"):
        item.required(key, "one of " + ", ".join(OPERATORS) if key == "op" else "a number")
    return model.SyscallArgument(
        index=item.integer("index", 0, 5),
        value=item.integer("value", 0, MAX_UINT64),
        value_two=item.integer("valueTwo", 0, MAX_UINT64),
        op=item.one_of("op", OPERATORS),
    )


MEMORY_MODES = (
    "MPOL_DEFAULT",
    "MPOL_PREFERRED",
    "MPOL_BIND",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
)


def _memory_policy(item: Object) -> model.MemoryPolicy | None:
    if not item.present:
        return None
    item.required("mode", "one of " + ", ".join(MEMORY_MODES))
    flags = item.strings("flags")
    allowed = ("MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES")
    for index, flag in enumerate(flags):
        if flag not in allowed:
            where = f"{item.at('flags')}[{index}]"
            raise SpecError(where, f"unknown flag {shown(flag)}; expected one of {', '.join(allowed)}")
    try:
        nodes = tuple(sorted(cpu_numbers(item.string("nodes")))) if item.string("nodes") else ()
    except ValueError:
        raise SpecError(item.at("nodes"), f"expected a list such as 0-1, got {shown(item.string('nodes'))}") from None
    if nodes and nodes[-1] > 1023:
        raise SpecError(item.at("nodes"), f"node {nodes[-1]} is above 1023")
    return model.MemoryPolicy(mode=item.one_of("mode", MEMORY_MODES), nodes=nodes, flags=flags)
