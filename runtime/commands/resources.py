# SPDX-License-Identifier: Apache-2.0
"""pause, resume, update, events."""

from __future__ import annotations

import sys

from runtime import commands as meaning
from runtime import evidence, record
from runtime.cli import Wrong
from runtime.errors import RuntimeFailure, WrongState
from runtime.linux import cgroup, durable, json_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.cli import Options
    from runtime.record import Record


def _group(entry: Record) -> cgroup.Group:
    if not entry.cgroup_paths:
        raise RuntimeFailure(f"container {entry.id!r} has no cgroups")
    return cgroup.Group(entry.cgroup_paths, v2=entry.cgroup_v2)


def pause(settings: Options, options: Options) -> int:
    """pause ID."""
    entry = record.load(meaning.root(settings), options.arguments[0])
    status = evidence.status(entry)
    if status not in (evidence.RUNNING, evidence.CREATED):
        raise WrongState(f"cannot pause container {entry.id!r}: it is {status}")
    _group(entry).freeze()
    return 0


def resume(settings: Options, options: Options) -> int:
    """resume ID."""
    entry = record.load(meaning.root(settings), options.arguments[0])
    status = evidence.status(entry)
    if status != evidence.PAUSED:
        raise WrongState(f"cannot resume container {entry.id!r}: it is {status}, and only a paused one can be")
    _group(entry).thaw()
    return 0


def update(settings: Options, options: Options) -> int:
    """update ID."""
    from runtime import updating

    entry = record.load(meaning.root(settings), options.arguments[0])
    status = evidence.status(entry)
    if status in (evidence.STOPPED, evidence.CREATING):
        raise WrongState(f"cannot update container {entry.id!r}: it is {status}")
    updating.update(entry, _group(entry), _resources(options))
    return 0


def _resources(options: Options) -> Any:
    """The resources object: from a file or stdin, or what the flags say."""
    path = options.value("--resources", "-r")
    if path:
        data = sys.stdin.buffer.read() if path == "-" else durable.read(path)
        if data is None:
            raise RuntimeFailure(f"--resources {path}: does not exist")
        try:
            return json_text.loads(data)
        except json_text.JSONError as error:
            raise RuntimeFailure(f"--resources {path}: not JSON: {error}") from None
    for name in ("--l3-cache-schema", "--mem-bw-schema"):
        if options.given(name):
            raise Wrong(f"{name}: Intel RDT is not supported yet")
    return _from_flags(options)


SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def size(name: str, text: str) -> int:
    """512m and the like; -1 for no limit."""
    plain = text.lower().removesuffix("b") if text.lower() not in ("b",) else text
    digits = plain.rstrip("kmgt")
    try:
        return int(digits) * SIZES[plain[len(digits) :]]
    except (ValueError, KeyError):
        raise Wrong(f"{name}: expected a number of bytes such as 512m, got {text!r}") from None


def _from_flags(options: Options) -> dict[str, Any]:
    cpu: dict[str, Any] = {}
    numbers = {
        "--cpu-period": "period",
        "--cpu-quota": "quota",
        "--cpu-burst": "burst",
        "--cpu-share": "shares",
        "--cpu-shares": "shares",
        "--cpu-rt-period": "realtimePeriod",
        "--cpu-rt-runtime": "realtimeRuntime",
        "--cpu-idle": "idle",
    }
    for flag, key in numbers.items():
        number = options.integer(flag, low=-1, high=(1 << 63) - 1)
        if number is not None:
            cpu[key] = number
    for flag, key in (("--cpuset-cpus", "cpus"), ("--cpuset-mems", "mems")):
        if options.given(flag):
            cpu[key] = options.value(flag)
    memory = {
        key: size(flag, options.value(flag))
        for flag, key in (
            ("--memory", "limit"),
            ("--memory-reservation", "reservation"),
            ("--memory-swap", "swap"),
            ("--kernel-memory", "kernel"),
            ("--kernel-memory-tcp", "kernelTCP"),
        )
        if options.given(flag)
    }
    resources: dict[str, Any] = {}
    resources |= {"cpu": cpu} if cpu else {}
    resources |= {"memory": memory} if memory else {}
    pids = options.integer("--pids-limit", low=-1, high=(1 << 63) - 1)
    resources |= {"pids": {"limit": pids}} if pids is not None else {}
    weight = options.integer("--blkio-weight", low=0, high=65535)
    resources |= {"blockIO": {"weight": weight}} if weight is not None else {}
    if not resources:
        raise Wrong("update needs --resources or at least one limit")
    return resources


def events(settings: Options, options: Options) -> int:
    """events ID."""
    from runtime import statistics

    entry = record.load(meaning.root(settings), options.arguments[0])
    if evidence.status(entry) in (evidence.STOPPED, evidence.CREATING):
        raise WrongState("container not running")
    if options.flag("--stats"):
        sys.stdout.write(json_text.dumps(statistics.event(entry, _group(entry))) + "\n")
        return 0
    statistics.watch(entry, _group(entry), _seconds(options.value("--interval", default="5s")))
    return 0


def _seconds(text: str) -> float:
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    for unit, factor in units.items():
        digits = text.removesuffix(unit)
        if digits != text and digits.replace(".", "", 1).isdigit() and float(digits) > 0:
            return float(digits) * factor
    raise Wrong(f"--interval: expected a duration such as 5s, got {text!r}")
