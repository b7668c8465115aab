# SPDX-License-Identifier: Apache-2.0
"""What no `run` written in Python can go below: a Python that does nothing, and the kernel's own work, by a C program.

The C program makes the container of the suite `oci` on v1 hierarchies, without a configuration, a check or a record.
"""

from pathlib import Path

from runtime.linux import cgroup
from tests.bench import peers, stopwatch
from tests.bench.contest import Contender
from tests.bench.suites.oci import PYTHON, _bundle
from tests.bench.suites.start import once
from tests.support.rootfs import make_rootfs

ROUNDS = 40


def contenders(work: Path) -> list[Contender]:
    rootfs = make_rootfs(work / "rootfs")
    bundle = _bundle(work / "bundle", rootfs, ["/bin/true"])
    run = ["run", "--bundle", str(bundle), "floor"]
    return [
        Contender("python3 -I -S -c pass", once([PYTHON, "-I", "-S", "-c", "pass"], "run")),
        Contender("the kernel's part, in C", once(program(rootfs, "/bin/true"), "run")),
        *(
            Contender(name, once([program, "--root", str(work / name), *run], "run"), ours=name == "ketch-runtime")
            for name, program in peers.oci_runtimes().items()
        ),
    ]


def program(rootfs: Path, run: str) -> list[str]:
    """The C program that runs a program of this root."""
    layout = cgroup.layout().directories("floor")
    groups = dict.fromkeys(path for name, path in layout.items() if name != cgroup.UNIFIED)
    return [stopwatch.compiled("floor"), str(rootfs), run, *groups]
