# SPDX-License-Identifier: Apache-2.0
"""A load of pods, images and CNI calls that a power cut interrupts: python -m tests.guest.power_load install|run.

Says on stdout what was acknowledged: `begin WHAT`, `done WHAT`. The harness keeps the lines; after_cut judges by them.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from cni.client import Attachment, load
from proto import cri_pb2 as pb
from tests.guest.node import Node, run, serve_from_the_checkout
from tests.support.pod_driver import BUSYBOX, NETWORK, TOP

REGISTRY = "127.0.0.1:5000"
KETCH = str(TOP / ".venv/bin/ketch")
SSH = Path("/etc/systemd/system/ssh.service.d/after-ketch.conf")
TAGS = tuple(f"{REGISTRY}/load/image:{number}" for number in range(4))
# 29 addresses: a handful of stale ones after each cut would soon be felt
SMALL = {
    **NETWORK,
    "plugins": [
        {**NETWORK["plugins"][0], "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.89.0.0/27"}]]}},
        NETWORK["plugins"][1],
    ],
}
_printing = threading.Lock()


def say(*words: str) -> None:
    with _printing:
        print(*words, flush=True)


def start_registry() -> None:
    """Debian's docker-registry as a unit of its own; its storage lasts."""
    settings = Path("/etc/power-registry.yml")
    settings.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: /var/lib/power-registry}}}}\n"
        f"http: {{addr: {REGISTRY}}}\n"
    )
    run("systemctl", "reset-failed", "power-registry", check=False)
    run("systemd-run", "--unit=power-registry", "docker-registry", "serve", str(settings), check=False)


def prepare() -> None:
    """Once for each machine: install, enable, and images of 9 MB that differ, in a registry."""
    run("ip", "link", "delete", "cni0", check=False)  # of the other network, if tests ran here before
    serve_from_the_checkout(SMALL)
    run("systemctl", "enable", "ketch-cri")
    # who looks at the boot must not share its processor: nobody logs in before the server is ready
    SSH.parent.mkdir(exist_ok=True)
    SSH.write_text("[Unit]\nAfter=ketch-cri.service\n")
    start_registry()
    for number, tag in enumerate(TAGS):
        tree = Path(f"/var/tmp/load-{number}")
        (tree / "bin").mkdir(parents=True, exist_ok=True)
        run("cp", "/bin/busybox", f"{tree}/bin/sh")
        for part in range(8):
            run("sh", "-c", f"head -c 1000000 /dev/urandom > {tree}/part-{part}")
        run(KETCH, "import", str(tree), tag)
        run(KETCH, "push", tag)
        run(KETCH, "rmi", tag)
        run("rm", "-r", str(tree))
    subprocess.run(["sync"], check=True)


def pods(node: Node, worker: int) -> None:
    """Pods that run to an end with a code of their own, and are removed; every fourth stays."""
    for number in itertools.count():
        name = f"w{worker}-{number}"
        say("begin", "pod", name)
        pod = node.run_pod(name)
        code = 3 + number % 4
        container = pod.start("sh", "-c", f"sleep 0.{number % 5}; exit {code}")
        seen = container.wait(60)
        assert seen.exit_code == code, f"{name}: exit code {seen.exit_code} instead of {code}"
        if number % 4 == 0 and number < 12:
            pod.start("sleep", "100000", name="stays")
            say("done", "pod", name)
            continue
        pod.remove()


def images(node: Node) -> None:
    """Pull and remove, in turns; what was pulled and not removed must be there after a cut."""
    for number in itertools.count():
        tag = TAGS[number % len(TAGS)]
        message = pb.ImageSpec(image=tag)
        say("begin", "pull", tag)
        node.call("PullImage", image=message)
        say("done", "pull", tag)
        if number % 3 == 2:
            other = TAGS[(number - 1) % len(TAGS)]
            say("begin", "remove", other)
            node.call("RemoveImage", image=pb.ImageSpec(image=other))
            say("done", "remove", other)


def attachments() -> None:
    """CNI calls beside those of the pods, in namespaces of our own: ADD, CHECK and DEL over and over."""
    network = load("/etc/cni/net.d")[0]
    for number in itertools.count():
        name = f"load-{number % 3}"
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        run("ip", "netns", "add", name)
        attachment = Attachment(f"{name}-{number}", f"/run/netns/{name}", "eth0")
        network.add(attachment)
        network.check(attachment)
        network.delete(attachment)
        run("ip", "netns", "delete", name)


def _or_die(work: Callable[[], None]) -> None:
    """A worker that fails says so; the cut itself ends all of them."""
    try:
        work()
    except Exception as error:
        say("failed", repr(error).replace("\n", " ")[:600])


def main(words: list[str]) -> int:
    if words == ["install"]:
        prepare()
        return 0
    start_registry()
    node = Node()
    workers: list[Callable[[], None]] = [lambda: images(node), attachments]
    workers += [lambda worker=worker: pods(node, worker) for worker in range(2)]
    threads = [threading.Thread(target=_or_die, args=(work,), daemon=True) for work in workers]
    for thread in threads:
        thread.start()
    say("loaded", BUSYBOX)
    for thread in threads:
        thread.join()
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
