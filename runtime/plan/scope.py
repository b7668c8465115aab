# SPDX-License-Identifier: Apache-2.0
"""The systemd scope of a container: its names, its place in the hierarchy, its limits as properties of a unit; pure."""

from __future__ import annotations

from runtime.linux.frozen import Frozen
from runtime.spec.reader import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from runtime.plan.limits import CgroupWrite
    from runtime.spec.model import DeviceRule

    Property = tuple[str, str, Any]  # name, D-Bus type, value

INFINITY = (1 << 64) - 1
ANNOTATION = "org.systemd.property."
SUBGROUP = "run.oci.systemd.subgroup"
DELEGATE = "run.oci.delegate-cgroup"
_UNIT_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:-_.")


class Scope(Frozen):
    """A scope to be started. `path` is that of its cgroup from the top of the hierarchy, without the sub-group."""

    unit: str
    slice: str
    path: str
    subgroup: str
    delegate: str
    user: bool
    properties: tuple[Property, ...]

    @property
    def group(self) -> str:
        """The cgroup with the limits."""
        return f"{self.path}/{self.subgroup}" if self.subgroup else self.path

    def describe(self) -> list[str]:
        """For people."""
        who = "the user's systemd" if self.user else "systemd"
        shown = [f"{who}: start {self.unit} in {self.slice}"]
        return shown + [f"{who}: {name} = {_shown(name, value)}" for name, _, value in self.properties]


def _shown(name: str, value: Any) -> str:
    if value == INFINITY:
        return "infinity"
    if name == "DeviceAllow":
        return ", ".join(f"{device} {access}" for device, access in value) or "nothing"
    return str(value)


# --- names ---


def escape(text: str) -> str:
    """A part of a unit's name: what systemd does not allow there becomes \\xNN."""
    return "".join(c if c in _UNIT_CHARACTERS else "".join(f"\\x{b:02x}" for b in c.encode()) for c in text)


def names(cgroups_path: str, container_id: str, *, user: bool) -> tuple[str, str]:
    """Unit and slice, of linux.cgroupsPath as runc reads it: SLICE:PREFIX:NAME, each of the first two may be empty."""
    where = "linux.cgroupsPath"
    slice_name, prefix, name = "", "ketch", container_id
    if cgroups_path:
        parts = cgroups_path.split(":")
        if len(parts) != 3:
            raise SpecError(where, f"expected SLICE:PREFIX:NAME for the systemd cgroup driver, got {cgroups_path!r}")
        slice_name, prefix, name = parts
        if not name:
            raise SpecError(where, f"the name after the second colon of {cgroups_path!r} is empty")
    slice_name = slice_name or ("user.slice" if user else "system.slice")
    unit = escape(f"{prefix}-{name}" if prefix else name) + ".scope"
    if len(unit) > 255:
        raise SpecError(where, f"gives a unit name of {len(unit)} characters, and 255 are the most")
    slice_path(slice_name)
    return unit, slice_name


def slice_path(name: str) -> str:
    """Where a slice is: a-b.slice lies in a.slice, -.slice is the top."""
    where = "linux.cgroupsPath"
    stem = name.removesuffix(".slice")
    if stem == name or "/" in name:
        raise SpecError(where, f"{name!r} is not a slice; expected a name such as system.slice")
    if stem == "-":
        return ""
    parts = stem.split("-")
    if not all(parts):
        raise SpecError(where, f"{name!r} is not a slice: a dash separates it from its parent, so none may be alone")
    return "".join(f"/{'-'.join(parts[: i + 1])}.slice" for i in range(len(parts)))


def user_top(own: str, uid: int) -> str:
    """Where the manager of a user has its units, from the group of one of the user's processes."""
    parts = own.split("/")
    for index, part in enumerate(parts):
        if part.startswith("user@") and part.endswith(".service"):
            return "/".join(parts[: index + 1])
    for index, part in enumerate(parts):
        number = part.removeprefix("user-").removesuffix(".slice")
        if part == f"user-{number}.slice" and number.isdigit():
            return "/".join(parts[: index + 1]) + f"/user@{number}.service"
    return f"/user.slice/user-{uid}.slice/user@{uid}.service"


def sub_group(annotations: Mapping[str, str], name: str) -> str:
    """A group beneath the scope that an annotation asks for."""
    text = annotations.get(name, "").strip("/")
    if any(part in ("", ".", "..") for part in text.split("/")) and text:
        raise SpecError(f"annotations.{name}", f"{text!r} is not a relative path of a cgroup")
    return text


# --- limits as properties ---


def _number(text: str) -> int:
    return INFINITY if text in ("max", "-1") else int(text)


# Control file -> property of type t with the same meaning; memory.low and the like come from `unified`.
_SAME = {
    "memory.max": "MemoryMax",
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "memory.limit_in_bytes": "MemoryLimit",
    "cpu.weight": "CPUWeight",
    "cpu.shares": "CPUShares",
    "blkio.weight": "BlockIOWeight",
    "pids.max": "TasksMax",
}
_SETS = {"cpuset.cpus": ("AllowedCPUs"), "cpuset.mems": ("AllowedMemoryNodes")}


def limits(writes: Sequence[CgroupWrite], *, v2: bool) -> list[Property]:
    """What systemd must know so that it does not write something else into the files when it reloads."""
    found: dict[str, Property] = {}
    quota, period = "", ""
    for write in writes:
        name = _SAME.get(write.file)
        if name is not None:
            number = _number(write.value)
            # No tasks at all would forbid the first process too; runc's reading is one.
            found[name] = (name, "t", max(number, 1) if name == "TasksMax" else number)
        elif write.file == "cpu.max":
            quota, _, period = write.value.partition(" ")
        elif write.file == "cpu.cfs_quota_us":
            quota = write.value
        elif write.file == "cpu.cfs_period_us":
            period = write.value
        elif write.file == "cpu.idle" and write.value == "1":
            found["CPUWeight"] = ("CPUWeight", "t", 0)
        elif write.file == "io.weight" and write.value.startswith("default "):
            found["IOWeight"] = ("IOWeight", "t", int(write.value.split()[1]))
        elif v2 and write.file in _SETS:
            name = _SETS[write.file]
            found[name] = (name, "ay", mask(write.value, write.where))
    for prop in quota_properties(quota, period):
        found[prop[0]] = prop
    return list(found.values())


def quota_properties(quota: str, period: str) -> list[Property]:
    """systemd counts CPU time per second, in whole hundredths of a CPU: rounded up, so that nothing is taken away."""
    found: list[Property] = []
    length = int(period or 0)
    if length:
        found.append(("CPUQuotaPeriodUSec", "t", length))
    if quota:
        per_second = INFINITY
        if quota != "max" and int(quota) > 0:
            per_second = -(-int(quota) * 1_000_000 // (length or 100_000))
            per_second = -(-per_second // 10_000) * 10_000
        found.append(("CPUQuotaPerSecUSec", "t", per_second))
    return found


def mask(text: str, where: str) -> list[int]:
    """A list such as 0-3,7 as bytes of bits."""
    bits = 0
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        if not low.isdigit() or (high and not high.isdigit()) or int(high or low) > 8191:
            raise SpecError(where, f"expected a list such as 0-3,7, got {text!r}")
        for number in range(int(low), int(high or low) + 1):
            bits |= 1 << number
    return list(bits.to_bytes((bits.bit_length() + 7) // 8 or 1, "little"))


# --- devices ---


def device_properties(rules: Sequence[DeviceRule], groups: Mapping[tuple[str, int], str]) -> list[Property]:
    """DevicePolicy and DeviceAllow. systemd knows only what is allowed, so this grants all that any rule leaves;
    our own filter is exact and holds beside it. `groups` are the names of majors from /proc/devices."""
    allowed: dict[tuple[str, int | None, int | None], set[str]] = {}
    everything = False
    for rule in rules:
        if rule.kind == "a":
            everything = rule.allow
            allowed.clear()
            continue
        key = (rule.kind, rule.major, rule.minor)
        if rule.allow:
            allowed.setdefault(key, set()).update(rule.access)
        elif key in allowed:
            allowed[key] -= set(rule.access)
    if everything:
        return [("DevicePolicy", "s", "auto"), ("DeviceAllow", "a(ss)", [])]
    pairs = []
    for (kind, major, minor), access in allowed.items():
        name = _device_name(kind, major, minor, groups)
        if name and access:
            pairs.append((name, "".join(letter for letter in "rwm" if letter in access)))
    return [("DevicePolicy", "s", "strict"), ("DeviceAllow", "a(ss)", pairs)]


def _device_name(kind: str, major: int | None, minor: int | None, groups: Mapping[tuple[str, int], str]) -> str:
    family = {"c": "char", "b": "block"}[kind]
    if major is None:
        return f"{family}-*"
    if minor is None:
        group = groups.get((kind, major), "")
        return f"{family}-{group}" if group else ""
    return f"/dev/{family}/{major}:{minor}"


def device_groups(table: str) -> dict[tuple[str, int], str]:
    """/proc/devices: (kind, major) -> name."""
    found = {}
    kind = ""
    for line in table.splitlines():
        if line.startswith(("Character", "Block")):
            kind = "c" if line[0] == "C" else "b"
        else:
            words = line.split()
            if len(words) == 2 and words[0].isdigit():
                found[kind, int(words[0])] = words[1]
    return found


# --- the whole ---


def accounting(*, v2: bool) -> list[Property]:
    """So that the controllers are there for us even where nothing is limited."""
    names_ = ("MemoryAccounting", "CPUAccounting", "TasksAccounting", "IOAccounting" if v2 else "BlockIOAccounting")
    return [(name, "b", True) for name in names_]


def plan(
    *,
    cgroups_path: str,
    container_id: str,
    annotations: Mapping[str, str],
    writes: Sequence[CgroupWrite],
    devices: Sequence[DeviceRule],
    device_groups: Mapping[tuple[str, int], str],
    v2: bool,
    user_manager_at: str | None,
) -> Scope:
    """The scope of a container. `user_manager_at`: where the units of a user's manager are, None for the system's."""
    user = user_manager_at is not None
    unit, slice_name = names(cgroups_path, container_id, user=user)
    if user and not v2:
        raise SpecError("linux.cgroupsPath", "the systemd of a user has no cgroups to give on cgroup v1; use cgroupfs")
    subgroup, delegate = sub_group(annotations, SUBGROUP), sub_group(annotations, DELEGATE)
    if delegate and not v2:
        raise SpecError(f"annotations.{DELEGATE}", "cgroup v1 cannot be delegated safely; this needs cgroup v2")
    properties: list[Property] = [
        ("Description", "s", f"ketch container {container_id}"),
        ("Slice", "s", slice_name),
        ("Delegate", "b", True),
        ("DefaultDependencies", "b", False),
        *accounting(v2=v2),
        *limits(writes, v2=v2),
        *(device_properties(devices, device_groups) if devices and not user else []),
    ]
    own = from_annotations(annotations)
    given = {name for name, _, _ in own}
    return Scope(
        unit=unit,
        slice=slice_name,
        path=(user_manager_at or "") + slice_path(slice_name) + "/" + unit,
        subgroup=subgroup,
        delegate=delegate,
        user=user,
        properties=(*(prop for prop in properties if prop[0] not in given), *own),
    )


def from_annotations(annotations: Mapping[str, str]) -> list[Property]:
    """org.systemd.property.NAME = VALUE, the value in GVariant's text form."""
    found = []
    for key, text in annotations.items():
        if not key.startswith(ANNOTATION):
            continue
        from runtime.plan import gvariant

        name = key.removeprefix(ANNOTATION)
        where = f"annotations.{key}"
        if len(name) < 3 or not name.isascii() or not name.isalpha():
            raise SpecError(where, f"{name!r} is not the name of a property of a unit")
        try:
            kind, value = gvariant.parse(text)
        except ValueError as error:
            raise SpecError(where, str(error)) from None
        if name.endswith("Sec") and not name.endswith("USec"):
            # People know the names of unit files, where times are in seconds; on the bus they are in microseconds.
            if kind not in "ynqiuxtd":
                raise SpecError(where, f"expected a number of seconds, got {text}")
            name, kind, value = name.removesuffix("Sec") + "USec", "t", int(value * 1_000_000)
        found.append((name, kind, value))
    return found
