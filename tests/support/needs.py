# SPDX-License-Identifier: Apache-2.0
"""What a test needs of the machine: needs("root", "overlay") skips at home and fails where CI promises it.

Every need is probed, never guessed from a version. CI_OFFERS is the written list of what CI's machine has: with
CI=true a listed need whose probe fails is a failure, and so is an unlisted one whose probe succeeds (then list it).
"""

import functools
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench import peers
from tests.support import kernel, registry, unpacked

IN_CI = os.environ.get("CI") == "true"


def needs(*names: str) -> pytest.MarkDecorator:
    """Mark a test with what it needs; unknown names are refused when the test is collected."""
    unknown = [name for name in names if name not in PROBES]
    if unknown:
        raise ValueError(f"unknown need {', '.join(unknown)} (known: {', '.join(sorted(PROBES))})")
    return pytest.mark.needs(*names)


@functools.cache
def has(name: str) -> bool:
    """Whether this machine offers it; asked once."""
    return PROBES[name]()


def _tool(*names: str) -> Callable[[], bool]:
    return lambda: all(shutil.which(name) for name in names)


def _in_a_child(attempt: Callable[[], object]) -> bool:
    """Try something that changes the process it is tried in."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            attempt()
            code = 0
        except Exception as e:
            sys.stderr.write(f"{e}\n")
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _link(kind: str, *options: str) -> Callable[[], bool]:
    def attempt() -> None:
        kernel.unshare(kernel.CLONE_NEWNET)
        for command in (
            ["ip", "link", "add", "base", "type", "bridge"],
            ["ip", "link", "add", "probe", *(["link", "base"] if "-" in options else []), "type", kind]
            + [option for option in options if option != "-"],
        ):
            subprocess.run(command, check=True, capture_output=True)

    return lambda: has("root") and bool(shutil.which("ip")) and _in_a_child(attempt)


def _qdisc(*arguments: str) -> Callable[[], bool]:
    def attempt() -> None:
        kernel.unshare(kernel.CLONE_NEWNET)
        subprocess.run(["ip", "link", "add", "base", "type", "bridge"], check=True, capture_output=True)
        subprocess.run(["tc", "qdisc", "add", "dev", "base", *arguments], check=True, capture_output=True)

    return lambda: has("root") and bool(shutil.which("tc")) and _in_a_child(attempt)


def _command_in_a_netns(*command: str) -> Callable[[], bool]:
    def attempt() -> None:
        kernel.unshare(kernel.CLONE_NEWNET | kernel.CLONE_NEWNS)
        kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("tmpfs", "/run", "tmpfs")  # iptables makes its lock there
        subprocess.run(command, check=True, capture_output=True)

    return lambda: has("root") and bool(shutil.which(command[0])) and _in_a_child(attempt)


def _overlay() -> bool:
    def attempt() -> None:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("tmpfs", "/mnt", "tmpfs")
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(f"/mnt/{name}")
        kernel.mount("o", "/mnt/merged", "overlay", 0, "lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work")

    return has("root") and _in_a_child(attempt)


def _mounted_as(kind: str) -> Callable[[], bool]:
    return lambda: any(f" - {kind} " in line for line in Path("/proc/self/mountinfo").read_text().splitlines())


def _cgroup2() -> bool:
    """The unified hierarchy with the controllers that limits need, not the empty one of a hybrid machine."""
    path = Path("/sys/fs/cgroup/cgroup.controllers")
    return path.exists() and {"cpu", "memory", "pids"} <= set(path.read_text().split())


def _bounding_capability(bit: int) -> Callable[[], bool]:
    def probe() -> bool:
        line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("CapBnd"))
        return bool(int(line.split()[1], 16) >> bit & 1)

    return probe


def _exists(path: str) -> Callable[[], bool]:
    return lambda: os.path.exists(path)


def _ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as s:
            s.bind(("::1", 0))
    except OSError:
        return False
    return True


def _sctp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


def _user_namespace() -> bool:
    return _in_a_child(lambda: kernel.unshare(kernel.CLONE_NEWUSER))


PROBES: dict[str, Callable[[], bool]] = {
    "root": lambda: os.geteuid() == 0,
    "cgroup1": _mounted_as("cgroup"),
    "cgroup2": _cgroup2,
    "userns": _user_namespace,
    "overlay": _overlay,
    "ipv6": _ipv6,
    "sctp": _sctp,
    "apparmor": _exists("/sys/module/apparmor/parameters/enabled"),
    "selinux": _exists("/sys/fs/selinux/enforce"),
    "systemd": _exists("/run/systemd/system"),
    "systemd_program": _exists("/lib/systemd/systemd"),
    "logind": lambda: os.path.exists("/lib/systemd/systemd-logind") and _tool("dbus-daemon", "dbus-send", "busctl")(),
    # a machine that tests may change as a whole: made by vagrant/image.py, thrown away afterwards
    "guest": _exists("/etc/ketch-guest"),
    "br_netfilter": _exists("/proc/sys/net/bridge/bridge-nf-call-iptables"),
    "cap_sys_resource": _bounding_capability(24),
    "veth": _link("veth"),
    "bridge": _link("bridge"),
    "bridge_vlan": _link("bridge", "vlan_filtering", "1"),
    "macvlan": _link("macvlan", "-"),
    "ipvlan": _link("ipvlan", "-"),
    "vlan": _link("vlan", "-", "id", "5"),
    "dummy": _link("dummy"),
    "vxlan": _link("vxlan", "id", "7", "dstport", "4789"),
    "ifb": _link("ifb"),
    "vrf": _link("vrf", "table", "10"),
    "wireguard": _link("wireguard"),
    "tbf": _qdisc("root", "tbf", "rate", "1mbit", "burst", "32k", "latency", "10ms"),
    "nft": _command_in_a_netns("nft", "add", "table", "inet", "probe"),
    "iptables_nft": _command_in_a_netns("iptables-nft", "-t", "nat", "-S"),
    "ipvs": _command_in_a_netns("ipvsadm", "--list"),
    "iptables_legacy": _command_in_a_netns("iptables-legacy", "-t", "nat", "-S"),
    "busybox": _exists("/bin/busybox"),
    "cc": _tool("cc"),
    "newuidmap": _tool("newuidmap", "newgidmap"),
    # What need not be there for any test of ours to run, but is a peer or an oracle where it is.
    "runc": _tool("runc"),
    "crun": _tool("crun"),
    "containerd": _tool("containerd", "ctr"),
    "go": _tool("go"),
    "docker-registry": lambda: registry.program() is not None,
    "apparmor_parser": lambda: unpacked.program("apparmor_parser") is not None,
    "zsh": lambda: unpacked.program("zsh") is not None,
    "fish": lambda: unpacked.program("fish") is not None,
    "umoci": _tool("umoci"),
    "skopeo": _tool("skopeo"),
    "buildah": _tool("buildah"),
    "podman": _tool("podman"),
    "cni_plugins": lambda: peers.go_plugins() is not None,
    "built_containerd": lambda: all(peers.built(n) for n in ("containerd", "containerd-shim-runc-v2", "ctr", "runc")),
    "etc_cni": _exists("/etc/cni"),
    "cnitool": lambda: peers.built("cnitool") is not None,
}

# The machine of CI: Debian 12, kernel 6.18, root, cgroup v1 hybrid. Tools are those of its image and of `make setup`.
CI_OFFERS = frozenset(
    [
        "root",
        "cgroup1",
        "userns",
        "overlay",
        "ipv6",
        "br_netfilter",
        "veth",
        "bridge",
        "macvlan",
        "vxlan",
        "ifb",
        "tbf",
        "nft",
        "iptables_nft",
        "iptables_legacy",
        "busybox",
        "cc",
        "newuidmap",
        # brought by `make setup`: a judge of profiles, independent readers and writers of images
        "apparmor_parser",
        "docker-registry",
        "zsh",
        "fish",
        "umoci",
        "skopeo",
        "buildah",
        "podman",
    ]
)
# Not promised and not forbidden: whether they are there depends on what else was installed.
UNPROMISED = frozenset(
    {
        "runc",
        "crun",
        "containerd",
        "go",
        "cni_plugins",
        "cnitool",
        "built_containerd",
        "etc_cni",
        "systemd_program",
        "logind",
    }
)


def missing(item: pytest.Item) -> list[str]:
    """What the test needs and this machine lacks."""
    return [name for mark in item.iter_markers("needs") for name in mark.args if not has(name)]


def check(item: pytest.Item) -> None:
    """Skip the test, or fail it where CI promises what is missing."""
    if lacking := missing(item):
        broken = [name for name in lacking if name in CI_OFFERS]
        if IN_CI and broken:
            pytest.fail(
                f"CI promises {', '.join(broken)}, and the probe says no (tests/support/needs.py)", pytrace=False
            )
        pytest.skip(f"needs {', '.join(lacking)}")
