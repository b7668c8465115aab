# SPDX-License-Identifier: Apache-2.0
"""What create and its quick way share: what is asked for, the plan of it, the id taken and the first record.

Apart from both, because a quick `run` needs this half of create and none of what makes an init with an interpreter.
"""

from __future__ import annotations

import posix

from runtime import create_time, record
from runtime.errors import CreateFailed, RuntimeFailure
from runtime.linux import cgroup, durable, json_text, namespaces, paths, syscalls
from runtime.plan import container
from runtime.spec import parse
from runtime.spec.reader import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.inside.handshake import ParentEnd
    from runtime.plan.container import CreateOptions, Plan
    from runtime.plan.scope import Scope
    from runtime.record import Record
    from runtime.spec.model import Config


class CreateRequest:
    """What `create` needs to know. `hold`: the init waits on a start socket for a later command; otherwise it waits for
    release() by this process. `sibling`: the init becomes a child of our parent. `stdio`: descriptors for 0, 1, 2.
    `shares_cgroup`: others of its owner's may live in its group, as a pod's reaper does."""

    __slots__ = (
        "bundle",
        "config",
        "config_path",
        "console_fd",
        "console_socket",
        "hold",
        "id",
        "options",
        "pid_file",
        "pidfd_socket",
        "root",
        "seed",
        "shares_cgroup",
        "sibling",
        "stdio",
        "systemd_cgroup",
        "use_cgroups",
    )

    def __init__(self, root: str, container_id: str, bundle: str) -> None:
        self.root = root
        self.id = container_id
        self.bundle = paths.real(bundle)
        self.config_path = f"{self.bundle}/config.json"
        self.config: tuple[bytes, Config] | None = None  # what the caller has read there already
        self.console_socket = ""
        self.console_fd = -1
        self.pid_file = ""
        self.pidfd_socket = ""
        self.options: CreateOptions = container.CreateOptions()
        self.systemd_cgroup = False
        self.use_cgroups = True
        self.hold = True
        self.sibling = False
        self.seed = -1
        self.shares_cgroup = False
        self.stdio: tuple[int, int, int] | None = None


class Created:
    """A container whose init waits."""

    __slots__ = ("channel", "plan", "record", "warnings")

    def __init__(self, record_: Record, plan: Plan, channel: ParentEnd | None, warnings: list[str]) -> None:
        self.record = record_
        self.plan = plan
        self.channel = channel
        self.warnings = warnings


def read_config(path: str) -> tuple[bytes, Config]:
    """config.json as bytes and as types."""
    try:
        data = durable.read(path)
    except OSError as error:
        raise RuntimeFailure(f"cannot read {path}: {error.strerror}") from None
    if data is None:
        raise RuntimeFailure(f"{path} does not exist (is --bundle right?)")
    try:
        return data, parse.config(_with_sockets_of_systemd(json_text.loads(data)))
    except json_text.JSONError as error:
        raise RuntimeFailure(f"{path}: not JSON: {error}") from None
    except SpecError as error:
        raise RuntimeFailure(f"config.json: {error}") from None


NOTIFY_PATH = "/run/notify/notify.sock"


def _with_sockets_of_systemd(raw: Any) -> Any:
    """What a service is given goes on to its program: NOTIFY_SOCKET, bound into the container, and LISTEN_FDS; both
    named in its environment. An abstract NOTIFY_SOCKET (@) belongs to a network namespace and cannot be."""
    path = paths.decode(posix.environ.get(b"NOTIFY_SOCKET", b""))
    has_notify = path.startswith("/") and paths.exists(path)
    has_sockets = b"LISTEN_FDS" in posix.environ
    if not (has_notify or has_sockets) or not isinstance(raw, dict):
        return raw
    process, mounts = raw.get("process"), raw.get("mounts") or []
    if not isinstance(process, dict) or not isinstance(process.get("env") or [], list) or not isinstance(mounts, list):
        return raw  # the parser will say what is wrong
    env = list(process.get("env") or [])
    if has_notify:
        mount = {"destination": NOTIFY_PATH, "source": path, "options": ["bind", "nosuid", "nodev", "noexec"]}
        mounts = [*mounts, mount]
        env.append(f"NOTIFY_SOCKET={NOTIFY_PATH}")
    if has_sockets:
        from runtime import activation

        env += activation.variables()
    return raw | {"mounts": mounts, "process": process | {"env": env}}


def host_facts(layout: cgroup.Layout) -> container.HostFacts:
    """What the plan must know about this host."""
    return container.HostFacts(
        cgroup_v2=layout.v2,
        capabilities=syscalls.capget()[1],
        euid=posix.geteuid(),
        egid=posix.getegid(),
        rootless=namespaces.is_rootless(),
    )


def plan_for(request: CreateRequest, config: Config, layout: cgroup.Layout) -> Plan:
    """Plan the container of this request; changes nothing."""
    if posix.geteuid() and config.namespace("user") is None and config.namespace("mnt") is not None:
        from runtime import rootless

        config = rootless.with_user_namespace(config)
    try:
        groups: dict[str, str] = {}
        scope = None
        if request.use_cgroups and request.systemd_cgroup:
            scope = _scope(request, config, layout)
            groups = layout.directories(scope.group)
        elif request.use_cgroups:
            groups = layout.directories(cgroup_path(config, request.id))
        return container.build(
            config,
            container_id=request.id,
            bundle=request.bundle,
            host=host_facts(layout),
            options=request.options,
            cgroup_paths=groups,
            scope=scope,
        )
    except SpecError as error:
        raise RuntimeFailure(f"config.json: {error}") from None


def _scope(request: CreateRequest, config: Config, layout: cgroup.Layout) -> Scope:
    from runtime import systemd_scope
    from runtime.plan import limits

    writes = limits.plan(config.linux.resources, v2=layout.v2)
    return systemd_scope.plan(config, request.id, layout, writes, container.device_rules(config))


def cgroup_path(config: Config, container_id: str) -> str:
    """linux.cgroupsPath, without any way out of the hierarchy; a group named as the container by default."""
    path = config.linux.cgroups_path
    if not path:
        return container_id
    if ".." in path.split("/"):
        raise SpecError("linux.cgroupsPath", f"{path!r} contains .., which could name a group of others")
    clean = paths.normal("/" + path.lstrip("/"))
    if clean == "/":
        raise SpecError("linux.cgroupsPath", "is the root group, whose limits are the host's")
    return clean if path.startswith("/") else clean.lstrip("/")


def check_console(request: CreateRequest, plan: Plan) -> None:
    """A terminal needs somebody to receive it, and the other way round."""
    process = plan.config.process
    terminal = process is not None and process.terminal
    if terminal and request.hold and not request.console_socket:
        raise RuntimeFailure("process.terminal is true: --console-socket is needed to hand over the terminal")
    if request.console_socket and not terminal:
        raise RuntimeFailure("--console-socket is given, but process.terminal in config.json is not true")


def reserve(request: CreateRequest, plan: Plan) -> str:
    """The container's directory, empty: its id is free, and so is its cgroup."""
    directory = record.reserve(request.root, request.id)
    try:
        if not request.shares_cgroup:
            _refuse_occupied_cgroup(plan)
    except BaseException:
        record.forget(directory)
        raise
    return directory


def _refuse_occupied_cgroup(plan: Plan) -> None:
    """Before a record names the group: its removal ends all that is in there, and these are another's processes."""
    if plan.scope is not None:
        return
    if found := cgroup.Group(plan.cgroup_paths, v2=plan.cgroup_v2).processes():
        group = next(iter(plan.cgroup_paths.values()))
        raise CreateFailed(
            f"linux.cgroupsPath: the container's cgroup {group} is not empty: {len(found)} process(es) found, the first"
            f" is {found[0]} (has another container this path, or one of this id under another --root?)"
        )


def first_record(directory: str, plan: Plan, config: Config) -> Record:
    return record.Record(
        directory,
        {
            "id": plan.id,
            "bundle": plan.bundle,
            "rootfs": plan.root_path,
            "oci_version": config.oci_version,
            "created": create_time.now(),
            "uid": posix.geteuid(),
            "pid": 0,
            "start_time": 0,
            "annotations": dict(config.annotations),
            "cgroup_v2": plan.cgroup_v2,
            "cgroup_paths": dict(plan.cgroup_paths),
            "cgroup_made": [],
            "systemd_unit": plan.scope.unit if plan.scope is not None else "",
            "host_mounts": config.namespace("mnt") is None,
        },
    )
