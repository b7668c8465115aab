# SPDX-License-Identifier: Apache-2.0
"""How a registry lets us in: it challenges with Basic or Bearer, we answer, tokens are kept until they expire."""

import json
import re
import threading
import time
from base64 import b64encode
from urllib.parse import urlencode, urlsplit

from cri.images.cancel import Cancellation
from cri.images.errors import Unauthorized, Unreachable
from cri.images.model import Credentials
from cri.images.transport import Server, Tls, Transport
from runtime.linux.quick_dataclasses import dataclass

_PARAMETER = re.compile(r'([a-zA-Z_]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_CLIENT = "ketch"
_SHORTEST_LIFE_SECONDS = 60.0  # what the token specification says where expires_in is missing
_MAX_TOKEN = 1 << 20


@dataclass(frozen=True, slots=True)
class Challenge:
    """One WWW-Authenticate header."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


def parse_challenge(header: str) -> Challenge | None:
    """The strongest challenge of a header: Bearer before Basic."""
    found: dict[str, Challenge] = {}
    for match in re.finditer(
        r"(?i)\b(bearer|basic)\b\s*((?:[a-zA-Z_]+=(?:\"(?:[^\"\\]|\\.)*\"|[^\s,\"]+)[,\s]*)*)", header
    ):
        values = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(match.group(2))}
        scheme = match.group(1).lower()
        found[scheme] = Challenge(scheme, values.get("realm", ""), values.get("service", ""), values.get("scope", ""))
    return found.get("bearer") or found.get("basic")


class Authorizer:
    """Answers challenges with one set of credentials and remembers what was accepted."""

    def __init__(self, transport: Transport, credentials: Credentials | None) -> None:
        self._transport = transport
        self._credentials = credentials or Credentials()
        self._lock = threading.Lock()
        self._tokens: dict[tuple[str, str, str], tuple[str, float]] = {}
        self._challenges: dict[Server, Challenge] = {}

    def header(self, server: Server, scope: str, cancel: Cancellation | None) -> str:
        """What to send at once to a server that has challenged before; '' if it has not."""
        if self._credentials.registry_token:
            return f"Bearer {self._credentials.registry_token}"
        challenge = self._challenges.get(server)
        return self._answer(server, challenge, scope, cancel) if challenge is not None else ""

    def challenged(self, server: Server, header: str, scope: str, sent: str, cancel: Cancellation | None) -> str:
        """The answer to a 401, or Unauthorized if there is none better than what was sent."""
        challenge = parse_challenge(header)
        if challenge is None:
            raise Unauthorized(f"{server} refuses and offers no way to log in", status=401)
        with self._lock:
            self._challenges[server] = challenge
            for key in [key for key, (token, _) in self._tokens.items() if f"Bearer {token}" == sent]:
                del self._tokens[key]  # expired earlier than it said, or revoked
        answer = self._answer(server, challenge, scope or challenge.scope, cancel)
        if not answer or (answer == sent and challenge.scheme == "basic"):
            who = f"as {self._credentials.username!r}" if self._credentials.username else "without credentials"
            raise Unauthorized(f"{server} refuses us {who}", hint="log in, or check user name and password", status=401)
        return answer

    def _answer(self, server: Server, challenge: Challenge, scope: str, cancel: Cancellation | None) -> str:
        if challenge.scheme == "basic":
            return self._basic()
        key = (challenge.realm, challenge.service, scope)
        with self._lock:
            token, expires = self._tokens.get(key, ("", 0.0))
        if token and time.monotonic() < expires:
            return f"Bearer {token}"
        token, life = self._fetch(server, challenge, scope, cancel)
        with self._lock:
            self._tokens[key] = (token, time.monotonic() + life * 0.9)
        return f"Bearer {token}"

    def _basic(self) -> str:
        if not self._credentials.username:
            return ""
        text = f"{self._credentials.username}:{self._credentials.password}"
        return "Basic " + b64encode(text.encode()).decode()

    def _fetch(
        self, server: Server, challenge: Challenge, scope: str, cancel: Cancellation | None
    ) -> tuple[str, float]:
        """Ask the token service; with a refresh token by POST (OAuth2), else by GET with basic auth."""
        parts = urlsplit(challenge.realm)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Unauthorized(f"{server} names a token service that is no URL: {challenge.realm!r}", status=401)
        # The token service is often the registry's neighbour with the same private CA.
        tls = server.tls if parts.hostname == server.host else Tls(server.tls.authorities, (), server.tls.skip_verify)
        service = Server(parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80), tls)
        target = parts.path or "/"
        fields = {"service": challenge.service, "scope": scope}
        fields = {name: value for name, value in fields.items() if value}
        headers = {"Accept": "application/json"}
        if self._credentials.identity_token:
            fields |= {
                "grant_type": "refresh_token",
                "refresh_token": self._credentials.identity_token,
                "client_id": _CLIENT,
            }
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = urlencode(fields).encode()
            reply = self._transport.request(service, "POST", target, headers, body=body, cancel=cancel)
        else:
            if basic := self._basic():
                headers["Authorization"] = basic
            query = "&".join(part for part in (parts.query, urlencode(fields)) if part)
            reply = self._transport.request(service, "GET", f"{target}?{query}", headers, cancel=cancel)
        with reply:
            return _token(reply.status, reply.body(_MAX_TOKEN), service, self._credentials.username)


def _token(status: int, body: bytes, service: Server, username: str) -> tuple[str, float]:
    if status in (400, 401, 403):
        who = f"as {username!r}" if username else "without credentials"
        raise Unauthorized(
            f"the token service {service} refuses us {who}", hint="check user name and password", status=401
        )
    if status != 200:
        raise Unreachable(f"the token service {service} answers {status}", status=status)
    try:
        value = json.loads(body)
        token = value.get("token") or value["access_token"]
        life = float(value.get("expires_in") or _SHORTEST_LIFE_SECONDS)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Unreachable(f"the token service {service} answers nonsense") from None
    if not isinstance(token, str) or not token.isprintable():
        raise Unreachable(f"the token service {service} answers nonsense")
    return token, max(life, 1.0)
