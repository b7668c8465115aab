# SPDX-License-Identifier: Apache-2.0
"""From the words of `run` to what the engine is asked for: pure, so `explain` can show it and tests need no root."""

from __future__ import annotations

import json
import os
import stat

from cri.engine.request import (
    ContainerRequest,
    Dns,
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
    UserNamespace,
)
from cri.hand import notes, options
from cri.hand.errors import USAGE, UsageError, suggestion
from cri.hand.grammar import Arguments
from cri.hand.options import Mounted
from cri.images.model import ImageConfig
from cri.oci.security import MASKED_PATHS, READONLY_PATHS
from runtime.linux.quick_dataclasses import dataclass, field, replace

PRIVATE_IDS = IdRange(0, 1 << 20, 65536)

_PROPAGATION = {
    "": Propagation.PRIVATE,
    "private": Propagation.PRIVATE,
    "rprivate": Propagation.PRIVATE,
    "slave": Propagation.HOST_TO_CONTAINER,
    "rslave": Propagation.HOST_TO_CONTAINER,
    "shared": Propagation.BIDIRECTIONAL,
    "rshared": Propagation.BIDIRECTIONAL,
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known beside the words: ids and places that the caller chose, our environment, the image."""

    id: str
    name: str
    image_name: str
    image: ImageConfig | None
    environment: dict[str, str]
    volumes_dir: str
    logs_dir: str
    user_range: IdRange | None = None
    console: tuple[int, int] = (0, 0)
    pid_target: str = ""  # id of the container whose processes it shares


@dataclass(frozen=True, slots=True)
class Plan:
    """All that will be asked for, and what must be there first."""

    pod: PodRequest
    container: ContainerRequest
    network: str
    volumes: tuple[str, ...] = ()  # by name, to be made if they are missing
    anonymous: tuple[str, ...] = ()  # made for this container, removed with it by rm -v
    folders: tuple[str, ...] = ()  # of this machine, made if they are missing
    last_ports: dict[int, int] = field(default_factory=dict)  # index of a port mapping -> the last port it may have
    copy_up: dict[str, str] = field(default_factory=dict)  # volume -> where the image has files for it
    shm_bytes: int = 0
    joins: str = ""  # the container whose pod it joins
    argv: tuple[str, ...] = ()


def plan(arguments: Arguments, facts: Facts) -> Plan:
    """Everything that the words mean. Raises UsageError for the first that cannot be."""
    refuse_senseless(arguments)
    mounted = mounts(arguments, facts)
    network, joins = network_of(arguments)
    argv = argv_of(arguments, facts.image)
    entrypoint = arguments.given("entrypoint")
    command = tuple(w for w in (arguments.text("entrypoint"),) if w)
    words = tuple(arguments.words[1:])
    if entrypoint and not command:
        command, words = words, ()
    container = ContainerRequest(
        name=facts.name,
        image=facts.image_name,
        user_specified_image=arguments.words[0],
        command=command,
        args=words,
        working_dir=options.folder("--workdir", arguments.text("workdir")),
        envs=tuple(options.environment(arguments.many("env"), arguments.many("env-file"), facts.environment)),
        mounts=tuple(request_of(mount, facts.volumes_dir) for mount in mounted),
        devices=tuple(options.device(text) for text in arguments.many("device")),
        labels=options.pairs("--label", arguments.many("label")),
        log_path="container.log",
        stdin=arguments.flag("interactive"),
        stdin_once=arguments.flag("interactive")
        and not (arguments.command.words == "run" and arguments.flag("detach")),
        tty=arguments.flag("tty"),
        console=facts.console,
        stop_signal=options.signal_name("--stop-signal", arguments.text("stop-signal"))
        if arguments.given("stop-signal")
        else "",
        resources=resources(arguments),
        rlimits=tuple(options.ulimit(text) for text in arguments.many("ulimit")),
        readonly_rootfs=arguments.flag("read-only"),
        run_as_username=arguments.text("user"),
        supplemental_groups=tuple(
            options.whole("--group-add", g, 0, 2**32 - 2) for g in arguments.many("group-add") if g.isdecimal()
        ),
        supplemental_group_names=tuple(g for g in arguments.many("group-add") if not g.isdecimal()),
        namespaces=namespaces(arguments, facts),
    )
    container = secured(container, arguments)
    named = [m for m in mounted if m.kind == "volume"]
    container = replace(container, annotations=container_notes(arguments, facts, argv, named))
    return Plan(
        pod=pod_of(arguments, facts, container, network),
        container=container,
        network=network,
        volumes=tuple(m.source for m in named),
        anonymous=tuple(m.source for m in named if m.source.startswith(facts.id[:32])),
        folders=tuple(m.source for m in mounted if m.kind == "bind" and m.make_source),
        last_ports=last_ports(arguments),
        copy_up={m.source: m.target for m in named if m.copy},
        shm_bytes=options.size("--shm-size", arguments.text("shm-size")) if arguments.given("shm-size") else 0,
        joins=joins,
        argv=argv,
    )


def refuse_senseless(arguments: Arguments) -> None:
    """Combinations that no container can have."""
    policy = arguments.text("restart")
    if policy not in ("", "no"):
        hint = "a kubelet or a systemd unit can restart it"
        raise UsageError(
            f"--restart: {policy!r} needs a process that keeps it, and there is none", hint=hint, code=USAGE
        )
    if (
        arguments.command.words == "run"
        and arguments.flag("detach")
        and arguments.flag("rm")
        and policy not in ("", "no")
    ):
        raise UsageError("--rm and --restart exclude each other", code=USAGE)
    if arguments.text("pull") not in ("always", "missing", "never"):
        raise options.wrong("--pull", arguments.text("pull"), "always, missing or never")
    if arguments.text("network").startswith("container:"):
        for name in filter(arguments.given, _OF_THE_NETWORK):
            hint = "give it to the container that is joined"
            raise UsageError(f"--{name} conflicts with --network container:NAME", hint=hint, code=USAGE)
    published = arguments.given("publish") or arguments.flag("publish-all")
    if published and arguments.text("network") in ("none", "host"):
        network = arguments.text("network")
        hint = "with host every port is the machine's own already" if network == "host" else "leave out one of the two"
        raise UsageError(f"--publish: there is nothing to publish with --network {network}", hint=hint, code=USAGE)
    if arguments.text("log-driver") != "json-file" or arguments.many("log-opt"):
        option = "--log-opt" if arguments.many("log-opt") else "--log-driver"
        hint = "ketch logs -f NAME can be piped to another one"
        raise UsageError(f"{option}: there is one log per container, a file that is not rotated", hint=hint, code=USAGE)
    if arguments.given("link"):
        hint = "ketch network create NAME, then --network NAME: its members find each other by name"
        raise UsageError("--link: one container's hosts are not written into another's", hint=hint, code=USAGE)


# What a container that joins another one's network has from there.
_OF_THE_NETWORK = ("publish", "publish-all", "hostname", "ip", "dns", "dns-search", "dns-option", "add-host")


def argv_of(arguments: Arguments, image: ImageConfig | None) -> tuple[str, ...]:
    """What will run, for the eyes; empty when neither words nor image say."""
    words = tuple(arguments.words[1:])
    if arguments.given("entrypoint"):
        return (*((arguments.text("entrypoint"),) if arguments.text("entrypoint") else ()), *words)
    if image is None:
        return words
    return (*image.entrypoint, *(words or image.cmd))


def mounts(arguments: Arguments, facts: Facts) -> list[Mounted]:
    """-v, --mount and --tmpfs, then the image's own volumes where nothing else is mounted; unnamed ones get a name."""
    found = [options.volume(text) for text in arguments.many("volume")]
    found += [options.mount(text) for text in arguments.many("mount")]
    found += [options.tmpfs(text) for text in arguments.many("tmpfs")]
    seen: set[str] = set()
    for mount in found:
        if mount.target in seen:
            raise UsageError(
                f"two mounts at {mount.target}", hint="one of -v, --mount and --tmpfs is enough", code=USAGE
            )
        seen.add(mount.target)
    if facts.image is not None:
        found += [Mounted("volume", path) for path in facts.image.volumes if path.rstrip("/") not in seen]
    nameless = 0
    for index, mount in enumerate(found):
        if mount.kind == "volume" and not mount.source:
            found[index] = replace(mount, source=f"{facts.id[:32]}{nameless:032x}")
            nameless += 1
    return found


def request_of(mount: Mounted, volumes_dir: str) -> MountRequest:
    if mount.kind == "tmpfs":
        return MountRequest(mount.target, readonly=mount.readonly, options=mount.options, kind="tmpfs")
    if mount.propagation not in _PROPAGATION:
        hint = suggestion(mount.propagation, list(_PROPAGATION)) or "rprivate, rslave or rshared"
        raise UsageError(f"mount at {mount.target}: unknown propagation {mount.propagation!r}", hint=hint, code=USAGE)
    host_path = mount.source if mount.kind == "bind" else f"{volumes_dir}/{mount.source}/_data"
    return MountRequest(mount.target, host_path, readonly=mount.readonly, propagation=_PROPAGATION[mount.propagation])


def network_of(arguments: Arguments) -> tuple[str, str]:
    """(network, container that is joined)."""
    wanted = arguments.text("network") or "bridge"
    if wanted == "default":
        wanted = "bridge"
    if wanted.startswith("container:"):
        return wanted, wanted.removeprefix("container:")
    return wanted, ""


def namespaces(arguments: Arguments, facts: Facts) -> Namespaces:
    network = Mode.NODE if arguments.text("network") == "host" else Mode.POD
    pid = Mode.POD if arguments.flag("init") else Mode.CONTAINER
    wanted = arguments.text("pid")
    if wanted == "host":
        pid = Mode.NODE
    elif wanted.startswith("container:"):
        pid = Mode.TARGET
    elif wanted not in ("", "private"):
        raise options.wrong("--pid", wanted, "host, private or container:NAME")
    ipc = {"": Mode.POD, "private": Mode.POD, "shareable": Mode.POD, "host": Mode.NODE}.get(arguments.text("ipc"))
    if ipc is None:
        raise options.wrong("--ipc", arguments.text("ipc"), "host or private")
    user = user_namespace(arguments, facts)
    return Namespaces(network, pid, ipc, facts.pid_target or wanted.partition(":")[2], user, target_anywhere=True)


def user_namespace(arguments: Arguments, facts: Facts) -> UserNamespace:
    wanted = arguments.text("userns")
    if arguments.given("uidmap"):
        if wanted:
            raise UsageError("--uidmap and --userns exclude each other", code=USAGE)
        line = options.id_range("--uidmap", arguments.text("uidmap"))
        return UserNamespace(Mode.POD, (line,), (line,))
    if wanted in ("", "host"):
        return UserNamespace()
    if wanted not in ("private", "auto"):
        raise options.wrong("--userns", wanted, "host or private")
    line = facts.user_range or PRIVATE_IDS
    return UserNamespace(Mode.POD, (line,), (line,))


def resources(arguments: Arguments) -> Resources:
    limit = options.memory(arguments.text("memory")) if arguments.given("memory") else 0
    swap = 2 * limit
    text = arguments.text("memory-swap")
    if text not in ("", "0"):
        swap = -1 if text == "-1" else options.size("--memory-swap", text)
        if swap > 0 and not limit:
            raise UsageError("--memory-swap counts memory and swap together", hint="give --memory as well", code=USAGE)
        if 0 < swap < limit:
            raise UsageError(
                "--memory-swap counts memory and swap together, so it cannot be below --memory", code=USAGE
            )
    period, quota = options.cpus(arguments.text("cpus")) if arguments.given("cpus") else (0, 0)
    rated = [
        n for n in ("device-read-bps", "device-write-bps", "device-read-iops", "device-write-iops") if arguments.many(n)
    ]
    throttles = tuple(throttle(name, text) for name in rated for text in arguments.many(name))
    return Resources(
        memory_limit_bytes=limit,
        memory_swap_limit_bytes=swap,
        cpu_period=period,
        cpu_quota=quota,
        cpu_shares=options.whole("--cpu-shares", arguments.text("cpu-shares"), 2, 262144)
        if arguments.given("cpu-shares")
        else 0,
        cpuset_cpus=arguments.text("cpuset-cpus"),
        throttles=throttles,
        pids_limit=options.whole("--pids-limit", arguments.text("pids-limit"), -1, 4194304)
        if arguments.given("pids-limit")
        else 0,
        blkio_weight=options.whole("--blkio-weight", arguments.text("blkio-weight"), 10, 1000)
        if arguments.given("blkio-weight")
        else 0,
        oom_score_adj=options.whole("--oom-score-adj", arguments.text("oom-score-adj"), -1000, 1000)
        if arguments.given("oom-score-adj")
        else 0,
    )


def throttle(name: str, text: str) -> tuple[str, int, int, int]:
    """DEVICE:RATE as config.json has it: by the device's numbers."""
    path, rate = options.rate(f"--{name}", text)
    try:
        facts = os.stat(path)
    except OSError as e:
        raise UsageError(f"--{name}: {path}: {e.strerror}", code=USAGE) from None
    if not stat.S_ISBLK(facts.st_mode):
        raise UsageError(f"--{name}: {path} is no block device", hint="lsblk lists them", code=USAGE)
    words = name.split("-")
    key = f"throttle{words[1].capitalize()}{'IOPS' if words[2] == 'iops' else 'Bps'}Device"
    return key, os.major(facts.st_rdev), os.minor(facts.st_rdev), rate


def secured(container: ContainerRequest, arguments: Arguments) -> ContainerRequest:
    """Capabilities and confinement; docker's defaults where nothing is said."""
    container = replace(
        container,
        add_capabilities=tuple(options.capability("--cap-add", text) for text in arguments.many("cap-add")),
        drop_capabilities=tuple(options.capability("--cap-drop", text) for text in arguments.many("cap-drop")),
    )
    if arguments.flag("privileged"):
        return replace(container, privileged=True, seccomp=Profile(ProfileKind.UNCONFINED))
    container = replace(
        container,
        masked_paths=MASKED_PATHS,
        readonly_paths=READONLY_PATHS,
        seccomp=Profile(ProfileKind.RUNTIME_DEFAULT),
        apparmor=Profile(ProfileKind.RUNTIME_DEFAULT),
    )
    for text in arguments.many("security-opt"):
        container = security_option(container, text)
    return container


def security_option(container: ContainerRequest, text: str) -> ContainerRequest:
    name, _, value = text.partition("=") if "=" in text else text.partition(":")
    if name == "no-new-privileges":
        return replace(container, no_new_privileges=value in ("", "true"))
    if name == "seccomp" and value:
        if value in ("unconfined", "builtin"):
            kind = ProfileKind.UNCONFINED if value == "unconfined" else ProfileKind.RUNTIME_DEFAULT
            return replace(container, seccomp=Profile(kind))
        return replace(container, seccomp=Profile(ProfileKind.LOCALHOST, os.path.abspath(value)))
    if name == "apparmor" and value:
        kind = ProfileKind.UNCONFINED if value == "unconfined" else ProfileKind.LOCALHOST
        return replace(container, apparmor=Profile(kind, "" if value == "unconfined" else value))
    if name == "systempaths" and value == "unconfined":
        return replace(container, masked_paths=(), readonly_paths=())
    if name == "label":
        return container
    known = ["no-new-privileges", "seccomp", "apparmor", "systempaths", "label"]
    hint = suggestion(name, known) or f"known: {', '.join(known)}"
    raise UsageError(f"--security-opt: {text!r} is not known", hint=hint, code=USAGE)


def container_notes(arguments: Arguments, facts: Facts, argv: tuple[str, ...], named: list[Mounted]) -> dict[str, str]:
    """What `ps`, `rm` and `inspect` want to know later."""
    found = {notes.COMMAND: json.dumps(list(argv))}
    if named:
        found[notes.VOLUMES] = json.dumps([m.source for m in named])
        anonymous = [m.source for m in named if m.source.startswith(facts.id[:32])]
        if anonymous:
            found[notes.ANONYMOUS] = json.dumps(anonymous)
    if arguments.flag("rm"):
        found[notes.AUTO_REMOVE] = "true"
    if arguments.given("stop-timeout"):
        found[notes.STOP_SECONDS] = str(options.whole("--stop-timeout", arguments.text("stop-timeout"), 0, 86400))
    if exposed := exposed_ports(arguments, facts.image):
        found[notes.EXPOSED] = json.dumps(exposed)
    return found


def exposed_ports(arguments: Arguments, image: ImageConfig | None) -> list[str]:
    """Where it listens, as the image and --expose say."""
    return [*(image.exposed_ports if image is not None else ()), *arguments.many("expose")]


def publications(arguments: Arguments, image: ImageConfig | None) -> list[PortMapping]:
    """-p, then for -P the exposed ports that are not among those."""
    found = [mapping for text in arguments.many("publish") for mapping in options.ports("--publish", text)]
    exposed = [m for text in exposed_ports(arguments, image) for m in options.ports("--expose", text)]
    if any(mapping.host_port or mapping.host_ip for mapping in exposed):
        raise options.wrong("--expose", " ".join(arguments.many("expose")), "PORT[/PROTO]")
    if arguments.flag("publish-all"):
        known = {(mapping.protocol, mapping.container_port) for mapping in found}
        found += [mapping for mapping in exposed if (mapping.protocol, mapping.container_port) not in known]
    return found


def pod_of(arguments: Arguments, facts: Facts, container: ContainerRequest, network: str) -> PodRequest:
    hosts = [options.host_line(text) for text in arguments.many("add-host")]
    remarks = {notes.KIND: notes.CONTAINER, notes.NETWORK: network}
    if hosts:
        remarks[notes.HOSTS] = json.dumps(hosts)
    dns = Dns(
        servers=tuple(options.address("--dns", text) for text in arguments.many("dns")),
        searches=tuple(arguments.many("dns-search")),
        options=tuple(arguments.many("dns-option")),
    )
    network_args = {"IP": options.address("--ip", arguments.text("ip"))} if arguments.given("ip") else {}
    assert container.namespaces is not None
    return PodRequest(
        name=facts.name,
        namespace=notes.OWNER,
        uid=facts.id,
        hostname=hostname(arguments, facts),
        log_directory=facts.logs_dir,
        dns=dns if dns != Dns() else None,
        port_mappings=tuple(publications(arguments, facts.image)),
        annotations=remarks,
        cgroup_parent=arguments.text("cgroup-parent"),
        sysctls=options.pairs("--sysctl", arguments.many("sysctl")),
        namespaces=replace(container.namespaces, pid=Mode.CONTAINER, target_id="")
        if container.namespaces.pid == Mode.TARGET
        else container.namespaces,
        privileged=container.privileged,
        handler=arguments.text("runtime"),
        network="" if network == "host" else network,
        network_args=network_args,
    )


def last_ports(arguments: Arguments) -> dict[int, int]:
    """Which of the mappings may take the first free port of a range."""
    found, index = {}, 0
    for text in arguments.many("publish"):
        if last := options.last_port(text):
            found[index] = last
        index += len(options.ports("--publish", text))
    return found


def hostname(arguments: Arguments, facts: Facts) -> str:
    if arguments.given("hostname"):
        return arguments.text("hostname")
    return "" if arguments.text("network") == "host" else facts.id[:12]
