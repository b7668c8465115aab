# SPDX-License-Identifier: Apache-2.0
"""The time as RFC 3339 with nanoseconds, as runc writes it into state and log."""

import time


def now() -> str:
    """UTC."""
    nanoseconds = time.time_ns()
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(nanoseconds // 1_000_000_000))
    return f"{seconds}.{nanoseconds % 1_000_000_000:09d}Z"
