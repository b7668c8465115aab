# SPDX-License-Identifier: Apache-2.0
"""One container through each OCI runtime: run; create, start, state, exec and delete; beside them a bare Python."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench import peers, stopwatch
from tests.bench.contest import Contender
from tests.bench.stopwatch import Cost
from tests.bench.suites.start import once
from tests.support.rootfs import make_rootfs

ROUNDS = 20
PYTHON = "/usr/bin/python3"

_CAPABILITIES = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
]  # fmt: skip


def contenders(work: Path) -> list[Contender]:
    rootfs = make_rootfs(work / "rootfs")
    short = _bundle(work / "short", rootfs, ["/bin/true"])
    long = _bundle(work / "long", rootfs, ["/bin/sleep", "1000"])
    numbers = itertools.count()
    bare = Contender("python3 -I -S -c pass", once([PYTHON, "-I", "-S", "-c", "pass"], "nothing"))
    return [bare] + [
        Contender(name, _life(program, work / "state" / str(i), (short, long), numbers), ours=name == "ketch-runtime")
        for i, (name, program) in enumerate(peers.oci_runtimes().items())
    ]


def _life(
    program: str, state: Path, bundles: tuple[Path, Path], numbers: Iterator[int]
) -> Callable[[], Iterator[tuple[str, Cost]]]:
    def one() -> Iterator[tuple[str, Cost]]:
        name = f"bench{next(numbers)}"
        base = [program, "--root", str(state)]
        short, long = map(str, bundles)
        yield "run", stopwatch.run([*base, "run", "--bundle", short, f"{name}r"])
        yield "create", stopwatch.run([*base, "create", "--bundle", long, name])
        yield "start", stopwatch.run([*base, "start", name])
        yield "state", stopwatch.run([*base, "state", name])
        yield "exec", stopwatch.run([*base, "exec", name, "/bin/true"])
        yield "delete --force", stopwatch.run([*base, "delete", "--force", name])

    state.mkdir(parents=True)
    return one


def _bundle(path: Path, rootfs: Path, command: list[str]) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(_config(rootfs, command)))
    return path


def _config(rootfs: Path, command: list[str]) -> dict[str, Any]:
    """What containerd's default comes to: all namespaces, the usual mounts, masked paths, default capabilities."""
    options = ["nosuid", "noexec", "nodev"]
    mounts = [
        ("/proc", "proc", "proc", options),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        ("/dev/shm", "tmpfs", "shm", [*options, "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", "mqueue", options),
        ("/sys", "sysfs", "sysfs", [*options, "ro"]),
        ("/run", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": command,
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
            "noNewPrivileges": True,
        },
        "root": {"path": str(rootfs), "readonly": False},
        "hostname": "bench",
        "mounts": [{"destination": d, "type": t, "source": s, "options": o} for d, t, s, o in mounts],
        "linux": {
            "namespaces": [{"type": t} for t in ("pid", "network", "ipc", "uts", "mount")],
            "resources": {"devices": [{"allow": False, "access": "rwm"}], "memory": {"limit": 256 << 20}},
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }
