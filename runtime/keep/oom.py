# SPDX-License-Identifier: Apache-2.0
"""Whether the kernel killed a process of a container for memory: counters of its cgroup, read when it has ended.

The kernel counts the kill before it sends the signal (mm/oom_kill.c), so a counter that is read after wait() cannot
come too late, as a notification over an eventfd can.
"""

import os

_V1_ROOT = "/sys/fs/cgroup/memory"
_V2_ROOT = "/sys/fs/cgroup"


def memory_cgroup(pid: int) -> str:
    """The directory of the cgroup that limits the memory of pid; empty when there is none that we can see."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    found = ""
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _V1_ROOT + path if os.path.exists(_V1_ROOT + path) else ""
        if controllers == "":
            found = _V2_ROOT + path
    return found if os.path.exists(found + "/memory.events") else ""


def kills(cgroup: str) -> int:
    """Processes killed for memory in the cgroup and all beneath it, since it was made."""
    if not cgroup:
        return 0
    if os.path.exists(cgroup + "/memory.events"):
        return _counter(cgroup + "/memory.events")  # counts the whole subtree
    total = _counter(cgroup + "/memory.oom_control")  # v1 counts where the victim was
    # Two links and one per child directory: without children nothing needs to be listed.
    try:
        if os.stat(cgroup).st_nlink > 2:
            for entry in os.scandir(cgroup):
                if entry.is_dir(follow_symlinks=False):
                    total += kills(entry.path)
    except OSError:
        pass
    return total


def limit(cgroup: str) -> str:
    """What the cgroup may use, for people."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            with open(f"{cgroup}/{name}", encoding="ascii") as file:
                return f"{file.read().strip()} bytes"
        except OSError:
            continue
    return "an unknown amount"


def describe(cgroup: str, count: int) -> str:
    """One phrase about `count` kills."""
    processes = "a process" if count == 1 else f"{count} processes"
    victim, limited = _from_kernel_log(cgroup)
    if limited != cgroup:
        return f"the kernel killed {victim or processes} of cgroup {cgroup}; the limit of {limited} was reached"
    return f"the kernel killed {victim or processes} of cgroup {cgroup}, whose limit is {limit(cgroup)}"


def _from_kernel_log(cgroup: str) -> tuple[str, str]:
    """The last victim of this cgroup by name, and the cgroup whose limit was reached; without a log, what we know."""
    root = _V1_ROOT if cgroup.startswith(_V1_ROOT) else _V2_ROOT
    path = cgroup.removeprefix(root)
    victim, limited = "", cgroup
    for record in _kernel_log():
        # oom-kill:constraint=...,oom_memcg=/limited,task_memcg=/victim's,task=name,pid=1,uid=0
        if ",task_memcg=" not in record:
            continue
        group, _, rest = record.partition(",task_memcg=")[2].partition(",task=")
        # In a cgroup namespace we see the end of the path that the log shows whole.
        if group != path and not group.endswith(path) and f"{path}/" not in f"{group}/":
            continue
        name, _, numbers = rest.rpartition(",pid=")
        victim = f"{name} (pid {numbers.partition(',')[0]})"
        reached = record.partition(",oom_memcg=")[2].partition(",task_memcg=")[0]
        above = group.removesuffix(path) if group.endswith(path) else ""
        limited = root + reached.removeprefix(above) if reached else cgroup
    return victim, limited


def _kernel_log() -> "list[str]":
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    found = []
    try:
        while True:
            try:
                record = os.read(log, 8192)
            except BrokenPipeError:
                continue  # overwritten while we read; the next read goes on with the oldest that is left
            if b"oom-kill:" in record:
                found.append(record.decode(errors="replace"))
    except OSError:
        return found  # EAGAIN: that was all
    finally:
        os.close(log)


def _counter(path: str) -> int:
    try:
        with open(path, encoding="ascii") as file:
            for line in file:
                name, value = line.split()
                if name == "oom_kill":
                    return int(value)
    except OSError:
        pass  # removed with its cgroup
    return 0
