# SPDX-License-Identifier: Apache-2.0
"""Usage of very many objects: built once, renewed while asked for, never of another life of the object."""

import time

import pytest

from cri.services import warm
from cri.services.warm import Warm


def test_few_are_looked_at_each_time() -> None:
    looks: list[int] = []
    kept = Warm[int](lambda n: looks.append(n) or n, lambda n: n)
    for _ in range(2):
        assert kept.messages(range(3)) == [0, 1, 2]
    assert looks == [0, 1, 2, 0, 1, 2]


def test_many_are_looked_at_once_and_again_when_they_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "MANY", 2)
    looks: list[int] = []
    lives = {0: 0, 1: 0, 2: 0}
    kept = Warm[int](lambda n: looks.append(n) or (n, lives[n]), lambda n: (n, lives[n]))
    assert kept.messages(range(3)) == [(0, 0), (1, 0), (2, 0)]
    lives[1] = 1
    assert kept.messages(range(3)) == [(0, 0), (1, 1), (2, 0)]
    assert looks[:4] == [0, 1, 2, 1]


def test_what_nobody_asks_for_any_more_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MANY", 2), ("REFRESH_SECONDS", 0.01), ("FORGET_SECONDS", 0.05)):
        monkeypatch.setattr(warm, name, value)
    kept = Warm[int](lambda n: time.monotonic_ns(), lambda n: n)
    first = kept.messages(range(3))
    deadline = time.monotonic() + 10
    while kept._thread is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert kept._built == {}
    assert kept.messages(range(3)) != first
