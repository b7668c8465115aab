# SPDX-License-Identifier: Apache-2.0
"""The engine: what both doors call. Blocking calls, safe from any thread."""

from __future__ import annotations

import json
import logging
import os
import threading
from typing import Any

from cri.config import Config
from cri.engine import apparmor, container, execute, limits, node, recovery, sandbox
from cri.engine.book import Book
from cri.engine.cgroups import Cgroups
from cri.engine.context import Context
from cri.engine.errors import EngineError
from cri.engine.events import Events
from cri.engine.pod_network import PodNetwork
from cri.engine.records import ContainerRecord, PodRecord, Records, boot_id
from cri.engine.request import ContainerRequest, ExecRequest, PodRequest, Resources
from cri.engine.stats import Stats
from cri.engine.watch import Watch
from cri.images.store import ImageStore
from cri.oci.facts import Node
from runtime.keep import client as keep

log = logging.getLogger(__name__)


class Engine:
    """Pods and containers of one owner: `cri` for what a kubelet makes, `hand` for what a person makes."""

    def __init__(self, config: Config, owner: str) -> None:
        seen = node.look(config)
        os.makedirs(config.paths.state, mode=0o711, exist_ok=True)
        images = ImageStore(
            f"{config.paths.root}/images", certs_d=config.images.certs_d, auth_files=config.images.auth_files or None
        )
        self.context = Context(
            config=config,
            owner=owner,
            boot_id=boot_id(),
            node=seen,
            keep=keep.connect(config.paths.state),
            images=images,
            network=PodNetwork(config),
            pods=Records(f"{config.paths.state}/pods", "pod.json", PodRecord),
            bundles=Records(f"{config.paths.state}/bundles", "container.json", ContainerRecord),
            cgroups=Cgroups(seen),
            watch=Watch(lambda identity: container.ended(self.context, identity)),
        )
        self.stats = Stats(self.context)

    def start(self) -> None:
        """Take over what is there, and begin to watch."""
        self.context.watch.start()
        self.context.reclaim.start()
        recovery.recover(self.context)
        if self.context.node.apparmor:
            # the parser takes as long as everything else here: who needs the profile sooner waits for it
            threading.Thread(target=_load_profile, name="apparmor", daemon=True).start()

    def close(self) -> None:
        self.context.watch.close()
        self.context.reclaim.close()
        self.context.images.close()

    # pods

    def run_pod(self, request: PodRequest) -> str:
        return sandbox.run(self.context, request)

    def stop_pod(self, identity: str) -> None:
        sandbox.stop(self.context, identity)

    def remove_pod(self, identity: str) -> None:
        sandbox.remove(self.context, identity)

    def pod(self, identity: str) -> PodRecord:
        return self.context.book.pod(identity)

    def pods(self) -> list[PodRecord]:
        return self.context.book.visible_pods()

    # containers

    def create_container(self, pod_id: str, request: ContainerRequest) -> str:
        return container.create(self.context, pod_id, request)

    def start_container(self, identity: str) -> None:
        container.start(self.context, identity)

    def stop_container(self, identity: str, grace_seconds: float) -> None:
        container.stop(self.context, identity, grace_seconds)

    def remove_container(self, identity: str) -> None:
        container.remove(self.context, identity)

    def container(self, identity: str) -> ContainerRecord:
        return self.context.book.container(identity)

    def containers(self, pod_id: str = "") -> list[ContainerRecord]:
        """All of them, or those of one pod."""
        return self.context.book.visible_containers(pod_id)

    def reopen_log(self, identity: str) -> None:
        execute.reopen_log(self.context, identity)

    # into a container

    def exec_sync(self, request: ExecRequest, timeout_seconds: float | None) -> keep.ExecResult:
        return execute.exec_sync(self.context, request, timeout_seconds)

    def exec(self, request: ExecRequest) -> keep.Session:
        return execute.open_exec(self.context, request)

    def attach(self, identity: str, *, stdin: bool, stdout: bool, stderr: bool) -> keep.Session:
        return execute.attach(self.context, identity, stdin=stdin, stdout=stdout, stderr=stderr)

    def config_of(self, record: ContainerRecord) -> Any:
        """config.json of a container."""
        with open(f"{self.context.bundles.directory(record.id)}/config.json", "rb") as file:
            return json.loads(file.read())

    def update_container_resources(self, identity: str, resources: Resources) -> None:
        """New limits, for a container in any state before its end."""
        limits.update(self.context, identity, resources)

    def update_pod_resources(self, identity: str, *, overhead: Resources, resources: Resources) -> None:
        """What the kubelet has set on the pod's cgroup; kept for who asks."""
        limits.update_pod(self.context, identity, overhead=overhead, resources=resources)

    # the node

    @property
    def config(self) -> Config:
        return self.context.config

    @property
    def node(self) -> Node:
        return self.context.node

    @property
    def book(self) -> Book:
        return self.context.book

    @property
    def events(self) -> Events:
        return self.context.events

    @property
    def images(self) -> ImageStore:
        return self.context.images

    def network_ready(self) -> tuple[bool, str]:
        """Whether pods can be networked now, and if not why."""
        return self.context.network.ready()

    def set_pod_cidr(self, cidr: str) -> None:
        self.context.network.set_pod_cidr(cidr)


def _load_profile() -> None:
    try:
        apparmor.load_default(anew=True)  # an upgrade may bring a new text
    except EngineError as e:
        log.warning("%s; containers that do not ask for it run without", e)
