# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ARG002 - every RPC has the same two arguments
"""RPCs that lead into a container, and those about checkpoints."""

from __future__ import annotations

from typing import Any

from cri.engine import patience
from cri.engine.engine import Engine
from cri.engine.errors import BadRequest, Unsupported
from cri.engine.request import ExecRequest
from cri.services import wire
from cri.services.streams import Streams
from proto import cri_pb2 as pb

OUTPUT_BYTES = (16 << 20) - 1024  # a client takes no message above 16 MiB, and would lose the exit code with it


def fitting(stdout: bytes, stderr: bytes) -> tuple[bytes, bytes]:
    """The beginnings of both; a stream gives way to the other down to half of the room."""
    stderr = stderr[: max(OUTPUT_BYTES // 2, OUTPUT_BYTES - len(stdout))]
    return stdout[: OUTPUT_BYTES - len(stderr)], stderr


class ExecService:
    """ExecSync at once; Exec, Attach and PortForward through a URL."""

    def __init__(self, engine: Engine, streams: Streams) -> None:
        self._engine = engine
        self._streams = streams

    def ExecSync(self, request: Any, context: Any) -> Any:
        if request.timeout < 0:
            raise BadRequest(f"timeout: {request.timeout} is negative")
        seconds = float(request.timeout) if request.timeout else None
        waiting = patience.caller()
        left = waiting.seconds_left() if waiting is not None else None
        if left is not None and (seconds is None or left < seconds):
            seconds = left  # the caller will not be there to hear more
        asked = ExecRequest(wire.required(request.container_id, "container_id"), tuple(request.cmd))
        result = self._engine.exec_sync(asked, seconds)
        stdout, stderr = fitting(result.stdout, result.stderr)
        return pb.ExecSyncResponse(stdout=stdout, stderr=stderr, exit_code=result.exit_code)

    def Exec(self, request: Any, context: Any) -> Any:
        wire.required(request.container_id, "container_id")
        return pb.ExecResponse(url=self._streams.exec_url(request))

    def Attach(self, request: Any, context: Any) -> Any:
        wire.required(request.container_id, "container_id")
        return pb.AttachResponse(url=self._streams.attach_url(request))

    def PortForward(self, request: Any, context: Any) -> Any:
        wire.required(request.pod_sandbox_id, "pod_sandbox_id")
        return pb.PortForwardResponse(url=self._streams.port_forward_url(request))

    def CheckpointContainer(self, request: Any, context: Any) -> Any:
        raise Unsupported("CheckpointContainer: checkpoints are not offered yet")

    def CheckpointPod(self, request: Any, context: Any) -> Any:
        raise Unsupported("CheckpointPod: checkpoints are not offered yet")

    def RestorePod(self, request: Any, context: Any) -> Any:
        raise Unsupported("RestorePod: checkpoints are not offered yet")
