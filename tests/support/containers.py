# SPDX-License-Identifier: Apache-2.0
"""Bundles and a runtime to run them with: what the tests of the OCI runtime stand on."""

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support import instruments
from tests.support.rootfs import make_rootfs

DEFAULT: dict[str, Any] = {
    "ociVersion": "1.3.0",
    "process": {
        "args": ["true"],
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0},
        "capabilities": {kind: ["CAP_KILL", "CAP_CHOWN"] for kind in ("bounding", "effective", "permitted")},
    },
    "root": {"path": "rootfs"},
    "hostname": "box",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    ],
    "linux": {
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
        "maskedPaths": ["/proc/keys", "/proc/acpi", "/sys/firmware"],
        "readonlyPaths": ["/proc/sys", "/proc/bus"],
    },
}


def config(**changes: Any) -> dict[str, Any]:
    """The default config, with dotted paths changed: config(**{"process.args": ["id"]}); None removes."""
    document = copy.deepcopy(DEFAULT)
    for path, value in changes.items():
        set_path(document, path, value)
    return document


def set_path(document: Any, path: str, value: Any) -> None:
    """Set or remove (None) one member, by a path such as linux.namespaces.0.type."""
    *way, last = path.split(".")
    for step in way:
        if isinstance(document, list):
            document = document[int(step)]
        else:
            document = document.setdefault(step, {})
    if isinstance(document, list):
        document[int(last)] = value
    elif value is None:
        document.pop(last, None)
    else:
        document[last] = value


class Runtime:
    """ketch-runtime with a root directory of its own, and a bundle whose config a test changes."""

    def __init__(self, top: Path) -> None:
        self.root = top / "root"
        self.bundle = top / "bundle"
        self.bundle.mkdir(parents=True)
        self.rootfs = make_rootfs(self.bundle / "rootfs")

    def write(self, **changes: Any) -> None:
        """Write config.json."""
        (self.bundle / "config.json").write_text(json.dumps(config(**changes)))

    def call(self, *words: str, timeout: float = 60, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run a command of the runtime to its end."""
        return subprocess.run(
            [instruments.command("ketch-runtime"), "--root", str(self.root), *words],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=options.pop("stdin", subprocess.DEVNULL),
            **options,
        )

    def ok(self, *words: str, **options: Any) -> str:
        """The same, and it must succeed; gives what it printed."""
        done = self.call(*words, **options)
        assert done.returncode == 0, (words, done.returncode, done.stderr)
        return done.stdout

    def run(self, script: str, name: str = "box", **changes: Any) -> "subprocess.CompletedProcess[str]":
        """Run a shell script in a container."""
        self.write(**{"process.args": ["sh", "-c", script], **changes})
        return self.call("run", "--bundle", str(self.bundle), name)

    def said(self, script: str, **changes: Any) -> str:
        """What a script prints in a container; it must succeed."""
        done = self.run(script, **changes)
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        return done.stdout

    def start(self, *args: str, name: str = "box", **changes: Any) -> int:
        """A container that runs on; gives its pid."""
        self.write(**{"process.args": list(args) or ["sleep", "1000"], **changes})
        # Its output must not be our pipe: we would wait for its end.
        done = subprocess.run(
            [instruments.command("ketch-runtime"), "--root", str(self.root), "run", "-d", "-b", str(self.bundle), name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0
        return int(self.state(name)["pid"])

    def state(self, name: str = "box") -> Any:
        """What state prints."""
        return json.loads(self.ok("state", name))

    def remove(self, name: str = "box") -> None:
        """Force it away."""
        self.ok("delete", "--force", name)
