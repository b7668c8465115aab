# SPDX-License-Identifier: Apache-2.0
"""One running guest under plain QEMU: start, restore from the frozen state, reach by ssh, cut its power."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vagrant.image import Image, cache_directory

_CPUS = os.environ.get("KETCH_VM_CPUS", "2")  # 1 where the host's are wanted by others
_CPU_MODEL = "max"  # emulated; on KVM it is the host's
_MEMORY_MIB = 4096
_KERNEL_WORDS = "root=LABEL=ketchroot ro console=ttyS0 quiet net.ifnames=0 apparmor=1 security=apparmor"
# An emulated CPU has none of the faults that cost it a tenth of its speed, and removing a namespace waits for RCU.
_KERNEL_WORDS += " mitigations=off rcupdate.rcu_expedited=1"
# The boot after a power cut is timed by the guest. An emulated clock follows the host's, so it would time what else the
# host does; this one counts a nanosecond per instruction, the least that QEMU knows. Real processors do several.
_BY_INSTRUCTIONS = ["-icount", "shift=0"]
_LAN_PORT = 23011  # UDP, loopback only: the second network card of every guest, one LAN for all of them
_BOOT_SECONDS = 600.0
# What the tests import is in the memory of the frozen state, so no restored guest reads it from its disk.
_WARM = "import grpc, google.protobuf, hypothesis, isal, pyroute2, pytest, yaml, zstandard"


class GuestError(Exception):
    """The guest did not do what was asked; the message says what, and where its console is."""


@dataclass(frozen=True, slots=True)
class Machine:
    image: Image
    name: str

    @property
    def directory(self) -> Path:
        return cache_directory() / "run" / self.name

    @property
    def frozen(self) -> Path:
        """A frozen state fits only the machine that it was taken from: its CPUs, memory and kernel."""
        made_of = f"{_CPUS} {_CPU_MODEL} {_MEMORY_MIB} {_KERNEL_WORDS} {_WARM}"
        return self.image.directory / f"frozen-{hashlib.sha256(made_of.encode()).hexdigest()[:8]}"

    def file(self, name: str) -> Path:
        return self.directory / name

    @property
    def pid(self) -> int | None:
        try:
            pid = int(self.file("pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return None
        # a pid file may outlive its process and name another one by now
        return pid if str(self.directory).encode() in command else None


def up(machine: Machine, *, cold: bool = False) -> str:
    """Start the machine; says how: restored from the frozen state in seconds, or booted."""
    is_ours = machine.file("ready").exists() and machine.file("image").read_text() == machine.image.directory.name
    if machine.pid is not None and is_ours:  # without "ready" its start was interrupted: no clock, no name of its own
        return "is up already"
    if machine.file("cut").exists():
        raise GuestError(
            f"{machine.name} is down between a power cut and its boot (try again, or vm down to forget it)"
        )
    _fresh_directory(machine)  # one that runs from a former image goes: its key and its packages are others
    started = time.monotonic()
    if (machine.frozen / "devices").exists() and not cold:
        _overlay(machine.frozen / "disk.qcow2", machine.file("disk.qcow2"))
        _launch(machine, memory=machine.frozen / "memory", shared=False, incoming=True)
        _restore(machine)
        how = "restored"
    else:
        _overlay(machine.image.disk, machine.file("disk.qcow2"))
        _launch(machine, memory=None, shared=False, incoming=False)
        how = "booted"
    _wait_for_ssh(machine)
    _give_identity(machine)
    machine.file("ready").touch()
    return f"{how} in {time.monotonic() - started:.1f} s"


def reboot_after_power_cut(machine: Machine) -> float:
    """Kill the machine as a power cut does and boot it on the same disk; returns the seconds until ssh answers."""
    machine.file("cut").touch()
    cut_power(machine)
    started = time.monotonic()
    machine.file("ssh").unlink(missing_ok=True)  # the master connection died with the guest
    _launch(machine, memory=None, shared=False, incoming=False, by_instructions=True)
    _wait_for_ssh(machine)
    machine.file("cut").unlink()
    return time.monotonic() - started


def freeze(machine: Machine) -> None:
    """Boot once, bring the guest to rest, keep disk and memory: later starts take seconds."""
    if (machine.frozen / "devices").exists():
        return
    _fresh_directory(machine)
    state = Path(tempfile.mkdtemp(prefix="freezing-", dir=machine.image.directory))
    _overlay(machine.image.disk, state / "disk.qcow2")
    # in tmpfs while it runs: on a disk's file system every first write to the shared mapping costs a journal entry
    handle, memory = tempfile.mkstemp(prefix="ketch-vm-", dir="/dev/shm")
    os.close(handle)
    try:
        _launch(machine, memory=Path(memory), shared=True, incoming=False, disk=state / "disk.qcow2")
        _wait_for_ssh(machine)
        ssh(machine, f"systemctl is-system-running --wait > /dev/null; /opt/ketch/venv/bin/python -c '{_WARM}'; sync")
        _close_ssh(machine)
        _monitor(machine, "migrate_set_capability x-ignore-shared on", "stop", f"migrate exec:cat>{state}/devices")
        _wait(lambda: "completed" in _monitor(machine, "info migrate"), 60, f"{machine.name}: freezing")
        _quit(machine)
        subprocess.run(["cp", "--sparse=always", memory, state / "memory"], check=True)
        state.rename(machine.frozen)
    finally:
        os.unlink(memory)
        cut_power(machine)
        down(machine)


def down(machine: Machine) -> None:
    """Power off by force and forget the machine's disk; the image and the frozen state stay."""
    _close_ssh(machine)
    cut_power(machine)
    if machine.directory.exists():
        for path in machine.directory.iterdir():
            path.unlink()
        machine.directory.rmdir()


def cut_power(machine: Machine) -> None:
    pid = machine.pid
    if pid is None:
        return
    handle = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        _wait(lambda: machine.pid is None, 10, f"{machine.name}: the end of QEMU")
    finally:
        os.close(handle)


def ssh(machine: Machine, command: str, *, check: bool = True, **streams: object) -> subprocess.CompletedProcess[str]:
    """Run one shell command as root in the guest."""
    done: subprocess.CompletedProcess[str] = subprocess.run(  # type: ignore[call-overload]
        [*_ssh_command(machine), command], text=True, check=False, **streams
    )
    if check and done.returncode:
        raise GuestError(f"{machine.name}: {command[:120]!r} ended with status {done.returncode}")
    return done


def popen(machine: Machine, command: str) -> subprocess.Popen[str]:
    """The same, beside us: its output is read as it comes."""
    return subprocess.Popen([*_ssh_command(machine), command], stdout=subprocess.PIPE, text=True)


def shell(machine: Machine) -> int:
    return subprocess.run(_ssh_command(machine), check=False).returncode


def push(machine: Machine, source: Path, options: list[str]) -> None:
    """Bring a tree into the guest, to the path that it has here; rsync's options say what of it."""
    _rsync(machine, options, f"{source}/", f"root@127.0.0.1:{source}/")


def copy_in(machine: Machine, source: Path, target: str) -> None:
    """Bring a folder in as it is; what is there already is not sent again."""
    ssh(machine, f"mkdir -p {shlex.quote(target)}")
    _rsync(machine, ["--size-only"], f"{source}/", f"root@127.0.0.1:{target}/")


def pull(machine: Machine, source: str, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    _rsync(machine, [], f"root@127.0.0.1:{source}/", f"{target}/")


def _rsync(machine: Machine, options: list[str], source: str, target: str) -> None:
    transport = shlex.join(_ssh_command(machine)[:-1])
    # decompressing costs an emulated CPU less than deciphering what is saved
    compressed = ["--compress", "--compress-choice=zstd", "--compress-level=3"]
    done = subprocess.run(["rsync", "-a", *compressed, *options, "-e", transport, source, target], check=False)
    if done.returncode:
        raise GuestError(f"{machine.name}: rsync of {source} to {target} ended with status {done.returncode}")


def cpu_seconds(machine: Machine) -> float:
    """What the guest has cost this host: a figure that its neighbours change little."""
    fields = Path(f"/proc/{machine.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _fresh_directory(machine: Machine) -> None:
    down(machine)
    machine.directory.mkdir(parents=True)
    machine.file("image").write_text(machine.image.directory.name)


def _overlay(base: Path, disk: Path) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, disk], check=True)


def _mac(name: str) -> str:
    digest = hashlib.sha256(name.encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accelerator(image: Image) -> str:
    """KVM where a guest really runs on it: /dev/kvm may open and then hang, so boot a kernel to its panic once."""
    memo = cache_directory() / "accelerator"
    if not memo.exists():
        trial = [
            "qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults", "-display", "none",
            "-no-reboot", "-kernel", str(image.kernel), "-append", "panic=-1 quiet",
        ]  # fmt: skip
        try:
            works = (
                os.access("/dev/kvm", os.W_OK)
                and not subprocess.run(trial, timeout=8, capture_output=True, check=False).returncode
            )
        except subprocess.TimeoutExpired:
            works = False
        memo.write_text("kvm" if works else "tcg")
    return memo.read_text().partition(",")[0]


def _processor(image: Image, *, by_instructions: bool) -> list[str]:
    """The words that choose it; what counts instructions is one thread of QEMU's, and on KVM the clock is a clock."""
    if accelerator(image) == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    threads, clock = ("single", _BY_INSTRUCTIONS) if by_instructions else ("multi", [])
    return ["-accel", f"tcg,thread={threads}", "-cpu", _CPU_MODEL, *clock]


def _launch(
    machine: Machine,
    *,
    memory: Path | None,
    shared: bool,
    incoming: bool,
    disk: Path | None = None,
    by_instructions: bool = False,
) -> None:
    port = _free_port()
    machine.file("port").write_text(str(port))
    backing = f"memory-backend-ram,id=ram,size={_MEMORY_MIB}M"
    if memory is not None:
        # share=off on restore: private pages over the frozen file, so several guests start from one and none changes it
        sharing = "on" if shared else "off"
        backing = f"memory-backend-file,id=ram,size={_MEMORY_MIB}M,mem-path={memory},share={sharing}"
    # A restored guest finds the card it was frozen with; _give_identity sets the address of its own.
    mac = _mac("frozen" if incoming or shared else machine.name)
    command = [
        "qemu-system-x86_64", "-name", machine.name, "-nodefaults", "-display", "none",
        "-machine", "pc,memory-backend=ram", *_processor(machine.image, by_instructions=by_instructions),
        "-smp", _CPUS, "-m", str(_MEMORY_MIB), "-object", backing,
        # writeback, not unsafe: a guest's fsync must survive the power cut that the tests make
        "-drive", f"file={disk or machine.file('disk.qcow2')},if=virtio,format=qcow2,cache=writeback,discard=unmap",
        "-netdev", f"user,id=n0,hostfwd=tcp:127.0.0.1:{port}-:22", "-device", "virtio-net-pci,netdev=n0,romfile=",
        "-netdev", f"socket,id=n1,mcast=230.0.0.1:{_LAN_PORT},localaddr=127.0.0.1",
        "-device", f"virtio-net-pci,netdev=n1,romfile=,mac={mac}",
        "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
        "-serial", f"file:{machine.file('console')}", "-qmp", f"unix:{machine.file('monitor')},server=on,wait=off",
        "-pidfile", str(machine.file("pid")), "-daemonize",
        "-kernel", str(machine.image.kernel), "-initrd", str(machine.image.initrd), "-append", _KERNEL_WORDS,
    ]  # fmt: skip
    if incoming:
        command += ["-incoming", "defer"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GuestError(f"{machine.name}: QEMU did not start: {done.stderr.strip()}")


def _restore(machine: Machine) -> None:
    source = machine.frozen / "devices"
    _monitor(machine, "migrate_set_capability x-ignore-shared on", f"migrate_incoming exec:cat<{source}")
    _wait(lambda: "completed" in _monitor(machine, "info migrate"), 60, f"{machine.name}: restoring")
    _monitor(machine, "cont")  # the frozen machine was stopped, so the restored one starts paused


def _give_identity(machine: Machine) -> None:
    """A clock, a name, a machine id and a LAN address of its own: a restored guest has those of the frozen one."""
    identity = hashlib.sha256(f"{machine.name}{time.time_ns()}".encode()).hexdigest()[:32]
    name, mac = shlex.quote(machine.name), _mac(machine.name)
    ssh(
        machine,
        f"date -s @{time.time():.0f} > /dev/null; hostname {name}; echo {name} > /etc/hostname;"
        f" sed -i 's/^127.0.1.1.*/127.0.1.1 '{name}/ /etc/hosts; echo {identity} > /etc/machine-id;"
        f" ip link set eth1 down; ip link set eth1 address {mac} up",
    )


def _ssh_command(machine: Machine) -> list[str]:
    options = [
        "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=120",
        # the default key exchange is post-quantum, which an emulated CPU computes for a second
        "KexAlgorithms=curve25519-sha256", "HostKeyAlgorithms=ssh-ed25519",
        "ControlMaster=auto", f"ControlPath={machine.file('ssh')}", "ControlPersist=600",
    ]  # fmt: skip
    port = machine.file("port").read_text() if machine.file("port").exists() else "0"
    return [
        "ssh", "-q", "-i", str(machine.image.key), *(part for o in options for part in ("-o", o)),
        "-p", port, "root@127.0.0.1",
    ]  # fmt: skip


def _close_ssh(machine: Machine) -> None:
    if machine.file("ssh").exists():
        subprocess.run([*_ssh_command(machine), "-O", "exit"], capture_output=True, check=False)


def _wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise GuestError(f"{what} took more than {seconds:.0f} s")
        time.sleep(0.05)


def _wait_for_ssh(machine: Machine) -> None:
    def answers() -> bool:
        if machine.pid is None:
            raise GuestError(f"{machine.name}: QEMU ended; its console: {_tail(machine.file('console'))}")
        try:
            # QEMU's forwarded port accepts before the guest listens, so only sshd's banner tells
            with socket.create_connection(("127.0.0.1", int(machine.file("port").read_text())), 1) as probe:
                probe.settimeout(20)  # a loaded, emulated CPU takes seconds to fork sshd; asking again forks another
                return probe.recv(4) == b"SSH-"
        except OSError:
            return False

    _wait(answers, _BOOT_SECONDS, f"{machine.name}: waiting for ssh")
    ssh(machine, "true")


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-400:] if path.exists() else "(empty)"


def _monitor(machine: Machine, *lines: str) -> str:
    """Say lines to QEMU's monitor; returns what it answered."""
    answers: list[str] = []
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(str(machine.file("monitor")))
        stream = channel.makefile("rw")

        def call(message: dict[str, object]) -> str:
            stream.write(json.dumps(message) + "\n")
            stream.flush()
            while True:
                answer = json.loads(stream.readline())
                if "error" in answer:
                    raise GuestError(f"{machine.name}: QEMU refused {message}: {answer['error']}")
                if "return" in answer:
                    return str(answer["return"])

        stream.readline()
        call({"execute": "qmp_capabilities"})
        for line in lines:
            arguments: dict[str, object] = {"command-line": line}
            answers.append(call({"execute": "human-monitor-command", "arguments": arguments}))
    return "\n".join(answers)


def _quit(machine: Machine) -> None:
    try:
        _monitor(machine, "quit")
    except (OSError, ValueError):
        print(f"vm: {machine.name} closed its monitor while quitting", file=sys.stderr)
    _wait(lambda: machine.pid is None, 20, f"{machine.name}: the end of QEMU")
