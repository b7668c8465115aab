# SPDX-License-Identifier: Apache-2.0
"""version and info."""

from __future__ import annotations

import os
import sys

from cri.hand.grammar import Arguments
from cri.hand.places import Places
from cri.hand.templates import fill_template
from runtime.version import SPEC_VERSION, VERSION


def version(arguments: Arguments, _places: Places) -> int:
    """Of Ketch, of the interfaces it offers, and of what it stands on."""
    kernel = os.uname()
    known: dict[str, object] = {
        "Client": {
            "Version": VERSION,
            "ApiVersion": "1.45",
            "PythonVersion": sys.version.split()[0],
            "Os": "linux",
            "Arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(kernel.machine, kernel.machine),
            "KernelVersion": kernel.release,
        },
        "Interfaces": {"OCI": SPEC_VERSION, "CNI": "1.1.0", "CRI": "v1"},
    }
    return _print(known, arguments.text("format"))


def info(arguments: Arguments, places: Places) -> int:
    """Counts and places."""
    from cri.hand import look

    seen = look.containers(places)
    states = [container.state() for container in seen]
    known: dict[str, object] = {
        "Containers": len(seen),
        "ContainersRunning": states.count("running"),
        "ContainersPaused": states.count("paused"),
        "ContainersStopped": len(seen) - states.count("running") - states.count("paused"),
        "StateDir": places.state,
        "RootDir": places.root,
        "KernelVersion": os.uname().release,
        "CgroupVersion": "2" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "1",
        "NCPU": os.cpu_count(),
        "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "Name": os.uname().nodename,
        "ServerVersion": VERSION,
    }
    return _print(known, arguments.text("format"))


def _print(known: dict[str, object], form: str) -> int:
    if form == "json":
        from json import dumps

        print(dumps(known))
    elif form:
        print(fill_template(form, known))
    else:
        _print_indented(known, 0)
    return 0


def _print_indented(known: dict[str, object], depth: int) -> None:
    for name, value in known.items():
        if isinstance(value, dict):
            print(f"{' ' * depth}{name}:")
            _print_indented(value, depth + 1)
        else:
            print(f"{' ' * depth}{name}: {value}")


def shutdown(_arguments: Arguments, places: Places) -> int:
    """End the processes that wait for containers, when there are none."""
    from cri.hand.errors import HandError, need_root
    from runtime.keep import client as keep

    need_root()
    try:
        keep.Client(places.state, start=False).shutdown()
    except keep.Refused as e:
        raise HandError(str(e), hint="ketch rm -f -a") from None
    return 0
