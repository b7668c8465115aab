# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the CNI tests."""

from collections.abc import Iterator

import pytest

from tests.linux.cni.world import World, world


@pytest.fixture
def host() -> Iterator[World]:
    with world() as made:
        yield made
