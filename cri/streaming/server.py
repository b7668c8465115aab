# SPDX-License-Identifier: Apache-2.0
"""The streaming server: hands out single-use URLs and serves each in a thread of its own."""

from __future__ import annotations

from dataclasses import dataclass

from cri.streaming.backend import AttachRequest, Backend, ExecRequest, PortForwardRequest


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A certificate and its key in PEM files; with a client CA, clients must show a certificate it signed."""

    certificate: str
    key: str
    client_ca: str = ""


class StreamingServer:
    """Listens from start() until stop(); register_*() may be called from any thread in between."""

    def __init__(
        self,
        backend: Backend,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        advertised_host: str = "",
        tls: TlsFiles | None = None,
        token_seconds: float = 60.0,
        idle_seconds: float = 4 * 3600.0,
        max_sessions: int = 1000,
    ) -> None:
        """advertised_host is what the URLs name, when it is not the address to listen on."""

    def start(self) -> None:
        """Bind and listen. Raises OSError with the address in its text when it is taken."""

    def stop(self) -> None:
        """Stop listening and end the sessions; the processes in the containers live on."""

    def register_exec(self, request: ExecRequest) -> str:
        """A URL good for one use within token_seconds."""
        raise NotImplementedError

    def register_attach(self, request: AttachRequest) -> str:
        """A URL good for one use within token_seconds."""
        raise NotImplementedError

    def register_port_forward(self, request: PortForwardRequest) -> str:
        """A URL good for one use within token_seconds."""
        raise NotImplementedError
