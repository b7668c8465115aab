# SPDX-License-Identifier: Apache-2.0
"""One node: a machine on the site's network with a container runtime, a kubelet and kube-proxy, all unmodified."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.e2e import go_build
from tests.e2e.control_plane import DNS_ADDRESS, POD_RANGE, REGISTRY, SERVER, SITE_ADDRESS, SITE_BRIDGE
from tests.e2e.machine import Machine, until
from tests.e2e.pki import Pki
from tests.e2e.runtimes import RUNTIMES, Runtime, write

KUBELET_SETTINGS = "/run/kubelet.json"
POD_PIDS = 500
PROXY_SETTINGS = "/run/kube-proxy.json"


@dataclass(frozen=True, slots=True)
class Node:
    """The machine, what runs its containers, and its number, from which its name and address follow."""

    machine: Machine
    runtime: Runtime
    number: int

    @property
    def name(self) -> str:
        return self.machine.name

    @property
    def address(self) -> str:
        return address_of(self.number)

    def to_record(self) -> dict[str, Any]:
        return {"machine": self.machine.to_record(), "runtime": self.runtime.name, "number": self.number}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Node:
        return cls(Machine.from_record(record["machine"]), RUNTIMES[record["runtime"]], record["number"])


def address_of(number: int) -> str:
    """Node 1 has the first address of the site's network."""
    return f"10.99.0.{number}"


def plug_in(site: Machine, node: Node) -> None:
    """A cable between the site's bridge and the node's eth0, whose default route is the site."""
    port = _port(node)
    in_site = ["nsenter", f"--net=/proc/{site.pid}/ns/net", "ip", "link"]
    # the cable of a node that fell dead goes a little later than the node
    until(lambda: site.run("ip", "link", "show", port, check=False).returncode != 0, f"{port} is free", 20)
    # the node's pid means something only in the PID namespace of the host, so only the network is entered
    pair = ["add", port, "type", "veth", "peer", "name", "eth0", "netns", str(node.machine.pid)]
    for words in (pair, ["set", port, "master", SITE_BRIDGE, "up"]):
        subprocess.run([*in_site, *words], check=True)
    node.machine.run("ip", "addr", "add", f"{node.address}/24", "dev", "eth0")
    node.machine.run("ip", "link", "set", "eth0", "up")
    node.machine.run("ip", "route", "add", "default", "via", SITE_ADDRESS)


def set_cable(site: Machine, node: Node, *, is_connected: bool) -> None:
    """Cut a node off, or connect it again, at the site's end: the node keeps its routes, as behind a switch."""
    site.run("ip", "link", "set", _port(node), "up" if is_connected else "down")


def _port(node: Node) -> str:
    return f"{node.name}-port"


def add_masquerade_agent(node: Node, subnet: str, cluster: str) -> None:
    """What an agent does where the bridge plugin cannot: translate only what leaves the cluster."""
    rule = ["-s", subnet, "!", "-d", cluster, "-j", "MASQUERADE"]
    node.machine.run("iptables", "-t", "nat", "-A", "POSTROUTING", *rule)


def kubelet_settings(runtime: Runtime) -> dict[str, Any]:
    """KubeletConfiguration: what differs from the defaults is what this machine is (cgroup v1, no CAP_SYS_RESOURCE)."""
    settings: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": runtime.endpoint,
        "imageServiceEndpoint": runtime.endpoint,
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "maxPods": 250,
        "podPidsLimit": POD_PIDS,
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": "/run/resolv.conf",
        "staticPodPath": "/run/static-pods",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "readOnlyPort": 10255,
        "eventRecordQPS": 0,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.inodesFree": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "containerLogMaxSize": "1Mi",
        "containerLogMaxFiles": 3,
        "containerLogMonitorInterval": "3s",
    }
    return settings | runtime.kubelet


def start_runtime(node: Node) -> None:
    node.runtime.start(node.machine, REGISTRY)


def start_kubelet(node: Node, pki: Pki, settings: Mapping[str, Any]) -> None:
    """With these settings over the usual ones."""
    machine = node.machine
    write(machine, KUBELET_SETTINGS, json.dumps(kubelet_settings(node.runtime) | dict(settings), indent=1))
    write(machine, "/run/resolv.conf", f"nameserver {SITE_ADDRESS}\n")
    machine.run("mkdir", "-p", "/run/static-pods")
    restart_kubelet(node, pki)


def restart_kubelet(node: Node, pki: Pki) -> None:
    node.machine.start(
        "kubelet",
        str(go_build.program("kubelet")),
        f"--config={KUBELET_SETTINGS}",
        f"--kubeconfig={pki.kubeconfig(SERVER, f'system:node:{node.name}')}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
        "--v=2",
    )


def start_proxy(node: Node, pki: Pki, mode: str) -> None:
    """kube-proxy; a network namespace may not set nf_conntrack_max, which belongs to the whole machine."""
    settings = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(pki.kubeconfig(SERVER, "admin"))},
        "mode": mode,
        "clusterCIDR": POD_RANGE,
        "oomScoreAdj": 0,
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    }
    write(node.machine, PROXY_SETTINGS, json.dumps(settings, indent=1))
    program = str(go_build.program("kube-proxy"))
    node.machine.start("kube-proxy", program, f"--config={PROXY_SETTINGS}", f"--hostname-override={node.name}")
