# SPDX-License-Identifier: Apache-2.0
"""The parts of one open store, and how its operations report."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from cri.images import credentials as accounts
from cri.images.authorize import Authorizer
from cri.images.blobs import Blobs
from cri.images.cancel import Cancellation
from cri.images.catalogue import Catalogue, LayerRef
from cri.images.digest import chain_ids
from cri.images.errors import RegistryError
from cri.images.hosts import Host, hosts_for
from cri.images.layers import Layer, Layers
from cri.images.layout import Layout
from cri.images.model import Credentials, Event, Platform
from cri.images.reference import Reference
from cri.images.registry import Backoff, Repository
from cri.images.transport import Server, Transport

Progress = Callable[[Event], None]
_SUBSCRIBER_QUEUE = 1024


class Bus:
    """Who wants to hear of changes; a listener that does not keep up loses the oldest, never holds us up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: list[queue.Queue[Event | None]] = []
        self._closed = False

    def tell(self, state: str, subject: str, image: str = "", detail: str = "") -> None:
        event = Event(state, subject, image, detail=detail, time=time.time())
        with self._lock:
            for waiting in self._queues:
                _put(waiting, event)

    def listen(self) -> Iterator[Event]:
        """Events from now on (from this call, not from the first next)."""
        waiting: queue.Queue[Event | None] = queue.Queue(_SUBSCRIBER_QUEUE)
        with self._lock:
            self._queues.append(waiting)
            if self._closed:
                _put(waiting, None)

        def follow() -> Iterator[Event]:
            try:
                while (event := waiting.get()) is not None:
                    yield event
            finally:
                with self._lock:
                    self._queues.remove(waiting)

        return follow()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for waiting in self._queues:
                _put(waiting, None)


def _put(waiting: "queue.Queue[Event | None]", event: Event | None) -> None:
    while True:
        try:
            waiting.put_nowait(event)
            return
        except queue.Full:
            try:
                waiting.get_nowait()
            except queue.Empty:
                pass


@dataclass(frozen=True, slots=True)
class Parts:
    """What an operation on the store works with."""

    layout: Layout
    blobs: Blobs
    layers: Layers
    catalogue: Catalogue
    transport: Transport
    platform: Platform
    certs_d: tuple[str, ...]
    auth_files: tuple[str, ...]
    overlay: bool = True  # whether overlayfs can stand on the store's file system
    backoff: Backoff = field(default_factory=Backoff)
    bus: Bus = field(default_factory=Bus)

    def repository(
        self,
        reference: Reference,
        credentials: Credentials | None,
        cancel: Cancellation | None,
        notice: Callable[[RegistryError], None] | None = None,
    ) -> Repository:
        """A client for one repository, with the account that fits."""
        own = accounts.decode(credentials) if credentials is not None and credentials != Credentials() else None
        if own is None or not accounts.matches(own, reference.host):
            own = accounts.find(reference, self.auth_files)
        known: dict[Server, Authorizer] = {}

        def authorizer(host: Host) -> Authorizer:
            # A mirror is somebody else: the registry's password is not for it, its own entry is.
            found = known.get(host.server)
            if found is None:
                account = own if not host.mirror else accounts.find(_mirror_reference(host), self.auth_files)
                found = known[host.server] = Authorizer(self.transport, account)
            return found

        hosts = hosts_for(reference.host, self.certs_d)
        return Repository(reference, hosts, self.transport, authorizer, cancel, self.backoff, notice)

    def trees(self, layers: Sequence[LayerRef]) -> list[Layer | None]:
        """The unpacked tree of each layer of an image, the lowest first; None where there is none."""
        chain = chain_ids(tuple(layer.diff_id for layer in layers))
        return [self.layers.find(layer.diff_id, chain[i]) for i, layer in enumerate(layers)]


def _mirror_reference(host: Host) -> Reference:
    default = 443 if host.server.scheme == "https" else 80
    name = host.server.host if host.server.port == default else f"{host.server.host}:{host.server.port}"
    return Reference(name, "any")
