# SPDX-License-Identifier: Apache-2.0
"""A kubelet's pods that a reboot ends: python -m tests.guest.graceful_reboot prepare|judge."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from proto import cri_pb2 as pb
from tests.e2e import go_build
from tests.guest.node import Node, run, serve_from_the_checkout
from tests.support.pod_driver import BUSYBOX, wait_for

_SETTINGS = Path("/etc/kubernetes/kubelet.json")
_MANIFESTS = Path("/etc/kubernetes/manifests")
_WORDS = Path("/var/lib/words")
_PODS = {"ordinary": 0, "critical": 2_000_001_000}  # name -> priority: that of system-node-critical
# An emulated CPU needs the seconds; logind is told by the kubelet to wait as long.
_KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "containerRuntimeEndpoint": "unix:///run/ketch/ketch.sock",
    "staticPodPath": str(_MANIFESTS),
    "enableServer": False,
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "shutdownGracePeriod": "240s",
    "shutdownGracePeriodCriticalPods": "120s",
}


def manifest(name: str, priority: int) -> dict[str, Any]:
    """A pod without an API server, that says so in a file of the node when it ends."""
    script = f"trap 'sleep 1; echo {name} >> /words/ends; exit 0' TERM; while :; do sleep 1 & wait; done"
    main = {
        "name": "main",
        "image": BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", script],
        "volumeMounts": [{"name": "words", "mountPath": "/words"}],
    }
    words = {"name": "words", "hostPath": {"path": str(_WORDS), "type": "DirectoryOrCreate"}}
    spec = {"priority": priority, "terminationGracePeriodSeconds": 100, "containers": [main], "volumes": [words]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def prepare() -> None:
    """Return when both pods run and the kubelet holds its delay."""
    node = serve_from_the_checkout()
    run("systemctl", "enable", "ketch-cri")
    _MANIFESTS.mkdir(parents=True, exist_ok=True)
    _SETTINGS.write_text(json.dumps(_KUBELET))
    for name, priority in _PODS.items():
        (_MANIFESTS / f"{name}.json").write_text(json.dumps(manifest(name, priority)))
    run("systemd-run", "--unit=kubelet", str(go_build.program("kubelet")), f"--config={_SETTINGS}")
    wait_for(lambda: _running(node) == len(_PODS), 60, lambda: run("journalctl", "-u", "kubelet", "-n", "30"))
    wait_for(lambda: "kubelet" in run("systemd-inhibit", "--list"), 10, lambda: run("systemd-inhibit", "--list"))


def _running(node: Node) -> int:
    return sum(c.state == pb.CONTAINER_RUNNING for c in node.call("ListContainers").containers)


def judge() -> str:
    """After the boot: what is wrong, or nothing."""
    ends = (_WORDS / "ends").read_text().split() if (_WORDS / "ends").exists() else []
    if ends != list(_PODS):
        return f"the pods ended in the order {ends}, wanted {list(_PODS)}"
    run("systemctl", "start", "ketch-cri")  # returns when it serves
    node = Node()
    if left := node.call("ListPodSandbox", filter=pb.PodSandboxFilter(state={"state": pb.SANDBOX_READY})).items:
        return f"{len(left)} pods of the former boot are said to be ready"
    return ""


def main(words: list[str]) -> int:
    if words == ["prepare"]:
        prepare()
        return 0
    wrong = judge()
    print(wrong or f"pods ended in their order before the reboot: {', '.join(_PODS)}; nothing of them is said to run")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
