# SPDX-License-Identifier: Apache-2.0
"""How a call ends: gRPC's status codes, the error that carries one, and what a handler may ask about its call."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Protocol


class Code(IntEnum):
    """gRPC's status codes; the numbers are the wire's."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Failed(Exception):
    """The call ends with this code and this text."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


class Context(Protocol):
    """What a handler may ask about the call that it answers."""

    def is_active(self) -> bool:
        """Does the caller still wait?"""
        ...

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None without one."""
        ...

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call this when the call is over, however it ends; False if it is."""
        ...
