# SPDX-License-Identifier: Apache-2.0
"""Who connects to a listening socket, one by one, whatever runs short meanwhile."""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

log = logging.getLogger(__name__)
_SHUT = (errno.EINVAL, errno.EBADF)  # by its owner: shutdown(2) wakes accept(2)
_PAUSE_SECONDS = 0.1


def clients(listener: socket.socket) -> Iterator[tuple[socket.socket, Any]]:
    """(socket, address) of each client until the listener is shut. Where there is no descriptor or memory for one, it
    waits in the kernel's queue until there is; that is in the log once."""
    is_short = False
    while True:
        try:
            found = listener.accept()
        except OSError as error:
            if error.errno in _SHUT:
                return
            if not is_short:
                log.warning("no client can be accepted for now: %s", error)
            is_short = True
            time.sleep(_PAUSE_SECONDS)
            continue
        is_short = False
        yield found
