# SPDX-License-Identifier: Apache-2.0
"""Which OCI runtime a pod's handler name means."""

from __future__ import annotations

from cri.config import Config, Handler
from cri.engine.errors import BadRequest
from runtime.linux.quick_dataclasses import dataclass

OURS = ("ketch",)


@dataclass(frozen=True, slots=True)
class Runner:
    """How containers of a handler are started. No command: by our own runtime."""

    name: str
    command: tuple[str, ...]
    settings: Handler


def find(config: Config, name: str) -> Runner:
    """The runner of a handler; an unknown one is refused by name."""
    wanted = name or config.runtime.default_handler
    settings = config.runtime.handlers.get(wanted)
    if settings is not None:
        from shutil import which

        if settings.command and which(settings.command[0]) is None:
            raise BadRequest(f"runtime_handler {wanted!r}: {settings.command[0]} is not installed on this node")
        return Runner(wanted, tuple(settings.command), settings)
    if not wanted or wanted in OURS:
        return Runner(wanted, (), Handler())
    known = ", ".join(repr(n) for n in sorted({"", *OURS, *config.runtime.handlers}))
    raise BadRequest(f"runtime_handler {wanted!r}: not configured (known: {known})")


def all_of(config: Config) -> list[Runner]:
    """Every handler that a pod may name; the empty name first."""
    named = {*OURS, *config.runtime.handlers}
    default = config.runtime.handlers.get(config.runtime.default_handler, Handler())
    others = [Runner(n, (), config.runtime.handlers.get(n, Handler())) for n in sorted(named)]
    return [Runner("", (), default), *others]


def passed(patterns: list[str], annotations: dict[str, str]) -> dict[str, str]:
    """The annotations that a handler's configuration lets through to config.json."""
    if not patterns:
        return {}
    import fnmatch

    return {
        name: value
        for name, value in annotations.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }
