# SPDX-License-Identifier: Apache-2.0
"""A seccomp profile as a compiled filter, from the cache when the same profile was compiled before."""

from __future__ import annotations

import os

from runtime.errors import RuntimeFailure
from runtime.inside.execute import Filter
from runtime.linux import durable
from runtime.linux._core import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.linux.seccomp import Rule
    from runtime.spec.model import Seccomp, SyscallRule

# Grows when the compiler changes its output, so that old files in a cache are not taken for new.
GENERATION = b"1"
EPERM = 1


def compiled(profile: Seccomp, cache: str) -> Filter:
    """The filter of this profile."""
    return Filter(_program(profile, cache), flags_of(profile), open_mailbox() if wants_listener(profile) else None)


def known(profile: Seccomp, cache: str) -> tuple[bytes, int] | None:
    """Program and flags, if it was compiled before. A spawner compiles none: it would serve nobody meanwhile, and
    it would never give back a megabyte."""
    program = profile.program or _cached(f"{cache}/{_key(profile)}")
    return (program, flags_of(profile)) if program else None


def wants_listener(profile: Seccomp) -> bool:
    """Whether somebody is to be notified of some calls."""
    return any(rule.action == "SCMP_ACT_NOTIFY" for rule in profile.syscalls)


def open_mailbox() -> int:
    """Shared memory through which a confined child tells the number of its listener, having no system call left."""
    fd = os.memfd_create("mailbox", os.MFD_CLOEXEC)
    os.ftruncate(fd, 4096)
    return fd


def flags_of(profile: Seccomp) -> int:
    """Flags for seccomp(2). TSYNC is meaningless for us, who have one thread, and conflicts with a listener."""
    flags = 0
    for name in profile.flags:
        if name != "SECCOMP_FILTER_FLAG_TSYNC":
            flags |= getattr(lib, name)
    if wants_listener(profile):
        flags |= lib.SECCOMP_FILTER_FLAG_NEW_LISTENER
    return flags


def _program(profile: Seccomp, cache: str) -> bytes:
    if profile.program:
        return profile.program
    path = f"{cache}/{_key(profile)}"
    if program := _cached(path):
        return program
    program = _compile(profile)
    try:
        os.makedirs(cache, 0o700, exist_ok=True)
        durable.replace(path, program, 0o600, durable=False)
    except OSError:
        pass  # a cache that cannot be written costs time only
    return program


def _cached(path: str) -> bytes | None:
    try:
        program = durable.read(path)
    except OSError:
        return None
    return program if program and len(program) % 8 == 0 else None


def _key(profile: Seccomp) -> str:
    """By content: what decides the program, and nothing else."""
    from _blake2 import blake2b

    parts: list[object] = [profile.default_action, profile.default_errno_ret, profile.architectures, os.uname().machine]
    parts += [True] if profile.fail_unknown else []
    parts += [
        (r.names, r.action, r.errno_ret, [(a.index, a.value, a.value_two, a.op) for a in r.args])
        for r in profile.syscalls
    ]
    return blake2b(repr(parts).encode() + GENERATION, digest_size=20).hexdigest()


def action_number(name: str, errno_ret: int | None) -> int:
    """What the kernel is to return for an action."""
    plain = {
        "SCMP_ACT_KILL": lib.SECCOMP_RET_KILL_THREAD,
        "SCMP_ACT_KILL_THREAD": lib.SECCOMP_RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS": lib.SECCOMP_RET_KILL_PROCESS,
        "SCMP_ACT_TRAP": lib.SECCOMP_RET_TRAP,
        "SCMP_ACT_ALLOW": lib.SECCOMP_RET_ALLOW,
        "SCMP_ACT_LOG": lib.SECCOMP_RET_LOG,
        "SCMP_ACT_NOTIFY": lib.SECCOMP_RET_USER_NOTIF,
    }
    if name in plain:
        return plain[name]
    base = lib.SECCOMP_RET_ERRNO if name == "SCMP_ACT_ERRNO" else lib.SECCOMP_RET_TRACE
    return base | (EPERM if errno_ret is None else errno_ret)


def _compile(profile: Seccomp) -> bytes:
    try:
        from runtime.linux import seccomp
    except ImportError as error:
        raise RuntimeFailure(f"linux.seccomp: libseccomp is not installed ({error}); package libseccomp2") from None

    default = action_number(profile.default_action, profile.default_errno_ret)
    permissive = profile.default_action in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
    try:
        return seccomp.compile_filter(
            default,
            profile.architectures,
            [_rule(rule) for rule in profile.syscalls],
            unknown_is_enosys=not permissive and profile.default_errno_ret != seccomp.ENOSYS,
            fail_unknown=profile.fail_unknown,
        )
    except seccomp.CompileFailed as error:
        raise RuntimeFailure(f"config.json: linux.seccomp: {error}") from None


def _rule(rule: SyscallRule) -> Rule:
    from runtime.linux import seccomp

    conditions = tuple(
        seccomp.Condition(index=a.index, op=a.op, value=a.value, value_two=a.value_two) for a in rule.args
    )
    return seccomp.Rule(names=rule.names, action=action_number(rule.action, rule.errno_ret), conditions=conditions)
