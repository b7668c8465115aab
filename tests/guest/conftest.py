# SPDX-License-Identifier: Apache-2.0
"""The node that these tests look at; what a test did to the unit is undone after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.node import Node, run, serve_from_the_checkout
from tests.support.needs import has, needs

HERE = Path(__file__).parent
DROP_IN = Path("/run/systemd/system/ketch-cri.service.d/test.conf")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Last: these talk gRPC in pytest's own process, and what an isolated test forks from it afterwards aborts, because
    # gRPC starts its threads again after a fork, which the kernel refuses a process that has asked for a PID namespace.
    items.sort(key=lambda item: item.path.is_relative_to(HERE))
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(needs("root", "guest", "systemd", "cgroup2"))
            item.add_marker(pytest.mark.own_namespaces)


@pytest.fixture(scope="session")
def installed() -> Iterator[Node]:
    if not has("guest"):
        pytest.skip("needs guest")
    yield serve_from_the_checkout()
    run("systemctl", "stop", "ketch-cri", check=False)


@pytest.fixture
def node(installed: Node) -> Iterator[Node]:
    """The node for one test: whatever the test did to the unit is undone, and its pods go."""
    installed.reach()
    yield installed
    if DROP_IN.exists():
        DROP_IN.unlink()
        run("systemctl", "daemon-reload")
        run("systemctl", "restart", "ketch-cri")
    run("systemctl", "reset-failed", "ketch-cri", check=False)
    run("systemctl", "start", "ketch-cri")
    installed.remove_all()
