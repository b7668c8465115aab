# SPDX-License-Identifier: Apache-2.0
"""The files that all containers of a pod share: hostname, hosts, resolv.conf, and the memory of /dev/shm."""

from __future__ import annotations

import os

from cri.engine.errors import BadRequest
from cri.engine.request import Dns, IdRange
from runtime.linux import mounts, syscalls
from runtime.linux._core import lib


def resolv_conf(dns: Dns) -> str:
    """Without any setting the node's own file is used instead."""
    lines = []
    if dns.searches:
        lines.append("search " + " ".join(dns.searches))
    lines += [f"nameserver {server}" for server in dns.servers]
    if dns.options:
        lines.append("options " + " ".join(dns.options))
    return "\n".join(lines) + "\n"


def check_dns(dns: Dns) -> None:
    """A line break or a blank would write lines of the caller's choice."""
    for name, values in (("servers", dns.servers), ("searches", dns.searches), ("options", dns.options)):
        for value in values:
            if not value or any(c.isspace() or c == "\0" for c in value):
                raise BadRequest(f"dns_config.{name}: {value!r} is not one word")


def hosts(hostname: str, ips: tuple[str, ...]) -> str:
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    lines += [f"{ip} {hostname}" for ip in ips if hostname]
    return "\n".join(lines) + "\n"


def write(path: str, text: str, owner: int) -> None:
    """Readable by whoever runs in the pod, and owned by its root."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        os.fchmod(fd, 0o644)
        os.write(fd, text.encode())
        if owner:
            os.fchown(fd, owner, owner)
    finally:
        os.close(fd)


def write_all(directory: str, hostname: str, dns: Dns | None, ips: tuple[str, ...], owner: int) -> None:
    """All three; `owner` is the host's id of the pod's root."""
    write(f"{directory}/hostname", f"{hostname}\n", owner)
    write(f"{directory}/hosts", hosts(hostname, ips), owner)
    if dns is not None and (dns.servers or dns.searches or dns.options):
        write(f"{directory}/resolv.conf", resolv_conf(dns), owner)
        return
    try:
        with open("/etc/resolv.conf") as file:
            text = file.read()
    except OSError:
        text = ""
    write(f"{directory}/resolv.conf", text, owner)


def mount_shm(path: str, size: int, owner: int) -> None:
    """A tmpfs of its own per pod: shared memory is part of the IPC that a pod shares."""
    os.makedirs(path, mode=0o1777, exist_ok=True)
    data = f"mode=1777,size={size}" + (f",uid={owner},gid={owner}" if owner else "")
    syscalls.mount("shm", path, "tmpfs", lib.MS_NOSUID | lib.MS_NOEXEC | lib.MS_NODEV, data)


def unmount_shm(path: str) -> None:
    """No-op when it is not mounted."""
    mounts.detach(path)


def root_of(uids: tuple[IdRange, ...]) -> int:
    """The host's id of the pod's root."""
    return next((r.host_id for r in uids if r.container_id == 0), 0)
