# SPDX-License-Identifier: Apache-2.0
"""`ketch` in a test: its own state and root directory, a busybox image, a terminal, and nothing left at the end."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

from tests.support import kernel
from tests.support.instruments import command

# An emulated CPU is many times slower: the VM's driver says by how much.
_PATIENCE = float(os.environ.get("KETCH_TIMEOUT_FACTOR", "1"))


def _group_for_others() -> str:
    """Our own group, and on version 2 the one above it: a group with processes passes no controllers on."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    for line in lines:
        if ":memory:" in line:
            return line.split(":", 2)[2]
    return next(line for line in lines if line.startswith("0::")).removeprefix("0::").rpartition("/")[0]


class Ketch:
    """The command, run as a person would; output is text."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.root = directory / "root"
        config_parent = f"{_group_for_others().rstrip('/')}/ketch-hand-test"
        config = directory / "config.toml"
        config.write_text(
            f'[paths]\nstate = "{self.state}"\nroot = "{self.root}"\nnetns = "{directory}/netns"\n'
            f'[runtime]\ndefault_cgroup_parent = "{config_parent}"\n'
        )
        self.environment = {**os.environ, "KETCH_CONFIG": str(config), "TERM": "xterm"}
        self.environment.pop("KETCH_DEBUG", None)

    def call(self, *words: str, stdin: str | None = None, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run it; nothing is expected of the outcome."""
        return subprocess.run(
            [command("ketch"), *words],
            capture_output=True,
            text=True,
            timeout=seconds * _PATIENCE,
            env=self.environment,
            **({"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}),
        )

    def __call__(self, *words: str, stdin: str | None = None) -> str:
        """Run it; it must succeed."""
        done = self.call(*words, stdin=stdin)
        assert done.returncode == 0, f"ketch {' '.join(words)}: {done.returncode}: {done.stderr or done.stdout}"
        return done.stdout

    def refused(self, *words: str, stdin: str | None = None) -> str:
        """Run it; it must fail with one sentence on stderr, which is returned."""
        done = self.call(*words, stdin=stdin)
        assert done.returncode != 0, f"ketch {' '.join(words)} succeeded: {done.stdout}"
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("ketch: "), done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr.strip()

    def json(self, *words: str) -> Any:
        """Run it and read its JSON."""
        return json.loads(self(*words))

    def left(self) -> list[str]:
        """What there still is of containers and pods."""
        found = []
        for folder in ("bundles", "pods", "containers", "runtime", "hand/names", "hand/making", "hand/pods"):
            found += [f"{folder}/{name}" for name in _names(self.state / folder) if not name.startswith(".")]
        for folder in ("logs", "pods", "images/rootfs", "addresses/bridge"):
            found += [
                f"{folder}/{n}" for n in _names(self.root / folder) if not n.startswith(("last_reserved", "lock", "."))
            ]
        return found

    def terminal(self, *words: str, columns: int = 100, rows: int = 30) -> Terminal:
        """Run it on a terminal."""
        return Terminal([command("ketch"), *words], self.environment, columns, rows)

    def close(self) -> None:
        """Everything goes, also what the network leaves for the next container."""
        self.call("rm", "-f", "-a", "-v")
        for pod in self.call("pod", "ls", "-q").stdout.split():
            self.call("pod", "delete", "--grace-period", "0", pod)
        self("system", "shutdown")
        for link in ("ketch0", *(name for name in os.listdir("/sys/class/net") if name.startswith("br-"))):
            subprocess.run(["ip", "link", "delete", link], capture_output=True, check=False)
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        if (self.directory / "netns").is_dir():
            kernel.umount(str(self.directory / "netns"))  # umount(8) would leave /run/mount behind


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


class Terminal:
    """A program on a terminal of its own: type, and wait for what it shows."""

    def __init__(self, argv: list[str], environment: dict[str, str], columns: int, rows: int) -> None:
        self.shown = ""
        self.pid, self._fd = os.forkpty()
        if self.pid == 0:
            try:
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
                os.execve(argv[0], argv, environment)
            finally:
                os._exit(127)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def expect(self, text: str, seconds: float = 20) -> str:
        """Wait until it shows text after what was expected before; returns what came up to there."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            readable, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, f"no {text!r} within {seconds} s; shown: {self.shown!r}"
            try:
                data = os.read(self._fd, 65536)
            except OSError:
                data = b""
            assert data, f"ended without {text!r}; shown: {self.shown!r}"
            self.shown += data.decode(errors="replace")
        before, _, self.shown = self.shown.partition(text)
        return before

    def end(self, seconds: float = 20) -> int:
        """Wait for its end; returns its exit code."""
        deadline = time.monotonic() + seconds
        while True:
            readable, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                os.close(self._fd)
                raise AssertionError(f"did not end within {seconds} s; shown: {self.shown!r}")
            try:
                data = os.read(self._fd, 65536)
            except OSError:
                break
            if not data:
                break
            self.shown += data.decode(errors="replace")
        _, status = os.waitpid(self.pid, 0)
        os.close(self._fd)
        return os.waitstatus_to_exitcode(status)
