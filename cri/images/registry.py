# SPDX-License-Identifier: Apache-2.0
"""The OCI distribution API (and Docker v2, its ancestor), for one repository with all the hosts that serve it."""

import http.client
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

from cri.images import digest as digests
from cri.images import manifest as manifests
from cri.images.authorize import Authorizer
from cri.images.cancel import Cancellation
from cri.images.errors import Cancelled, Corrupt, Missing, RateLimited, RegistryError, Unauthorized, Unreachable
from cri.images.hosts import Host
from cri.images.patience import Backoff
from cri.images.reference import Reference
from cri.images.transport import NoSuchHost, PlainServer, ProxyRefused, Response, Server, Transport
from runtime.linux.quick_dataclasses import replace

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 10
_MAX_ERROR = 64 << 10
T = TypeVar("T")


class Busy(RateLimited):
    """The server asks to come back later; `retry_seconds` says when."""

    def __init__(self, message: str, *, status: int, retry_seconds: float) -> None:
        super().__init__(message, hint="the registry is overloaded or limits you; try later or log in", status=status)
        self.retry_seconds = retry_seconds


def retrying(
    act: Callable[[], T], backoff: Backoff, cancel: Cancellation | None, notice: Callable[[RegistryError], None]
) -> T:
    """Call act until it works, as long as its failure is one that passes."""
    attempt = 0
    while True:
        try:
            return act()
        except RegistryError as error:
            attempt += 1
            if attempt >= backoff.tries or not passes(error):
                raise
            notice(error)
            asked = error.retry_seconds if isinstance(error, Busy) else 0.0
            delay = backoff.delay(attempt - 1, asked)
            if cancel is None:
                cancel = Cancellation()
            if cancel.wait(delay):
                raise cancel.error("waiting to try again") from error


def passes(error: RegistryError) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, (Unauthorized, Missing, PlainServer, NoSuchHost, ProxyRefused)):
        return False
    return isinstance(error, (Unreachable, RateLimited)) or error.status >= 500


class Repository:
    """One repository of a registry, asked at its mirrors first."""

    def __init__(
        self,
        reference: Reference,
        hosts: Sequence[Host],
        transport: Transport,
        authorizers: Callable[[Host], Authorizer],
        cancel: Cancellation | None = None,
        backoff: Backoff | None = None,
        notice: Callable[[RegistryError], None] | None = None,
    ) -> None:
        self.reference = reference
        self._hosts = list(hosts)
        self._transport = transport
        self._authorizers = authorizers
        self._cancel = cancel
        self._backoff = backoff or Backoff()
        self._notice = notice or (lambda _: None)
        self._served: dict[str, Host] = {}

    def greet(self) -> None:
        """Ask the registry itself for nothing: raises Unauthorized if it does not know the account."""
        with self._send(self._hosts[-1], "GET", "", "", {}) as reply:
            _drain(reply)

    # -- reading ---------------------------------------------------------------------------------------------------
    def resolve(self, tag_or_digest: str) -> tuple[str, str, int]:
        """Digest, media type and size of what a tag names now; cheap (HEAD), and free of pull limits."""

        def ask(host: Host) -> tuple[str, str, int]:
            with self._send(host, "HEAD", f"manifests/{tag_or_digest}", "pull", {"Accept": manifests.ACCEPT}) as reply:
                found = reply.header("Docker-Content-Digest")
                if not digests.is_digest(found) or reply.length < 0:
                    raise _NoDigest
                return found, reply.header("Content-Type"), reply.length

        try:
            return self._everywhere("resolve", ask)
        except _NoDigest:
            data, media_type = self.manifest(tag_or_digest)
            return digests.of(data), media_type, len(data)

    def manifest(self, tag_or_digest: str) -> tuple[bytes, str]:
        """A manifest or index and its media type; by digest it is verified here."""

        def ask(host: Host) -> tuple[bytes, str]:
            with self._send(host, "GET", f"manifests/{tag_or_digest}", "pull", {"Accept": manifests.ACCEPT}) as reply:
                data = reply.body(manifests.MAX_MANIFEST)
                if digests.is_digest(tag_or_digest) and not digests.matches(data, tag_or_digest):
                    raise Mismatch(f"{host.server}: the manifest {tag_or_digest} has other content")
                return data, reply.header("Content-Type")

        return self._everywhere("pull" if digests.is_digest(tag_or_digest) else "resolve", ask)

    def blob(self, digest: str, offset: int = 0) -> tuple[Response, int]:
        """Start reading a blob; returns the reply and the offset at which it begins (0 if ranges are not served)."""

        def ask(host: Host) -> tuple[Response, int]:
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
            reply = self._send(host, "GET", f"blobs/{digest}", "pull", headers, ok=(200, 206))
            self._served[digest] = host
            if reply.status == 200:
                return reply, 0
            begin = reply.header("Content-Range").removeprefix("bytes ").partition("-")[0]
            if begin != str(offset):
                reply.close()
                raise Unreachable(
                    f"{host.server}: asked for bytes from {offset}, got {reply.header('Content-Range')!r}"
                )
            return reply, offset

        return self._everywhere("pull", ask, retry=False)

    def distrust(self, digest: str) -> None:
        """Whoever served this blob served rubbish: ask the others from now on, if there are any."""
        host = self._served.get(digest)
        if host is not None and len(self._hosts) > 1:
            self._hosts = [other for other in self._hosts if other != host]

    def has_blob(self, digest: str) -> bool:
        """Whether the place that we push to has a blob."""
        try:
            with self._send(self._pusher(), "HEAD", f"blobs/{digest}", "pull,push", {}):
                return True
        except Missing:
            return False

    def referrers(self, digest: str) -> bytes:
        """The index of what refers to a manifest (signatures, SBOMs)."""

        def ask(host: Host) -> bytes:
            with self._send(host, "GET", f"referrers/{digest}", "pull", {"Accept": manifests.OCI_INDEX}) as reply:
                return reply.body(manifests.MAX_MANIFEST)

        return self._everywhere("pull", ask)

    # -- writing ---------------------------------------------------------------------------------------------------
    def mount(self, digest: str, source: Reference) -> tuple[bool, str]:
        """Ask the registry to take a blob from another of its repositories; else the URL of the upload it opened."""
        query = urlencode({"mount": digest, "from": source.path})
        also = f"repository:{source.path}:pull"
        host = self._pusher()
        with self._send(host, "POST", f"blobs/uploads/?{query}", "pull,push", {}, ok=(201, 202), also=also) as reply:
            return reply.status == 201, self._location(host, reply)

    def start_upload(self) -> str:
        """Open an upload; returns its URL."""
        host = self._pusher()
        with self._send(host, "POST", "blobs/uploads/", "pull,push", {}, body=b"", ok=(202,)) as reply:
            return self._location(host, reply)

    def append_upload(self, url: str, offset: int, data: bytes) -> str:
        """Send a chunk; returns the URL for the next."""
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{offset}-{offset + len(data) - 1}",
            "Content-Length": str(len(data)),
        }
        host = self._pusher()
        with self._send(host, "PATCH", url, "pull,push", headers, body=data, ok=(202,)) as reply:
            return self._location(host, reply)

    def upload_status(self, url: str) -> tuple[int, str]:
        """How much of an upload has arrived, to go on behind it."""
        host = self._pusher()
        with self._send(host, "GET", url, "pull,push", {}, ok=(204,)) as reply:
            end = reply.header("Range").removeprefix("bytes=").partition("-")[2]
            return (int(end) + 1 if end.isdigit() and end != "0" else 0), self._location(host, reply)

    def finish_upload(self, url: str, digest: str) -> None:
        """Close an upload: the registry compares the digest."""
        url += ("&" if "?" in url else "?") + urlencode({"digest": digest})
        with self._send(self._pusher(), "PUT", url, "pull,push", {}, body=b"", ok=(201, 204)):
            pass

    def put_manifest(self, tag_or_digest: str, data: bytes, media_type: str) -> None:
        """Store a manifest under a tag or its digest."""
        headers = {"Content-Type": media_type}
        path = f"manifests/{tag_or_digest}"
        with self._send(self._pusher(), "PUT", path, "pull,push", headers, body=data, ok=(201,)) as reply:
            said = reply.header("Docker-Content-Digest")
            if said and not digests.matches(data, said):
                raise Corrupt(f"the registry stored another manifest ({said})", hint="a proxy in between rewrites it?")

    def retry(self, act: Callable[[], T]) -> T:
        """Repeat an act of writing under this repository's patience."""
        return retrying(act, self._backoff, self._cancel, self._notice)

    def _pusher(self) -> Host:
        for host in reversed(self._hosts):  # the registry itself is last
            if "push" in host.capabilities:
                return host
        raise RegistryError(f"no host of {self.reference.host} takes pushes", hint="see its hosts.toml")

    def _location(self, host: Host, reply: Response) -> str:
        location = reply.header("Location")
        return urljoin(f"{host.server}/", location) if location else ""

    # -- asking ----------------------------------------------------------------------------------------------------
    def _everywhere(self, capability: str, ask: Callable[[Host], T], *, retry: bool = True) -> T:
        """Ask the hosts in order. What only one of them lacks or garbles, another may have."""
        hosts = [host for host in self._hosts if capability in host.capabilities]
        if not hosts:
            raise RegistryError(f"no host of {self.reference.host} may {capability}", hint="see its hosts.toml")

        def all_hosts() -> T:
            failures: list[RegistryError] = []
            for host in hosts:
                try:
                    return ask(host)
                except RegistryError as error:
                    failures.append(error)
            raise worst(failures)

        return retrying(all_hosts, self._backoff, self._cancel, self._notice) if retry else all_hosts()

    def _send(
        self,
        host: Host,
        method: str,
        path: str,
        action: str,
        headers: Mapping[str, str],
        *,
        body: bytes | None = None,
        ok: Sequence[int] = (200,),
        also: str = "",
    ) -> Response:
        """One request to one host, logged in, redirects followed."""
        if host.plain_fallback and host.server not in self._transport.plain:
            try:
                return self._send_to(host, method, path, action, headers, body, ok, also)
            except PlainServer:
                self._transport.plain.add(host.server)
        if host.plain_fallback and host.server in self._transport.plain:
            host = plain(host)
        return self._send_to(host, method, path, action, headers, body, ok, also)

    def _send_to(
        self,
        host: Host,
        method: str,
        path: str,
        action: str,
        headers: Mapping[str, str],
        body: bytes | None,
        ok: Sequence[int],
        also: str,
    ) -> Response:
        server, target = self._target(host, path)
        scope = f"repository:{self.reference.path}:{action}" + (f" {also}" if also else "") if action else ""
        authorizer = self._authorizers(host)
        login = authorizer.header(host.server, scope, self._cancel) if server == host.server else ""
        challenged = 0
        for _ in range(_MAX_REDIRECTS):
            full = {**headers, **(host.headers if server == host.server else {})}
            if login and server == host.server:
                full["Authorization"] = login
            reply = self._transport.request(server, method, target, full, body=body, cancel=self._cancel)
            if reply.status in ok:
                return reply
            with reply:
                if reply.status == 401 and server == host.server and challenged < 2:
                    challenged += 1
                    _drain(reply)
                    login = authorizer.challenged(server, reply.header("WWW-Authenticate"), scope, login, self._cancel)
                    continue
                if reply.status in _REDIRECTS and method in ("GET", "HEAD"):
                    _drain(reply)
                    server, target = _redirected(server, target, reply.header("Location"), host)
                    continue
                raise _refused(reply, method, f"{server}{target.partition('?')[0]}")
        raise Unreachable(f"{host.server}: more than {_MAX_REDIRECTS} redirects")

    def _target(self, host: Host, path: str) -> tuple[Server, str]:
        """A path of this repository, or the URL that an upload was given (perhaps on another server)."""
        if "://" in path:
            parts = urlsplit(path)
            server = _server_of(path, host)
            return server, parts.path + (f"?{parts.query}" if parts.query else "")
        if not path:
            return host.server, f"{host.prefix}/"
        target = f"{host.prefix}/{self.reference.path}/{path}"
        if host.mirror:
            target += ("&" if "?" in target else "?") + urlencode({"ns": self.reference.host})
        return host.server, target


class Mismatch(RegistryError):
    """A host gave other bytes than its digest says; another host may be right."""


class _NoDigest(Exception):
    """A registry that answers HEAD without a digest."""


def plain(host: Host) -> Host:
    """The same host without TLS (only ever for loopback)."""
    port = 80 if host.server.port == 443 else host.server.port
    return replace(host, server=Server("http", host.server.host, port), plain_fallback=False)


def worst(failures: Sequence[RegistryError]) -> RegistryError:
    """Several hosts' failures as one: of the registry's own kind (it was asked last), saying what each said."""
    last = failures[-1]
    if len(failures) > 1:
        last.args = ("; ".join(str(error) for error in failures),)
    return last


def _drain(reply: Response) -> None:
    """Read a small body to its end, so that the connection can be kept."""
    size = 0
    while (piece := reply.piece(4096)) and size < _MAX_ERROR:
        size += len(piece)


def _redirected(server: Server, target: str, location: str, host: Host) -> tuple[Server, str]:
    if not location:
        raise Unreachable(f"{server}: a redirect to nowhere")
    url = urljoin(f"{server}{target}", location)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or (server.scheme == "https" and parts.scheme == "http"):
        raise Unreachable(f"{server} redirects to {url[:100]!r}", hint="from https we go to https only")
    return _server_of(url, host), (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _server_of(url: str, host: Host) -> Server:
    """The server of a URL; our trust and client certificate go along only to the host they are for."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    own = host.server
    if (parts.scheme, parts.hostname, port) == (own.scheme, own.host, own.port):
        return own
    return Server(parts.scheme, parts.hostname or "", port, replace(own.tls, clients=()))


def _refused(reply: Response, method: str, url: str) -> RegistryError:
    """An error status as an exception that says what the registry said."""
    try:
        body = reply.body(_MAX_ERROR) if method != "HEAD" else b""
    except (RegistryError, OSError):
        body = b""
    said = _error_text(body)
    message = f"{method} {url}: {reply.status}" + (f" ({said})" if said else "")
    if reply.status == 401:
        return Unauthorized(message, hint="log in, or check user name and password", status=401)
    if reply.status == 403:
        return Unauthorized(message, hint="this account may not do that", status=403)
    if reply.status == 404:
        return Missing(message, hint="is the name right?", status=404)
    if reply.status in (429, 503):
        after = reply.header("Retry-After")
        return Busy(message, status=reply.status, retry_seconds=float(after) if after.isdigit() else 0.0)
    if reply.status == 416:
        return RangeRefused(message, status=416)
    return RegistryError(message, status=reply.status)


class RangeRefused(RegistryError):
    """The server has fewer bytes than we asked to go on behind."""


def _error_text(body: bytes) -> str:
    """The registry's own words, from its JSON; never more than a line."""
    try:
        errors = json.loads(body)["errors"]
        said = "; ".join(f"{e.get('code', '')} {e.get('message', '')}".strip() for e in errors[:3])
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return "".join(c if c.isprintable() else " " for c in said)[:300]


def read_all(reply: Response) -> Iterator[bytes]:
    """The body in pieces; what breaks in the middle is Unreachable."""
    try:
        while piece := reply.piece():
            yield piece
    except Cancelled:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        text = "no data in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        raise Unreachable(f"the transfer broke off: {text}") from error
