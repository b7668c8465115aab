# SPDX-License-Identifier: Apache-2.0
"""The floor of `ketch run --rm true` with a bridge: a Python that starts, our modules, the kernel's part; and podman.

Neither of the kernel's two parts reads a configuration, checks or records anything; what they made goes untimed. So
their sum with a bare Python is what no `run` that is a process of its own and written in Python can go below.
"""

from pathlib import Path

from tests.bench import peers
from tests.bench.contest import Contender
from tests.bench.suites import cni_floor, floor, hand
from tests.bench.suites.oci import PYTHON
from tests.bench.suites.start import once
from tests.support.rootfs import make_rootfs

ROUNDS = 15
_STEP = "run --rm true"
# What launcher.c begins with, and then the modules of a run instead of its work.
_MODULES = """
import sys, marshal, posix
sys.argv, sys.path[:1] = ["ketch"], sys.argv[1:]
from _frozen_importlib_external import MAGIC_NUMBER
image = posix.open(f"{sys.path[0]}/runtime/linux/cold-{MAGIC_NUMBER[:2].hex()}.image", posix.O_CLOEXEC)
code, places = marshal.loads(posix.read(image, 16384))
scope = {"__name__": "runtime.linux.cold"}
exec(code, scope)
scope["install"](image, places)
from cri.hand import cli, room, run
for asked in ("pin", "start"):
    room._load_what_is_next(asked)
posix._exit(0)
"""


def contenders(work: Path) -> list[Contender]:
    rootfs = make_rootfs(work / "rootfs")
    paths = [
        str(path) for path in (peers.OURS.parents[1], *sorted(peers.OURS.parent.glob("lib/python3*/site-packages")))
    ]
    return [
        Contender("Python that does nothing", once([PYTHON, "-I", "-S", "-c", "pass"], _STEP), ours=True),
        Contender("the modules of a run", once([PYTHON, "-I", "-S", "-c", _MODULES, *paths], _STEP), ours=True),
        Contender("the kernel's part: a container", once(floor.program(rootfs, "/bin/true"), _STEP), ours=True),
        Contender("the kernel's part: its network", cni_floor.messages("hf0", _STEP), ours=True),
        *hand.contenders(work),
    ]
