# SPDX-License-Identifier: Apache-2.0
"""What a kubelet of this host finds of what it needs (cri/install/kubernetes.md); nothing where none has ever run."""

from __future__ import annotations

import os
import re
import socket

from cri.hand.places import Places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cri.hand.doctor import Finding

_FOLDER = "/var/lib/kubelet"
# where kubeadm names the socket, by its version, and the settings
_SETTINGS = ("config.yaml", "instance-config.yaml", "kubeadm-flags.env")
_GATE = "PodAndContainerStatsFromCRI"


def examine(places: Places) -> list[Finding]:
    if not os.path.isdir(_FOLDER):
        return []
    return [_server(places), _network(places), *_settings(places)]


def _server(places: Places) -> Finding:
    path = places.config.cri.socket
    with socket.socket(socket.AF_UNIX) as connection:
        answer = connection.connect_ex(path)
    return {
        "name": "ketch-cri",
        "present": answer == 0,
        "cost": f"a kubelet finds nobody at {path}: {os.strerror(answer)}",
        "fix": "systemctl enable --now ketch-cri",
    }


def _network(places: Places) -> Finding:
    from cni.client.networks import load_directory, require
    from cni.errors import CniError

    folder = places.config.network.conf_dir
    why = ""
    try:
        require(load_directory(folder), folder)
    except CniError as error:
        why = str(error)
    return {
        "name": "pod network",
        "present": not why,
        "cost": f"the node stays NotReady: {why}",
        "fix": "install a network add-on, or write what ketch-cni conf prints",
    }


def _settings(places: Places) -> list[Finding]:
    """What kubeadm wrote; into a kubelet that was told otherwise nobody looks."""
    text = "\n".join(_text(f"{_FOLDER}/{name}") for name in _SETTINGS)
    if not text.strip():
        return []
    endpoint = f"unix://{places.config.cri.socket}"
    return [
        {
            "name": "kubelet's runtime",
            "present": endpoint in text,
            "cost": "the kubelet runs its pods elsewhere",
            "fix": f"containerRuntimeEndpoint: {endpoint} in {_FOLDER}/config.yaml, then restart it",
        },
        {
            "name": "kubelet's statistics",
            "present": re.search(rf'{_GATE}"?[:=]\s*true', text) is not None,
            "cost": "no network figures of pods in the Summary API, no labels of containers in /metrics/cadvisor",
            "fix": f"featureGates: {{{_GATE}: true}} in {_FOLDER}/config.yaml, then restart it",
        },
    ]


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
