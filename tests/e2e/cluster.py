# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes cluster in private namespaces: up and down; python -m tests.e2e.cluster --help."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.e2e import (
    cache,
    control_plane,
    go_build,
    go_programs,
    host_settings,
    image_set,
    local_programs,
    node,
    pki,
    registry,
)
from tests.e2e.machine import Machine, power_cut, power_on, until
from tests.e2e.node import Node
from tests.e2e.pki import Pki
from tests.e2e.runtimes import RUNTIMES, Network, Runtime

MANIFESTS = Path(__file__).parent / "manifests"
MOST_NODES = 9  # so many have a token


def default_folder() -> Path:
    return Path(os.environ.get("KETCH_CLUSTER", "/var/tmp/ketch-cluster"))


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster, as its record says."""

    folder: Path
    site: Machine
    nodes: tuple[Node, ...]

    @property
    def pki(self) -> Pki:
        return Pki(self.folder / "pki")

    def save(self) -> None:
        record = {
            "site": self.site.to_record(),
            "nodes": [each.to_record() for each in self.nodes],
        }
        unfinished = self.folder / "cluster.json.new"
        unfinished.write_text(json.dumps(record, indent=1))
        unfinished.rename(self.folder / "cluster.json")

    def kubectl(self, *words: str, given: str | None = None, check: bool = True, seconds: float = 120) -> str:
        """What kubectl printed."""
        return self.run_kubectl(*words, given=given, check=check, seconds=seconds).stdout

    def kubectl_command(self, *words: str) -> list[str]:
        return [str(go_build.program("kubectl")), f"--kubeconfig={self.pki.folder}/admin.kubeconfig", *words]

    def run_kubectl(
        self, *words: str, given: str | None = None, check: bool = True, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return self.site.run(*self.kubectl_command(*words), given=given, check=check, seconds=seconds)

    def get(self, *words: str) -> Any:
        """The object that `kubectl get WORDS` shows, or None if there is none."""
        done = self.run_kubectl("get", *words, "-o", "json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def apply(self, manifest: str) -> None:
        self.kubectl("apply", "-f", "-", given=manifest)

    def node_condition(self, name: str) -> tuple[str, str]:
        """A node's Ready condition and its message; ("", "") while the node is not registered."""
        seen = self.get("node", name)
        for condition in seen["status"].get("conditions", []) if seen else []:
            if condition["type"] == "Ready":
                return condition["status"], condition["message"]
        return "", ""


def load(folder: Path) -> Cluster | None:
    """The cluster that lives in this folder, if one does."""
    try:
        record = json.loads((folder / "cluster.json").read_text())
    except FileNotFoundError:
        return None
    return Cluster(
        folder,
        Machine.from_record(record["site"]),
        tuple(Node.from_record(each) for each in record["nodes"]),
    )


def build(runtimes: Sequence[Runtime], images: str = image_set.FOR_CLUSTER) -> None:
    """Make what a cluster is made of, if the cache lacks it; the first time that takes ten minutes."""
    say(f"programs and images (built once into {cache.root()})")
    go_build.programs(*go_programs.CLUSTER)
    registry.storage(images)
    for runtime in runtimes:
        runtime.command()  # what it needs is built here, before anything runs


def up(
    folder: Path,
    runtimes: Sequence[Runtime],
    *,
    proxy: str,
    is_networked: bool = True,
    images: str = image_set.FOR_CLUSTER,
) -> Cluster:
    """Start a cluster with a node for each runtime; without a network they stay NotReady until add_network."""
    if load(folder) is not None:
        raise SystemExit(f"a cluster lives in {folder} already: make cluster-down first")
    if folder.exists():
        raise SystemExit(f"{folder} holds the logs of an earlier cluster: remove it when you have read them")
    build(runtimes, images)
    folder.mkdir(parents=True)
    host_settings.hold(folder)
    cluster = Cluster(folder, power_on("site", folder / "site"), ())
    cluster.save()
    try:
        return _bring_up(cluster, runtimes, proxy, is_networked=is_networked, images=images)
    except BaseException:
        say(f"failed; the logs stay in {folder}/*/logs")
        down(folder, keep_logs=True)
        raise


def _bring_up(cluster: Cluster, runtimes: Sequence[Runtime], proxy: str, *, is_networked: bool, images: str) -> Cluster:
    names = [f"node{number}" for number in range(1, MOST_NODES + 1)]
    addresses = ["127.0.0.1", control_plane.SITE_ADDRESS, control_plane.SERVICE_ADDRESS]
    certificates = pki.create(cluster.folder / "pki", addresses, names)
    control_plane.lay_cable(cluster.site)
    control_plane.start_registry(cluster.site, images)
    say("control plane")
    control_plane.start(cluster.site, certificates)
    for number, runtime in enumerate(runtimes, 1):
        cluster = _add_node(cluster, number, runtime)
    _connect_pod_ranges(cluster)
    for each in cluster.nodes:
        node.start_proxy(each, certificates, proxy)
        if is_networked:
            say(f"{each.name} is Ready {add_network(cluster, each):.2f} s after its CNI configuration appeared")
    cluster.apply((MANIFESTS / "coredns.yaml").read_text())
    _write_wrapper(cluster)
    if is_networked:  # so that what a person types next finds services by their names
        cluster.kubectl("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=60s")
    return cluster


def _add_node(
    cluster: Cluster, number: int, runtime: Runtime, settings: Mapping[str, Any] = MappingProxyType({})
) -> Cluster:
    name = f"node{number}"
    say(f"{name} on {runtime.name}")
    machine = power_on(name, cluster.folder / name, is_under_systemd=runtime.is_under_systemd)
    added = Node(machine, runtime, number)
    cluster = dataclasses.replace(cluster, nodes=(*cluster.nodes, added))
    cluster.save()
    node.plug_in(cluster.site, added)
    node.start_runtime(added)
    node.start_kubelet(added, cluster.pki, settings)
    return cluster


def join(cluster: Cluster, runtime: Runtime, settings: Mapping[str, Any] = MappingProxyType({})) -> Cluster:
    """One more node, whose kubelet has these settings besides; it has no network yet."""
    joined = _add_node(cluster, max((each.number for each in cluster.nodes), default=0) + 1, runtime, settings)
    _connect_pod_ranges(joined)
    return joined


def cut_power(cluster: Cluster, node_name: str) -> Cluster:
    """The node falls dead, and starts again with what its disk holds; it has no network configuration yet."""
    hurt = next(each for each in cluster.nodes if each.name == node_name)
    machine = power_cut(hurt.machine, is_under_systemd=hurt.runtime.is_under_systemd)
    again = dataclasses.replace(hurt, machine=machine)
    cluster = dataclasses.replace(cluster, nodes=tuple(again if each is hurt else each for each in cluster.nodes))
    cluster.save()
    node.plug_in(cluster.site, again)
    node.start_runtime(again)
    node.start_kubelet(again, cluster.pki, {})
    _connect_pod_ranges(cluster)
    return cluster


def leave(cluster: Cluster, node_name: str) -> Cluster:
    """The node is switched off for ever and forgotten."""
    for each in cluster.nodes:
        if each.name == node_name:
            cluster.kubectl("delete", "node", node_name, "--ignore-not-found")
            each.machine.power_off()
            subprocess.run(["rm", "-rf", "--one-file-system", str(each.machine.folder)], check=True)
    left = dataclasses.replace(cluster, nodes=tuple(each for each in cluster.nodes if each.name != node_name))
    left.save()
    return left


def pod_range(cluster: Cluster, of: Node) -> str:
    """The addresses that the control plane gave to this node, once it has registered."""

    def given() -> str:
        if of.machine.pid_of("kubelet") is None:
            raise RuntimeError(f"the kubelet ended: {of.machine.log_of('kubelet').read_text()[-2000:]}")
        seen = cluster.get("node", of.name)
        return str(seen["spec"].get("podCIDR", "")) if seen else ""

    return str(until(given, f"{of.name} is given a pod range", 60, every=0.2))


def _connect_pod_ranges(cluster: Cluster) -> None:
    """Routes, as a routed network has them: every node and the site know where each pod range lies."""
    for each in cluster.nodes:
        there = pod_range(cluster, each)
        for other in (cluster.site, *(other.machine for other in cluster.nodes if other is not each)):
            other.run("ip", "route", "replace", there, "via", each.address)


def add_network(cluster: Cluster, to: Node) -> float:
    """Write the node's CNI configuration and wait until it is Ready; the seconds that took."""
    several = control_plane.POD_RANGE if len(cluster.nodes) > 1 else ""
    network = Network(pod_range(cluster, to), several)
    if several and not to.runtime.has_masquerade_exceptions:
        node.add_masquerade_agent(to, network.subnet, several)
    to.runtime.add_network(to.machine, network)
    started = time.monotonic()
    until(lambda: cluster.node_condition(to.name)[0] == "True", f"{to.name} gets Ready", 60)
    return time.monotonic() - started


def _write_wrapper(cluster: Cluster) -> None:
    """kubectl for a person on the host: the API server answers only inside the cluster's network."""
    wrapper = cluster.folder / "kubectl"
    enter = ["nsenter", f"--net=/proc/{cluster.site.pid}/ns/net", "--", *cluster.kubectl_command()]
    wrapper.write_text(f'#!/bin/sh\nexec {" ".join(enter)} "$@"\n')
    wrapper.chmod(0o755)


def down(folder: Path, *, keep_logs: bool = False) -> None:
    """Take everything down by the record; may be called again after it was cut short."""
    cluster = load(folder)
    if cluster is None:
        return
    for machine in (*(each.machine for each in cluster.nodes), cluster.site):
        machine.power_off()
    host_settings.let_go(folder)
    if keep_logs:
        (folder / "cluster.json").unlink()
    else:
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=True)


def choose(names: str, nodes: int) -> list[Runtime]:
    """The runtime of each node, out of "ketch" or "containerd,ketch"."""
    chosen = names.split(",")
    unknown = [name for name in chosen if name not in RUNTIMES]
    if unknown:
        raise SystemExit(f"no runtime {unknown[0]!r} is known here (known: {', '.join(RUNTIMES)})")
    return [RUNTIMES[name] for name in (chosen if len(chosen) > 1 else chosen * nodes)]


def say(text: str) -> None:
    print(f"cluster: {text}", file=sys.stderr, flush=True)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="cluster", description=__doc__)
    parser.add_argument("action", choices=("up", "down", "build"))
    parser.add_argument("--folder", type=Path, default=default_folder(), help="state and logs (%(default)s)")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--runtime", default="ketch", help=f"for all nodes, or one,each ({', '.join(RUNTIMES)})")
    parser.add_argument("--proxy", choices=("nftables", "iptables", "ipvs"), default="nftables")
    parser.add_argument("--no-network", action="store_true", help="write no CNI configuration: nodes stay NotReady")
    wanted = parser.parse_args(words)
    if wanted.action == "down":
        down(wanted.folder)
        return 0
    runtimes = choose(wanted.runtime, wanted.nodes)
    if wanted.action == "build":
        build(runtimes)
        return 0
    up(wanted.folder, runtimes, proxy=wanted.proxy, is_networked=not wanted.no_network)
    print(f"kubectl for this cluster: {wanted.folder}/kubectl get nodes\nits end: make cluster-down")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (go_build.BuildFailed, local_programs.CannotMake) as missing:
        sys.exit(f"cluster: there can be none here: {missing}")
