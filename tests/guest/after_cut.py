# SPDX-License-Identifier: Apache-2.0
"""What a power cut has left, looked at after the boot: python -m tests.guest.after_cut < what the load had said.

Prints one JSON object: seconds by the guest's clock until the server was ready, and what is wrong.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from cni.client import Attachment, load
from cri.images.store import ImageStore
from proto import cri_pb2 as pb
from tests.guest.node import Node, run
from tests.support.pod_driver import BUSYBOX, wait_for

_ADDRESSES = 29  # of the network that power_load installs, without the gateway
_STORE = Path("/var/lib/ketch/images")


def acknowledged(lines: Iterable[str]) -> tuple[set[str], set[str]]:
    """Images that must be there, and those that may not be known: a pull or removal of them was under way."""
    there: set[str] = set()
    unknown: set[str] = set()
    for line in lines:
        match line.split():
            case ["begin", "pull" | "remove", name]:
                unknown.add(name)
            case ["done", "pull", name]:
                there.add(name)
                unknown.discard(name)
            case ["done", "remove", name]:
                there.discard(name)
                unknown.discard(name)
    return there - unknown, unknown


def moments() -> dict[str, float]:
    """How long the server took to serve, from the start of its process and of the kernel; beside it, a bare Python."""
    wait_for(lambda: _unit("ActiveState") == "active", 60, lambda: run("systemctl", "status", "ketch-cri", check=False))
    serving = int(_unit("ActiveEnterTimestampMonotonic"))
    began = time.monotonic()
    run(sys.executable, "-I", "-S", "-c", "pass")
    return {
        "ready_seconds": round((serving - int(_unit("ExecMainStartTimestampMonotonic"))) / 1e6, 2),
        "up_seconds": round(serving / 1e6, 2),
        "python_seconds": round(time.monotonic() - began, 2),
    }


def _unit(what: str) -> str:
    return run("systemctl", "show", "ketch-cri", f"--property={what}", "--value").strip()


def stale_kernel_state() -> Iterator[str]:
    """Nothing of a former boot's pods may be back: mounts, namespaces, links, rules."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        target = line.split(" ")[4]
        pinned = target.startswith(("/run/netns/", "/var/lib/ketch/"))
        if pinned or (target.startswith("/run/ketch/") and target.count("/") > 3):
            yield f"mount: {target}"
    if os.path.isdir("/run/netns"):
        yield from (f"network namespace: {name}" for name in os.listdir("/run/netns"))
    yield from (f"link: {name}" for name in os.listdir("/sys/class/net") if name not in ("lo", "eth0", "eth1"))
    ruleset = json.loads(run("nft", "-j", "list", "ruleset"))["nftables"]
    yield from (f"rule set: {entry}" for entry in ruleset if "element" in entry or "rule" in entry)


def untrue_status(node: Node) -> Iterator[str]:
    """What ran when the power went does not run now, and nobody saw how it ended."""
    for pod in node.call("ListPodSandbox").items:
        if pod.state == pb.SANDBOX_READY:
            yield f"pod {pod.metadata.name} is said to be ready"
    for listed in node.call("ListContainers").containers:
        status = node.call("ContainerStatus", container_id=listed.id).status
        if status.state == pb.CONTAINER_RUNNING:
            yield f"container {listed.id} is said to run"
        elif status.state == pb.CONTAINER_EXITED and status.exit_code == 0:
            yield f"container {listed.id} is said to have ended well; none of the load does"


def damaged_images(node: Node, must: set[str], may: set[str]) -> Iterator[str]:
    """Every image is whole, those that were acknowledged are there, and no half of one lies about."""
    store = ImageStore(str(_STORE))
    try:
        yield from (f"image {damage.image}: {damage.subject}: {damage.what}" for damage in store.verify(repair=False))
        listed = {name for image in node.call("ListImages").images for name in image.repo_tags}
        yield from (f"image {name} was pulled and is gone" for name in must - listed)
        strange = {name for name in listed if "load/image" in name} - must - may
        yield from (f"image {name} was removed and is back" for name in strange)
        store.collect()
        for folder in ("staging", "trash", "leases"):
            yield from (f"images/{folder}/{name} is left" for name in os.listdir(_STORE / folder))
        known = set(store.rootfs_keys())
        yield from (f"writable layer {key} is left" for key in known if not _has_container(node, key))
    finally:
        store.close()


def _has_container(node: Node, key: str) -> bool:
    return any(listed.id == key[:64] for listed in node.call("ListContainers").containers)


def stale_addresses() -> Iterator[str]:
    """The whole range can be handed out again: an address that a former boot still holds would be missing."""
    network = load("/etc/cni/net.d")[0]
    made: list[Attachment] = []
    try:
        for number in range(_ADDRESSES):
            name = f"fill-{number}"
            run("ip", "netns", "add", name)
            made.append(Attachment(name, f"/run/netns/{name}", "eth0"))
            network.add(made[-1])
    except Exception as error:
        yield f"address {len(made)} of {_ADDRESSES} cannot be had: {error}"
    finally:
        for attachment in made:
            network.delete(attachment)
            subprocess.run(["ip", "netns", "delete", attachment.container_id], check=False)


def works(node: Node) -> Iterator[str]:
    """A new pod runs, and its end is told."""
    pod = node.run_pod("after")
    container = pod.start("sh", "-c", "exit 9", image=BUSYBOX)
    code = container.wait(60).exit_code
    if code != 9:
        yield f"a container that ends with 9 is said to have ended with {code}"
    pod.remove()


def main() -> int:
    said = sys.stdin.read().splitlines()
    times = moments()
    node = Node()
    must, may = acknowledged(said)
    wrong = [f"the load: {line}" for line in said if line.startswith("failed")]
    for look in (stale_kernel_state(), untrue_status(node), damaged_images(node, must, may), stale_addresses()):
        wrong += list(look)
    node.remove_all()
    wrong += list(works(node))
    pods = sum(line.startswith("done pod") for line in said)
    pulls = sum(line.startswith("done pull") for line in said)
    print(json.dumps({**times, "pods": pods, "pulls": pulls, "wrong": wrong}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
