# SPDX-License-Identifier: Apache-2.0
"""/etc/hosts of people's containers: who they are, what --add-host says, and the neighbours on a network of their own.

Containers on a user network find each other by name. The file is a bind mount, so it is rewritten in place: a new file
under its name would not be seen inside. A name goes when its container has ended or gone.
"""

from __future__ import annotations

import os

from cri.hand import look, networks, notes, options
from cri.hand.places import Places
from runtime.linux import json_text


def lines_of(pod: look.SeenPod, neighbours: list[look.SeenPod], gateway: str) -> list[str]:
    """The file's text, by line."""
    own = str(pod.record.get("hostname", ""))
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    lines += [f"{ip}\t{own}" + (f" {pod.name}" if pod.name != own else "") for ip in pod.ips if own]
    for name, address in json_text.loads(pod.notes.get(notes.HOSTS, "[]")):
        lines.append(f"{gateway if address == options.HOST_GATEWAY else address}\t{name}")
    lines += [f"{ip}\t{other.name} {other.id[:12]}" for other in neighbours for ip in other.ips]
    return lines


def write(places: Places, pod_id: str) -> None:
    """Write the file of a new pod, and tell its neighbours of it."""
    pod = look.pod_of_id(places, pod_id)
    if pod is None:
        return
    network = pod.notes.get(notes.NETWORK, "")
    if network in networks.BUILT_IN or not network:
        _rewrite(places, pod, [])
    else:
        refresh(places, network)


def refresh(places: Places, network: str) -> None:
    """Rewrite the files of all members of a user network."""
    if network in networks.BUILT_IN or not network:
        return
    ended = {c.record["pod_id"] for c in look.containers(places) if c.state() in ("exited", "unknown")}
    members = [pod for pod in networks.users(places, network) if pod.phase == "ready"]
    for pod in members:
        _rewrite(places, pod, [other for other in members if other.id != pod.id and other.id not in ended])


def _rewrite(places: Places, pod: look.SeenPod, neighbours: list[look.SeenPod]) -> None:
    try:
        fd = os.open(f"{places.state}/pods/{pod.id}/hosts", os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return  # removed at this moment
    os.write(fd, ("\n".join(lines_of(pod, neighbours, _gateway(places, pod))) + "\n").encode())
    os.close(fd)


def _gateway(places: Places, pod: look.SeenPod) -> str:
    """This machine as the pod sees it: its network's bridge, or itself."""
    described = networks.read(places, pod.notes.get(notes.NETWORK, ""))
    if described is None or options.HOST_GATEWAY not in pod.notes.get(notes.HOSTS, ""):
        return "127.0.0.1"
    from cri.hand import subnets

    return subnets.with_gateways(described)[0][1]
