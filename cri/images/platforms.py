# SPDX-License-Identifier: Apache-2.0
"""Which variant of a multi-platform image runs on a machine, and which runs best."""

import os

from cri.images.errors import BadReference
from cri.images.model import Platform

_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
    "i686": ("386", ""),
    "i386": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
    "mips64": ("mips64", ""),
    "loongarch64": ("loong64", ""),
}
_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm", "armel": "arm", "i386": "386"}
# How good this CPU is decides which of amd64/v1..v4 (the psABI levels) may be taken: flags of /proc/cpuinfo.
_AMD64_LEVELS = (
    ("v2", {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}),
    ("v3", {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}),
    ("v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
)


def host() -> Platform:
    """The platform of this machine."""
    machine = os.uname().machine
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    if architecture == "amd64":
        variant = amd64_level(_cpu_flags())
    return Platform("linux", architecture, variant)


def _cpu_flags() -> frozenset[str]:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            for line in lines:
                if line.startswith("flags"):
                    return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def amd64_level(flags: frozenset[str]) -> str:
    """The highest psABI level whose instructions are all there; empty for the baseline."""
    best = ""
    for level, needed in _AMD64_LEVELS:
        if not needed <= flags:
            break
        best = level
    return best


def parse(text: str) -> Platform:
    """`linux/arm/v7`, `arm64`, `linux`, as people write it."""
    parts = text.lower().split("/")
    if not 1 <= len(parts) <= 3 or not all(parts):
        raise BadReference(f"{text!r} is not a platform", hint="os/architecture[/variant], say linux/arm64")
    if len(parts) == 1:
        here = host()
        known = {*(pair[0] for pair in _MACHINES.values()), *_ALIASES}
        parts = ["linux", parts[0]] if parts[0] in known else [parts[0], here.architecture]
    return normal(Platform(*parts))


def normal(platform: Platform) -> Platform:
    """Aliases and default variants resolved, so that equal platforms are equal."""
    architecture = _ALIASES.get(platform.architecture, platform.architecture)
    variant = platform.variant
    if architecture == "arm64" and variant in ("", "8"):
        variant = "v8"
    if architecture == "amd64" and variant == "v1":
        variant = ""
    if architecture == "arm":
        variant = f"v{variant}" if variant.isdigit() else variant or "v7"
    return Platform(platform.os, architecture, variant)


def candidates(wanted: Platform) -> tuple[Platform, ...]:
    """What runs on `wanted`, best first: an arm/v7 machine also runs v6 and v5, an amd64 one also 386."""
    wanted = normal(wanted)
    os_, architecture, variant = wanted.os, wanted.architecture, wanted.variant
    if architecture == "arm":
        level = int(variant[1:]) if variant[1:].isdigit() else 7
        return tuple(Platform(os_, "arm", f"v{n}") for n in range(level, 4, -1))
    if architecture == "arm64":
        newer = (wanted,) if variant != "v8" else ()
        return (*newer, Platform(os_, "arm64", "v8"), *(Platform(os_, "arm", f"v{n}") for n in range(8, 4, -1)))
    if architecture == "amd64":
        level = int(variant[1:]) if variant[1:].isdigit() else 1
        levels = tuple(Platform(os_, "amd64", f"v{n}") for n in range(level, 1, -1))
        return (*levels, Platform(os_, "amd64"), Platform(os_, "386"))
    return (wanted, Platform(os_, architecture)) if variant else (wanted,)
