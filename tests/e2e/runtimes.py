# SPDX-License-Identifier: Apache-2.0
"""The CRI servers that a rig's machine can run: containerd (the oracle) and Ketch, each as files and one command."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e import go_build
from tests.e2e.image_set import MIRRORED_HOSTS, PAUSE
from tests.e2e.machine import Machine, until
from tests.support.containerd import Containerd

PROJECT = Path(__file__).parent.parent.parent
CNI_CONFIGURATION = "/run/cni/net.d"
_OUR_PLUGINS = PROJECT / "build/cni/bin"


@dataclass(frozen=True, slots=True)
class Network:
    """The pod network of one machine, as the configuration list that a network add-on would write."""

    subnet: str
    cluster: str = ""

    def conflist(self, *, has_exceptions: bool) -> str:
        """Ours masquerades only what leaves the cluster; the Go plugin cannot, so with several nodes it never does."""
        bridge: dict[str, Any] = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "hairpinMode": True,
            "ipMasq": has_exceptions or not self.cluster,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": self.subnet}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        if self.cluster and has_exceptions:
            bridge["nonMasqueradeCIDRs"] = [self.cluster]
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, portmap]}, indent=1)


@dataclass(frozen=True, slots=True)
class Runtime:
    """One CRI server."""

    name: str
    socket: str
    files: Callable[[str], dict[str, str]]  # the registry's address -> what to write where, inside the machine
    command: Callable[[], list[str]]
    has_masquerade_exceptions: bool
    kubelet: dict[str, Any] = field(default_factory=dict)  # settings of the kubelet that go with it
    is_under_systemd: bool = False  # its machine's first process divides the control groups

    @property
    def endpoint(self) -> str:
        return f"unix://{self.socket}"

    def start(self, machine: Machine, registry: str) -> None:
        """Write its files and start it; return when its socket is there."""
        for path, content in self.files(registry).items():
            write(machine, path, content)
        machine.run("mkdir", "-p", CNI_CONFIGURATION)
        self.restart(machine)

    def restart(self, machine: Machine) -> None:
        machine.start(self.name, *self.command())
        until(lambda: self._is_listening(machine), f"{self.name} makes {self.socket}", 30)

    def _is_listening(self, machine: Machine) -> bool:
        if machine.pid_of(self.name) is None:
            raise RuntimeError(f"{self.name} ended at once: {machine.log_of(self.name).read_text()[-2000:]}")
        return machine.run("test", "-S", self.socket, check=False).returncode == 0

    def add_network(self, machine: Machine, network: Network) -> None:
        """What a network add-on does last: the configuration appears, whole at once."""
        conflist = network.conflist(has_exceptions=self.has_masquerade_exceptions)
        write(machine, f"{CNI_CONFIGURATION}/.new", conflist)
        machine.run("mv", f"{CNI_CONFIGURATION}/.new", f"{CNI_CONFIGURATION}/10-pods.conflist")


def write(machine: Machine, path: str, content: str) -> None:
    machine.run("mkdir", "-p", os.path.dirname(path))
    machine.run("sh", "-c", 'cat > "$0"', path, given=content)


def _hosts_files(folder: str, registry: str) -> Iterable[tuple[str, str]]:
    """containerd's way to name a mirror: one hosts.toml per registry host."""
    for host in MIRRORED_HOSTS:
        text = f'server = "http://{registry}"\n[host."http://{registry}"]\n  capabilities = ["pull", "resolve"]\n'
        yield f"{folder}/{host}/hosts.toml", text


# Kubernetes' suites expect a second handler of this name.
TEST_HANDLER = "test-handler"


def _containerd_files(registry: str) -> dict[str, str]:
    return _containerd_files_over(go_build.program("cni-plugins"), registry)


def _containerd_files_over(plugins: Path, registry: str) -> dict[str, str]:
    configuration = Containerd(
        root="/var/lib/containerd",
        state="/run/containerd",
        socket="/run/containerd/containerd.sock",
        pause=PAUSE,
        runc=str(go_build.program("runc")),
        plugins=str(plugins),
        networks=CNI_CONFIGURATION,
        registries="/run/certs.d",
        handlers=("runc", TEST_HANDLER),
    )
    return {"/run/containerd.toml": configuration.text(), **dict(_hosts_files("/run/certs.d", registry))}


def _containerd_command() -> list[str]:
    """containerd finds its shim beside itself or on PATH."""
    names = ("containerd", "containerd-shim-runc-v2", "runc")
    folders = ":".join(str(go_build.program(name).parent) for name in names)
    path = f"PATH={folders}:{os.environ['PATH']}"
    return ["env", path, str(go_build.program("containerd")), "--config", "/run/containerd.toml"]


_KETCH = """[runtime]
cgroup_driver = "{cgroup_driver}"
[network]
conf_dir = "{configuration}"
plugin_dirs = ["{plugins}"]
[images]
certs_d = ["/run/certs.d"]
[runtime.handlers.runc]
command = ["{runc}"]
[runtime.handlers.{test_handler}]
command = ["{runc}"]
"""


def _ketch_files(registry: str, cgroup_driver: str = "cgroupfs") -> dict[str, str]:
    text = _KETCH.format(
        cgroup_driver=cgroup_driver,
        configuration=CNI_CONFIGURATION,
        plugins=_OUR_PLUGINS,
        runc=go_build.program("runc"),
        test_handler=TEST_HANDLER,
    )
    return {"/run/ketch.toml": text, **dict(_hosts_files("/run/certs.d", registry))}


def _ketch_command() -> list[str]:
    return [str(PROJECT / ".venv/bin/ketch-cri"), "--config", "/run/ketch.toml"]


# cAdvisor asks only the sockets of its own runtimes for the network of a pod; with this gate the kubelet asks ours.
_STATS_FROM_CRI = {"featureGates": {"PodAndContainerStatsFromCRI": True}}

RUNTIMES = {
    "containerd": Runtime(
        "containerd", "/run/containerd/containerd.sock", _containerd_files, _containerd_command, False
    ),
    "containerd-ketch-cni": Runtime(  # with our plugins in place of the Go ones, all else the same
        "containerd",
        "/run/containerd/containerd.sock",
        functools.partial(_containerd_files_over, _OUR_PLUGINS),
        _containerd_command,
        True,
    ),
    "ketch": Runtime("ketch", "/run/ketch/ketch.sock", _ketch_files, _ketch_command, True, _STATS_FROM_CRI),
    "ketch-systemd": Runtime(
        "ketch",
        "/run/ketch/ketch.sock",
        functools.partial(_ketch_files, cgroup_driver="systemd"),
        _ketch_command,
        True,
        _STATS_FROM_CRI | {"cgroupDriver": "systemd"},
        is_under_systemd=True,
    ),
}
