# SPDX-License-Identifier: Apache-2.0
"""Bytes through the networks of our CNI plugins and the Go ones, by iperf3: time and CPU of a gigabyte."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench import peers
from tests.bench.contest import Contender
from tests.bench.stopwatch import Cost
from tests.bench.suites import cni

ROUNDS = 5
_GIGABYTE = 1 << 30
_SENT = 1 << 28
_PORT = 5201


def contenders(work: Path) -> list[Contender]:
    """Each set with nftables, which is what both take for masquerade and host ports here."""
    folders = {"ketch-cni": str(peers.OUR_PLUGINS), "Go plugins": peers.go_plugins() or ""}
    return [
        Contender(name, _paths(_Set(work, part, folder)), ours=name == "ketch-cni")
        for part, (name, folder) in enumerate(folders.items())
        if folder
    ]


class _Set:
    """Two pods, a neighbour outside, a server in each: one set of plugins has connected them."""

    def __init__(self, work: Path, part: int, folder: str) -> None:
        self.name = f"d{part}"
        self.folder = folder
        conf = cni.network(work, self.name, 40 + 2 * part, "nftables")
        self.addresses = [self._add(conf, f"{self.name}pod{number}", work) for number in (0, 1)]
        self.host = f"192.0.{2 + part}.1"
        self.outside = f"192.0.{2 + part}.2"
        self.host_port = 8080 + part
        self._connect_outside()
        self._map_port(conf)
        for netns in (f"{self.name}pod1", f"{self.name}out", ""):
            address = "" if netns else f"-B 10.{180 + 4 * part + 1}.0.1"
            _shell(f"{_in(netns)} iperf3 -s -D -p {_PORT} {address}")
        time.sleep(0.3)

    def _run(self, plugin: str, conf: dict[str, Any], netns: str) -> Any:
        environment = {
            **os.environ, "CNI_COMMAND": "ADD", "CNI_CONTAINERID": netns, "CNI_NETNS": f"/run/netns/{netns}",
            "CNI_IFNAME": "eth0", "CNI_PATH": self.folder,
        }  # fmt: skip
        said = subprocess.run(
            [f"{self.folder}/{plugin}"],
            input=json.dumps(conf),
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(said.stdout)

    def _add(self, conf: dict[str, Any], netns: str, work: Path) -> str:
        _shell(f"ip netns add {netns}")
        self.result = self._run("bridge", conf, netns)
        address: str = self.result["ips"][0]["address"].partition("/")[0]
        return address

    def _connect_outside(self) -> None:
        out = f"{self.name}out"
        _shell(f"ip netns add {out}; ip link add {out}0 type veth peer name eth0 netns {out}")
        _shell(f"ip addr add {self.host}/24 dev {out}0; ip link set {out}0 up")
        _shell(f"ip -n {out} addr add {self.outside}/24 dev eth0; ip -n {out} link set eth0 up")

    def _map_port(self, conf: dict[str, Any]) -> None:
        mapping = {"hostPort": self.host_port, "containerPort": _PORT, "protocol": "tcp"}
        ports = {
            "cniVersion": "1.0.0", "name": conf["name"], "type": "portmap", "backend": "nftables",
            "prevResult": self.result, "runtimeConfig": {"portMappings": [mapping]},
        }  # fmt: skip
        self._run("portmap", ports, f"{self.name}pod1")


def _paths(plugins: _Set) -> Callable[[], Iterator[tuple[str, Cost]]]:
    pod, out = f"{plugins.name}pod0", f"{plugins.name}out"
    gateway = plugins.result["ips"][0]["gateway"]

    def one() -> Iterator[tuple[str, Cost]]:
        yield "pod to pod", _sent(pod, plugins.addresses[1], _PORT)
        yield "pod to host", _sent(pod, gateway, _PORT)
        yield "outside to hostPort", _sent(out, plugins.host, plugins.host_port)
        yield "masqueraded to outside", _sent(pod, plugins.outside, _PORT)

    return one


def _sent(netns: str, address: str, port: int) -> Cost:
    """How long a gigabyte takes, and the CPU of sender and receiver: softirqs are in both."""
    command = f"{_in(netns)} iperf3 -J -n {_SENT} -c {address} -p {port}"
    said = json.loads(subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout)
    seconds = said["end"]["sum_received"]["seconds"] * _GIGABYTE / max(said["end"]["sum_received"]["bytes"], 1)
    share = said["end"]["cpu_utilization_percent"]
    cpu = (share["host_total"] + share["remote_total"]) / 100 * seconds
    return Cost(seconds * 1000, cpu * 1000, None)


def _in(netns: str) -> str:
    return f"ip netns exec {netns}" if netns else ""


def _shell(text: str) -> None:
    subprocess.run(["sh", "-c", text], check=True, capture_output=True)
