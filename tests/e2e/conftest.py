# SPDX-License-Identifier: Apache-2.0
"""The cluster that these tests look at: one that is up already, else one of their own, on $KETCH_RUNTIME (ketch)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import cluster as clusters
from tests.e2e.cluster import Cluster

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A cluster costs ten minutes of Go builds the first time, so `make test` leaves these out; `make e2e` asks."""
    if os.environ.get("KETCH_E2E"):
        return
    left_out = [item for item in items if item.path.is_relative_to(HERE)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    folder = clusters.default_folder()
    running = clusters.load(folder)
    if running is not None:
        yield running
        return
    runtimes = clusters.choose(os.environ.get("KETCH_RUNTIME", "ketch"), int(os.environ.get("KETCH_NODES", "1")))
    yield clusters.up(folder, runtimes, proxy=os.environ.get("KETCH_PROXY", "nftables"))
    clusters.down(folder, keep_logs=bool(os.environ.get("KETCH_KEEP_LOGS")))
