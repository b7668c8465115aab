# SPDX-License-Identifier: Apache-2.0
"""Kernel parameters as steps, of the host and of the container."""

from runtime.linux.netlink import read_sysctl, write_sysctl
from runtime.linux.steps import Step

from .wiring import Wiring


class HostSysctl(Step):
    """Set /proc/sys/<key> of the host."""

    __slots__ = ("key", "optional", "value")

    def __init__(self, key: str, value: str, *, optional: bool = False) -> None:
        self.key = key
        self.value = value
        self.optional = optional

    def describe(self) -> str:
        return f"set sysctl {self.key} to {self.value}"

    def apply(self, context: Wiring) -> None:  # noqa: ARG002 (a step)
        if self.optional and read_sysctl(self.key) is None:
            return
        write_sysctl(self.key, self.value)


def forwarding(families: "set[int]") -> list[Step]:
    """A gateway forwards."""
    wanted: list[Step] = []
    if 2 in families:
        wanted.append(HostSysctl("net/ipv4/ip_forward", "1"))
    if 10 in families:
        wanted.append(HostSysctl("net/ipv6/conf/all/forwarding", "1"))
    return wanted
