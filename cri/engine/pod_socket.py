# SPDX-License-Identifier: Apache-2.0
"""A connection to a port of a pod, made inside its network namespace."""

from __future__ import annotations

import os
import socket
import threading

from cri.engine.errors import Failed, WrongState
from cri.engine.records import PodPhase, PodRecord
from runtime.linux import syscalls
from runtime.linux._core import lib

CONNECT_SECONDS = 10.0


def ready(record: PodRecord) -> PodRecord:
    if record.phase != PodPhase.READY:
        raise WrongState(f"pod sandbox {record.id}: is {record.phase}, not ready")
    return record


def connect(record: PodRecord, port: int) -> socket.socket:
    """To localhost of the pod, over IPv4, else IPv6."""
    ready(record)
    result: list[socket.socket | Exception] = []
    # setns(2) moves one thread. A thread of its own, which ends here, has no way to forget to come back; the socket
    # stays in the namespace where it was born.
    thread = threading.Thread(target=lambda: result.append(_connect_inside(record.netns, port)), name="pod-socket")
    thread.start()
    thread.join()
    found = result[0]
    if isinstance(found, Exception):
        raise Failed(f"pod sandbox {record.id}: nothing answers on port {port}: {found}") from found
    return found


def _connect_inside(netns: str, port: int) -> socket.socket | Exception:
    try:
        if netns:
            fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
            try:
                syscalls.setns(fd, lib.CLONE_NEWNET)
            finally:
                os.close(fd)
        last: Exception = OSError("no address")
        for address in ("127.0.0.1", "::1"):
            try:
                connected = socket.create_connection((address, port), CONNECT_SECONDS)
                connected.settimeout(None)
                return connected
            except OSError as e:
                last = e
        return last
    except OSError as e:
        return e
