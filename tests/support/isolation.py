# SPDX-License-Identifier: Apache-2.0
"""One root test, one set of namespaces: the test runs in a forked child, its reports come back through a pipe.

    pytest ── fork ──► entrance: new pid, net, mount, ipc, uts and cgroup namespaces, its own cgroups
                          └─ fork ──► pid 1: private /proc /sys /run /var/lib; reaps what the test orphans
                                         └─ fork ──► the test: runs with all its fixtures, then the leak check

When pid 1 ends the kernel ends all that is left, so a broken test cannot reach its neighbours or the machine.
Fixtures of session scope are set up in each child anew: what is costly belongs into a file cache (support.cache).
"""

import faulthandler
import fcntl
import gc
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from tests.support import kernel, leaks
from tests.support.groups import Groups

_NAMESPACES = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
TIMEOUT_KEY = pytest.StashKey[float]()


def run_isolated(item: pytest.Item) -> list[pytest.TestReport]:
    """Run one test in its own world and return its reports; whatever happens to that world, there are reports."""
    started = time.time()
    groups = Groups(f"ketch-test-{os.getpid()}")
    reader, writer = os.pipe()
    stacks = os.memfd_create("stacks")  # where a test that takes too long writes what its threads were doing
    sys.stdout.flush()
    sys.stderr.flush()
    entrance = os.fork()
    if entrance == 0:
        os.close(reader)
        _enter(groups, lambda: _be_the_test(item, writer, stacks), private=writer)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as stream:
            received = stream.read()
        _, status = os.waitpid(entrance, 0)
    except BaseException:
        os.kill(entrance, signal.SIGKILL)
        os.waitpid(entrance, 0)
        raise
    finally:
        groups.remove()
    try:
        serialized = json.loads(received)
    except ValueError:
        said = Path(f"/proc/self/fd/{stacks}").read_text()
        return [_died(item, started, os.waitstatus_to_exitcode(status), said)]
    finally:
        os.close(stacks)
    return [_report(item, data) for data in serialized]


def _report(item: pytest.Item, data: dict[str, object]) -> pytest.TestReport:
    report: pytest.TestReport = item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
    if isinstance(report.longrepr, list):
        report.longrepr = tuple(report.longrepr)  # a skip's place and reason: JSON knows no tuples, junit wants one
    return report


def _died(item: pytest.Item, started: float, code: int, stacks: str) -> pytest.TestReport:
    why = f"it ended with {code} before it could report"
    if stacks:
        why = f"it took longer than {item.stash.get(TIMEOUT_KEY, 0.0):g} s:\n{stacks}"
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={item.name: 1},
        outcome="failed",
        longrepr=f"{item.nodeid}: the test's process died: {why}",
        when="call",
        sections=[],
        duration=time.time() - started,
        start=started,
        stop=time.time(),
    )


def in_a_private_world(name: str, work: Callable[[], int]) -> int:
    """Run work in a child with namespaces and cgroups of its own, as a root test has; returns its exit code."""
    groups = Groups(f"{name}-{os.getpid()}")
    sys.stdout.flush()
    sys.stderr.flush()
    entrance = os.fork()
    if entrance == 0:
        _enter(groups, lambda: _work_and_exit(work))
    try:
        return os.waitstatus_to_exitcode(os.waitpid(entrance, 0)[1])
    finally:
        groups.remove()


def _work_and_exit(work: Callable[[], int]) -> None:
    code = 1
    try:
        code = work()
    finally:
        _exit(code)


def _enter(groups: Groups, child: Callable[[], None], *, private: int = -1) -> None:
    """The entrance: namespaces first, for CLONE_NEWPID concerns only children. Only child keeps private."""
    code = 1
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        kernel.unshare(_NAMESPACES)
        kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
        groups.enter()
        kernel.unshare(kernel.CLONE_NEWCGROUP)
        groups.enter_leaf()
        first = os.fork()
        if first == 0:
            _be_first(groups, child, private)
        _close(private)  # the groups' lock stays here, and open: it says that they are in use
        code = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
    finally:
        _exit(code)


def _be_first(groups: Groups, child: Callable[[], None], private: int) -> None:
    code = 1
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        groups.leave_the_lock()
        make_private_world(groups.hierarchies)
        started = os.fork()
        if started == 0:
            child()
        _close(private)
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == started:
                code = os.waitstatus_to_exitcode(status)
                break
    finally:
        _exit(code)


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def _be_the_test(item: pytest.Item, writer: int, stacks: int) -> None:
    code = 1
    try:
        gc.freeze()  # what pytest has loaded is not looked at again by the collection below
        if limit := item.stash.get(TIMEOUT_KEY, 0.0):
            faulthandler.dump_traceback_later(limit, exit=True, file=stacks)
        before = leaks.take()
        reports = runtestprotocol(item, log=False, nextitem=None)
        gc.collect()
        if found := leaks.compare(before):
            reports.append(_leak_report(item, found))
        serialize = item.config.hook.pytest_report_to_serializable
        data = json.dumps([serialize(config=item.config, report=report) for report in reports]).encode()
        while data:
            data = data[os.write(writer, data) :]
        code = 0
    finally:
        _exit(code)


def _leak_report(item: pytest.Item, found: list[str]) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={item.name: 1},
        outcome="failed",
        longrepr="\n".join([f"{item.nodeid} leaked:", *("  " + line for line in found)]),
        when="teardown",
        sections=[],
    )


def _exit(code: int) -> None:
    """Leave without the parent's atexit handlers and buffers; say what went wrong if something is in flight."""
    if sys.exc_info()[0] is not None:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


def make_private_world(hierarchies: list[tuple[str, str, str]]) -> None:
    """Fresh /proc, /sys, cgroup views, /run, /var/lib and a loopback that is up, for the namespaces we are in."""
    kernel.mount("proc", "/proc", "proc")
    kernel.mount("sysfs", "/sys", "sysfs")
    if os.path.isdir("/sys/module/apparmor"):  # profiles are loaded and listed there
        kernel.mount("securityfs", "/sys/kernel/security", "securityfs")
    kernel.mount("cgroup", "/sys/fs/cgroup", "tmpfs", data="mode=755")
    for path, kind, options in hierarchies:
        if path != "/sys/fs/cgroup":
            os.makedirs(path, exist_ok=True)
        kernel.mount(kind, path, kind, data=options)
    for path in leaks.PRIVATE_DIRECTORIES:
        kernel.mount("tmpfs", path, "tmpfs", data="mode=755")
    socket.sethostname("ketch-test")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        up = struct.pack("16sH14x", b"lo", 1)  # struct ifreq with IFF_UP
        fcntl.ioctl(control, 0x8914, up)  # SIOCSIFFLAGS
