# SPDX-License-Identifier: Apache-2.0
"""nftables over netlink: transactions on the elements of sets and maps, and their reading.

Rules are not written here: a fixed text is loaded once by nft(8) (load), because its compiler is the best
documentation of what a rule means. What changes with every pod are elements, and those are a few bytes each:

    with Nft() as nft:
        nft.transact(add_element(INET, "mytable", "sources", packed("10.0.0.2"), jump="chain", comment="mine"))

A transaction happens whole or not at all.
"""

import errno
import os
import struct

from . import netlink_messages as m
from .kernel_error import KernelError
from .netlink import MSG_DONTWAIT, NLMSG_ERROR, Socket, failure_of, inside
from .netlink_objects import as_text, attribute_list, attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES = 12, 10
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11
INET, IPV4, NETDEV, BRIDGE, IPV6 = 1, 2, 5, 7, 10  # NFPROTO_*
NEWTABLE, GETTABLE, DELTABLE = 0, 1, 2
NEWCHAIN, GETCHAIN, DELCHAIN = 3, 4, 5
GETRULE, DELRULE = 7, 8
NEWSETELEM, GETSETELEM, DELSETELEM = 12, 13, 14
NFTA_TABLE_NAME = 1
NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY = 1, 3, 4, 5
NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_HANDLE, NFTA_RULE_USERDATA = 1, 2, 3, 7
NFTA_HOOK_HOOKNUM = 1
NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS = 1, 2, 3
NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_USERDATA = 1, 2, 6
NFTA_DATA_VALUE, NFTA_DATA_VERDICT = 1, 2
NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN = 1, 2
NFT_JUMP = 0xFFFFFFFD  # -3
NF_INET_FORWARD, NF_DROP = 2, 0
_LIST_ELEM = 1
_REMOVALS = (DELTABLE, DELCHAIN, DELRULE, DELSETELEM)
_COMMENT_LIMIT = 120  # nft(8) refuses to list a comment over 128 bytes

_HEADER = struct.Struct("=IHHII")
_GENERIC = struct.Struct("=BBH")
_BIG32 = struct.Struct(">I")


def packed(address: str) -> bytes:
    """The key bytes of an address."""
    return m.packed_address(address)[1]


def concatenated(*parts: bytes) -> bytes:
    """A key of several fields: each is padded to a multiple of four bytes."""
    return b"".join(part + bytes(-len(part) & 3) for part in parts)


def ifname(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def port(number: int) -> bytes:
    return number.to_bytes(2, "big")


def _generic(family: int, resource: int = 0) -> bytes:
    return _GENERIC.pack(family, 0, int.from_bytes(resource.to_bytes(2, "big"), "little"))


def _request(
    name: str, what: "tuple[str | int | None, ...]", kind: int, flags: int, family: int, *parts: bytes
) -> m.Request:
    return m.Request(name, what, NFNL_SUBSYS_NFTABLES << 8 | kind, flags, _generic(family) + b"".join(parts))


def _element(key: bytes, data: bytes | None, jump: str | None, comment: str | None) -> bytes:
    parts = [m.nested(NFTA_SET_ELEM_KEY, m.attribute(NFTA_DATA_VALUE, key))]
    if data is not None:
        parts.append(m.nested(NFTA_SET_ELEM_DATA, m.attribute(NFTA_DATA_VALUE, data)))
    if jump is not None:
        verdict = m.attribute(NFTA_VERDICT_CODE, _BIG32.pack(NFT_JUMP)) + m.text(NFTA_VERDICT_CHAIN, jump)
        parts.append(m.nested(NFTA_SET_ELEM_DATA, m.nested(NFTA_DATA_VERDICT, verdict)))
    if comment is not None:
        words = comment.encode()[:_COMMENT_LIMIT] + b"\0"
        parts.append(m.attribute(NFTA_SET_ELEM_USERDATA, bytes((0, len(words))) + words))
    return m.nested(NFTA_SET_ELEM_LIST_ELEMENTS, m.nested(_LIST_ELEM, *parts))


def _elements(name: str, kind: int, flags: int, family: int, table: str, set_name: str, element: bytes) -> m.Request:
    target = m.text(NFTA_SET_ELEM_LIST_TABLE, table) + m.text(NFTA_SET_ELEM_LIST_SET, set_name)
    return _request(name, (table, set_name), kind, flags, family, target, element)


def add_element(
    family: int,
    table: str,
    set_name: str,
    key: bytes,
    *,
    data: bytes | None = None,
    jump: str | None = None,
    comment: str | None = None,
    exclusive: bool = False,
) -> m.Request:
    """Put an element into a set or map. An equal one is accepted unless exclusive; a map's other value is EEXIST."""
    flags = m.NLM_F_CREATE | (m.NLM_F_EXCL if exclusive else 0)
    element = _element(key, data, jump, comment)
    return _elements("NFT_MSG_NEWSETELEM", NEWSETELEM, flags, family, table, set_name, element)


def delete_element(family: int, table: str, set_name: str, key: bytes) -> m.Request:
    return _elements("NFT_MSG_DELSETELEM", DELSETELEM, 0, family, table, set_name, _element(key, None, None, None))


def delete_chain(family: int, table: str, chain: str) -> m.Request:
    parts = m.text(NFTA_CHAIN_TABLE, table) + m.text(NFTA_CHAIN_NAME, chain)
    return _request("NFT_MSG_DELCHAIN", (table, chain), DELCHAIN, 0, family, parts)


def flush_chain(family: int, table: str, chain: str) -> m.Request:
    parts = m.text(NFTA_RULE_TABLE, table) + m.text(NFTA_RULE_CHAIN, chain)
    return _request("NFT_MSG_DELRULE", (table, chain), DELRULE, 0, family, parts)


def delete_rule(family: int, table: str, chain: str, handle: int) -> m.Request:
    parts = m.text(NFTA_RULE_TABLE, table) + m.text(NFTA_RULE_CHAIN, chain)
    parts += m.attribute(NFTA_RULE_HANDLE, handle.to_bytes(8, "big"))
    return _request("NFT_MSG_DELRULE", (table, chain, handle), DELRULE, 0, family, parts)


def delete_table(family: int, table: str) -> m.Request:
    return _request("NFT_MSG_DELTABLE", (table,), DELTABLE, 0, family, m.text(NFTA_TABLE_NAME, table))


class Element:
    """An element as the kernel has it."""

    __slots__ = ("comment", "data", "jump", "key")

    def __init__(self, body: bytes) -> None:
        found = attributes(body)
        self.key = attributes(found.get(NFTA_SET_ELEM_KEY, b"")).get(NFTA_DATA_VALUE, b"")
        value = attributes(found.get(NFTA_SET_ELEM_DATA, b""))
        self.data = value.get(NFTA_DATA_VALUE)
        verdict = attributes(value.get(NFTA_DATA_VERDICT, b""))
        self.jump = as_text(verdict.get(NFTA_VERDICT_CHAIN)) or None
        self.comment = comment_in(found.get(NFTA_SET_ELEM_USERDATA, b""))


class Chain:
    """A chain: its table, and its hook and policy if it is a base chain."""

    __slots__ = ("family", "hook", "name", "policy", "table")

    def __init__(self, body: bytes) -> None:
        self.family = body[0]
        found = attributes(body, 4)
        self.table = as_text(found.get(NFTA_CHAIN_TABLE))
        self.name = as_text(found.get(NFTA_CHAIN_NAME))
        hook = attributes(found.get(NFTA_CHAIN_HOOK, b"")).get(NFTA_HOOK_HOOKNUM)
        self.hook = None if hook is None else int.from_bytes(hook, "big")
        policy = found.get(NFTA_CHAIN_POLICY)
        self.policy = None if policy is None else int.from_bytes(policy, "big")


class Rule:
    """A rule: where it is, and its comment."""

    __slots__ = ("chain", "comment", "family", "handle", "table")

    def __init__(self, body: bytes) -> None:
        self.family = body[0]
        found = attributes(body, 4)
        self.table = as_text(found.get(NFTA_RULE_TABLE))
        self.chain = as_text(found.get(NFTA_RULE_CHAIN))
        self.handle = int.from_bytes(found.get(NFTA_RULE_HANDLE, b""), "big")
        self.comment = comment_in(found.get(NFTA_RULE_USERDATA, b""))


def comment_in(userdata: bytes) -> str:
    """The comment among the type-length-value items that user space keeps with an element or a rule."""
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == 0:
            return as_text(userdata[offset + 2 : offset + 2 + length])
        offset += 2 + length
    return ""


class Nft(Socket):
    """nftables of the calling thread's network namespace, or of the one behind netns_fd."""

    __slots__ = ("removed",)

    def __init__(self, netns_fd: int | None = None) -> None:
        # Whether something was removed through this socket: then its last close waits 5-10 ms for an RCU grace period
        # (nft_rcv_nl_event flushes the work that frees it), which a caller in a hurry leaves to somebody else.
        self.removed = False
        if netns_fd is None:
            super().__init__(NETLINK_NETFILTER)
        else:
            inside(netns_fd, lambda: super(Nft, self).__init__(NETLINK_NETFILTER))

    def __enter__(self) -> "Nft":
        return self

    def transact(self, *requests: m.Request) -> None:
        """Do all of the requests or none; the first that the kernel refused is raised."""
        if not requests:
            return
        begin = self._sequence + 1
        self.removed = self.removed or any(request.kind & 0xFF in _REMOVALS for request in requests)
        packets = [self._numbered(NFNL_MSG_BATCH_BEGIN, 0, _generic(0, NFNL_SUBSYS_NFTABLES))]
        last = requests[-1]
        for request in requests:
            # Only the last one asks for an answer; the kernel reports failures unasked, and an answer costs a recv.
            flags = request.flags | (m.NLM_F_ACK if request is last else 0)
            packets.append(self._numbered(request.kind, flags, request.body))
        packets.append(self._numbered(NFNL_MSG_BATCH_END, 0, _generic(0, NFNL_SUBSYS_NFTABLES)))
        self._send(b"".join(packets), requests[0])
        error = self._first_failure(requests, begin, begin + len(requests))
        if error is not None:
            raise error

    def _numbered(self, kind: int, flags: int, body: bytes) -> bytes:
        self._sequence += 1
        return (
            _HEADER.pack(16 + len(body), kind, m.NLM_F_REQUEST | flags, self._sequence, 0)
            + body
            + bytes(-len(body) & 3)
        )

    def _first_failure(self, requests: "Sequence[m.Request]", begin: int, last: int) -> KernelError | None:
        """The last request's answer is the last one, but after a batch that failed as a whole there may be none."""
        failure = None
        answered = begin
        wait = 0  # the kernel has queued every answer before send(2) returns
        while answered < last:
            try:
                messages = self._receive(wait)
            except BlockingIOError:
                break
            wait = MSG_DONTWAIT
            for kind, _, sequence, body in messages:
                if kind != NLMSG_ERROR or sequence < begin:
                    continue
                answered = sequence
                at = min(max(sequence - begin - 1, 0), len(requests) - 1)
                failure = failure or failure_of(requests[at], body)
        return failure

    def find_element(self, family: int, table: str, set_name: str, key: bytes) -> Element | None:
        """The element with that key; None if it, its set or its table is absent."""
        element = _element(key, None, None, None)
        request = _elements("NFT_MSG_GETSETELEM", GETSETELEM, 0, family, table, set_name, element)
        body = self.find(request, errno.ENOENT)
        found = _elements_in(body) if body is not None else []
        return found[0] if found else None

    def elements(self, family: int, table: str, set_name: str) -> list[Element]:
        """All elements of a set or map; none if it or its table is absent."""
        try:
            bodies = self.dump(_elements("NFT_MSG_GETSETELEM", GETSETELEM, 0, family, table, set_name, b""))
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return []
            raise
        return [element for body in bodies for element in _elements_in(body)]

    def has_table(self, family: int, table: str) -> bool:
        request = _request("NFT_MSG_GETTABLE", (table,), GETTABLE, 0, family, m.text(NFTA_TABLE_NAME, table))
        return self.find(request, errno.ENOENT) is not None

    def has_chain(self, family: int, table: str, chain: str) -> bool:
        parts = m.text(NFTA_CHAIN_TABLE, table) + m.text(NFTA_CHAIN_NAME, chain)
        request = _request("NFT_MSG_GETCHAIN", (table, chain), GETCHAIN, 0, family, parts)
        return self.find(request, errno.ENOENT) is not None

    def chains(self, family: int = 0) -> list[Chain]:
        return [Chain(body) for body in self.dump(_request("NFT_MSG_GETCHAIN", ("all",), GETCHAIN, 0, family))]

    def rules(self, family: int, table: str, chain: str) -> list[Rule]:
        """The rules of a chain; none if it is absent."""
        where = m.text(NFTA_RULE_TABLE, table) + m.text(NFTA_RULE_CHAIN, chain)
        try:
            bodies = self.dump(_request("NFT_MSG_GETRULE", (table, chain), GETRULE, 0, family, where))
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return []
            raise
        return [rule for rule in map(Rule, bodies) if (rule.table, rule.chain) == (table, chain)]


def _elements_in(body: bytes) -> list[Element]:
    listed = attributes(body, 4).get(NFTA_SET_ELEM_LIST_ELEMENTS, b"")
    return [Element(item) for kind, item in attribute_list(listed) if kind == _LIST_ELEM]


class LoadRefused(Exception):
    """nft(8) did not take a ruleset; .already when that is because somebody else has just created it."""

    def __init__(self, words: str) -> None:
        self.already = "File exists" in words
        super().__init__(words)


def load(ruleset: str, program: str = "nft") -> None:
    """Have nft(8) load a ruleset in one transaction, in the calling process's network namespace."""
    words, status = run_tool([program, "-f", "-"], ruleset.encode())
    if status:
        raise LoadRefused(words.strip() or f"{program} ended with status {status}")


def run_tool(argv: list[str], given: bytes, path: str | None = None) -> tuple[str, int]:
    """Run a tool with given on its stdin; (what it said on stdout and stderr, its exit status). 127: not found."""
    searched = path or os.environ.get("PATH") or "/usr/sbin:/usr/bin:/sbin:/bin"
    for directory in searched.split(":"):
        candidate = os.path.join(directory, argv[0])
        if os.access(candidate, os.X_OK):
            break
    else:
        return f"{argv[0]} is not installed (looked in {searched})", 127
    stdin = os.memfd_create(argv[0], 0)
    output = os.memfd_create(argv[0], 0)
    try:
        os.pwrite(stdin, given, 0)
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
        pid = os.posix_spawn(
            candidate, argv, dict(os.environ, PATH=searched, LC_ALL="C"), file_actions=actions, setsigdef=range(1, 32)
        )
        _, status = os.waitpid(pid, 0)
        said = os.pread(output, 1 << 20, 0).decode(errors="replace")
        return said, os.waitstatus_to_exitcode(status)
    finally:
        os.close(stdin)
        os.close(output)
