# SPDX-License-Identifier: Apache-2.0
"""Sockets that systemd hands to a service by LISTEN_FDS: they go on to the container's program."""

import os


def count() -> int:
    """How many there are; those for another process (LISTEN_PID) are none of ours."""
    number, meant_for = os.environ.get("LISTEN_FDS", ""), os.environ.get("LISTEN_PID", "")
    if not number.isdigit() or meant_for not in ("", str(os.getpid())):
        return 0
    return int(number)


def variables() -> list[str]:
    """What tells the program of them: it is process 1 where it lives."""
    number = count()
    return [f"LISTEN_FDS={number}", "LISTEN_PID=1"] if number else []
