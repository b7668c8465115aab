# SPDX-License-Identifier: Apache-2.0
"""Forgetting connections: a UDP flow would follow its old translation for as long as packets keep coming."""

import errno
import struct

from runtime.linux import netlink_messages as m
from runtime.linux.kernel_error import KernelError
from runtime.linux.netlink import Socket
from runtime.linux.netlink_objects import attributes

NETLINK_NETFILTER, NFNL_SUBSYS_CTNETLINK = 12, 1
_GET, _DELETE = 1, 2
_CTA_TUPLE_ORIG, _CTA_FILTER = 1, 25
_CTA_TUPLE_PROTO = 2
_CTA_PROTO_NUM, _CTA_PROTO_DST_PORT = 1, 3
_FILTER_ORIG_FLAGS, _FILTER_REPLY_FLAGS = 1, 2
_F_PROTO_NUM, _F_PROTO_DST_PORT = 1 << 3, 1 << 5
UDP = 17


def forget_flows(family: int, port: int, protocol: int = UDP) -> None:
    """Drop the tracked flows whose original destination port is this one. Best effort: a kernel without is fine."""
    wanted = m.nested(
        _CTA_TUPLE_ORIG,
        m.nested(
            _CTA_TUPLE_PROTO, m.u8(_CTA_PROTO_NUM, protocol), m.attribute(_CTA_PROTO_DST_PORT, port.to_bytes(2, "big"))
        ),
    )
    only = m.nested(
        _CTA_FILTER, m.u32(_FILTER_ORIG_FLAGS, _F_PROTO_NUM | _F_PROTO_DST_PORT), m.u32(_FILTER_REPLY_FLAGS, 0)
    )
    # Version 1 makes the kernel look at the family. The incomplete tuple keeps a kernel that does not know the filter
    # (before 5.8) from flushing everything: it looks the tuple up and answers EINVAL.
    request = _request(_DELETE, "IPCTNL_MSG_CT_DELETE", family, port, bytes((family, 1, 0, 0)) + wanted + only)
    with Socket(NETLINK_NETFILTER) as socket:
        try:
            socket.transact(request.tolerating(errno.ENOENT))
        except KernelError:
            _forget_one_by_one(socket, family, port, protocol)


def _request(kind: int, name: str, family: int, port: int, body: bytes) -> m.Request:
    return m.Request(name, (f"family {family}", port), NFNL_SUBSYS_CTNETLINK << 8 | kind, 0, body)


def _forget_one_by_one(socket: Socket, family: int, port: int, protocol: int) -> None:
    try:
        entries = socket.dump(_request(_GET, "IPCTNL_MSG_CT_GET", family, port, struct.pack("=BBH", family, 0, 0)))
    except KernelError:
        return  # no connection tracking at all: nothing to forget
    for body in entries:
        found = attributes(body, 4)
        transport = attributes(attributes(found.get(_CTA_TUPLE_ORIG, b"")).get(_CTA_TUPLE_PROTO, b""))
        same_protocol = transport.get(_CTA_PROTO_NUM) == bytes((protocol,))
        if same_protocol and transport.get(_CTA_PROTO_DST_PORT) == port.to_bytes(2, "big"):
            tuple_ = m.attribute(_CTA_TUPLE_ORIG | m.NLA_F_NESTED, found[_CTA_TUPLE_ORIG])
            request = _request(_DELETE, "IPCTNL_MSG_CT_DELETE", family, port, bytes((family, 0, 0, 0)) + tuple_)
            socket.transact(request.tolerating(errno.ENOENT))
