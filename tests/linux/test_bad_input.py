# SPDX-License-Identifier: Apache-2.0
"""What a person sees when it goes wrong: one line (what, why, what to try), a status that is not 0, no traceback."""

import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import crash, instruments, kernel

WRONG = {
    "an unknown command of ketch": ["ketch", "nonsense"],
    "an unknown command of ketch-runtime": ["ketch-runtime", "nonsense"],
    "an unknown command of ketch-cni": ["ketch-cni", "nonsense"],
    "an unknown option of ketch-cri": ["ketch-cri", "--nonsense"],
    "an unknown command of ketch-cri": ["ketch-cri", "nonsense"],
    "a container of ketch that is not there": ["ketch", "--state", "HERE/s", "--root", "HERE/r", "rm", "nothing"],
    "an unknown option of ketch": ["ketch", "ps", "--nonsense"],
    "a configuration that is not there": ["ketch-cri", "--config", "/nonexistent/ketch.toml"],
    "a bundle that is not there": ["ketch-runtime", "--root", "/run/state", "run", "-b", "/nonexistent", "x"],
    "a container that is not there": ["ketch-runtime", "--root", "/run/state", "state", "absent"],
    "a name that cannot be one": ["ketch-runtime", "--root", "/run/state", "state", "../x"],
}


def run(
    command: list[str], prepare: Callable[[], None] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [instruments.command(command[0]), *command[1:]],
        env={**os.environ, **environment},
        preexec_fn=prepare,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def assert_one_line(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.endswith("\n")


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    assert_one_line(run([word.replace("HERE", str(tmp_path)) for word in WRONG[name]]))


@pytest.mark.parametrize("name", WRONG)
def test_debug_shows_the_traceback_and_changes_nothing_else(name: str, tmp_path: Path) -> None:
    command = [word.replace("HERE", str(tmp_path)) for word in WRONG[name]]
    plain, debugged = run(command), run(command, KETCH_DEBUG="1")
    assert "Traceback (most recent call last)" in debugged.stderr
    assert debugged.stderr.endswith(plain.stderr)
    assert debugged.returncode == plain.returncode


@pytest.fixture
def bundle(tmp_path: Path, rootfs: Path) -> Path:
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    config = {
        "ociVersion": "1.0.2",
        "root": {"path": str(rootfs)},
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/", "env": ["PATH=/bin"]},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.fixture
def reachable_commands() -> Iterator[None]:
    """The checkout for every user, though it may lie in a home that is closed to others."""
    top = instruments.TOP
    closed = next((str(p) for p in reversed(top.parents) if not p.stat().st_mode & stat.S_IXOTH), None)
    if closed is None:
        yield
        return
    tree = os.open(top, os.O_PATH)
    kernel.mount("closed", closed, "tmpfs", data="mode=755")
    os.makedirs(top)
    kernel.mount(f"/proc/self/fd/{tree}", str(top), "", kernel.MS_BIND)
    os.close(tree)
    yield
    kernel.umount(str(top))
    kernel.umount(closed)


@pytest.mark.usefixtures("reachable_commands")
def test_a_missing_privilege_is_one_line(bundle: Path) -> None:
    def drop() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    state = bundle / "state"
    state.mkdir()
    os.chown(state, 65534, 65534)
    done = run(["ketch-runtime", "--root", str(state), "run", "-b", str(bundle), "x"], drop)
    assert_one_line(done)


@pytest.mark.parametrize("feature", ["openat2", "open_tree", "move_mount"])
def test_a_kernel_without_a_feature_is_one_line_that_names_it(feature: str, bundle: Path) -> None:
    numbers = list(crash.numbers([feature]))
    command = ["ketch-runtime", "--root", str(bundle / "state"), "run", "-b", str(bundle), "x"]
    assert run(command).returncode == 0
    done = run(command, lambda: kernel.become_an_older_kernel(numbers))
    assert_one_line(done)
    assert feature in done.stderr
