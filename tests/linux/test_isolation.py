# SPDX-License-Identifier: Apache-2.0
"""The harness keeps its promises: a root test is alone, sees only its own, and is told what it leaked."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import groups
from tests.support.needs import has, needs

REPOSITORY = Path(__file__).parents[2]


def test_a_test_is_alone_in_its_namespaces() -> None:
    assert [name for name in os.listdir("/proc") if name.isdigit()] == ["1", str(os.getpid())]
    assert Path("/proc/self/net/dev").read_text().count(":") == 1
    assert os.listdir("/run") == []
    assert os.listdir("/var/lib") == []


@pytest.mark.in_vm_too
def test_a_test_sees_its_own_cgroups_as_the_roots() -> None:
    seen = {line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()}
    # version 2 hands controllers down only from a group without processes, so there the test is one below its root
    assert seen == ({"/test"} if has("cgroup2") else {"/"})


@needs("cgroup1")
def test_groups_of_a_killed_run_are_swept_up_and_those_in_use_stay() -> None:
    """Their names carry the pid of nobody and of somebody else's PID namespace: only the lock says who lives."""
    hierarchy = groups.Groups("ketch-test-1").hierarchies[0][0]
    killed, used = f"{hierarchy}/ketch-test-999999", f"{hierarchy}/ketch-test-999998"
    for inner in ("", "/inner", "/inner/innermost"):
        os.mkdir(killed + inner)
        os.mkdir(used + inner)
    os.mkdir(f"{hierarchy}/not-ours")
    lock = os.open(used, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    assert groups.sweep() == [killed]
    assert not os.path.exists(killed)
    assert os.path.exists(f"{used}/inner/innermost")
    os.close(lock)
    os.rmdir(f"{hierarchy}/not-ours")
    assert groups.sweep() == [used]


@needs("cgroup1")
def test_a_run_that_was_killed_leaves_nothing_after_the_next_one(tmp_path: Path) -> None:
    waiting = INNER + f"@needs('root')\ndef test_waits():\n    open('{tmp_path}/there', 'w')\n    signal.pause()\n"
    (tmp_path / "a").mkdir()
    with subprocess.Popen(inner_command(tmp_path / "a", waiting), cwd=REPOSITORY, stdout=subprocess.DEVNULL) as killed:
        while not (tmp_path / "there").exists():
            time.sleep(0.01)
        killed.kill()
    left = f"ketch-test-{killed.pid}"
    roots = [path for path, _, _ in groups.Groups("ketch-test-1").hierarchies]
    assert any(left in os.listdir(root) for root in roots)
    (tmp_path / "b").mkdir()
    assert "1 passed" in run_inner(tmp_path / "b", INNER.split("@needs", 1)[0] + "def test_nothing(): pass\n")
    assert [root for root in roots if left in os.listdir(root)] == []


LEAKS = {
    "mount": "kernel.mount('tmpfs', '/mnt', 'tmpfs')",
    "link": "run('ip', 'link', 'add', 'leaked0', 'type', 'bridge')",
    "address": "run('ip', 'address', 'add', '10.9.9.9/32', 'dev', 'lo')",
    "route": "run('ip', 'route', 'add', '10.8.0.0/16', 'dev', 'lo')",
    "rule": "run('ip', 'rule', 'add', 'from', '10.7.0.1', 'table', '7')",
    "nft table": "run('nft', 'add', 'table', 'inet', 'leaked')",
    "iptables rule": "run('iptables-legacy', '-A', 'INPUT', '-s', '10.6.0.1', '-j', 'DROP')",
    "process": "os.posix_spawn('/bin/sleep', ['sleep', '60'], {})",
    "descriptor": "os.open('/dev/null', os.O_RDONLY)",
    "file": "open('/run/leaked', 'w').close()",
    "file: left behind: /run/netns": "run('ip', 'netns', 'add', 'leaked')",
    "cgroup": "os.mkdir(os.path.join('/sys/fs/cgroup', next(os.walk('/sys/fs/cgroup'))[1][0], 'leaked'))",
}

INNER = """
import os, signal, subprocess, pytest
from tests.support import kernel
import pytest

from tests.support import groups
from tests.support.needs import has, needs
def run(*command): subprocess.run(command, check=True)
@needs("root")
def test_clean(): pass
@needs("root")
@pytest.mark.timeout(1)
def test_hanging(): signal.pause()
"""


@needs("nft", "iptables_legacy")
def test_what_a_test_leaves_behind_is_named_and_a_hanging_one_is_stopped(tmp_path: Path) -> None:
    inner = INNER + "".join(
        f"@needs('root')\ndef test_leaks_{number}(): {body}\n" for number, body in enumerate(LEAKS.values())
    )
    output = run_inner(tmp_path, inner)
    for number, kind in enumerate(LEAKS):
        assert f"::test_leaks_{number} leaked:\n" in output, output
        told = output.split(f"::test_leaks_{number} leaked:\n", 1)[1].split("____", 1)[0]
        assert f"{kind}: left behind: " in told or kind in told, f"{kind}: {told}"
    assert f"{len(LEAKS) + 1} passed" in output  # their bodies and the clean one
    assert "1 failed" in output
    assert "took longer than 1 s" in output
    assert "in test_hanging" in output


def run_inner(directory: Path, text: str) -> str:
    """Run root tests in a pytest of their own and return what it printed."""
    done = subprocess.run(
        inner_command(directory, text),
        cwd=REPOSITORY,
        env={**os.environ, "KETCH_TEST_SETTLE_SECONDS": "0.1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def inner_command(directory: Path, text: str) -> list[str]:
    (directory / "test_inner.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    options = ["-c", str(REPOSITORY / "pyproject.toml"), "--rootdir", str(directory)]
    return [*command, *options, str(directory / "test_inner.py")]
