# SPDX-License-Identifier: Apache-2.0
"""What people write after the options of `run`, in docker's notations, parsed to plain values."""

from __future__ import annotations

import os

from cri.engine.request import DeviceRequest, IdRange, PortMapping, Rlimit
from cri.hand.errors import USAGE, UsageError, suggestion
from runtime.linux.quick_dataclasses import dataclass

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_PROTOCOLS = ("tcp", "udp", "sctp")
LEAST_MEMORY = 6 << 20
HOST_GATEWAY = "host-gateway"  # of --add-host: this machine, as the container reaches it


def wrong(option: str, text: str, expected: str) -> UsageError:
    """The one sentence: which option, what was given, what it should look like."""
    return UsageError(f"{option}: {text!r} is not {expected}", code=USAGE)


def size(option: str, text: str) -> int:
    """512m, 2g, 1.5GiB: bytes."""
    lower = text.lower().removesuffix("ib").removesuffix("b")
    number, unit = (lower[:-1], lower[-1]) if lower and lower[-1] in _UNITS else (lower, "")
    try:
        count = float(number)
    except ValueError:
        raise wrong(option, text, "a size such as 512m or 2g") from None
    if count < 0 or count != count or count == float("inf"):
        raise wrong(option, text, "a size such as 512m or 2g")
    return int(count * _UNITS[unit])


def memory(text: str) -> int:
    """A memory limit that a process can live with."""
    limit = size("--memory", text)
    if 0 < limit < LEAST_MEMORY:
        raise UsageError(f"--memory: {text} is too little for any process", hint="at least 6m", code=USAGE)
    return limit


def cpus(text: str) -> tuple[int, int]:
    """1.5 processors: (period, quota) in microseconds."""
    try:
        count = float(text)
    except ValueError:
        raise wrong("--cpus", text, "a number such as 1.5") from None
    most = os.cpu_count() or 1
    if not 0.01 <= count <= most:
        raise UsageError(f"--cpus: {text} is not between 0.01 and {most}, the processors of this machine", code=USAGE)
    return 100_000, int(count * 100_000)


def whole(option: str, text: str, least: int, most: int) -> int:
    """A whole number within bounds."""
    try:
        number = int(text)
    except ValueError:
        raise wrong(option, text, "a whole number") from None
    if not least <= number <= most:
        raise UsageError(f"{option}: {text} is not between {least} and {most}", code=USAGE)
    return number


def ports(option: str, text: str) -> list[PortMapping]:
    """[[IP:]PORT:]PORT[/PROTO], each PORT possibly a range; without a port of this machine 0: any free one."""
    rest, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in _PROTOCOLS:
        hint = suggestion(protocol, list(_PROTOCOLS)) or "tcp, udp or sctp"
        raise UsageError(f"{option}: {text!r}: unknown protocol {protocol!r}", hint=hint, code=USAGE)
    ip = ""
    if rest.startswith("["):
        ip, _, rest = rest[1:].partition("]:")
    parts = rest.split(":")
    if len(parts) == 3:
        ip = parts.pop(0)
    if len(parts) > 2 or not parts[-1]:
        raise wrong(option, text, "[[IP:]PORT:]PORT[/PROTO]")
    if ip:
        _address(option, ip)
    inside = _range(option, text, parts[-1])
    outside = _range(option, text, parts[0]) if len(parts) == 2 and parts[0] else [0] * len(inside)
    if len(inside) == 1 and len(outside) > 1:
        return [PortMapping(protocol, inside[0], outside[0], ip)]  # any of them: see last_port
    if len(inside) != len(outside):
        raise UsageError(f"{option}: {text!r}: the two ranges differ in length", code=USAGE)
    return [PortMapping(protocol, i, o, ip) for i, o in zip(inside, outside, strict=True)]


def last_port(text: str) -> int:
    """Of HOST_FIRST-HOST_LAST:PORT the last; 0 where the port of this machine is not to be chosen from several."""
    parts = text.partition("/")[0].rpartition("]:")[2].split(":")
    first, dash, last = parts[-2].partition("-") if len(parts) > 1 else ("", "", "")
    return int(last) if dash and first != last and "-" not in parts[-1] else 0


def _range(option: str, text: str, part: str) -> list[int]:
    first, dash, last = part.partition("-")
    numbers = [first, last if dash else first]
    if not all(n.isdecimal() and 1 <= int(n) <= 65535 for n in numbers):
        raise UsageError(f"{option}: {text!r}: {part!r} is not a port between 1 and 65535", code=USAGE)
    if int(numbers[0]) > int(numbers[1]):
        raise UsageError(f"{option}: {text!r}: the range {part} runs backwards", code=USAGE)
    return list(range(int(numbers[0]), int(numbers[1]) + 1))


def _address(option: str, text: str) -> str:
    from ipaddress import ip_address

    try:
        ip_address(text)
    except ValueError:
        raise wrong(option, text, "an IP address") from None
    return text


def id_range(option: str, text: str) -> IdRange:
    """0:OUTSIDE:COUNT of --uidmap, as a line of /proc/PID/uid_map has it; a container without a root is nobody's."""
    parts = text.split(":")
    if len(parts) != 3 or parts[0] != "0" or not all(part.isdecimal() for part in parts):
        raise wrong(option, text, "0:OUTSIDE:COUNT, such as 0:100000:65536")
    return IdRange(0, whole(option, parts[1], 0, 2**32 - 2), whole(option, parts[2], 1, 2**32 - 1 - int(parts[1])))


def address(option: str, text: str) -> str:
    """An IP address."""
    return _address(option, text)


def host_line(text: str) -> tuple[str, str]:
    """NAME:ADDRESS or NAME=ADDRESS of --add-host; the address may hold colons itself, or be this machine's."""
    at = min((text.index(sign) for sign in ":=" if sign in text), default=0)
    name, address_ = text[:at], text[at + 1 :].strip("[]")
    if not name:
        raise wrong("--add-host", text, "NAME:ADDRESS")
    return name, address_ if address_ == HOST_GATEWAY else _address("--add-host", address_)


@dataclass(frozen=True, slots=True)
class Mounted:
    """One -v, --mount or --tmpfs. An empty source of a volume means an anonymous one."""

    kind: str  # bind, volume, tmpfs
    target: str
    source: str = ""
    readonly: bool = False
    propagation: str = ""
    options: tuple[str, ...] = ()
    make_source: bool = False  # -v makes a missing folder, --mount type=bind refuses
    copy: bool = True  # a new volume begins with what the image has there


def volume(text: str) -> Mounted:
    """SOURCE:PATH[:OPTIONS] or PATH."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts[:2]):
        raise wrong("--volume", text, "SOURCE:PATH[:ro]")
    if len(parts) == 1:
        return Mounted("volume", _absolute("--volume", text, parts[0]))
    flags = parts[2].split(",") if len(parts) == 3 else []
    known = {"ro", "rw", "z", "Z", "rshared", "rslave", "rprivate", "shared", "slave", "private", "nocopy", "cached"}
    for flag in flags:
        if flag not in known:
            hint = suggestion(flag, sorted(known)) or "known: ro, rw, rshared, rslave, z, Z"
            raise UsageError(f"--volume: {text!r}: unknown option {flag!r}", hint=hint, code=USAGE)
    source = parts[0]
    if source.startswith((".", "~")):
        from os.path import abspath, expanduser

        source = abspath(expanduser(source))
    kind = "bind" if source.startswith("/") else "volume"
    if kind == "volume":
        object_name("--volume", source)
    propagation = next((f for f in flags if f.removeprefix("r") in ("shared", "slave", "private")), "")
    target = _absolute("--volume", text, parts[1])
    return Mounted(
        kind,
        target,
        source,
        readonly="ro" in flags,
        propagation=propagation,
        make_source=True,
        copy="nocopy" not in flags,
    )


_MOUNT_KEYS = {
    "type": "type",
    "source": "source",
    "src": "source",
    "target": "target",
    "destination": "target",
    "dst": "target",
    "readonly": "readonly",
    "ro": "readonly",
    "bind-propagation": "propagation",
    "tmpfs-size": "tmpfs-size",
    "tmpfs-mode": "tmpfs-mode",
    "volume-nocopy": "volume-nocopy",
    "consistency": "consistency",
}


def mount(text: str) -> Mounted:
    """type=bind|volume|tmpfs,source=,target=[,readonly]."""
    said: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        key = _MOUNT_KEYS.get(name.strip())
        if key is None:
            hint = suggestion(name, list(_MOUNT_KEYS)) or f"known: {', '.join(_MOUNT_KEYS)}"
            raise UsageError(f"--mount: {text!r}: unknown key {name!r}", hint=hint, code=USAGE)
        said[key] = value if equals else "true"
    kind = said.get("type", "volume")
    if kind not in ("bind", "volume", "tmpfs"):
        hint = suggestion(kind, ["bind", "volume", "tmpfs"]) or "bind, volume or tmpfs"
        raise UsageError(f"--mount: {text!r}: unknown type {kind!r}", hint=hint, code=USAGE)
    if "target" not in said:
        raise UsageError(f"--mount: {text!r}: target= is missing", code=USAGE)
    source = said.get("source", "")
    if kind == "bind" and not source.startswith("/"):
        raise UsageError(f"--mount: {text!r}: source= of a bind mount must be an absolute path", code=USAGE)
    if kind == "volume" and source:
        object_name("--mount", source)
    options = []
    if "tmpfs-size" in said:
        options.append(f"size={size('--mount', said['tmpfs-size'])}")
    if "tmpfs-mode" in said:
        options.append(f"mode={said['tmpfs-mode']}")
    return Mounted(
        kind,
        _absolute("--mount", text, said["target"]),
        source,
        readonly=said.get("readonly", "false") in ("true", "1"),
        propagation=said.get("propagation", ""),
        options=tuple(options),
        copy=said.get("volume-nocopy", "false") not in ("true", "1"),
    )


def tmpfs(text: str) -> Mounted:
    """PATH[:OPTIONS]."""
    path, _, flags = text.partition(":")
    options = tuple(flag for flag in flags.split(",") if flag)
    return Mounted("tmpfs", _absolute("--tmpfs", text, path), options=options)


def _absolute(option: str, text: str, path: str) -> str:
    from os.path import normpath

    if not path.startswith("/"):
        raise UsageError(f"{option}: {text!r}: {path!r} is not an absolute path in the container", code=USAGE)
    target = normpath(path).replace("//", "/")
    if target == "/":
        raise UsageError(f"{option}: {text!r}: the root of the container cannot be mounted over", code=USAGE)
    return target


def folder(option: str, path: str) -> str:
    """A path in the container, or nothing."""
    if path and not path.startswith("/"):
        raise wrong(option, path, "an absolute path")
    return path


def object_name(option: str, name: str) -> str:
    """A name as docker allows it for containers, volumes and networks."""
    good = name and name.isascii() and name[0].isalnum() and all(c.isalnum() or c in "_.-" for c in name)
    if not good or len(name) > 200:
        raise UsageError(
            f"{option}: {name!r} cannot be a name", hint="letters and digits first, then also _ . and -", code=USAGE
        )
    return name


def environment(texts: list[str], files: list[str], ours: dict[str, str]) -> list[tuple[str, str]]:
    """-e and --env-file; a name without a value takes ours, and is left out where we have none."""
    found: dict[str, str] = {}
    for path in files:
        try:
            with open(path) as file:
                lines = [line.rstrip("\n").lstrip() for line in file]
        except OSError as e:
            raise UsageError(f"--env-file: cannot read {path}: {e.strerror}", code=USAGE) from None
        _into(found, "--env-file", [line for line in lines if line and not line.startswith("#")], ours)
    _into(found, "--env", texts, ours)
    return list(found.items())


def _into(found: dict[str, str], option: str, texts: list[str], ours: dict[str, str]) -> None:
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or " " in name:
            raise wrong(option, text, "NAME=VALUE")
        if equals:
            found[name] = value
        elif name in ours:
            found[name] = ours[name]


def pairs(option: str, texts: list[str]) -> dict[str, str]:
    """NAME=VALUE of labels and sysctls; a label may be without a value."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or (not equals and option != "--label"):
            raise wrong(option, text, "NAME=VALUE")
        found[name] = value
    return found


_RLIMITS = (
    "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split()  # noqa: SIM905
)


def ulimit(text: str) -> Rlimit:
    """nofile=1024:2048."""
    name, equals, value = text.partition("=")
    if name not in _RLIMITS:
        hint = suggestion(name, _RLIMITS) or f"known: {', '.join(_RLIMITS)}"
        raise UsageError(f"--ulimit: unknown limit {name!r}", hint=hint, code=USAGE)
    soft, colon, hard = value.partition(":")
    numbers = []
    for part in (soft, hard if colon else soft):
        if not equals or not (part.isdecimal() or part in ("-1", "unlimited")):
            raise wrong("--ulimit", text, "NAME=SOFT[:HARD]")
        numbers.append(2**64 - 1 if part in ("-1", "unlimited") else int(part))
    if numbers[0] > numbers[1]:
        raise UsageError(f"--ulimit: {text!r}: the soft limit is above the hard one", code=USAGE)
    return Rlimit(f"RLIMIT_{name.upper()}", numbers[0], numbers[1])


def device(text: str) -> DeviceRequest:
    """DEVICE[:PATH[:rwm]]."""
    parts = text.split(":")
    permissions = "rwm"
    if len(parts) > 1 and parts[-1] and set(parts[-1]) <= set("rwm"):
        permissions = parts.pop()
    if len(parts) > 2 or not parts[0].startswith("/") or not parts[-1].startswith("/"):
        raise wrong("--device", text, "DEVICE[:PATH[:rwm]]")
    return DeviceRequest(container_path=parts[-1], host_path=parts[0], permissions=permissions)


_CAPABILITIES = [
    "ALL",
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "SYSLOG",
    "WAKE_ALARM",
]


def capability(option: str, text: str) -> str:
    """NET_ADMIN, CAP_NET_ADMIN, net_admin: the name without CAP_."""
    name = text.upper().removeprefix("CAP_")
    if name not in _CAPABILITIES:
        hint = suggestion(name, _CAPABILITIES) or "see capabilities(7)"
        raise UsageError(f"{option}: unknown capability {text!r}", hint=hint, code=USAGE)
    return name


def signal_name(option: str, text: str) -> str:
    """TERM, SIGTERM, 15: SIGTERM."""
    from signal import SIGRTMAX, SIGRTMIN, Signals

    if text.isdecimal():
        if not 1 <= int(text) <= 64:
            raise wrong(option, text, "a signal between 1 and 64")
        return text
    name = "SIG" + text.upper().removeprefix("SIG")
    known = [s.name for s in Signals]
    if name not in known and not name.startswith(("SIGRTMIN+", "SIGRTMAX-")):
        raise UsageError(f"{option}: unknown signal {text!r}", hint=suggestion(name, known), code=USAGE)
    if name in ("SIGRTMIN", "SIGRTMAX"):
        return str(int(SIGRTMIN if name == "SIGRTMIN" else SIGRTMAX))
    return name


def rate(option: str, text: str) -> tuple[str, int]:
    """DEVICE:RATE of --device-*-bps and -iops."""
    path, colon, count = text.rpartition(":")
    if not colon or not path.startswith("/"):
        raise wrong(option, text, "DEVICE:RATE")
    number = size(option, count) if option.endswith("bps") else whole(option, count, 1, 2**40)
    if number < 1:
        raise wrong(option, text, "DEVICE:RATE")
    return path, number


def since(option: str, text: str, now: float) -> float:
    """10m, 1h30m, 2026-01-31T12:00:00Z, 1700000000: seconds since the epoch."""
    from datetime import UTC, datetime

    total, number = 0.0, ""
    for letter in text:
        if letter.isdecimal() or letter == ".":
            number += letter
        elif letter in "smhd" and number:
            total += float(number) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[letter]
            number = ""
        else:
            break
    else:
        return float(number) if number and not total else now - total
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise wrong(option, text, "a time such as 10m or 2026-01-31T12:00:00Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
