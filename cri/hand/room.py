# SPDX-License-Identifier: Apache-2.0
"""The engine as one command needs it: only the records that matter are loaded, nothing is watched, no gRPC.

ketch-cri loads everything and settles it at its start. Here many short commands run at once, and one must not settle
what another is just making: whoever makes something holds the lock `making/ID`, and what is half made without a maker
is taken down.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from cri.config import Config
from cri.engine import node, sandbox
from cri.engine.book import Ended
from cri.engine.cgroups import Cgroups
from cri.engine.context import Context
from cri.engine.pod_network import PodNetwork
from cri.engine.records import ContainerRecord, PodRecord, Records, boot_id
from cri.engine.watch import Watch
from cri.hand import look, names, notes
from cri.hand.errors import HandError, need_root
from cri.hand.places import Places
from cri.images.store import ImageStore
from runtime.keep import client as keep
from runtime.linux import beneath, durable
from runtime.linux.quick_dataclasses import replace


def config_of(places: Places, *, shm_bytes: int = 0) -> Config:
    """The configuration with this door's own networks instead of the kubelet's."""
    config = places.config
    network = replace(config.network, conf_dir=places.networks, data_dir=f"{places.root}/cni")
    runtime = replace(config.runtime, shm_bytes=shm_bytes) if shm_bytes else config.runtime
    return replace(config, network=network, runtime=runtime)


class Room:
    """What a command works with; close() at the end."""

    def __init__(self, places: Places, *, shm_bytes: int = 0, owner: str = notes.OWNER) -> None:
        need_root()
        self.places = places
        config = config_of(places, shm_bytes=shm_bytes)
        state = places.state
        os.makedirs(f"{places.hand}/making", mode=0o711, exist_ok=True)
        os.makedirs(places.root, mode=0o711, exist_ok=True)
        seen = node.look(config)
        self.context = Context(
            config=config,
            owner=owner,
            boot_id=boot_id(),
            node=seen,
            keep=keep.Client(state, meanwhile=_load_what_is_next),
            images=open_store(config),
            network=PodNetwork(config),
            pods=Records(f"{state}/pods", "pod.json", PodRecord),
            bundles=Records(f"{state}/bundles", "container.json", ContainerRecord),
            cgroups=Cgroups(seen),
            watch=Watch(lambda _: None),
        )

    def __enter__(self) -> Room:
        self.tidy()
        return self

    def __exit__(self, *_: object) -> None:
        self.context.watch.close()
        self.context.images.close()

    def load(self, seen: look.Seen) -> ContainerRecord:
        """Put a container with its pod and its pod's other containers into the book."""
        self.load_pod(str(seen.record["pod_id"]))
        try:
            return self.context.book.containers[seen.id]
        except KeyError:
            raise HandError(f"container {seen.name} was removed just now") from None

    def load_pod(self, pod_id: str) -> PodRecord:
        """Put a pod with its containers into the book, each with what is known of its end."""
        book = self.context.book
        record = self.context.pods.load(pod_id)
        if record is None:
            raise HandError(f"pod {pod_id[:12]} was removed just now")
        book.pods[record.id] = record
        book.members.setdefault(record.id, set())
        for found in look.members(self.places, pod_id):
            if (loaded := self.context.bundles.load(found.id)) is not None:
                book.load_container(loaded)
                self._note_end(found)
        pod: PodRecord = record
        return pod

    def _note_end(self, seen: look.Seen) -> None:
        state = seen.state()
        from cri.engine import container as engine_container

        if state == "unknown":
            self.context.book.end(seen.id, Ended(None, 0, detail="nobody saw how it ended"))
        elif seen.exit() is not None:
            engine_container.note_end(self.context, seen.id, self.context.keep.exit(seen.id))
        elif seen.failure:
            self.context.book.end(seen.id, Ended(128, int(seen.record.get("failed_at", 0)), detail=seen.failure))

    @contextmanager
    def making(self, identity: str) -> Iterator[None]:
        """While the block runs, what it makes is nobody else's to tidy up."""
        path = f"{self.places.hand}/making/{identity}"
        with durable.lock(path):
            try:
                yield
            finally:
                durable.remove(path, durable=False)

    def tidy(self) -> None:
        """Take down what a killed command left half made: its file in `making` is there, its lock is nobody's."""
        folder = f"{self.places.hand}/making"
        for identity in os.listdir(folder):
            try:
                left = durable.lock(f"{folder}/{identity}", wait=False, create=False)
            except (BlockingIOError, FileNotFoundError):
                continue  # somebody is making it, or has just done so
            with left:
                self._take_down(identity)
                durable.remove(f"{folder}/{identity}", durable=False)

    def _take_down(self, identity: str) -> None:
        """Everything that has this id: containers, the pod, the name, the folder of logs."""
        from cri.engine import container as engine_container

        book = self.context.book
        pod = self.context.pods.load(identity)
        if pod is not None:
            book.pods[identity] = pod
            book.members.setdefault(identity, set())
        for found in look.raw_containers(self.places):
            if identity in (found["id"], found["pod_id"]) and (made := self.context.bundles.load(found["id"])):
                if made.pod_id not in book.pods and (joined := self.context.pods.load(made.pod_id)) is not None:
                    book.pods[joined.id] = joined
                book.load_container(made)
                engine_container.remove(self.context, made.id)
        sandbox.remove(self.context, identity)
        for records in (self.context.bundles, self.context.pods):
            records.forget(identity)  # a folder that never got its record
        names.release_all(self.places, identity)
        if os.path.isdir(f"{self.places.root}/logs/{identity}"):
            beneath.remove_tree(f"{self.places.root}/logs/{identity}")


# What a command imports after the spawner has been asked for this: while it works, one of two processors is idle.
_NEXT = {
    "pin": (
        "cri.engine.container",
        "cni.plugins.bridge",
        "cni.plugins.host_local",
        "cni.plugins.firewall",
        "cni.plugins.portmap",
    ),
    "start": ("cri.hand.removal", "cri.hand.terminal", "runtime.lifecycle"),
}


def _load_what_is_next(asked: str) -> None:
    for module in _NEXT[asked]:
        __import__(module)


def open_store(config: Config) -> ImageStore:
    """The image store, shared with ketch-cri."""
    return ImageStore(
        f"{config.paths.root}/images", certs_d=config.images.certs_d, auth_files=config.images.auth_files or None
    )
