# SPDX-License-Identifier: Apache-2.0
"""Compile a system call filter with libseccomp. Costs 5 ms to load and up to 30 to compile: callers keep the result."""

from __future__ import annotations

import os

from runtime.linux._core import lib as core
from runtime.linux._seccomp import ffi, lib
from runtime.linux.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ENOSYS = 38
X32_BIT = 0x40000000


class Condition(Frozen):
    """A test of one argument; op is libseccomp's name such as SCMP_CMP_EQ."""

    index: int
    op: str
    value: int
    value_two: int


class Rule(Frozen):
    """What to return for these calls when all conditions hold; action is the number that the kernel knows."""

    names: tuple[str, ...]
    action: int
    conditions: tuple[Condition, ...]


class CompileFailed(ValueError):
    """libseccomp refused; the message says what."""


def version() -> str:
    """The version of the library."""
    facts = lib.seccomp_version()
    return f"{facts.major}.{facts.minor}.{facts.micro}"


def architecture(name: str) -> int:
    """The token of SCMP_ARCH_X86_64 and its like."""
    plain = name.removeprefix("SCMP_ARCH_").lower()
    token = int(lib.seccomp_arch_resolve_name(plain.encode()))
    if token == 0:
        raise CompileFailed(f"unknown architecture {name!r}")
    return token


def compile_filter(
    default: int,
    architectures: Sequence[str],
    rules: Sequence[Rule],
    *,
    unknown_is_enosys: bool,
    fail_unknown: bool = False,
) -> bytes:
    """The program in 8-byte instructions. Names that no architecture knows are left out, as every runtime does, unless
    fail_unknown says that they are mistakes.

    With unknown_is_enosys, calls newer than any the profile mentions answer ENOSYS: programs probe for new calls and
    fall back on that errno only, and a profile written before a call existed says nothing about it.
    """
    if fail_unknown:
        _check_names(rules)
    context = lib.seccomp_init(default)
    if context == ffi.NULL:
        raise CompileFailed(f"the default action {default:#x} is not valid")
    try:
        tokens = _add_architectures(context, architectures)
        lib.seccomp_attr_set(context, lib.SCMP_FLTATR_CTL_NNP, 0)
        lib.seccomp_attr_set(context, lib.SCMP_FLTATR_CTL_OPTIMIZE, 2)  # a binary tree: filters run at every call
        for rule in rules:
            if rule.action != default:
                _add_rule(context, rule)
        program = _export(context)
    finally:
        lib.seccomp_release(context)
    return _enosys_prologue(tokens, rules) + program if unknown_is_enosys else program


def _add_architectures(context: object, names: Sequence[str]) -> list[int]:
    tokens = [int(lib.seccomp_arch_native())]
    for name in names:
        token = architecture(name)
        if lib.seccomp_arch_exist(context, token) == 0:
            tokens += [token] if token not in tokens else []
            continue
        result = lib.seccomp_arch_add(context, token)
        if result < 0:
            raise CompileFailed(f"cannot add architecture {name}: {os.strerror(-result)}")
        tokens.append(token)
    return tokens


def _check_names(rules: Sequence[Rule]) -> None:
    for rule in rules:
        for name in rule.names:
            if lib.seccomp_syscall_resolve_name(name.encode()) == lib.__NR_SCMP_ERROR:
                raise CompileFailed(f"libseccomp {version()} knows no system call {name!r}")


def _add_rule(context: object, rule: Rule) -> None:
    for name in rule.names:
        number = lib.seccomp_syscall_resolve_name(name.encode())
        if number == lib.__NR_SCMP_ERROR:
            continue
        for group in _groups(rule.conditions):
            array = ffi.new("struct scmp_arg_cmp[]", max(len(group), 1))
            for index, condition in enumerate(group):
                array[index].arg = condition.index
                array[index].op = getattr(lib, condition.op)
                array[index].datum_a = condition.value
                array[index].datum_b = condition.value_two
            result = lib.seccomp_rule_add_array(context, rule.action, number, len(group), array)
            if result < 0 and result != -17:  # EEXIST: said twice
                raise CompileFailed(f"cannot add a rule for {name}: {os.strerror(-result)}")


def _groups(conditions: tuple[Condition, ...]) -> list[list[Condition]]:
    """libseccomp takes one test per argument and rule; several of one argument mean any of them."""
    indexes = [condition.index for condition in conditions]
    if len(set(indexes)) == len(indexes):
        return [list(conditions)]
    return [[condition] for condition in conditions]


def _export(context: object) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        result = lib.seccomp_export_bpf(context, fd)
        if result < 0:
            raise CompileFailed(f"cannot export the filter: {os.strerror(-result)}")
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)


def _enosys_prologue(tokens: Sequence[int], rules: Sequence[Rule]) -> bytes:
    """For each architecture: a number above the last that the profile mentions returns ENOSYS."""
    code: list[bytes] = []
    for token in tokens:
        last = -1
        for rule in rules:
            for name in rule.names:
                number = int(lib.seccomp_syscall_resolve_name_arch(token, name.encode()))
                if number >= 0:
                    last = max(last, number & ~X32_BIT)
        if last < 0:
            continue
        code += [
            _instruction(0x20, 0, 0, 4),  # load the architecture
            _instruction(0x15, 0, 4, token & 0xFFFFFFFF),  # another one: go on after this block
            _instruction(0x20, 0, 0, 0),  # load the number
            _instruction(0x35, 2, 0, X32_BIT),  # x32's numbers are not for us to judge
            _instruction(0x25, 0, 1, last),  # up to the last known: go on
            _instruction(0x06, 0, 0, core.SECCOMP_RET_ERRNO | ENOSYS),
        ]
    return b"".join(code)


def _instruction(code: int, if_true: int, if_false: int, value: int) -> bytes:
    return code.to_bytes(2, "little") + bytes([if_true, if_false]) + value.to_bytes(4, "little")
