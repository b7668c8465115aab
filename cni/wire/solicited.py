# SPDX-License-Identifier: Apache-2.0
"""Waiting until an IPv6 address can be reached: the kernel joins its solicited-node group later, in a work queue.

An address without duplicate detection is valid when RTM_NEWADDR answers, but addrconf_dad_work() still has to join
ff02::1:ffXX:XXXX. A neighbour solicitation that comes before that is dropped (ip6_mc_input), and the next one comes a
second later: measured on a busy machine for 6 first packets of 100.
"""

import os
import select

from runtime.linux import netlink_messages as m
from runtime.linux.netlink import Netlink

from ..addresses import Prefix, parse_ip
from ..errors import CONFLICT, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

RTNLGRP_IPV6_IFADDR = 9
_SECONDS = 5
_GROUP = "ff0200000000000000000001ff"


def wait(
    name: str, index: int, prefixes: list[Prefix], run: "Callable[[Callable[[], Any]], Any] | None" = None, *, dad: bool
) -> None:
    """Wait until the IPv6 addresses among prefixes are reachable on a link; run acts in the link's namespace.

    With duplicate detection (dad) a duplicate, or one that is not decided in time, is an error.
    """
    act = run or _here
    wanted = {_GROUP + f"{prefix.address & 0xFFFFFF:06x}" for prefix in prefixes if prefix.family == 10}
    if not wanted:
        return
    with act(lambda: Netlink(groups=(RTNLGRP_IPV6_IFADDR,))) as events, act(Netlink) as ask:
        waiting = select.poll()
        waiting.register(events.fileno(), select.POLLIN)
        while True:  # looked at after the subscription: a change in between is not missed
            undecided = _undecided(ask, name, index, prefixes) if dad else ""
            joined = act(lambda: _groups(index))
            if not undecided and (joined is None or wanted <= joined):
                return
            if not waiting.poll(_SECONDS * 1000):
                if undecided:
                    words = f"{undecided} on {name} is still being checked for duplicates after {_SECONDS} s"
                    raise CniError(CONFLICT, words, "is the link up on its other side?")
                return  # it is valid, only its neighbours will learn of it later
            events.events()


def _here(job: "Callable[[], Any]") -> "Any":
    return job()


def _undecided(ask: Netlink, name: str, index: int, prefixes: list[Prefix]) -> str:
    """An address whose duplicate detection goes on; one that has found another owner is refused."""
    ours = {(prefix.family, prefix.address) for prefix in prefixes}
    for have in ask.addresses(index, 10):
        if have.flags & m.IFA_F_DADFAILED and parse_ip(have.address) in ours:
            raise CniError(CONFLICT, f"{have.address} on {name} is in use by somebody else on that network")
        if have.flags & m.IFA_F_TENTATIVE and parse_ip(have.address) in ours:
            return have.address
    return ""


def _groups(index: int) -> "set[str] | None":
    """The IPv6 multicast groups that a link listens to, in hex, of the calling thread's namespace; None: not told."""
    try:
        fd = os.open("/proc/thread-self/net/igmp6", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    chunks = []
    try:
        while chunk := os.read(fd, 1 << 16):
            chunks.append(chunk)
    finally:
        os.close(fd)
    lines = (line.split() for line in b"".join(chunks).decode().splitlines())
    return {words[2] for words in lines if len(words) > 2 and words[0] == str(index)}
