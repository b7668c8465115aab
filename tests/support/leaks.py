# SPDX-License-Identifier: Apache-2.0
"""What a test may leave behind in its own namespaces, seen through /proc, /sys and netlink: before and after."""

import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PRIVATE_DIRECTORIES = ("/run", "/var/lib")
# iptables itself leaves its lock file; the directories are made by `ip netns` and by distributions' tools.
_NO_LEAKS = {"/run/xtables.lock"}

Snapshot = dict[str, set[str]]


def take() -> Snapshot:
    """Everything that is there now, by kind; each entry is a name that a person can search for."""
    return {kind: set(look()) for kind, look in _KINDS.items()}


def compare(before: Snapshot) -> list[str]:
    """What is there now and was not before (or is gone), after giving the kernel time to finish what it does late."""
    deadline = time.monotonic() + float(os.environ.get("KETCH_TEST_SETTLE_SECONDS", "2"))
    while True:
        now = take()
        now["mount"] = {entry for entry in now["mount"] if not _was_renamed(entry, before["mount"])}
        found = [f"{kind}: left behind: {entry}" for kind in now for entry in sorted(now[kind] - before[kind])]
        # A mount point that anybody removes on the machine takes its mount away here too: no sign of anything.
        kinds = [kind for kind in now if kind != "mount"]
        found += [f"{kind}: taken away: {entry}" for kind in kinds for entry in sorted(before[kind] - now[kind])]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def _was_renamed(mount: str, before: set[str]) -> bool:
    """Another run beside us tidies its directories by renaming them, and what is mounted there shows a new path."""
    number = mount.rpartition(", ")[2]
    return mount not in before and any(entry.endswith(f", {number}") for entry in before)


def _mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        kind, source = line.split(" - ", 1)[1].split(" ")[:2]
        yield f"{fields[4]} ({kind} from {source}, root {fields[3]}, mount {fields[0]})"


def _links() -> Iterator[str]:
    for line in Path("/proc/self/net/dev").read_text().splitlines()[2:]:
        yield line.split(":")[0].strip()


def _addresses() -> Iterator[str]:
    for header, attributes in _dump(socket.NETLINK_ROUTE, _RTM_GETADDR, struct.pack("BxxxI", 0, 0), 8):
        index = struct.unpack("I", header[4:8])[0]
        address = attributes.get(2, attributes.get(1, b""))  # IFA_LOCAL, else IFA_ADDRESS
        yield f"{_address(address)}/{header[1]} on interface {index}"


def _routes() -> Iterator[str]:
    for header, attributes in _dump(socket.NETLINK_ROUTE, _RTM_GETROUTE, bytes(12), 12):
        family, prefix = header[0], header[1]
        table = struct.unpack("I", attributes[15])[0] if 15 in attributes else header[4]
        destination = _address(attributes[1]) if 1 in attributes else "default"
        via = _address(attributes[5]) if 5 in attributes else "-"
        interface = struct.unpack("I", attributes[4])[0] if 4 in attributes else 0
        yield f"{destination}/{prefix} via {via} on interface {interface} table {table} family {family}"


def _rules() -> Iterator[str]:
    for header, attributes in _dump(socket.NETLINK_ROUTE, _RTM_GETRULE, bytes(12), 12):
        yield f"family {header[0]} table {header[4]} " + " ".join(
            f"{k}={v.hex()}" for k, v in sorted(attributes.items())
        )


def _nft_tables() -> Iterator[str]:
    get_table = (10 << 8) | 1  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE
    for header, attributes in _dump(_NETLINK_NETFILTER, get_table, bytes(4), 4):
        yield f"family {header[0]} {attributes[1].rstrip(bytes(1)).decode()}"


def _iptables_rules() -> Iterator[str]:
    """Rules of the legacy kind; those of iptables-nft are nft tables."""
    for names, save in (("ip_tables_names", "iptables-legacy-save"), ("ip6_tables_names", "ip6tables-legacy-save")):
        path = Path("/proc/self/net", names)
        if path.exists() and path.read_text().strip():
            saved = subprocess.run([save], capture_output=True, text=True, check=True).stdout
            yield from (f"{save}: {line}" for line in saved.splitlines() if line.startswith("-A"))
            yield from (
                f"{save}: {line.split()[0]}" for line in saved.splitlines() if line.startswith(":") and " - " in line
            )


def _cgroups() -> Iterator[str]:
    for directory, _, _ in os.walk("/sys/fs/cgroup"):
        yield directory


def _processes() -> Iterator[str]:
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in (1, os.getpid()):
            continue
        try:
            status = Path("/proc", name, "stat").read_text()
            command = Path("/proc", name, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        comm, rest = status.rsplit(")", 1)
        yield f"pid {name} {comm.split('(', 1)[1]} [{rest.split()[0]}] {command[:200]}"


def _descriptors() -> Iterator[str]:
    for name in os.listdir("/proc/self/fd"):
        try:
            yield f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}"
        except FileNotFoundError:
            continue  # the one that lists the directory


def _files() -> Iterator[str]:
    for top in PRIVATE_DIRECTORIES:
        for directory, directories, files in os.walk(top):
            for name in directories + files:
                path = os.path.join(directory, name)
                if path not in _NO_LEAKS:
                    yield path


_KINDS: dict[str, Callable[[], Iterator[str]]] = {
    "mount": _mounts,
    "link": _links,
    "address": _addresses,
    "route": _routes,
    "rule": _rules,
    "nft table": _nft_tables,
    "iptables rule": _iptables_rules,
    "cgroup": _cgroups,
    "process": _processes,
    "descriptor": _descriptors,
    "file": _files,
}

_NETLINK_NETFILTER = 12
_RTM_GETADDR, _RTM_GETROUTE, _RTM_GETRULE = 22, 26, 34
_NLM_F_REQUEST_DUMP = 0x301


def _address(raw: bytes) -> str:
    if len(raw) in (4, 16):
        return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)
    return raw.hex()


def _dump(protocol: int, message: int, body: bytes, header_size: int) -> Iterator[tuple[bytes, dict[int, bytes]]]:
    """A netlink dump as (fixed header, attributes); no names are resolved."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as netlink:
        netlink.bind((0, 0))
        netlink.send(struct.pack("IHHII", 16 + len(body), message, _NLM_F_REQUEST_DUMP, 1, 0) + body)
        while True:
            data = netlink.recv(1 << 17)
            while data:
                length, kind = struct.unpack_from("IH", data)
                if kind == 3:  # NLMSG_DONE
                    return
                if kind == 2:  # NLMSG_ERROR: this kernel lacks the family
                    return
                payload = data[16:length]
                yield payload[:header_size], _attributes(payload[header_size:])
                data = data[(length + 3) & ~3 :]


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("HH", data)
        found[kind & 0x3FFF] = data[4:length]
        data = data[(max(length, 4) + 3) & ~3 :]
    return found
