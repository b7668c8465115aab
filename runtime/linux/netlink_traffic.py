# SPDX-License-Identifier: Apache-2.0
"""Traffic control requests: a token bucket on a link, and what comes in redirected to another link. Pure."""

import struct

from . import netlink_messages as m
from .netlink_objects import as_int, as_text, attributes

TC_H_ROOT, TC_H_INGRESS, INGRESS_HANDLE = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TBF_PARAMETERS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_U32_CLASSID, _U32_SELECTOR, _U32_ACTION = 1, 5, 7
_ACTION_KIND, _ACTION_OPTIONS, _MIRRED_PARAMETERS = 1, 2, 2
_TC_ACT_STOLEN, _EGRESS_REDIRECT, _U32_TERMINAL = 4, 1, 1
_TICK_NANOSECONDS = 64  # PSCHED_SHIFT is 6
_ETHERNET = 1

_TCMSG = struct.Struct("=BxxxiIII")
_RATE = struct.Struct("=BBHhHI")


def _rate(bytes_per_second: int) -> bytes:
    return _RATE.pack(0, _ETHERNET, 0, 0, 0, min(bytes_per_second, 0xFFFFFFFF))


def burst_ticks(bytes_per_second: int, burst_bytes: int) -> int:
    """A burst as the kernel keeps it: how long it takes to send."""
    return min(burst_bytes * 1_000_000_000 // bytes_per_second // _TICK_NANOSECONDS, 0xFFFFFFFF)


def add_token_bucket(link: int, *, bytes_per_second: int, burst_bytes: int, latency_ms: int) -> m.Request:
    """tbf as the root of a link: so many bytes a second, packets dropped that would wait longer than latency."""
    limit = min(bytes_per_second * latency_ms // 1000 + burst_bytes, 0xFFFFFFFF)
    ticks = burst_ticks(bytes_per_second, burst_bytes)
    parameters = _rate(bytes_per_second) + _rate(0) + struct.pack("=III", limit, ticks, 0)
    options = m.attribute(_TBF_PARAMETERS, parameters) + m.u32(_TBF_BURST, burst_bytes)
    if bytes_per_second > 0xFFFFFFFF:
        options += m.attribute(_TBF_RATE64, bytes_per_second.to_bytes(8, "little"))
    body = _TCMSG.pack(0, link, 0x00010000, TC_H_ROOT, 0)
    body += m.text(_TCA_KIND, "tbf") + m.nested(_TCA_OPTIONS, options)
    return m.Request("RTM_NEWQDISC", ("tbf", f"link {link}"), m.RTM_NEWQDISC, m.NLM_F_CREATE | m.NLM_F_REPLACE, body)


def add_ingress(link: int) -> m.Request:
    """A place for filters on what comes in."""
    body = _TCMSG.pack(0, link, INGRESS_HANDLE, TC_H_INGRESS, 0) + m.text(_TCA_KIND, "ingress")
    return m.Request("RTM_NEWQDISC", ("ingress", f"link {link}"), m.RTM_NEWQDISC, m.NLM_F_CREATE | m.NLM_F_EXCL, body)


def redirect_incoming(link: int, target: int) -> m.Request:
    """Send all that comes in by a link (with an ingress qdisc) out by target."""
    every_packet = struct.pack("=BBBxHHhhI", _U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + bytes(16)
    mirred = struct.pack("=IIiiiiI", 0, 0, _TC_ACT_STOLEN, 0, 0, _EGRESS_REDIRECT, target)
    action = m.text(_ACTION_KIND, "mirred") + m.nested(_ACTION_OPTIONS, m.attribute(_MIRRED_PARAMETERS, mirred))
    options = m.u32(_U32_CLASSID, 0x00010001) + m.nested(_U32_ACTION, m.nested(1, action))
    options += m.attribute(_U32_SELECTOR, every_packet)
    priority_and_protocol = 1 << 16 | int.from_bytes(b"\x00\x03", "little")  # ETH_P_ALL in network order
    body = _TCMSG.pack(0, link, 0, INGRESS_HANDLE, priority_and_protocol)
    body += m.text(_TCA_KIND, "u32") + m.nested(_TCA_OPTIONS, options)
    what = (f"link {link}", f"to link {target}")
    return m.Request("RTM_NEWTFILTER", what, m.RTM_NEWTFILTER, m.NLM_F_CREATE | m.NLM_F_EXCL, body)


def dump_qdiscs(link: int) -> m.Request:
    return m.Request("RTM_GETQDISC", (f"link {link}",), m.RTM_GETQDISC, m.NLM_F_DUMP, _TCMSG.pack(0, link, 0, 0, 0))


def dump_filters(link: int, parent: int) -> m.Request:
    body = _TCMSG.pack(0, link, 0, parent, 0)
    return m.Request("RTM_GETTFILTER", (f"link {link}",), m.RTM_GETTFILTER, m.NLM_F_DUMP, body)


class Qdisc:
    """A queueing discipline of a link; bytes_per_second and ticks, its burst, are set for a token bucket."""

    __slots__ = ("bytes_per_second", "handle", "kind", "link", "parent", "ticks")

    def __init__(self, body: bytes) -> None:
        _, self.link, self.handle, self.parent, _ = _TCMSG.unpack_from(body)
        found = attributes(body, 20)
        self.kind = as_text(found.get(_TCA_KIND))
        self.bytes_per_second = self.ticks = 0
        if self.kind == "tbf":
            options = attributes(found.get(_TCA_OPTIONS, b""))
            parameters = options.get(_TBF_PARAMETERS, bytes(36))
            self.bytes_per_second = as_int(options.get(_TBF_RATE64), as_int(parameters[8:12]))
            self.ticks = as_int(parameters[28:32])
