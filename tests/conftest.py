# SPDX-License-Identifier: Apache-2.0
"""Tests as a system: needs are checked, root tests run in worlds of their own, leaks are failures."""

import os
from pathlib import Path

import pytest

from tests.support import groups, needs
from tests.support.rootfs import make_rootfs

_ROOT_FOLDERS = ("linux",)
# An emulated CPU is many times slower: the VM's driver says by how much.
_TIMEOUT_FACTOR = float(os.environ.get("KETCH_TIMEOUT_FACTOR", "1"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--beyond-ci",
        action="store_true",
        help="only what CI's machine cannot run, and what is marked in_vm_too: the VM's part",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "in_vm_too: meets what differs in the VM (cgroup v2, systemd, AppArmor)")
    config.addinivalue_line("markers", "needs(*names): what the machine must offer; see tests/support/needs.py")
    config.addinivalue_line("markers", "own_namespaces: a root test that makes its own world (rigs with daemons)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--beyond-ci"):
        chosen = [item for item in items if _is_beyond_ci(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen
    top = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(top).parts[0] if item.path.is_relative_to(top) else ""
        if folder in _ROOT_FOLDERS:
            item.add_marker(needs.needs("root"))
        if _is_isolated(item):
            _take_over_the_timeout(item)


def _is_beyond_ci(item: pytest.Item) -> bool:
    wanted = {name for mark in item.iter_markers("needs") for name in mark.args}
    return bool(wanted - needs.CI_OFFERS - needs.UNPROMISED) or item.get_closest_marker("in_vm_too") is not None


def _is_isolated(item: pytest.Item) -> bool:
    wants_root = any("root" in mark.args for mark in item.iter_markers("needs"))
    return wants_root and item.get_closest_marker("own_namespaces") is None


def _take_over_the_timeout(item: pytest.Item) -> None:
    """pytest-timeout's timer would go off in the parent, which only waits: the child watches itself."""
    from tests.support.isolation import TIMEOUT_KEY

    mark = item.get_closest_marker("timeout")
    limit = mark.args[0] if mark and mark.args else float(item.config.getini("timeout") or 0)
    item.stash[TIMEOUT_KEY] = float(limit) * _TIMEOUT_FACTOR
    item.add_marker(pytest.mark.timeout(0), append=False)


def pytest_sessionstart(session: pytest.Session) -> None:
    if needs.has("root") and not session.config.getoption("collectonly"):
        groups.sweep()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> object:
    if not _is_isolated(item) or needs.missing(item):
        return None
    from tests.support.isolation import run_isolated

    item.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # one for all children
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in run_isolated(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    # What an earlier test of this process has set up for the folder: the child tore down only its own copy.
    item.session._setupstate.teardown_exact(nextitem)
    return True


def pytest_runtest_setup(item: pytest.Item) -> None:
    needs.check(item)


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A root filesystem of Debian's busybox, the test's own to change."""
    return make_rootfs(tmp_path / "rootfs")
