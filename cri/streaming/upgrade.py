# SPDX-License-Identifier: Apache-2.0
"""Which protocol a client and we agree on, and what then serves it.

transport   exec and attach                                     port-forward
SPDY/3.1    v4, v3, v2 .channel.k8s.io, or none named (v1)      portforward.k8s.io
WebSocket   v5, v4, or plain channel.k8s.io, also in base64     SPDY/3.1+portforward.k8s.io
"""

from __future__ import annotations

from cri.streaming import http, websocket
from cri.streaming.backend import AttachRequest, Backend, ExecRequest, PortForwardRequest
from cri.streaming.channels import STDOUT, Channels, SpdyChannels, WebSocketChannels
from cri.streaming.link import Link, PeerLost, Tunnel
from cri.streaming.port_forward import PortForward
from cri.streaming.remote_command import Conversation
from runtime.linux.quick_dataclasses import dataclass

TUNNEL = "SPDY/3.1+portforward.k8s.io"
PORT_FORWARD = "portforward.k8s.io"

_SPDY_VERSIONS = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
_WEBSOCKET_VERSIONS = (
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
)

Request = ExecRequest | AttachRequest | PortForwardRequest


@dataclass(frozen=True, slots=True)
class Agreed:
    """What was negotiated: the transport, the sub-protocol, and our answer's head."""

    websocket: bool
    protocol: str
    answer: bytes

    @property
    def structured(self) -> bool:
        """Whether the error channel carries a metav1.Status."""
        return self.protocol.startswith(("v4.", "v5."))

    @property
    def resizable(self) -> bool:
        """Whether there is a resize channel; WebSocket has a number for it in every version."""
        return self.websocket or self.protocol.startswith(("v3.", "v4."))


def action_of(request: Request) -> str:
    """The word in the URL that belongs to a request."""
    return {ExecRequest: "exec", AttachRequest: "attach", PortForwardRequest: "portforward"}[type(request)]


def agree(request: http.Request, action: str) -> Agreed:
    """Choose the protocol. Raises http.Refused with what was offered and what is spoken here."""
    if request.wants_upgrade_to("websocket"):
        return _agree_websocket(request, action)
    if request.wants_upgrade_to("spdy/3.1"):
        return _agree_spdy(request, action)
    raise http.Refused(400, "an upgrade to SPDY/3.1 or websocket is needed here")


def _agree_spdy(request: http.Request, action: str) -> Agreed:
    offered = request.tokens("x-stream-protocol-version")
    spoken = (PORT_FORWARD,) if action == "portforward" else _SPDY_VERSIONS
    chosen = _choose(offered, spoken, default=spoken[0] if action == "portforward" else "")
    headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
    if offered:
        headers["X-Stream-Protocol-Version"] = chosen
    return Agreed(websocket=False, protocol=chosen, answer=http.response(101, headers))


def _agree_websocket(request: http.Request, action: str) -> Agreed:
    if request.method != "GET" or request.first("sec-websocket-version") != "13":
        raise http.Refused(400, "a WebSocket begins with GET and Sec-WebSocket-Version: 13")
    key = websocket.accept_key(request.first("sec-websocket-key"))
    if key is None:
        raise http.Refused(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    offered = request.tokens("sec-websocket-protocol")
    if action == "portforward" and not offered:
        raise http.Refused(403, f"no protocol was offered; spoken here: {TUNNEL}")
    chosen = _choose(offered, (TUNNEL,) if action == "portforward" else _WEBSOCKET_VERSIONS, default="")
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": key}
    if chosen:
        headers["Sec-WebSocket-Protocol"] = chosen
    return Agreed(websocket=True, protocol=chosen, answer=http.response(101, headers))


def _choose(offered: list[str], spoken: tuple[str, ...], *, default: str) -> str:
    """The first that the client offers and we speak: clients name what they like best first."""
    if not offered:
        return default
    for protocol in offered:
        if protocol in spoken:
            return protocol
    raise http.Refused(403, f"unable to negotiate protocol: client offers {offered}, spoken here: {list(spoken)}")


class Session:
    """An agreed protocol together with what was promised under the URL's token."""

    def __init__(self, agreed: Agreed, asked: Request, backend: Backend) -> None:
        self._agreed = agreed
        self._asked = asked
        self._backend = backend

    def serve(self, link: Link, stopping: int, idle_seconds: float) -> None:
        """Answer the upgrade and serve the session to its end."""
        try:
            link.write(self._agreed.answer)
            if isinstance(self._asked, PortForwardRequest):
                self._forward(link, self._asked, stopping, idle_seconds)
            else:
                self._command(link, self._asked, stopping, idle_seconds)
        except PeerLost:
            return

    def _forward(self, link: Link, asked: PortForwardRequest, stopping: int, idle_seconds: float) -> None:
        tunnel = Tunnel(link) if self._agreed.websocket else None
        PortForward(
            link,
            lambda port: self._backend.port_forward(asked.sandbox_id, port),
            name=f"pod {asked.sandbox_id}",
            idle_seconds=idle_seconds,
            tunnel=tunnel,
        ).run(stopping)

    def _command(self, link: Link, asked: ExecRequest | AttachRequest, stopping: int, idle_seconds: float) -> None:
        conversation = Conversation(
            link,
            self._channels(link),
            structured=self._agreed.structured,
            resizable=self._agreed.resizable,
            idle_seconds=idle_seconds,
            exit_matters=isinstance(asked, ExecRequest),
        )

        if isinstance(asked, ExecRequest):
            exec_ = asked
            conversation.run(
                asked, lambda: self._backend.exec(exec_), opened_already=self._agreed.websocket, stopping=stopping
            )
        else:
            attach = asked
            conversation.run(
                asked, lambda: self._backend.attach(attach), opened_already=self._agreed.websocket, stopping=stopping
            )

    def _channels(self, link: Link) -> Channels:
        if not self._agreed.websocket:
            return SpdyChannels(link.write)
        channels = WebSocketChannels(
            link.write,
            encoded="base64" in self._agreed.protocol,
            close_signal=self._agreed.protocol == "v5.channel.k8s.io",
        )
        channels.send(STDOUT, b"")  # clients take an empty message as the sign that the session is there
        return channels
