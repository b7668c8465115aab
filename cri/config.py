# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: FBT003 - key() makes a dataclass field; its first argument is the default
"""The configuration: every key with its default and its meaning, read from TOML, unknown keys refused by name."""

from __future__ import annotations

from cri import plain_toml
from runtime.linux.quick_dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace

DEFAULT_PATH = "/etc/ketch/config.toml"


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")


class BadConfig(ValueError):
    """The file cannot be used; the message names file, key and what is expected."""


def key(default: Any, doc: str, *, reload: bool = False, least: float = 0, most: float = 2**63 - 1) -> Any:
    """A key with its default; `reload` marks what SIGHUP takes over without a restart. A number lies between bounds."""
    notes = {"doc": doc, "reload": reload, "bounds": (least, most)}
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=notes)
    return field(default=default, metadata=notes)


@dataclass(frozen=True, slots=True)
class Paths:
    state: str = key("/run/ketch", "live objects, sockets and pins; gone after a boot (a tmpfs)")
    root: str = key("/var/lib/ketch", "images, layers, volumes; survives a boot")
    netns: str = key("/run/netns", "where network namespaces of pods are pinned; agents of the network look here")


@dataclass(frozen=True, slots=True)
class Cri:
    socket: str = key("/run/ketch/ketch.sock", "the unix socket a kubelet connects to, mode 0600")
    max_concurrent_calls: int = key(128, "calls served at once; more wait for their turn", least=4, most=10_000)
    max_waiting_calls: int = key(1024, "calls that may wait for their turn; what comes then is RESOURCE_EXHAUSTED")
    slow_call_seconds: float = key(
        30.0, "a call that takes longer is named in the log, with its place", reload=True, least=0.001
    )
    metrics_address: str = key("", "HOST:PORT where Prometheus finds /metrics; empty: on STATE/debug.sock only")
    streaming_address: str = key("127.0.0.1", "where exec, attach and port-forward sessions are served")
    streaming_port: int = key(0, "their port; 0: any free one", most=65535)
    streaming_tls_certificate: str = key("", "PEM file; with the key below the streaming server speaks TLS")
    streaming_tls_key: str = key("", "PEM file of the private key")
    log_level: str = key("info", "debug, info, warning or error", reload=True)


@dataclass(frozen=True, slots=True)
class Handler:
    command: list[str] = key([], "the OCI runtime and its global options; empty: our own")
    privileged_without_host_devices: bool = key(False, "a privileged container gets no device nodes of the host")
    pod_annotations: list[str] = key([], "patterns of pod annotations that are passed into config.json")
    container_annotations: list[str] = key([], "patterns of container annotations that are passed into config.json")
    user_namespaces: bool = key(True, "the handler can run pods with user namespaces")
    recursive_read_only: bool = key(True, "the handler understands the mount option rro")


@dataclass(frozen=True, slots=True)
class Runtime:
    cgroup_driver: str = key("auto", "cgroupfs, systemd, or auto: systemd where it is PID 1 and cgroups are v2")
    default_handler: str = key(
        "", "the entry of runtime.handlers that an empty handler name means; empty: our own", reload=True
    )
    default_cgroup_parent: str = key("/ketch", "where containers go whose pod names no cgroup parent")
    nofile_soft: int = key(65536, "RLIMIT_NOFILE of containers, soft", least=1)
    nofile_hard: int = key(524288, "RLIMIT_NOFILE of containers, hard", least=1)
    unprivileged_ports: bool = key(
        True, "pods with their own network may bind ports below 1024 without capabilities", reload=True
    )
    unprivileged_icmp: bool = key(True, "pods with their own network may ping without CAP_NET_RAW", reload=True)
    max_log_line: int = key(16384, "longer lines are split into parts, marked P", reload=True, least=64, most=1 << 20)
    shm_bytes: int = key(67108864, "size of a pod's /dev/shm", reload=True, least=4096)
    pids_limit: int = key(0, "default limit of processes per container; 0: none but the pod's", reload=True)
    start_seconds: float = key(
        120.0, "a container that has not started after this time is taken down", reload=True, least=0.1, most=86400
    )
    handlers: dict[str, Handler] = key({}, "other OCI runtimes, by the name a RuntimeClass uses", reload=True)


@dataclass(frozen=True, slots=True)
class Network:
    conf_dir: str = key("/etc/cni/net.d", "CNI network lists; the first by name is used")
    plugin_dirs: list[str] = key(
        ["/opt/cni/bin"], "where CNI plugins are found; ours need no file, they run in process"
    )
    data_dir: str = key("/var/lib/cni", "address reservations and cached results")
    add_seconds: float = key(
        60.0, "a network that has not come up after this time fails the pod", least=0.1, most=86400
    )


@dataclass(frozen=True, slots=True)
class Images:
    certs_d: list[str] = key(
        ["/etc/ketch/certs.d", "/etc/containerd/certs.d"],
        "folders HOST/hosts.toml: mirrors and certificates of registries",
    )
    auth_files: list[str] = key([], "docker-style files with registry credentials; empty: the usual places")
    pinned: list[str] = key([], "images that a kubelet's garbage collection must leave alone", reload=True)


@dataclass(frozen=True, slots=True)
class Config:
    paths: Paths = Paths()
    cri: Cri = Cri()
    runtime: Runtime = Runtime()
    network: Network = Network()
    images: Images = Images()


def load(path: str, *, required: bool = False) -> Config:
    """The file's configuration; all defaults where there is no file and none was asked for by name."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        if required:
            raise BadConfig(f"{path}: no such file (ketch-cri config default prints one)") from None
        return Config()
    return parse(_document(data, path), path)


def _document(data: bytes, path: str) -> dict[str, Any]:
    try:
        return plain_toml.read(data.decode())
    except (plain_toml.NotPlain, UnicodeDecodeError):
        import tomllib

    try:
        return tomllib.loads(data.decode())
    except ValueError as e:  # also of bytes that are not UTF-8, and of a number with thousands of digits
        raise BadConfig(f"{path}: not TOML: {e}") from None
    except RecursionError:
        raise BadConfig(f"{path}: not TOML: brackets within brackets, too many of them") from None


def parse(data: dict[str, Any], where: str) -> Config:
    config = _table(Config, data, where, "")
    problems = list(inconsistent(config))
    if problems:
        raise BadConfig(f"{where}: {problems[0]}")
    return config


def inconsistent(config: Config) -> list[str]:
    """What no single key's type can tell."""
    found = []
    if config.runtime.cgroup_driver not in ("auto", "cgroupfs", "systemd"):
        found.append(f"runtime.cgroup_driver: {config.runtime.cgroup_driver!r} is not auto, cgroupfs or systemd")
    if config.cri.log_level not in ("debug", "info", "warning", "error"):
        found.append(f"cri.log_level: {config.cri.log_level!r} is not debug, info, warning or error")
    if config.runtime.default_handler and config.runtime.default_handler not in config.runtime.handlers:
        found.append(f"runtime.default_handler: no runtime.handlers.{config.runtime.default_handler} in this file")
    if bool(config.cri.streaming_tls_certificate) != bool(config.cri.streaming_tls_key):
        found.append("cri.streaming_tls_certificate and cri.streaming_tls_key: one without the other")
    relative = [name for name in ("state", "root", "netns") if not getattr(config.paths, name).startswith("/")]
    found += [f"paths.{name}: must be an absolute path" for name in relative]
    if config.runtime.nofile_soft > config.runtime.nofile_hard:
        found.append("runtime.nofile_soft: above runtime.nofile_hard")
    host, _, port = config.cri.metrics_address.rpartition(":")
    if config.cri.metrics_address and not (host and port.isdecimal() and int(port) < 65536):
        found.append(f"cri.metrics_address: {config.cri.metrics_address!r} is not HOST:PORT")
    return found


def _table(kind: type[T], data: Any, where: str, at: str) -> T:
    if not isinstance(data, dict):
        raise BadConfig(f"{where}: {at.rstrip('.')}: expected a table")
    # As typing.get_type_hints does it; importing typing takes 2 ms.
    hints = {name: eval(text) for name, text in kind.__annotations__.items()}  # noqa: S307 (our own, above)
    bounds: dict[str, tuple[float, float]] = {entry.name: entry.metadata.get("bounds", ()) for entry in fields(kind)}  # type: ignore[arg-type]
    for name in data:
        if name not in hints:
            known = ", ".join(sorted(hints))
            raise BadConfig(f"{where}: unknown key {at}{name!s} (known here: {known})")
    found = {name: _value(hints[name], value, where, f"{at}{name}") for name, value in data.items()}
    for name, value in found.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            _in_bounds(value, *bounds[name], f"{where}: {at}{name}")
    return kind(**found)


def _in_bounds(value: float, least: float, most: float, what: str) -> None:
    if not least <= value <= most:  # nan is neither
        raise BadConfig(f"{what}: {_shown(value)} is not between {least} and {most}")


def _shown(value: Any) -> str:
    """What stands there, as far as a line holds it; Python refuses to write very large numbers in digits."""
    try:
        text = repr(value)
    except ValueError:
        return "a very large number"
    return text if len(text) <= 100 else f"{text[:100]} ..."


def _value(kind: Any, value: Any, where: str, at: str) -> Any:
    if is_dataclass(kind) and isinstance(kind, type):
        return _table(kind, value, where, f"{at}.")
    origin = getattr(kind, "__origin__", None)
    if origin is dict:
        if not isinstance(value, dict):
            raise BadConfig(f"{where}: {at}: expected a table")
        return {name: _value(kind.__args__[1], entry, where, f"{at}.{name}") for name, entry in value.items()}
    if origin is list:
        if not isinstance(value, list):
            raise BadConfig(f"{where}: {at}: expected a list")
        return [_value(kind.__args__[0], entry, where, f"{at}[{i}]") for i, entry in enumerate(value)]
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        expected = {str: "a string", int: "an integer", bool: "true or false", float: "a number"}[kind]
        raise BadConfig(f"{where}: {at}: expected {expected}, got {_shown(value)}")
    if kind is str and not value.isprintable():
        raise BadConfig(f"{where}: {at}: {_shown(value)} holds a control character")
    return value


def dump(config: Config, *, documented: bool = False) -> str:
    """The configuration as TOML; documented: with the meaning of each key above it."""
    lines: list[str] = []
    _dump_table(config, [], lines, documented=documented)
    return "\n".join(lines).strip() + "\n"


def _dump_table(table: Any, path: list[str], lines: list[str], *, documented: bool) -> None:
    subtables = []
    for entry in fields(table):
        value = getattr(table, entry.name)
        if is_dataclass(value) or isinstance(value, dict):
            subtables.append((entry, value))
            continue
        if documented:
            lines.append(f"# {entry.metadata['doc']}{' (SIGHUP reloads it)' if entry.metadata['reload'] else ''}")
        lines.append(f"{entry.name} = {_toml(value)}")
    for entry, value in subtables:
        if documented and isinstance(value, dict):
            lines += ["", f"# [{'.'.join([*path, entry.name])}.NAME]  {entry.metadata['doc']}"]
            lines += [f"#   {f.name} = {_toml(_default(f))}  # {f.metadata['doc']}" for f in fields(Handler)]
        tables = value.items() if isinstance(value, dict) else [("", value)]
        for name, inner in tables:
            inside = [*path, entry.name] + ([_toml_key(name)] if name else [])
            lines += ["", f"[{'.'.join(inside)}]"]
            _dump_table(inner, inside, lines, documented=documented)


def _toml_key(name: str) -> str:
    return name if all(c.isascii() and (c.isalnum() or c in "-_") for c in name) else _toml(name)


def _default(entry: Field[Any]) -> Any:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return "[" + ", ".join(_toml(entry) for entry in value) + "]"
    return str(value)


def reloadable(old: Config, new: Config) -> tuple[Config, list[str]]:
    """The old configuration with what SIGHUP may change taken from the new one; and what else differs."""
    kept: list[str] = []
    sections: dict[str, Any] = {}
    for section in fields(Config):
        before, after = getattr(old, section.name), getattr(new, section.name)
        changes = {}
        for entry in fields(before):
            if getattr(before, entry.name) != getattr(after, entry.name):
                if entry.metadata["reload"]:
                    changes[entry.name] = getattr(after, entry.name)
                else:
                    kept.append(f"{section.name}.{entry.name}")
        sections[section.name] = replace(before, **changes)
    return Config(**sections), kept
