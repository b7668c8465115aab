# SPDX-License-Identifier: Apache-2.0
"""A start from the warm spawner: from the request to the program's first line, with few host mounts and with 3,000.

All namespaces, 12 mounts, limits of memory, processes and CPU, a cached seccomp filter. Who starts it waits for the
answer, which the second step shows. KETCH_MOUNTS says how many mounts the other host has. Beside it a C program that
makes the calls for seven mounts and one limit, and does nothing else; and what the kernel takes for this very
container: its control groups with their limits, and its list of calls, planned before.
"""

import itertools
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from runtime import container_group, creation, lifecycle, quick_create, seccomp_filter
from runtime.keep import client as keep
from runtime.keep import native, seed
from runtime.linux import cgroup, program
from tests.bench.contest import Contender
from tests.bench.stopwatch import Cost, compiled
from tests.bench.suites import floor, oci
from tests.support import kernel
from tests.support.rootfs import make_rootfs

ROUNDS = 40
MOUNTS = int(os.environ.get("KETCH_MOUNTS", "3000"))


def contenders(work: Path) -> list[Contender]:
    bundle = _bundle(work)
    return [
        Contender("the kernel's part, in C", _bare(work / "rootfs")),
        Contender("its groups and calls alone", _alone(work / "alone", bundle)),
        Contender(f"{len(_mounted())} host mounts", _starts(work / "few", bundle), ours=True),
        Contender(f"{MOUNTS:,} more", _starts(_among_mounts(work, work / "many"), bundle), ours=True),
    ]


def _bare(rootfs: Path) -> Callable[[], Iterator[tuple[str, Cost]]]:
    command = floor.program(rootfs, "/bin/clock")

    def one() -> Iterator[tuple[str, Cost]]:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        began, ran = map(int, done.stdout.split())
        yield "request to execve", Cost((ran - began) / 1e6, None, None)

    return one


def _alone(state: Path, bundle: Path) -> Callable[[], Iterator[tuple[str, Cost]]]:
    state.mkdir()
    native.warm_up()
    seed.plant(str(state))
    numbers = itertools.count()

    def one() -> Iterator[tuple[str, Cost]]:
        request = creation.CreateRequest(f"{state}/runtime", f"alone{next(numbers)}", str(bundle))
        request.seed, request.shares_cgroup = seed.fd, True
        config = creation.read_config(request.config_path)[1]
        assert config.linux.seccomp is not None
        seccomp_filter.compiled(config.linux.seccomp, f"{request.root}/.cache/seccomp")
        planned = quick_create.Planned(request, lambda _: None)
        group = cgroup.Group(planned.plan.cgroup_paths, v2=planned.plan.cgroup_v2)
        began = time.monotonic_ns()
        group.make(planned.layout)
        container_group.apply_limits(planned.plan, group)
        made = time.monotonic_ns()
        yield "groups", Cost((made - began) / 1e6, None, None)
        prepared = quick_create.prepare(planned)
        with prepared.lock, tempfile.TemporaryFile() as output, open("/dev/null") as nothing:
            memory = program.in_memory(prepared.text)
            began = time.monotonic_ns()
            stdio = (nothing.fileno(), output.fileno(), output.fileno())
            born = quick_create.Init(program.opened(), memory, stdio, seed.fd)
            born.let_go(prepared.entry)
            os.waitpid(prepared.entry.pid, 0)
            os.close(memory)
            os.close(born.said)
            output.seek(0)
            yield "calls", Cost((int(output.read().split()[-1]) - began) / 1e6, None, None)
        quick_create.undo(prepared.entry)

    return one


def _mounted() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def _bundle(work: Path) -> Path:
    from cri.oci import seccomp_default

    rootfs = make_rootfs(work / "rootfs")
    subprocess.run(["cp", compiled("clock"), rootfs / "bin/clock"], check=True)
    bundle = work / "bundle"
    bundle.mkdir()
    config = oci._config(rootfs, ["/bin/clock"])
    for number in range(5):
        volume = work / f"volume-{number}"
        volume.mkdir()
        options = ["rbind", "rprivate", "ro" if number % 2 else "rw"]
        config["mounts"].append(
            {"destination": f"/v/{number}", "type": "bind", "source": str(volume), "options": options}
        )
    linux = config["linux"]
    linux["namespaces"].append({"type": "cgroup"})
    linux["resources"] |= {"pids": {"limit": 100}, "cpu": {"shares": 512}}
    major, minor = platform.release().split(".")[:2]
    linux["seccomp"] = seccomp_default.profile(set(oci._CAPABILITIES), kernel=(int(major), int(minor)))
    assert len(config["mounts"]) == 12
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


def _among_mounts(work: Path, state: Path) -> Path:
    """The state directory of a spawner that lives in a mount namespace of its own, full of mounts."""
    busy = work / "busy"
    busy.mkdir()
    pid = os.fork()
    if pid == 0:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
        for number in range(MOUNTS):
            place = busy / str(number)
            place.mkdir()
            kernel.mount("tmpfs", str(place), "tmpfs")
        keep.connect(str(state))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return state


def _starts(state: Path, bundle: Path) -> Callable[[], Iterator[tuple[str, Cost]]]:
    client = keep.connect(str(state))
    numbers = itertools.count()

    def one() -> Iterator[tuple[str, Cost]]:
        name = f"warm{next(numbers)}"
        log = state / f"{name}.log"
        asked = time.monotonic_ns()
        client.start(keep.StartRequest(name, str(bundle), log_path=str(log)))
        answered = time.monotonic_ns()
        client.wait(name, 10)
        ran = int(log.read_text().split()[-1])
        yield "request to execve", Cost((ran - asked) / 1e6, None, None)
        yield "request to answer", Cost((answered - asked) / 1e6, None, None)
        client.forget(name)
        lifecycle.delete(f"{state}/runtime", name, force=True)

    return one
