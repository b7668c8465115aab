# SPDX-License-Identifier: Apache-2.0
"""What no `run` written in Python can go below: Python alone, Python with our modules, the kernel's own work in C.

The C program makes the container of the suite `oci` on v1 hierarchies, without a configuration, a check or a record.
Ours less the modules and the kernel's part is what reading, planning, compiling, records and taking down cost.
"""

from pathlib import Path

from runtime.linux import cgroup, cold_writer, installation
from tests.bench import peers, stopwatch
from tests.bench.contest import Contender
from tests.bench.suites.oci import PYTHON, _bundle
from tests.bench.suites.start import once
from tests.support.rootfs import make_rootfs

ROUNDS = 40
# What the launcher's first lines and start.py do for `run`, up to the command itself; not dismantled, as ours.
MODULES = """
import marshal, posix, sys
sys.argv[0] = "ketch-runtime"
sys.path[:1] = sys.argv[1].split(":")
f = posix.open(sys.argv[2], posix.O_CLOEXEC)
c, i = marshal.loads(posix.read(f, 16384))
g = {"__name__": "runtime.linux.cold"}
exec(c, g)
g["install"](f, i)
import runtime.cli, runtime.commands.life, runtime.foreground
posix._exit(0)
"""


def contenders(work: Path) -> list[Contender]:
    rootfs = make_rootfs(work / "rootfs")
    bundle = _bundle(work / "bundle", rootfs, ["/bin/true"])
    run = ["run", "--bundle", str(bundle), "floor"]
    bare = [PYTHON, "-I", "-S", "-c"]
    library = str(Path(installation.__file__).parents[2])
    dependencies = next(Path(library, ".venv/lib").glob("python3*/site-packages"))
    paths = [f"{library}:{dependencies}", cold_writer.path_of(library)]
    return [
        Contender("python3 -I -S -c pass", once([*bare, "pass"], "run")),
        Contender("the same with our modules", once([*bare, MODULES, *paths], "run")),
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
