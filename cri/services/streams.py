# SPDX-License-Identifier: Apache-2.0
"""The engine as the streaming server sees it, and the URLs that its RPCs answer."""

from __future__ import annotations

import socket
from typing import Any

from cri.engine import execute, pod_socket
from cri.engine.engine import Engine
from cri.engine.errors import BadRequest, EngineError
from cri.engine.request import ExecRequest
from cri.streaming import backend
from cri.streaming.server import StreamingServer
from runtime.keep import client as keep


class EngineBackend:
    """What a session needs of the engine; its errors become sentences for the person at the other end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def exec(self, request: backend.ExecRequest) -> keep.Session:
        asked = ExecRequest(request.container_id, request.argv, tty=request.tty, stdin=request.stdin)
        try:
            return self._engine.exec(asked)
        except (EngineError, OSError) as e:
            raise backend.SessionRefused(str(e)) from e

    def attach(self, request: backend.AttachRequest) -> keep.Session:
        try:
            return self._engine.attach(
                request.container_id, stdin=request.stdin, stdout=request.stdout, stderr=request.stderr
            )
        except (EngineError, OSError) as e:
            raise backend.SessionRefused(str(e)) from e

    def port_forward(self, sandbox_id: str, port: int) -> socket.socket:
        try:
            return pod_socket.connect(self._engine.pod(sandbox_id), port)
        except (EngineError, OSError) as e:
            raise backend.SessionRefused(f"port {port}: {e}") from e


class Streams:
    """Checks a request before a URL is given for it: an error here reaches the user as an error of the RPC."""

    def __init__(self, engine: Engine, server: StreamingServer) -> None:
        self._engine = engine
        self._server = server

    def exec_url(self, request: Any) -> str:
        if not request.cmd:
            raise BadRequest("cmd: missing")
        if request.tty and request.stderr:
            raise BadRequest("stderr: a terminal has no stderr of its own")
        if not (request.stdin or request.stdout or request.stderr):
            raise BadRequest("stdin, stdout, stderr: at least one is needed")
        record = execute.running(self._engine.context, request.container_id)
        return self._server.register_exec(
            backend.ExecRequest(
                container_id=record.id,
                argv=tuple(request.cmd),
                tty=request.tty,
                stdin=request.stdin,
                stdout=request.stdout,
                stderr=request.stderr,
            )
        )

    def attach_url(self, request: Any) -> str:
        if not (request.stdin or request.stdout or request.stderr):
            raise BadRequest("stdin, stdout, stderr: at least one is needed")
        record = execute.running(self._engine.context, request.container_id)
        tty = record.request.tty
        return self._server.register_attach(
            backend.AttachRequest(
                container_id=record.id,
                tty=tty,
                stdin=request.stdin,
                stdout=request.stdout,
                stderr=request.stderr and not tty,
            )
        )

    def port_forward_url(self, request: Any) -> str:
        for port in request.port:
            if not 1 <= port <= 65535:
                raise BadRequest(f"port: {port} is not between 1 and 65535")
        record = pod_socket.ready(self._engine.pod(request.pod_sandbox_id))
        return self._server.register_port_forward(backend.PortForwardRequest(record.id, tuple(request.port)))
