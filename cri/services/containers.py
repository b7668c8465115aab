# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ARG002 - every RPC has the same two arguments
"""RPCs about containers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cri.engine import codec
from cri.engine.engine import Engine
from cri.engine.errors import BadRequest
from cri.services import answer, filters, wire
from proto import cri_pb2 as pb

BATCH = 500
LONGEST_GRACE_SECONDS = 10 * 365 * 86400


class ContainerService:
    """CreateContainer and what follows it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def CreateContainer(self, request: Any, context: Any) -> Any:
        pod_id = wire.required(request.pod_sandbox_id, "pod_sandbox_id")
        identity = self._engine.create_container(pod_id, wire.container(request.config))
        return pb.CreateContainerResponse(container_id=identity)

    def StartContainer(self, request: Any, context: Any) -> Any:
        self._engine.start_container(wire.required(request.container_id, "container_id"))
        return pb.StartContainerResponse()

    def StopContainer(self, request: Any, context: Any) -> Any:
        if not 0 <= request.timeout <= LONGEST_GRACE_SECONDS:
            raise BadRequest(f"timeout: {request.timeout} is not between 0 and {LONGEST_GRACE_SECONDS} seconds")
        self._engine.stop_container(wire.required(request.container_id, "container_id"), request.timeout)
        return pb.StopContainerResponse()

    def RemoveContainer(self, request: Any, context: Any) -> Any:
        self._engine.remove_container(wire.required(request.container_id, "container_id"))
        return pb.RemoveContainerResponse()

    def ContainerStatus(self, request: Any, context: Any) -> Any:
        record = self._engine.container(wire.required(request.container_id, "container_id"))
        response = pb.ContainerStatusResponse(status=answer.container_status(record, self._engine.book))
        if request.verbose:
            info = {**codec.plain(record), "sandboxID": record.pod_id, "pid": record.pid}
            info["runtimeSpec"] = self._engine.config_of(record)
            response.info["info"] = json.dumps(info)
        return response

    def ListContainers(self, request: Any, context: Any) -> Any:
        return pb.ListContainersResponse(containers=self._listed(request.filter))

    def StreamContainers(self, request: Any, context: Any) -> Iterator[Any]:
        items = self._listed(request.filter)
        for first in range(0, len(items), BATCH):
            yield pb.StreamContainersResponse(containers=items[first : first + BATCH])

    def _listed(self, wanted: Any) -> list[Any]:
        book = self._engine.book
        return [
            answer.container_item(record, book.state(record))
            for record in self._engine.containers()
            if filters.container(record, book, wanted)
        ]

    def UpdateContainerResources(self, request: Any, context: Any) -> Any:
        self._engine.update_container_resources(
            wire.required(request.container_id, "container_id"), wire.resources(request.linux)
        )
        return pb.UpdateContainerResourcesResponse()

    def ReopenContainerLog(self, request: Any, context: Any) -> Any:
        self._engine.reopen_log(wire.required(request.container_id, "container_id"))
        return pb.ReopenContainerLogResponse()
