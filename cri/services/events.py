# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ARG002 - every RPC has the same two arguments
"""The stream of what happens to containers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cri.engine.engine import Engine
from cri.engine.errors import Exhausted, NotFound
from cri.engine.events import Event, Kind
from cri.services import answer
from proto import cri_pb2 as pb

KINDS = {
    Kind.CREATED: pb.CONTAINER_CREATED_EVENT,
    Kind.STARTED: pb.CONTAINER_STARTED_EVENT,
    Kind.STOPPED: pb.CONTAINER_STOPPED_EVENT,
    Kind.DELETED: pb.CONTAINER_DELETED_EVENT,
}


class EventService:
    """GetContainerEvents."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def GetContainerEvents(self, request: Any, context: Any) -> Iterator[Any]:
        subscription = self._engine.events.subscribe()
        try:
            while context.is_active():
                event = subscription.get(1.0)
                if event is not None:
                    yield self._message(event)
                elif subscription.lost:
                    raise Exhausted("GetContainerEvents: read too slowly, events were lost; list and subscribe again")
        finally:
            self._engine.events.unsubscribe(subscription)

    def _message(self, event: Event) -> Any:
        message = pb.ContainerEventResponse(
            container_id=event.id, container_event_type=KINDS[event.kind], created_at=event.time_ns
        )
        try:
            pod = self._engine.pod(event.pod_id)
        except NotFound:
            return message
        message.pod_sandbox_status.CopyFrom(answer.pod_status(pod))
        book = self._engine.book
        message.containers_statuses.extend(answer.container_status(c, book) for c in self._engine.containers(pod.id))
        return message
