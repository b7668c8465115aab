# SPDX-License-Identifier: Apache-2.0
"""libvirtd for Vagrant on a machine without systemd, polkit and KVM: its two daemons by hand, no trace afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from vagrant.image import cache_directory, install_packages

_PACKAGES = (
    "vagrant",
    "vagrant-libvirt",
    "libvirt-daemon",
    "libvirt-daemon-system",
    "libvirt-daemon-driver-qemu",
    "libvirt-clients",
    "dnsmasq-base",
    "qemu-system-x86",
    "qemu-utils",
    "rsync",
)
_QEMU_CONF = Path("/etc/libvirt/qemu.conf")
# Without systemd there is nobody to make the machine's cgroup, without CAP_SYS_RESOURCE no core limit to raise.
_QEMU_SETTINGS = """# Written by Ketch's vagrant/libvirt.py for a laboratory machine; `down` puts the former file back.
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
seccomp_sandbox = 0
cgroup_controllers = [ ]
namespaces = [ ]
max_core = 0
"""
_DAEMONS = ("virtlogd", "libvirtd")


def _directory() -> Path:
    return cache_directory() / "libvirt"


def up() -> None:
    """Start virtlogd and libvirtd unless libvirt answers already; needs root."""
    if os.path.isdir("/run/systemd/system"):
        raise SystemExit("vm: this machine has systemd: use its libvirtd (try: systemctl start libvirtd)")
    install_packages(_PACKAGES)
    if _answers():
        return
    own = _directory()
    own.mkdir(parents=True, exist_ok=True)
    former = own / "qemu.conf.former"
    if not former.exists():
        former.write_bytes(_QEMU_CONF.read_bytes() if _QEMU_CONF.exists() else b"")
    _QEMU_CONF.write_text(_QEMU_SETTINGS)
    (own / "virtlogd.conf").write_text(f'log_outputs = "2:file:{own}/virtlogd.log"\n')
    (own / "libvirtd.conf").write_text(
        f'auth_unix_ro = "none"\nauth_unix_rw = "none"\nlog_outputs = "2:file:{own}/libvirtd.log"\n'
    )
    Path("/run/libvirt").mkdir(exist_ok=True)
    for daemon in _DAEMONS:
        subprocess.run([daemon, "-d", "-f", own / f"{daemon}.conf", "-p", own / f"{daemon}.pid"], check=True)
    end = time.monotonic() + 20
    while not _answers():
        if time.monotonic() > end:
            raise SystemExit(f"vm: libvirtd does not answer; its log: {own}/libvirtd.log")
        time.sleep(0.1)


def down() -> None:
    """Destroy libvirt's networks, stop the two daemons, remove the chains they leave, put qemu.conf back."""
    if _answers():
        for network in _virsh("net-list", "--name").split():
            _virsh("net-destroy", network)
    for daemon in reversed(_DAEMONS):
        _stop(_directory() / f"{daemon}.pid")
    for program in ("iptables", "ip6tables"):
        for table in ("filter", "nat", "mangle"):
            _remove_chains(program, table)
    former = _directory() / "qemu.conf.former"
    if former.exists():
        _QEMU_CONF.write_bytes(former.read_bytes())
        former.unlink()


def _virsh(*words: str) -> str:
    return subprocess.run(
        ["virsh", "-c", "qemu:///system", *words], capture_output=True, text=True, check=False
    ).stdout  # fmt: skip


def _answers() -> bool:
    return "QEMU" in _virsh("version")


def _stop(pid_file: Path) -> None:
    try:
        pid = int(pid_file.read_text())
        handle = os.pidfd_open(pid)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        if name == pid_file.stem:  # a stale pid file may name another process by now
            signal.pidfd_send_signal(handle, signal.SIGTERM)
    except (FileNotFoundError, ProcessLookupError):
        pass
    finally:
        os.close(handle)


def _remove_chains(program: str, table: str) -> None:
    """libvirtd leaves its LIBVIRT_ chains and the jumps to them: first the jumps, then the emptied chains."""
    listed = subprocess.run([program, "-w", "-t", table, "-S"], capture_output=True, text=True, check=False).stdout
    rules = [line.split() for line in listed.splitlines()]
    jumps = [r for r in rules if r[0] == "-A" and r[-1].startswith("LIBVIRT_")]
    chains = [r[1] for r in rules if r[0] == "-N" and r[1].startswith("LIBVIRT_")]
    commands = [["-D", *jump[1:]] for jump in jumps]
    commands += [[flag, chain] for flag in ("-F", "-X") for chain in chains]
    for command in commands:
        subprocess.run([program, "-w", "-t", table, *command], capture_output=True, check=False)
