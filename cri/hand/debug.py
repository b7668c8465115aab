# SPDX-License-Identifier: Apache-2.0
"""debug: pages of the running ketch-cri."""

from __future__ import annotations

import os
import socket

from cri.hand.errors import HandError, UsageError
from cri.hand.grammar import Arguments
from cri.hand.places import Places

PAGES = ("stacks", "calls", "metrics")
SOCKET = "debug.sock"  # cri/inspection.py serves it
TIMEOUT_SECONDS = 5.0


def debug(arguments: Arguments, places: Places) -> int:
    page = arguments.words[0] if arguments.words else "stacks"
    if page not in PAGES:
        raise UsageError(f"debug: {page!r} is not one of {', '.join(PAGES)}")
    try:
        print(ask(places.state, page), end="")
    except OSError as e:
        raise HandError(f"{places.state}/{SOCKET}: no ketch-cri answers: {e.strerror or e}") from None
    return 0


def ask(state: str, page: str) -> str:
    """The page of the daemon of this state directory. Paths of sockets are short (108 bytes), so by a descriptor."""
    folder = os.open(state, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as to:
            to.settimeout(TIMEOUT_SECONDS)
            to.connect(f"/proc/self/fd/{folder}/{SOCKET}")
            to.sendall(f"GET /{page} HTTP/1.1\r\nHost: ketch\r\n\r\n".encode())
            data = bytearray()
            while chunk := to.recv(65536):
                data += chunk
    finally:
        os.close(folder)
    return data.partition(b"\r\n\r\n")[2].decode(errors="replace")
