# SPDX-License-Identifier: Apache-2.0
"""Device rules as the kernel takes them: lines for cgroup v1, one BPF program for cgroup v2; pure."""

from __future__ import annotations

from runtime.spec.model import DeviceRule

# What every container may use: the nodes of the spec, pseudo terminals, and mknod of anything (without the right to
# open what was made, mknod is harmless, and images contain nodes).
ALWAYS = (
    *(DeviceRule(allow=True, kind=kind, major=None, minor=None, access="m") for kind in ("c", "b")),
    *(DeviceRule(allow=True, kind="c", major=1, minor=minor, access="rwm") for minor in (3, 5, 7, 8, 9)),
    DeviceRule(allow=True, kind="c", major=5, minor=0, access="rwm"),
    DeviceRule(allow=True, kind="c", major=5, minor=1, access="rwm"),
    DeviceRule(allow=True, kind="c", major=5, minor=2, access="rwm"),
    DeviceRule(allow=True, kind="c", major=136, minor=None, access="rwm"),
    DeviceRule(allow=True, kind="c", major=10, minor=200, access="rwm"),  # tun: of no use without CAP_NET_ADMIN
)


def rules(asked: tuple[DeviceRule, ...], nodes: tuple[DeviceRule, ...]) -> tuple[DeviceRule, ...]:
    """The whole list, in the order of application: the last rule that matches an access decides."""
    return (*asked, *ALWAYS, *nodes)


def v1_lines(all_rules: tuple[DeviceRule, ...]) -> list[tuple[str, str]]:
    """(file, line) pairs to write. Everything before the last rule for all devices is void, so it is left out."""
    start = 0
    for index, rule in enumerate(all_rules):
        if rule.kind == "a":
            start = index
    lines = []
    for rule in all_rules[start:]:
        file = "devices.allow" if rule.allow else "devices.deny"
        if rule.kind == "a":
            lines.append((file, "a"))
            continue
        major = "*" if rule.major is None else str(rule.major)
        minor = "*" if rule.minor is None else str(rule.minor)
        lines.append((file, f"{rule.kind} {major}:{minor} {rule.access}"))
    if all_rules and all_rules[start].kind != "a":
        lines.insert(0, ("devices.deny", "a"))
    return lines


def allows(all_rules: tuple[DeviceRule, ...], kind: str, major: int, minor: int, access: str) -> bool:
    """What the list means for one access: the reference that the programs are tested against."""
    wanted = set(access)
    granted: set[str] = set()
    for rule in all_rules:
        if rule.kind in ("a", kind) and rule.major in (None, major) and rule.minor in (None, minor):
            granted = granted | set(rule.access) if rule.allow else granted - set(rule.access)
    return wanted <= granted


# --- BPF ---

_ACCESS = {"m": 1, "r": 2, "w": 4}
_KIND = {"b": 1, "c": 2}


def _instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return (
        bytes([code, src << 4 | dst])
        + (offset & 0xFFFF).to_bytes(2, "little")
        + (value & 0xFFFFFFFF).to_bytes(4, "little")
    )


def _load(dst: int, offset: int) -> bytes:
    return _instruction(0x61, dst, 1, offset)  # dst = *(u32 *)(r1 + offset)


def program(all_rules: tuple[DeviceRule, ...]) -> bytes:
    """A BPF_PROG_TYPE_CGROUP_DEVICE program that answers as allows() does.

    The kernel asks once per access with a mask of what is wanted. From the last rule to the first, the program removes
    from the mask what a matching allow rule grants and refuses at once what a matching deny rule takes away.
    """
    # r1: struct bpf_cgroup_dev_ctx {access_type (kind low 16 bits, access high 16), major, minor}
    # r2: kind, r3: what is still wanted, r4: major, r5: minor
    code = [
        _load(2, 0),
        _instruction(0xBC, 3, 2),  # w3 = w2
        _instruction(0x54, 2, value=0xFFFF),  # w2 &= 0xffff
        _instruction(0x74, 3, value=16),  # w3 >>= 16
        _load(4, 4),
        _load(5, 8),
    ]
    for rule in reversed(all_rules):
        code += _rule(rule)
        if rule.kind == "a" and rule.major is None and rule.minor is None and set(rule.access) == set("rwm"):
            break
    code += [_instruction(0xB4, 0, value=0), _instruction(0x95)]  # nothing granted it: refuse
    return b"".join(code)


def _rule(rule: DeviceRule) -> list[bytes]:
    tests: list[tuple[int, int]] = []  # (register, value that must match)
    if rule.kind != "a":
        tests.append((2, _KIND[rule.kind]))
    if rule.major is not None:
        tests.append((4, rule.major))
    if rule.minor is not None:
        tests.append((5, rule.minor))
    mask = sum(_ACCESS[letter] for letter in set(rule.access))
    if rule.allow:
        effect = [
            _instruction(0x54, 3, value=~mask & 7),  # w3 &= ~mask
            _instruction(0x56, 3, offset=2, value=0),  # if w3 != 0 go on with the next rule
            _instruction(0xB4, 0, value=1),
            _instruction(0x95),
        ]
    else:
        effect = [
            _instruction(0xBC, 0, 3),  # w0 = w3
            _instruction(0x54, 0, value=mask),
            _instruction(0x16, 0, offset=2, value=0),  # if none of it is taken away, go on
            _instruction(0xB4, 0, value=0),
            _instruction(0x95),
        ]
    code = []
    for number, (register, value) in enumerate(tests):
        distance = len(tests) - number - 1 + len(effect)
        code.append(_instruction(0x56, register, offset=distance, value=value))  # if different, skip this rule
    return code + effect
