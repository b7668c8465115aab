# SPDX-License-Identifier: Apache-2.0
"""How a registry is reached and entered: proxies, credential helpers, refresh tokens, tokens that end in the middle."""

import base64
import http.server
import json
import os
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.images.errors import ImageError, Unauthorized, Unreachable
from cri.images.model import Credentials
from cri.images.patience import Backoff
from cri.images.store import ImageStore
from tests.support import images
from tests.support.images import layer, member
from tests.support.needs import needs
from tests.support.proxy import Proxy
from tests.support.registry import Authority, OwnRegistry, free_port

pytestmark = needs("overlay")
QUICK = Backoff(tries=3, first_seconds=0.01, longest_seconds=0.05)
Handler = http.server.BaseHTTPRequestHandler


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    first = layer([member("./"), member("big", os.urandom(300_000))])
    images.layout(tmp_path / "oci", [first, layer([member("second", os.urandom(100_000))])])
    return tmp_path / "oci"


@pytest.fixture
def registry(layout: Path) -> Iterator[OwnRegistry]:
    with OwnRegistry() as made:
        made.serve_layout(layout, "1")
        yield made


def _store(tmp_path: Path, *auth_files: str) -> ImageStore:
    return ImageStore(
        str(tmp_path / "store"), auth_files=auth_files, certs_d=[str(tmp_path / "certs.d")], backoff=QUICK
    )


def _end(store: ImageStore) -> None:
    store.settle()
    store.close()


def _hosts_toml(tmp_path: Path, host: str, text: str) -> None:
    (tmp_path / "certs.d" / host).mkdir(parents=True)
    (tmp_path / "certs.d" / host / "hosts.toml").write_text(text)


# -- proxies ------------------------------------------------------------------------------------------------------
def test_a_plain_registry_is_asked_through_the_proxy_that_the_environment_names(
    registry: OwnRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _hosts_toml(tmp_path, "far.example", 'server = "http://far.example"\n')
    with Proxy({"far.example": registry.port}, account="anna:s3cret") as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        store = _store(tmp_path)
        assert store.pull("far.example/x:1").startswith("sha256:")
        assert all(" http://far.example/v2/" in asked for asked in proxy.asked)
        assert len(proxy.asked) == len(registry.requests)
        _end(store)


def test_a_tls_registry_is_reached_by_connect_and_its_certificate_is_still_checked(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.cert, authority.key)
    _hosts_toml(tmp_path, "far.example", f'server = "https://far.example"\nca = "{authority.ca}"\n')
    _hosts_toml(tmp_path, "other.example", f'server = "https://other.example"\nca = "{authority.ca}"\n')
    with OwnRegistry(tls=context) as registry:
        registry.serve_layout(layout, "1")
        with Proxy({"far.example": registry.port, "other.example": registry.port}, account="anna:s3cret") as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            store = _store(tmp_path)
            store.pull("far.example/x:1")
            assert set(proxy.asked) == {"CONNECT far.example:443"}
            assert len(proxy.asked) < len(registry.requests), "tunnels are kept"
            with pytest.raises(Unreachable, match="not trusted"):
                store.pull("other.example/x:1")
            monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("s3cret", "wrong"))
            proxy.asked.clear()
            other = ImageStore(str(tmp_path / "other"), auth_files=[], certs_d=[str(tmp_path / "certs.d")])
            with pytest.raises(Unreachable, match=r"407.*NO_PROXY"):
                other.pull("far.example/x:1")
            assert len(proxy.asked) == 1, "a refusal is not asked for again"
            for one in (store, other):
                _end(one)


def test_who_is_in_no_proxy_is_asked_without_one(
    registry: OwnRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _hosts_toml(tmp_path, "far.example", 'server = "http://far.example"\n')
    with Proxy({"far.example": registry.port}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,far.example")
        store = _store(tmp_path)
        with pytest.raises(Unreachable):  # nobody here knows that name
            store.pull("far.example/x:1")
        store.pull(f"{registry.host}/x:1")  # loopback never is
        assert proxy.asked == []
        _end(store)


def test_a_proxy_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    store = _store(tmp_path)
    with pytest.raises(Unreachable, match="refused"):
        store.pull("far.example/x:1")
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(ImageError, match=r"socks5.*no proxy that we can use"):
        store.pull("far.example/x:1")
    _end(store)


# -- credential helpers -------------------------------------------------------------------------------------------
HELPER = """#!/bin/sh
read -r key
echo "$key" >> {log}
case $key in
127.0.0.1:*) printf '{{"ServerURL": "%s", "Username": "%s", "Secret": "%s"}}' "$key" '{user}' '{secret}' ;;
*) echo 'credentials not found in native keychain'; exit 1 ;;
esac
"""


def _helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str, secret: str) -> Path:
    folder, log = tmp_path / "bin", tmp_path / "helper.log"
    folder.mkdir()
    program = folder / "docker-credential-keys"
    program.write_text(HELPER.format(log=log, user=user, secret=secret))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return log


def _asks_for_basic(registry: OwnRegistry, account: str) -> None:
    wanted = "Basic " + base64.b64encode(account.encode()).decode()

    def before(handler: Handler, _path: str) -> bool:
        if handler.headers.get("Authorization") == wanted:
            return False
        registry.send(handler, 401, b"{}", {"WWW-Authenticate": 'Basic realm="r"'})
        return True

    registry.before = before


@pytest.mark.parametrize("how", ["credHelpers", "credsStore", "credsStore with an empty entry"])
def test_a_credential_helper_is_asked_as_docker_asks_it(
    how: str, registry: OwnRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _helper(tmp_path, monkeypatch, "anna", "from-the-helper")
    _asks_for_basic(registry, "anna:from-the-helper")
    config: dict[str, object] = {"credHelpers": {registry.host: "keys"}} if how == "credHelpers" else {}
    if how != "credHelpers":
        config = {"credsStore": "keys"} | ({"auths": {registry.host: {}}} if "entry" in how else {})
    (tmp_path / "config.json").write_text(json.dumps(config))
    store = _store(tmp_path, str(tmp_path / "config.json"))
    store.pull(f"{registry.host}/x:1")
    assert log.read_text().splitlines() == [registry.host]
    _end(store)


def test_a_helper_that_is_missing_or_knows_nothing(
    registry: OwnRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"credHelpers": {registry.host: "nobody-wrote-this"}}))
    store = _store(tmp_path, str(path))
    with pytest.raises(ImageError, match="docker-credential-nobody-wrote-this is not on PATH"):
        store.pull(f"{registry.host}/x:1")
    log = _helper(tmp_path, monkeypatch, "anna", "x")
    path.write_text(json.dumps({"credsStore": "keys"}))
    host = registry.host.replace("127.0.0.1", "localhost")
    store.pull(f"{host}/x:1")  # the helper does not know this name, and the registry wants nobody's account
    assert host in log.read_text().split()
    _end(store)


# -- tokens -------------------------------------------------------------------------------------------------------
class Tokens:
    """A token service that counts its tokens; the registry takes only the newest."""

    def __init__(self) -> None:
        self.asked: list[dict[str, list[str]]] = []
        tokens = self

        class Service(Handler):
            def log_message(self, *_: object) -> None:
                return

            def do_GET(self) -> None:
                self.answer(urllib.parse.urlsplit(self.path).query)

            def do_POST(self) -> None:
                self.answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

            def answer(self, text: str) -> None:
                tokens.asked.append({"method": [self.command], **urllib.parse.parse_qs(text)})
                good = tokens.asked[-1].get("refresh_token") == ["the-identity"] or self.command == "GET"
                data = json.dumps({"access_token": tokens.newest, "expires_in": 3600}).encode() if good else b"{}"
                self.send_response(200 if good else 401)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.revoked = 0

    @property
    def newest(self) -> str:
        return f"token-{self.revoked}"

    def guard(self, registry: OwnRegistry, *, revoke_at: str = "") -> None:
        """Let only the newest token in; the first request for `revoke_at` ends the token that it brings."""

        def before(handler: Handler, path: str) -> bool:
            if revoke_at and path.endswith(revoke_at) and not self.revoked:
                self.revoked = 1
            if handler.headers.get("Authorization") == f"Bearer {self.newest}":
                return False
            challenge = f'Bearer realm="http://127.0.0.1:{self.port}/token",service="r",scope="repository:x:pull"'
            registry.send(handler, 401, b"{}", {"WWW-Authenticate": challenge})
            return True

        registry.before = before

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def tokens() -> Iterator[Tokens]:
    made = Tokens()
    yield made
    made.close()


@pytest.mark.parametrize("where", ["the call", "auth.json", "a helper"])
def test_an_identity_token_is_exchanged_by_post(
    where: str, registry: OwnRegistry, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens.guard(registry)
    path = tmp_path / "auth.json"
    config: dict[str, object] = {}
    if where == "auth.json":
        config = {"auths": {registry.host: {"identitytoken": "the-identity"}}}
    elif where == "a helper":
        _helper(tmp_path, monkeypatch, "<token>", "the-identity")
        config = {"credsStore": "keys"}
    path.write_text(json.dumps(config))
    store = _store(tmp_path, str(path))
    given = Credentials(identity_token="the-identity") if where == "the call" else None
    store.pull(f"{registry.host}/x:1", credentials=given)
    assert [(asked["method"], asked["grant_type"]) for asked in tokens.asked] == [(["POST"], ["refresh_token"])]
    with pytest.raises(Unauthorized, match="token service"):
        store.pull(f"{registry.host}/other:1", credentials=Credentials(identity_token="expired"))
    _end(store)


def test_a_registry_token_is_sent_as_it_is(registry: OwnRegistry, tokens: Tokens, tmp_path: Path) -> None:
    tokens.guard(registry)
    store = _store(tmp_path)
    store.pull(f"{registry.host}/x:1", credentials=Credentials(registry_token="token-0"))
    assert tokens.asked == []
    _end(store)


def test_a_token_that_ends_in_the_middle_of_a_pull_is_renewed(
    registry: OwnRegistry, tokens: Tokens, tmp_path: Path
) -> None:
    big = max(registry.blobs, key=lambda digest: len(registry.blobs[digest]))
    tokens.guard(registry, revoke_at=big)
    store = _store(tmp_path)
    store.pull(f"{registry.host}/x:1", credentials=Credentials(username="anna", password="s3cret"))
    assert tokens.revoked == 1
    assert len(tokens.asked) in (2, 3)  # two downloads at once may both notice
    _end(store)


def test_a_token_that_ends_between_two_parts_of_a_blob_is_renewed_and_the_blob_goes_on(
    registry: OwnRegistry, tokens: Tokens, tmp_path: Path
) -> None:
    big = max(registry.blobs, key=lambda digest: len(registry.blobs[digest]))
    tokens.guard(registry)
    guarded = registry.before
    cut = [False]

    def before(handler: Handler, path: str) -> bool:
        if guarded(handler, path):
            return True
        if not path.endswith(big) or cut[0]:
            return False
        cut[0], tokens.revoked = True, 1
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(registry.blobs[big])))
        handler.end_headers()
        handler.wfile.write(registry.blobs[big][:200_000])
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True
        return True

    registry.before = before
    store = _store(tmp_path)
    store.pull(f"{registry.host}/x:1", credentials=Credentials(username="anna", password="s3cret"))
    ranges = [span for method, path, span in registry.requests if path.endswith(big) and method == "GET"]
    assert ranges[0] == ""
    assert set(ranges[1:]) == {"bytes=200000-"}
    _end(store)
