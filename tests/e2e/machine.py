# SPDX-License-Identifier: Apache-2.0
"""A machine made of private namespaces: network, mounts, processes, host name, IPC and cgroups of its own.

Its first process is pause.c, or systemd where that shall divide its control groups. Killing that one ends every process
in the machine; mounts and links go with them.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e import cgroup_root, local_programs

# What programs find by default stays where it is, but every writable place of the system is the machine's own folder.
_PRIVATE_PLACES = """
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/netns
mkdir -p "$1/var-lib" "$1/var-log/pods" "$1/var-log/containers"
mount --bind "$1/var-lib" /var/lib
mount --bind "$1/var-log" /var/log
mount -t tmpfs tmpfs /opt
mount --make-rshared /
hostname "$2"
ip link set lo up
for knob in /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding \
            /proc/sys/net/bridge/bridge-nf-call-iptables /proc/sys/net/bridge/bridge-nf-call-ip6tables; do
    [ ! -e "$knob" ] || echo 1 > "$knob"
done
"""

# Waits for the machine's places, then becomes systemd. The units of the host stay out: only an empty target is started.
# `container` keeps it from looking for hardware, the folder above v1's hierarchies, read-only, from mounting more.
_BECOME_SYSTEMD = """
read -r _ < "$0"
[ -e /sys/fs/cgroup/cgroup.controllers ] || mount -o remount,bind,ro /sys/fs/cgroup
mkdir -p /run/systemd/system
printf '[Unit]\\nDefaultDependencies=no\\n' > /run/systemd/system/machine.target
mount -t tmpfs none /etc/systemd/system
exec env -i container=machine PATH="$PATH" /lib/systemd/systemd \\
    --system --unit=machine.target --show-status=no --log-target=null
"""

# A service is put below the machine's root in every hierarchy, so that what it costs can be read there.
_ENTER_GROUP = """
group=/system/$1
for root in /sys/fs/cgroup/*; do
    mkdir -p "$root$group"
    if [ -e "$root/cpuset.mems" ] && [ -e "$root/tasks" ]; then
        for one in "$root/system" "$root$group"; do
            cat "$root/cpuset.cpus" > "$one/cpuset.cpus"; cat "$root/cpuset.mems" > "$one/cpuset.mems"
        done
    fi
    echo $$ > "$root$group/cgroup.procs"
done
shift
exec "$@"
"""


# An emulated CPU is many times slower: the VM's driver says by how much.
PATIENCE = float(os.environ.get("KETCH_TIMEOUT_FACTOR", "1"))


# Version 2 is mounted with nsdelegate: nobody crosses the border of a cgroup namespace from inside, so enter before.
_ENTER_UNIFIED = 'mkdir -p "$0" && echo $$ > "$0/cgroup.procs" && exec "$@"'


def _in_group(group: str, command: list[str]) -> list[str]:
    return ["sh", "-c", _ENTER_GROUP, "sh", group, *command]


def until(seen: Callable[[], Any], what: str, seconds: float = 30, every: float = 0.05) -> Any:
    """Ask again until the answer is true, and return it; after too long say what did not happen."""
    seconds *= PATIENCE
    end = time.monotonic() + seconds
    while not (answer := seen()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not so after {seconds:.0f} s")
        time.sleep(every)
    return answer


def start_time(pid: int) -> int | None:
    """When this process started, in ticks after boot: with the pid it names one process for ever. None: it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # a first thread that has ended is a zombie while others, of the same files and sockets, are still on their way out
    is_over = fields[0] in "ZX" and int(fields[17]) <= 1
    return None if is_over else int(fields[19])


@dataclass(frozen=True, slots=True)
class Machine:
    """One such machine, found again by its first process."""

    name: str
    folder: Path
    pid: int
    started: int
    cgroup: str

    def to_record(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"folder": str(self.folder)}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Machine:
        return cls(**(record | {"folder": Path(record["folder"])}))

    def is_alive(self) -> bool:
        return start_time(self.pid) == self.started

    def inside(self, *command: str) -> list[str]:
        """The command line that runs a command in this machine."""
        namespaces = ("--net", "--mount", "--pid", "--uts", "--ipc", "--cgroup")
        return ["nsenter", f"--target={self.pid}", *namespaces, "--wdns=/", "--", *command]

    def inside_group(self, group: str, *command: str) -> list[str]:
        """The same, and the command is in a group of its own in every hierarchy: what starts containers needs that."""
        if cgroup_root.is_unified():
            place = cgroup_root.MOUNTED / self.cgroup / "system" / group
            return ["sh", "-c", _ENTER_UNIFIED, str(place), *self.inside(*command)]
        return self.inside(*_in_group(group, list(command)))

    def run(
        self, *command: str, given: str | None = None, check: bool = True, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end; a failure shows what it printed."""
        done = subprocess.run(
            self.inside(*command),
            input=given,
            capture_output=True,
            text=True,
            timeout=seconds * PATIENCE,
            check=False,
        )
        if check and done.returncode != 0:
            said = (done.stdout + done.stderr)[-2000:]
            raise RuntimeError(f"in {self.name}: {' '.join(command)}: status {done.returncode}: {said}")
        return done

    def read(self, *command: str) -> str:
        return self.run(*command).stdout

    def log_of(self, service: str) -> Path:
        return self.folder / "logs" / f"{service}.log"

    def start(self, service: str, *command: str) -> None:
        """Start a service inside that outlives us, in its own group of every hierarchy.

        Its output goes to a file, its pid (as seen inside) to another.
        """
        remember = 'echo $$ > "$0"; exec "$@"'
        script = ["sh", "-c", remember, str(self._pid_file(service)), *command]
        with open(self.log_of(service), "ab") as log:
            launch = self.inside_group(service, "setsid", "--fork", *script)
            subprocess.run(launch, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
        until(lambda: self.pid_of(service), f"{service} starts in {self.name}", 10)

    def _pid_file(self, service: str) -> Path:
        return self.folder / f"{service}.pid"

    def pid_of(self, service: str) -> int | None:
        """The service's process as the host sees it, if it lives."""
        try:
            wanted = self._pid_file(service).read_text().strip()
        except FileNotFoundError:
            return None
        for pid in self.processes():
            if _pid_inside(pid) == wanted and start_time(pid) is not None:
                return pid
        return None

    def processes(self) -> list[int]:
        """All processes of the machine, as the host numbers them."""
        ours = os.readlink(f"/proc/{self.pid}/ns/pid") if self.is_alive() else None
        return [pid for pid in _all_pids() if ours is not None and _namespace_of(pid) == ours]

    def stop(self, service: str, number: int = signal.SIGTERM, seconds: float = 30) -> None:
        """End one service and wait until it is gone."""
        pid = self.pid_of(service)
        if pid is None:
            return
        began = start_time(pid)
        os.kill(pid, number)
        until(lambda: start_time(pid) != began, f"{service} in {self.name} ends after signal {number}", seconds)

    def power_off(self) -> None:
        """Kill the first process, the kernel kills the rest; then the groups. A second call finds nothing to do."""
        if self.is_alive():
            os.kill(self.pid, signal.SIGKILL)
            until(lambda: not self.is_alive(), f"machine {self.name} ends", 60)
        front = _fronts.pop(self.pid, None)
        if front is not None:
            front.wait()
        cgroup_root.remove(self.cgroup)


# The kernel's name for a boot is one for the whole host; programs tell by it that they have been through a power cut.
# Only where a test needs it: in a container with users of its own the kernel refuses a /proc that hides a part.
_ANOTHER_BOOT = """
cat /proc/sys/kernel/random/uuid > /run/boot_id
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
"""


def power_cut(machine: Machine, *, is_under_systemd: bool = False) -> Machine:
    """The same machine after its power was cut and came back: another boot, with what its disk holds."""
    machine.power_off()
    again = power_on(machine.name, machine.folder, is_under_systemd=is_under_systemd)
    again.run("sh", "-euc", _ANOTHER_BOOT)
    return again


# unshare waits for the first process; whoever started it here must reap it
_fronts: dict[int, subprocess.Popen[bytes]] = {}


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _namespace_of(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def _pid_inside(pid: int) -> str | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((line.split()[-1] for line in lines if line.startswith("NSpid:")), None)


def power_on(name: str, folder: Path, *, is_under_systemd: bool = False) -> Machine:
    """A machine whose writable places lie in folder: they are its disk, and what lies there already stays."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    go = folder / "go"
    for left in (*folder.glob("*.pid"), *folder.glob("go")):
        left.unlink()
    cgroup = f"ketch-rig-{name}-{os.getpid()}"
    groups = cgroup_root.create(cgroup)
    first = [str(local_programs.c_program("pause"))]
    if is_under_systemd:
        os.mkfifo(go)
        first = ["/bin/sh", "-euc", _BECOME_SYSTEMD, str(go)]
    front = _unshared(groups, first)
    pid = until(lambda: _first_process(front.pid, Path(first[0])), f"machine {name} starts", 10)
    _fronts[pid] = front
    began = start_time(pid)
    assert began is not None
    machine = Machine(name, folder, pid, began, cgroup)
    hierarchies = "unified" if cgroup_root.is_unified() else " ".join(cgroup_root.hierarchies())
    try:
        cgroup_root.vacate(cgroup)
        machine.run("sh", "-euc", cgroup_root.MOUNT_INSIDE, "sh", hierarchies)
        machine.run("sh", "-euc", _PRIVATE_PLACES, "sh", str(folder), name)
        if is_under_systemd:
            go.write_text("\n")
            until(lambda: _is_booted(machine), f"systemd comes up in {name}")
            machine.run("hostname", name)  # systemd has set the host's
    except BaseException:
        machine.power_off()
        raise
    return machine


def _is_booted(machine: Machine) -> bool:
    return machine.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded")


def _unshared(groups: list[Path], first: list[str]) -> subprocess.Popen[bytes]:
    """unshare with that child, both in these groups first: a cgroup namespace's root is where its maker was."""
    enter = 'for group in $0; do echo $$ > "$group/cgroup.procs"; done; exec "$@"'
    namespaces = ["--net", "--mount", "--pid", "--uts", "--ipc", "--cgroup"]
    unshare = ["unshare", *namespaces, "--fork", "--propagation", "private", "--mount-proc"]
    return subprocess.Popen(
        ["sh", "-euc", enter, " ".join(map(str, groups)), *unshare, *first],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _first_process(front: int, program: Path) -> int | None:
    """unshare's child once it has become the program: before that its mounts are not yet its own."""
    try:
        children = Path(f"/proc/{front}/task/{front}/children").read_text().split()
        if children and os.readlink(f"/proc/{children[0]}/exe") == str(program.resolve()):
            return int(children[0])
    except OSError:
        pass
    return None
