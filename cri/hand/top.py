# SPDX-License-Identifier: Apache-2.0
"""top: the processes of a container, as this machine sees them."""

from __future__ import annotations

import os
import time

from cri.hand import look
from cri.hand.errors import HandError
from cri.hand.grammar import Arguments
from cri.hand.places import Places
from cri.hand.tables import print_table


def top(arguments: Arguments, places: Places) -> int:
    """The processes, with the pids of this machine, as docker shows them."""
    seen = look.container(places, arguments.words[0])
    if seen.state() not in ("running", "paused"):
        raise HandError(f"container {seen.name} is not running", hint=f"ketch why {seen.name}")
    from runtime.linux import cgroup

    layout = cgroup.layout()
    group = cgroup.Group(layout.directories(str(seen.record["cgroups_path"])), v2=layout.v2)
    if len(arguments.words) > 1:
        return _as_ps_says(arguments.words[1:], group.processes())
    rows = [line for pid in sorted(group.processes()) if (line := _process(pid)) is not None]
    print_table(["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"], rows)
    return 0


def _as_ps_says(words: list[str], pids: list[int]) -> int:
    """With options it is this machine's ps that answers, of whose lines those with a PID of the container are kept."""
    from subprocess import run

    try:
        done = run(["ps", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise HandError("top: this machine has no ps", hint="apt install procps, or leave the options out") from None
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        raise HandError(f"top: ps {' '.join(words)}: {(done.stderr.strip() or 'nothing').splitlines()[0]}")
    if "PID" not in lines[0].split():
        raise HandError("top: there is no PID among the columns", hint="-o pid,...")
    column = lines[0].split().index("PID")
    kept = [line for line in lines[1:] if len(line.split()) > column and line.split()[column] in map(str, pids)]
    print("\n".join([lines[0], *kept]))
    return 0


def _process(pid: int) -> list[str] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            data = file.read()
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None
    fields = data[data.rindex(b")") + 2 :].split()
    ticks = os.sysconf("SC_CLK_TCK")
    seconds = (int(fields[11]) + int(fields[12])) // ticks
    with open("/proc/uptime") as file:
        up = float(file.read().split()[0])
    born = time.time() - up + int(fields[19]) / ticks
    name = data[data.index(b"(") + 1 : data.rindex(b")")].decode(errors="replace")
    terminal = int(fields[4])
    tty = f"pts/{terminal & 0xFF}" if terminal >> 8 == 136 else "?"
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    owner = _user(uid)
    return [
        owner,
        str(pid),
        fields[1].decode(),
        "0",
        time.strftime("%H:%M", time.localtime(born)),
        tty,
        clock,
        words or f"[{name}]",
    ]


def _user(uid: int) -> str:
    if uid == 0:
        return "root"
    from pwd import getpwuid

    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
