# SPDX-License-Identifier: Apache-2.0
"""Capabilities by name, and the five sets of this process."""

import errno

from runtime.linux import syscalls
from runtime.linux._core import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# In the order of their numbers, CAP_CHOWN being 0.
NAMES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
NUMBERS = {name: number for number, name in enumerate(NAMES)}


def mask(names: "Iterable[str]") -> int:
    """The bits of these names; an unknown name is a KeyError."""
    bits = 0
    for name in names:
        bits |= 1 << NUMBERS[name]
    return bits


def names_of(bits: int) -> list[str]:
    """The names in a mask; bits that we have no name for are left out."""
    return [name for number, name in enumerate(NAMES) if bits >> number & 1]


def last_known() -> int:
    """The highest capability of this kernel."""
    with open("/proc/sys/kernel/cap_last_cap", "rb", 0) as file:
        return int(file.read(8))


def bounding() -> int:
    """Our bounding set."""
    bits = 0
    for number in range(64):
        try:
            bits |= syscalls.prctl(lib.PR_CAPBSET_READ, number) << number
        except syscalls.KernelError:
            break
    return bits


def limit_bounding(keep: int) -> None:
    """Drop from the bounding set what is not in keep. Needs CAP_SETPCAP, so it comes before capset."""
    for number in range(64):
        if keep >> number & 1:
            continue
        result = lib.k_prctl(lib.PR_CAPBSET_DROP, number, 0, 0, 0)
        if result == -errno.EINVAL:
            return
        if result < 0:
            syscalls.fail(result, "prctl", "PR_CAPBSET_DROP", number)


def set_ambient(bits: int) -> None:
    """Make the ambient set exactly this; each must be permitted and inheritable."""
    syscalls.prctl(lib.PR_CAP_AMBIENT, lib.PR_CAP_AMBIENT_CLEAR_ALL)
    number = 0
    while bits >> number:
        if bits >> number & 1:
            syscalls.prctl(lib.PR_CAP_AMBIENT, lib.PR_CAP_AMBIENT_RAISE, number)
        number += 1
