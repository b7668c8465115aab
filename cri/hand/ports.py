# SPDX-License-Identifier: Apache-2.0
"""Who has a port of this machine, and which are free."""

from __future__ import annotations

import os

from cri.engine.request import PodRequest, PortMapping
from cri.hand import look
from cri.hand.errors import REFUSED, HandError
from cri.hand.places import Places
from runtime.linux.quick_dataclasses import replace

_FIRST, _LAST = 32768, 60999


def published(places: Places) -> dict[tuple[str, int], list[tuple[str, str]]]:
    """(protocol, port) -> (address, name of the container or pod) for every pod that is up, whoever owns it."""
    found: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for pod in look.pods(places, all_owners=True):
        if pod.phase != "ready":
            continue
        for mapping in pod.request.get("port_mappings", []):
            key = (str(mapping["protocol"]).lower(), int(mapping["host_port"]))
            found.setdefault(key, []).append((str(mapping.get("host_ip", "")), pod.name))
    return found


_ANY = ("", "0.0.0.0", "::")  # noqa: S104 (a person's words, nothing is bound here)


def settle(places: Places, request: PodRequest, last_ports: dict[int, int] | None = None) -> PodRequest:
    """Give `any free port` a number, and refuse what is taken, saying by whom. `last_ports`: of which mappings the
    port is the first of a range to choose from, and where that ends."""
    if not request.port_mappings:
        return request
    taken = published(places)
    settled: list[PortMapping] = []
    for index, mapping in enumerate(request.port_mappings):
        if mapping.host_port == 0:
            mapping = replace(mapping, host_port=_free(mapping, taken))
        elif last_ports and index in last_ports:
            mapping = replace(mapping, host_port=_first_free(mapping, last_ports[index], taken))
        _refuse_taken(mapping, taken)
        taken.setdefault((mapping.protocol, mapping.host_port), []).append((mapping.host_ip, request.name))
        settled.append(mapping)
    return replace(request, port_mappings=tuple(settled))


def _free(mapping: PortMapping, taken: dict[tuple[str, int], list[tuple[str, str]]]) -> int:
    listening = {port for port, _ in _listening(mapping.protocol)}
    start = int.from_bytes(os.urandom(2), "big") % (_LAST - _FIRST)
    for step in range(_LAST - _FIRST):
        port = _FIRST + (start + step) % (_LAST - _FIRST)
        if (mapping.protocol, port) not in taken and port not in listening:
            return port
    raise HandError(f"no port between {_FIRST} and {_LAST} is free", code=REFUSED)


def _first_free(mapping: PortMapping, last: int, taken: dict[tuple[str, int], list[tuple[str, str]]]) -> int:
    """The first of a range that nobody has, as with docker."""
    listening = {port for port, _ in _listening(mapping.protocol)}
    for port in range(mapping.host_port, last + 1):
        if (mapping.protocol, port) not in taken and port not in listening:
            return port
    raise HandError(f"no port between {mapping.host_port} and {last} is free", code=REFUSED)


def _refuse_taken(mapping: PortMapping, taken: dict[tuple[str, int], list[tuple[str, str]]]) -> None:
    port, protocol = mapping.host_port, mapping.protocol
    for address, name in taken.get((protocol, port), []):
        if address in _ANY or mapping.host_ip in _ANY or address == mapping.host_ip:
            hint = f"another port, or ketch rm -f {name}"
            raise HandError(
                f"port {port}/{protocol} of this machine is taken by container {name}", hint=hint, code=REFUSED
            )
    for listening, inode in _listening(protocol):
        if listening == port:
            who = _owner_of(inode)
            raise HandError(
                f"port {port}/{protocol} of this machine is taken by {who}", hint="choose another port", code=REFUSED
            )


def _listening(protocol: str) -> list[tuple[int, str]]:
    """(port, inode of the socket) of everything that listens."""
    found = []
    for family in ("", "6"):
        try:
            with open(f"/proc/net/{protocol}{family}") as file:
                lines = list(file)[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if words[3] == ("0A" if protocol == "tcp" else "07"):  # TCP_LISTEN; an unconnected UDP socket is in CLOSE
                found.append((int(words[1].rpartition(":")[2], 16), words[9]))
    return found


def _owner_of(inode: str) -> str:
    """The process that holds a socket, as far as we may look."""
    wanted = f"socket:[{inode}]"
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") == wanted:
                    with open(f"/proc/{pid}/comm") as file:
                        return f"{file.read().strip()} (process {pid})"
        except OSError:
            continue
    return "a process that we cannot see"
