# SPDX-License-Identifier: Apache-2.0
"""doctor: what this machine lacks, what that costs, and how to mend it."""

from __future__ import annotations

import os
from shutil import which

from cri.hand import kubelet, ownership
from cri.hand.grammar import Arguments
from cri.hand.places import Places
from cri.hand.tables import size

Finding = dict[str, object]  # name, present, cost, fix

_FIXES = {
    "AppArmor": "a kernel with it, and the boot option apparmor=1",
    "SELinux": "a distribution that has it; without one nothing is lost here",
    "fuse": "modprobe fuse",
    "CAP_SYS_RESOURCE": "run outside of the sandbox that took it away",
    "CAP_SYS_ADMIN": "run as root",
    "CAP_NET_ADMIN": "run as root",
    "CAP_MKNOD": "run as root",
}


def doctor(arguments: Arguments, places: Places) -> int:
    """The list; 1 when something is missing without which nothing runs."""
    if arguments.flag("verify"):
        from runtime import installed_files

        return installed_files.show()
    found = examine(places)
    if arguments.text("format") == "json":
        from json import dumps

        print(dumps(found, indent=2))
    else:
        _print(found)
    return 1 if any(not f["present"] and f.get("vital") for f in found) else 0


def _print(found: list[Finding]) -> None:
    lacking = [f for f in found if not f["present"]]
    print(f"Linux {os.uname().release}: {len(found) - len(lacking)} of {len(found)} things are as they should be")
    for finding in lacking:
        print(f"\n  {'NEEDED ' if finding.get('vital') else ''}{finding['name']}")
        print(f"    costs: {finding['cost'] or 'nothing here'}")
        if finding["fix"]:
            print(f"    try:   {finding['fix']}")
    if files := ownership.show(found):
        print(f"\n{files}")
    print("\nNetworkPolicy is not enforced yet: such objects are accepted by the API server and have no effect.")


def examine(places: Places) -> list[Finding]:
    """The kernel's part, then ours."""
    return [
        *_kernel(),
        *_privileges(),
        *_network(),
        *_programs(),
        *_disk(places),
        *_processes(places),
        *kubelet.examine(places),
        *ownership.examine(places),
    ]


def _kernel() -> list[Finding]:
    from runtime import doctor as runtime_doctor

    vital = {"openat2", "open_tree", "move_mount", "close_range", "pidfd_open"}
    found: list[Finding] = []
    for fact in runtime_doctor.examine():
        name = str(fact["name"])
        since = f"a kernel of {fact['since']} or newer" if fact["since"] else ""
        fix = _FIXES.get(name, since or ("a kernel with that controller" if "controller" in name else ""))
        found.append(
            {"name": name, "present": fact["present"], "cost": fact["cost"], "fix": fix, "vital": name in vital}
        )
    return found


def _privileges() -> list[Finding]:
    root = os.geteuid() == 0
    cost = "no container can be run; explain, help and man work"
    return [{"name": "root", "present": root, "cost": cost, "fix": "sudo ketch ...", "vital": True}]


def _network() -> list[Finding]:
    def switched_on(path: str) -> bool:
        try:
            with open(path) as file:
                return file.read().strip() == "1"
        except OSError:
            return False

    forward = switched_on("/proc/sys/net/ipv4/ip_forward")
    filtered = os.path.exists("/proc/sys/net/bridge")
    names = "/etc/resolv.conf"
    return [
        {
            "name": "ip_forward",
            "present": forward,
            "cost": "containers reach nobody outside until the first one on a bridge switches it on",
            "fix": "nothing: the bridge plugin does it",
        },
        {
            "name": "br_netfilter",
            "present": filtered,
            "cost": "traffic between ports of one bridge does not pass a cluster's service rules",
            "fix": "modprobe br_netfilter",
        },
        {
            "name": names,
            "present": os.path.exists(names) and os.path.getsize(names) > 0,
            "cost": "containers can look up no names",
            "fix": "name a server in it, or run with --dns",
        },
    ]


def _programs() -> list[Finding]:
    from importlib.util import find_spec

    def has(package: str) -> bool:
        return find_spec(package) is not None

    return [
        {
            "name": "static busybox",
            "present": which("busybox") is not None,
            "cost": "ketch image local makes no image without a network",
            "fix": "apt install busybox-static",
        },
        {
            "name": "PyYAML",
            "present": has("yaml"),
            "cost": "pod apply reads no YAML",
            "fix": "pip install 'ketch[cri]'",
        },
        {
            "name": "pyroute2",
            "present": has("pyroute2"),
            "cost": "no traffic shaping",
            "fix": "pip install 'ketch[cni]'",
        },
        {
            "name": "protobuf",
            "present": has("google.protobuf"),
            "cost": "ketch-cri does not start",
            "fix": "pip install 'ketch[cri]'",
        },
    ]


def _disk(places: Places) -> list[Finding]:
    path = places.root
    while not os.path.exists(path):
        path = os.path.dirname(path)
    facts = os.statvfs(path)
    free = facts.f_bavail * facts.f_frsize
    return [
        {
            "name": f"room at {places.root}",
            "present": free > 1 << 30,
            "cost": f"only {size(free)} for images and volumes",
            "fix": "ketch image prune -a, or --root elsewhere",
        },
        {
            "name": "inodes",
            "present": facts.f_files == 0 or facts.f_favail > 50_000,
            "cost": f"only {facts.f_favail} more files",
            "fix": "ketch image prune -a",
        },
    ]


def _processes(places: Places) -> list[Finding]:
    """A spawner is only missed while containers run."""
    from cri.hand import look
    from cri.hand.errors import HandError
    from runtime.keep import places as keep_places
    from runtime.keep import wire

    try:
        running = [c for c in look.containers(places, all_owners=True) if c.state() in ("running", "paused")]
    except (HandError, PermissionError):
        return []
    connection = wire.connect(keep_places.spawner_socket(places.state)) if running else None
    if connection is not None:
        connection.close()
    return [
        {
            "name": "spawner",
            "present": not running or connection is not None,
            "cost": f"{len(running)} containers run on without one; a keeper that dies now is not replaced",
            "fix": "nothing: the next command starts one",
        }
    ]
