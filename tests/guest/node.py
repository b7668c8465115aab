# SPDX-License-Identifier: Apache-2.0
"""A node with Ketch installed as the README says, served by its unit at the default paths, with one pod network."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import grpc

from tests.support.pod_driver import BUSYBOX, NETWORK, TOP, Daemon, wait_for


def run(*command: str, given: str | None = None, check: bool = True) -> str:
    """A command's output; a failure shows what it said."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, cwd=TOP)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def install() -> None:
    """Into /usr/local: what the host has staged, because an emulated CPU builds for minutes; else as in the README."""
    staged = TOP / "build/installed"
    if staged.is_dir():
        run("cp", "-a", "--remove-destination", f"{staged}/.", "/")
    else:
        run("make", "install", "PREFIX=/usr/local")


class Node(Daemon):
    """The installed server behind its unit, at the default paths."""

    def __init__(self) -> None:
        self.folder = Path("/run/ketch")
        self.state, self.root = Path("/run/ketch"), Path("/var/lib/ketch")
        self.socket, self.logs = Path("/run/ketch/ketch.sock"), Path("/var/log/pods")
        self._numbers = itertools.count()
        self.channel = grpc.insecure_channel(f"unix:{self.socket}")

    def reach(self) -> None:
        """A fresh connection: the former server may be gone."""
        self.channel.close()
        self.channel = grpc.insecure_channel(f"unix:{self.socket}")

    def main_pid(self) -> int:
        return int(run("systemctl", "show", "ketch-cri", "--property=MainPID", "--value"))

    def restarts(self) -> int:
        return int(run("systemctl", "show", "ketch-cri", "--property=NRestarts", "--value"))

    def wait_for_another(self, former: int) -> None:
        """Until systemd has put another server in the place of the one with this pid, and it answers."""
        wait_for(lambda: self.main_pid() not in (0, former), 10, lambda: run("systemctl", "status", "ketch-cri"))
        run("systemctl", "start", "ketch-cri")  # returns when it is ready, which Type=notify tells
        self.reach()

    def remove_all(self) -> None:
        self.reach()
        for pod in self.call("ListPodSandbox").items:
            self.call("RemovePodSandbox", pod_sandbox_id=pod.id)


UNIT = Path("/etc/systemd/system/ketch-cri.service")


def serve_from_the_checkout(network: dict[str, Any] | None = None) -> Node:
    """The unit, with this tree's own commands: `make install` costs an emulated CPU minutes, one test pays them."""
    from cri.images.store import ImageStore

    UNIT.write_text((TOP / "cri/install/ketch-cri.service").read_text().replace("@PREFIX@", f"{TOP}/.venv"))
    Path("/etc/cni/net.d").mkdir(parents=True, exist_ok=True)
    Path("/etc/cni/net.d/10-pods.conflist").write_text(json.dumps(network or NETWORK))
    Path("/var/lib/ketch").mkdir(exist_ok=True)
    run("rm", "-rf", "/var/log/pods")  # pods of an earlier run had the same names
    store = ImageStore("/var/lib/ketch/images")
    store.build_busybox(BUSYBOX)
    store.close()
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", "ketch-cri")
    return Node()
