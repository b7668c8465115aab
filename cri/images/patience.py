# SPDX-License-Identifier: Apache-2.0
"""How long a registry is waited for, and how often it is asked again."""

from runtime.linux.quick_dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a server, and how slow it may be."""

    connect_seconds: float = 10.0
    idle_seconds: float = 30.0
    window_seconds: float = 30.0
    least_bytes: int = 4096  # that a transfer must bring in every window


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often to try again, and how long to wait in between."""

    tries: int = 6
    first_seconds: float = 0.2
    longest_seconds: float = 20.0

    def delay(self, attempt: int, asked_seconds: float) -> float:
        """Exponential with jitter, so that pulls do not come back all at once; at least what the server asks."""
        from random import uniform

        grown = min(self.longest_seconds, self.first_seconds * 2.0**attempt)
        return max(grown * uniform(0.5, 1.0), min(asked_seconds, 10 * self.longest_seconds))  # noqa: S311
