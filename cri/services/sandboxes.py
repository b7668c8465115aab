# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ARG002 - every RPC has the same two arguments
"""RPCs about pods."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from cri.engine import codec
from cri.engine.engine import Engine
from cri.services import answer, filters, wire
from proto import cri_pb2 as pb

BATCH = 500


class SandboxService:
    """RunPodSandbox and what follows it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def RunPodSandbox(self, request: Any, context: Any) -> Any:
        return pb.RunPodSandboxResponse(
            pod_sandbox_id=self._engine.run_pod(wire.pod(request.config, request.runtime_handler))
        )

    def StopPodSandbox(self, request: Any, context: Any) -> Any:
        self._engine.stop_pod(wire.required(request.pod_sandbox_id, "pod_sandbox_id"))
        return pb.StopPodSandboxResponse()

    def RemovePodSandbox(self, request: Any, context: Any) -> Any:
        self._engine.remove_pod(wire.required(request.pod_sandbox_id, "pod_sandbox_id"))
        return pb.RemovePodSandboxResponse()

    def PodSandboxStatus(self, request: Any, context: Any) -> Any:
        record = self._engine.pod(wire.required(request.pod_sandbox_id, "pod_sandbox_id"))
        book = self._engine.book
        response = pb.PodSandboxStatusResponse(
            status=answer.pod_status(record),
            containers_statuses=[answer.container_status(c, book) for c in self._engine.containers(record.id)],
            timestamp=time.time_ns(),
        )
        if request.verbose:
            response.info["info"] = json.dumps(codec.plain(record))
        return response

    def ListPodSandbox(self, request: Any, context: Any) -> Any:
        return pb.ListPodSandboxResponse(items=self._listed(request.filter))

    def StreamPodSandboxes(self, request: Any, context: Any) -> Iterator[Any]:
        items = self._listed(request.filter)
        for first in range(0, len(items), BATCH):
            yield pb.StreamPodSandboxesResponse(pod_sandboxes=items[first : first + BATCH])

    def _listed(self, wanted: Any) -> list[Any]:
        return [answer.pod_item(record) for record in self._engine.pods() if filters.pod(record, wanted)]

    def UpdatePodSandboxResources(self, request: Any, context: Any) -> Any:
        self._engine.update_pod_resources(
            wire.required(request.pod_sandbox_id, "pod_sandbox_id"),
            overhead=wire.resources(request.overhead),
            resources=wire.resources(request.resources),
        )
        return pb.UpdatePodSandboxResourcesResponse()
