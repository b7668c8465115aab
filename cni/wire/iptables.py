# SPDX-License-Identifier: Apache-2.0
"""The iptables backend: the reference plugins' chains, entered by iptables-restore --noflush in one transaction.

Same chain names as theirs, so that either set finds and removes what the other has made.
"""

import fcntl
import os

from runtime.linux import nft
from runtime.linux.nft import IPV4, IPV6, Nft

from ..addresses import Prefix
from ..errors import IO_FAILURE, MISMATCH, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol

    class _Hash(Protocol):
        def hexdigest(self) -> str: ...


_TOOL = {2: "iptables", 10: "ip6tables"}
_MULTICAST = {2: "224.0.0.0/4", 10: "ff00::/8"}
_LOCK = "/run/cni/ketch/iptables.lock"
_REFERENCE_TABLE = "cni_plugins_masquerade"


def _sha512() -> "Callable[[bytes], _Hash]":
    """The interpreter's own: hashlib loads OpenSSL, 2.5 ms of every DEL."""
    try:
        from _sha2 import sha512  # type: ignore[import-not-found]  # from 3.12
    except ImportError:
        from _sha512 import sha512  # type: ignore[import-not-found]
    found: Callable[[bytes], _Hash] = sha512
    return found


def chain_name(prefix: str, network: str, container_id: str, length: int = 28) -> str:
    """CNI-<hash>, as the reference plugins name the chain of an attachment."""
    sha512 = _sha512()
    return (f"CNI-{prefix}" + sha512(f"{network}{container_id}".encode()).hexdigest())[:length]


def add_masquerade(network: str, container_id: str, prefixes: list[Prefix], exceptions: list[Prefix]) -> None:
    chain = chain_name("", network, container_id)
    comment = _comment(network, container_id)
    for family in sorted({prefix.family for prefix in prefixes}):
        own = [prefix for prefix in prefixes if prefix.family == family]
        spared = [prefix.network for prefix in own] + [p.network for p in exceptions if p.family == family]
        lines = [f":{chain} - [0:0]"]
        lines += [f"-A {chain} -d {prefix} {comment} -j ACCEPT" for prefix in spared]
        lines += [f"-A {chain} ! -d {_MULTICAST[family]} {comment} -j MASQUERADE"]
        lines += [f"-A POSTROUTING -s {prefix.ip} {comment} -j {chain}" for prefix in own]
        restore(family, "nat", lines)


def remove_masquerade(socket: Nft, network: str, container_id: str) -> None:
    remove_chain(socket, "nat", chain_name("", network, container_id))


def check_masquerade(network: str, container_id: str, prefixes: list[Prefix]) -> None:
    chain = chain_name("", network, container_id)
    for family in sorted({prefix.family for prefix in prefixes}):
        lines = save(family, "nat")
        jumps = any(line.startswith("-A POSTROUTING ") and line.endswith(f" -j {chain}") for line in lines)
        masquerades = any(line.startswith(f"-A {chain} ") and line.endswith("-j MASQUERADE") for line in lines)
        if not (jumps and masquerades):
            raise CniError(
                MISMATCH, f"masquerade rules of {container_id} are missing: chain {chain} of iptables' nat table"
            )


def remove_chain(socket: Nft, table: str, chain: str) -> None:
    """Remove a chain and every jump to it, in both families; absent ones are fine."""
    for family in (2, 10):
        if not may_have_chain(socket, family, table, chain):
            continue
        lines = save(family, table)
        jumping = [line for line in lines if line.startswith("-A ") and _jumps_to(line, chain)]
        there = any(line.startswith(f":{chain} ") for line in lines)
        if there:
            deletions = [f"-D {line[3:]}" for line in jumping]
            restore(family, table, [*deletions, f"-F {chain}", f"-X {chain}"])


def _jumps_to(line: str, chain: str) -> bool:
    words = line.split()
    return any(words[at] == "-j" and words[at + 1] == chain for at in range(len(words) - 1))


def remove_reference_masquerade(socket: Nft, network: str, container_id: str) -> None:
    """Remove what the reference bridge plugin's nftables backend has made for a container."""
    for rule in _reference_rules(socket, network, container_id):
        socket.transact(nft.delete_rule(nft.INET, _REFERENCE_TABLE, "masq_checks", rule.handle))


def _reference_rules(socket: Nft, network: str, container_id: str) -> list[nft.Rule]:
    """Its rules carry a hash of network and container as a comment."""
    sha512 = _sha512()
    wanted = sha512(f"{network}{container_id}".encode()).hexdigest()
    return [
        rule
        for rule in socket.rules(nft.INET, _REFERENCE_TABLE, "masq_checks")
        if rule.comment and (wanted.startswith(rule.comment.split("-")[-1]) or container_id in rule.comment)
    ]


def has_masquerade(socket: Nft, network: str, container_id: str) -> bool:
    """Whether the reference plugin masquerades this container, with either of its backends."""
    chain = chain_name("", network, container_id)
    for family in (2, 10):
        if may_have_chain(socket, family, "nat", chain) and jumps(save(family, "nat"), "POSTROUTING", chain):
            return True
    return bool(_reference_rules(socket, network, container_id))


def may_have_chain(socket: Nft, family: int, table: str, chain: str) -> bool:
    """Whether iptables might have that chain; asked of the kernel, so that no program runs in vain."""
    if socket.has_chain(IPV4 if family == 2 else IPV6, table, chain):
        return True
    names = "/proc/net/ip_tables_names" if family == 2 else "/proc/net/ip6_tables_names"
    try:
        with open(names, encoding="ascii") as file:
            return table in file.read().split()
    except OSError:
        return False


def restore(family: int, table: str, lines: "Iterable[str]") -> None:
    """Enter lines into a table as one transaction."""
    tool = f"{_TOOL[family]}-restore"
    text = "\n".join([f"*{table}", *lines, "COMMIT", ""])
    said, status = nft.run_tool([tool, "--noflush", "-w", "5"], text.encode())
    if status:
        raise _refused(tool, said, status)


def save(family: int, table: str) -> list[str]:
    tool = f"{_TOOL[family]}-save"
    said, status = nft.run_tool([tool, "-t", table], b"")
    if status:
        raise _refused(tool, said, status)
    return [line for line in said.splitlines() if not line.startswith("#")]


def jumps(lines: list[str], chain: str, target: str) -> bool:
    """Whether a rule of chain, among the lines of save(), jumps to target."""
    return any(line.startswith(f"-A {chain} ") and line.endswith(f"-j {target}") for line in lines)


def has_chain(lines: list[str], chain: str) -> bool:
    return any(line.startswith(f":{chain} ") for line in lines)


class shared_lock:
    """A flock of ours: reading what is there and adding what is not must be one step, for chains that pods share."""

    __slots__ = ("_fd",)

    def __enter__(self) -> None:
        os.makedirs(os.path.dirname(_LOCK), 0o700, exist_ok=True)
        self._fd = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def usable(path: str | None = None) -> str:
    """Nothing if iptables can be used; otherwise why not."""
    said, status = nft.run_tool(["iptables", "--version"], b"", path)
    return "" if status == 0 else said.strip() or f"iptables --version ended with status {status}"


def _refused(tool: str, said: str, status: int) -> CniError:
    words = " ".join(said.split()) or f"status {status}"
    return CniError(IO_FAILURE, f"{tool} failed: {words}", "ipMasqBackend and backend choose nftables instead")


def _comment(network: str, container_id: str) -> str:
    words = f'name: "{network}" id: "{container_id}"'[:255]
    return '-m comment --comment "' + words.replace('"', '\\"') + '"'
