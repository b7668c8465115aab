# SPDX-License-Identifier: Apache-2.0
"""Single-use random tokens that expire: the right to one session."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from secrets import token_urlsafe
from typing import Generic, TypeVar

Request = TypeVar("Request")


class TooManyTokens(Exception):
    """More sessions were asked for than are being fetched; the text says how many wait."""


class Tokens(Generic[Request]):
    """What was promised and not yet fetched. In memory only: after a restart the kubelet asks again."""

    def __init__(
        self, lifetime_seconds: float, *, capacity: int = 1000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lifetime = lifetime_seconds
        self._capacity = capacity
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[float, Request]] = {}  # in the order of their expiry, as all live equally long

    def issue(self, request: Request) -> str:
        """A token of 128 random bits that will fetch request once."""
        token = token_urlsafe(16)
        with self._lock:
            self._forget_expired()
            if len(self._waiting) >= self._capacity:
                raise TooManyTokens(f"{self._capacity} sessions are waiting to be fetched; try again in a minute")
            self._waiting[token] = (self._clock() + self._lifetime, request)
        return token

    def redeem(self, token: str) -> Request | None:
        """The request, if the token is known, unused and not expired."""
        with self._lock:
            self._forget_expired()
            _, request = self._waiting.pop(token, (0.0, None))
            return request

    def _forget_expired(self) -> None:
        now = self._clock()
        while self._waiting:
            token, (expiry, _) = next(iter(self._waiting.items()))
            if expiry > now:
                return
            del self._waiting[token]
