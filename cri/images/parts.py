# SPDX-License-Identifier: Apache-2.0
"""The parts of one open store, and how its operations report."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from cri.images.blobs import Blobs
from cri.images.cancel import Cancellation
from cri.images.catalogue import Catalogue, LayerRef
from cri.images.digest import chain_ids
from cri.images.errors import RegistryError
from cri.images.layers import Layer, Layers
from cri.images.layout import Layout
from cri.images.model import Credentials, Event, Platform
from cri.images.patience import Backoff, Patience
from cri.images.reference import Reference
from runtime.linux.quick_dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    import queue

    from cri.images.registry import Repository
    from cri.images.transport import Transport

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
        import queue

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


def _put(waiting: queue.Queue[Event | None], event: Event | None) -> None:
    import queue

    while True:
        try:
            waiting.put_nowait(event)
            return
        except queue.Full:
            try:
                waiting.get_nowait()
            except queue.Empty:
                pass


class Wires:
    """Connections to registries. Most commands of people need none, and TLS takes longer to import than they run."""

    def __init__(self, patience: Patience | None) -> None:
        self._patience = patience
        self._lock = threading.Lock()
        self._transport: Transport | None = None

    def transport(self) -> Transport:
        with self._lock:
            if self._transport is None:
                from cri.images.transport import Transport

                self._transport = Transport(self._patience)
            return self._transport

    def close(self) -> None:
        with self._lock:
            if self._transport is not None:
                self._transport.close()


@dataclass(frozen=True, slots=True)
class Parts:
    """What an operation on the store works with."""

    layout: Layout
    blobs: Blobs
    layers: Layers
    catalogue: Catalogue
    wires: Wires
    platform: Platform
    certs_d: tuple[str, ...]
    auth_files: tuple[str, ...] | None  # None: where podman and docker look
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
        from cri.images.repositories import open_repository

        return open_repository(self, reference, credentials, cancel, notice)

    def trees(self, layers: Sequence[LayerRef]) -> list[Layer | None]:
        """The unpacked tree of each layer of an image, the lowest first; None where there is none."""
        chain = chain_ids(tuple(layer.diff_id for layer in layers))
        return [self.layers.find(layer.diff_id, chain[i]) for i, layer in enumerate(layers)]
