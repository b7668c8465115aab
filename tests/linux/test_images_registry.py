# SPDX-License-Identifier: Apache-2.0
"""Pull and push against Debian's docker-registry, with skopeo, buildah and podman as readers and writers."""

import base64
import http.server
import json
import os
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.images.errors import NotFound, Unauthorized, Unreachable, Unsupported
from cri.images.model import Credentials, Event, Platform
from cri.images.store import ImageStore
from runtime.linux import beneath
from tests.support import images
from tests.support.cable import Cable
from tests.support.images import layer, link, member
from tests.support.needs import needs
from tests.support.registry import Authority, DockerRegistry, free_port

pytestmark = needs("overlay", "docker-registry")
LAYERS = [
    layer([member("./"), member("etc/"), member("etc/a", b"1" * 5000), member("b", b"2", mode=0o4755)]),
    layer([member("etc/"), member("etc/.wh.a"), link("c", "b")]),
]


@pytest.fixture(autouse=True)
def no_cache_left() -> Iterator[None]:
    """skopeo and its relatives keep a cache in /var/lib/containers, here a tmpfs of the test's own."""
    yield
    beneath.remove_tree("/var/lib/containers")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    with DockerRegistry(tmp_path / "registry") as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    made = ImageStore(str(tmp_path / "store"), auth_files=[], certs_d=[str(tmp_path / "certs.d")])
    yield made
    made.settle()
    made.close()


def _skopeo(*arguments: str) -> str:
    done = subprocess.run(["skopeo", "--insecure-policy", *arguments], check=True, capture_output=True, text=True)
    return done.stdout


def _digest(reference: str) -> str:
    raw = subprocess.run(
        ["skopeo", "--insecure-policy", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}"],
        check=True,
        capture_output=True,
    ).stdout
    return images.digest(raw)


def _hosts_toml(tmp_path: Path, host: str, text: str) -> None:
    folder = tmp_path / "certs.d" / host
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text(text)


@needs("skopeo")
@pytest.mark.parametrize("how", ["", "gzip", "zstd"])
def test_what_skopeo_pushes_we_pull_and_what_we_push_skopeo_reads(
    how: str, registry: DockerRegistry, store: ImageStore, tmp_path: Path
) -> None:
    image_id = images.layout(tmp_path / "oci", LAYERS, how=how)
    _skopeo("copy", "--dest-tls-verify=false", f"oci:{tmp_path}/oci:latest", f"docker://{registry.host}/by/skopeo:1")
    assert store.pull(f"{registry.host}/by/skopeo:1") == image_id
    digest = store.push(f"{registry.host}/by/skopeo:1", f"{registry.host}/by/us:2")
    assert digest == _digest(f"{registry.host}/by/skopeo:1") == _digest(f"{registry.host}/by/us:2")
    _skopeo("copy", "--src-tls-verify=false", f"docker://{registry.host}/by/us:2", f"dir:{tmp_path}/dir")
    assert image_id[7:] in {path.name for path in (tmp_path / "dir").iterdir()}


@needs("skopeo")
@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive"])
def test_archives_go_both_ways_between_skopeo_and_us(form: str, store: ImageStore, tmp_path: Path) -> None:
    image_id = images.layout(tmp_path / "oci", LAYERS)
    (ours,) = store.import_(str(tmp_path / "oci"), name="example.org/a/b:1")
    assert ours == image_id
    store.export(["example.org/a/b:1"], str(tmp_path / "ours"), form=form)
    tag = ":1" if form == "oci" else ""
    read = json.loads(_skopeo("inspect", "--config", f"{form}:{tmp_path}/ours{tag}"))
    assert read["rootfs"]["diff_ids"] == [images.digest(data) for data in LAYERS]
    target = f"{form}:{tmp_path}/theirs" + (":example.org/a/b:1" if form != "oci" else ":1")
    _skopeo("copy", f"oci:{tmp_path}/oci:latest", target)
    other = ImageStore(str(tmp_path / "other"), auth_files=[])
    assert other.import_(str(tmp_path / "theirs")) == (image_id,)
    other.settle()
    other.close()


@needs("buildah")
def test_what_buildah_builds_we_pull_and_what_we_push_buildah_pulls(
    registry: DockerRegistry, store: ImageStore, tmp_path: Path
) -> None:
    base = ["buildah", "--root", str(tmp_path / "b"), "--runroot", str(tmp_path / "br"), "--storage-driver", "vfs"]

    def buildah(*arguments: str) -> str:
        done = subprocess.run([*base, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    (tmp_path / "hello").write_text("hello")
    (tmp_path / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    container = buildah("from", "scratch")
    buildah("copy", container, str(tmp_path / "hello"), "/hello")
    buildah("config", "--cmd", "/hello", "--user", "1002:7", container)
    buildah("commit", "--signature-policy", str(tmp_path / "policy.json"), container, "built")
    buildah("push", "--signature-policy", str(tmp_path / "policy.json"), "--tls-verify=false", "built",
            f"docker://{registry.host}/by/buildah:1")  # fmt: skip
    image_id = store.pull(f"{registry.host}/by/buildah:1")
    found = store.find(image_id)
    assert found is not None
    assert (found.uid, found.username) == (1002, "")
    assert store.config(image_id).cmd == ("/hello",)
    store.push(image_id, f"{registry.host}/by/us:1")
    pulled = buildah("pull", "--signature-policy", str(tmp_path / "policy.json"), "--tls-verify=false",
                     f"docker://{registry.host}/by/us:1")  # fmt: skip
    assert pulled == image_id[7:]


@needs("podman", "skopeo")
def test_podman_loads_what_we_export(store: ImageStore, tmp_path: Path) -> None:
    image_id = images.layout(tmp_path / "oci", LAYERS)
    store.import_(str(tmp_path / "oci"), name="example.org/a/b:1")
    store.export(["example.org/a/b:1"], str(tmp_path / "archive"), form="docker-archive")
    (tmp_path / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    base = ["podman", "--root", str(tmp_path / "p"), "--runroot", "/var/lib/containers/run",
            "--storage-driver", "vfs", "--tmpdir", "/var/lib/containers/tmp"]  # fmt: skip
    done = subprocess.run(
        [*base, "load", "--signature-policy", str(tmp_path / "policy.json"), "-i", str(tmp_path / "archive")],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = subprocess.run([*base, "images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"],
                          check=True, capture_output=True, text=True)  # fmt: skip
    assert done.stdout.split() == [image_id, "example.org/a/b:1"]


# -- who may ------------------------------------------------------------------------------------------------------
@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


def _htpasswd(path: Path) -> None:
    import crypt

    path.write_text(f"anna:{crypt.crypt('s3cret', crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16))}\n")


@pytest.mark.filterwarnings("ignore:'crypt' is deprecated")
def test_basic_auth_over_tls_with_a_private_ca_and_a_client_certificate(
    authority: Authority, store: ImageStore, tmp_path: Path
) -> None:
    _htpasswd(tmp_path / "htpasswd")
    tls = {"certificate": str(authority.cert), "key": str(authority.key), "clientcas": [str(authority.ca)]}
    auth = {"htpasswd": {"realm": "here", "path": str(tmp_path / "htpasswd")}}
    with DockerRegistry(tmp_path / "registry", http={"tls": tls}, auth=auth) as registry:
        name = f"{registry.host}/private/x:1"
        image_id = store.build_busybox(name)
        anna = Credentials(username="anna", password="s3cret")
        with pytest.raises(Unreachable, match="not trusted"):
            store.push(name, credentials=anna)
        _hosts_toml(
            tmp_path,
            registry.host,
            f'server = "https://{registry.host}"\nca = "{authority.ca}"\n'
            f'client = [["{authority.client_cert}", "{authority.client_key}"]]\n',
        )
        with pytest.raises(Unauthorized, match="without credentials"):
            store.push(name)
        with pytest.raises(Unauthorized, match="'anna'"):
            store.push(name, credentials=Credentials(username="anna", password="wrong"))
        store.push(name, credentials=anna)
        store.remove(image_id)
        packed = base64.b64encode(b"anna:s3cret").decode()
        assert store.pull(name, credentials=Credentials(auth=packed)) == image_id
        store.remove(image_id)
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {registry.host: {"auth": packed}}}))
        other = ImageStore(
            str(tmp_path / "store"), auth_files=[str(tmp_path / "auth.json")], certs_d=[str(tmp_path / "certs.d")]
        )
        assert other.pull(name) == image_id
        other.settle()
        other.close()


class TokenService:
    """Signs what docker-registry's token auth wants; tokens are short-lived on purpose."""

    def __init__(self, authority: Authority, life_seconds: int = 60) -> None:
        self.asked: list[dict[str, list[str]]] = []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                return

            def do_GET(self) -> None:
                query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                service.asked.append(query)
                wanted = "Basic " + base64.b64encode(b"anna:s3cret").decode()
                if self.headers.get("Authorization") != wanted:
                    self.send_error(401)
                    return
                token = service.sign(authority, query, life_seconds)
                data = json.dumps({"token": token, "expires_in": life_seconds}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.port = free_port()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @staticmethod
    def sign(authority: Authority, query: dict[str, list[str]], life_seconds: int) -> str:
        def pack(data: bytes) -> bytes:
            return base64.urlsafe_b64encode(data).rstrip(b"=")

        access = []
        for scope in " ".join(query.get("scope", [])).split():
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        certificate = "".join(authority.cert.read_text().splitlines()[1:-1])
        now = int(time.time())
        head = {"typ": "JWT", "alg": "RS256", "x5c": [certificate]}
        claims = {"iss": "issuer", "aud": "registry", "sub": "anna", "nbf": now - 5, "iat": now, "jti": "1",
                  "exp": now + life_seconds, "access": access}  # fmt: skip
        text = pack(json.dumps(head).encode()) + b"." + pack(json.dumps(claims).encode())
        signed = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(authority.key)], input=text, check=True, capture_output=True
        )
        return (text + b"." + pack(signed.stdout)).decode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def test_bearer_tokens_are_fetched_kept_and_renewed(authority: Authority, store: ImageStore, tmp_path: Path) -> None:
    service = TokenService(authority, life_seconds=2)
    auth = {
        "token": {
            "realm": f"http://127.0.0.1:{service.port}/token",
            "service": "registry",
            "issuer": "issuer",
            "rootcertbundle": str(authority.ca),
        }
    }
    anna = Credentials(username="anna", password="s3cret")
    with DockerRegistry(tmp_path / "registry", auth=auth) as registry:
        name = f"{registry.host}/private/x:1"
        image_id = store.build_busybox(name)
        with pytest.raises(Unauthorized):
            store.push(name)
        store.push(name, credentials=anna)
        asked = len(service.asked)
        store.remove(image_id)
        assert store.pull(name, credentials=anna) == image_id
        assert len(service.asked) - asked == 1, "one token serves the whole pull"
        time.sleep(2.1)
        assert store.pull(name, credentials=anna) == image_id
        assert store.push(name, f"{registry.host}/private/y:1", credentials=anna)
        assert any("private/x:pull" in str(query) and "private/y" in str(query) for query in service.asked), "mount"
    service.close()


# -- names --------------------------------------------------------------------------------------------------------
def test_names_tags_and_digests_are_what_critest_wants(
    registry: DockerRegistry, store: ImageStore, tmp_path: Path
) -> None:
    image_id = store.build_busybox(f"{registry.host}/cri/one:1")
    digest = store.push(f"{registry.host}/cri/one:1")
    for name in ("cri/one:2", "cri/one:latest", "cri/two:1"):
        store.push(image_id, f"{registry.host}/{name}")
    store.remove(image_id)
    assert store.pull(f"{registry.host}/cri/one") == image_id
    found = store.find(image_id)
    assert found is not None
    assert found.tags == (f"{registry.host}/cri/one:latest",)
    assert found.digests == (f"{registry.host}/cri/one@{digest}",)
    for name in (image_id, image_id[7:], f"{registry.host}/cri/one", f"{registry.host}/cri/one@{digest}"):
        assert store.find(name) == found
    assert store.remove(f"{registry.host}/cri/one")
    store.pull(f"{registry.host}/cri/one@{digest}")
    found = store.find(image_id)
    assert found is not None
    assert (found.tags, found.digests) == ((), (f"{registry.host}/cri/one@{digest}",))
    names = [f"{registry.host}/cri/{name}" for name in ("one:1", "one:2", "two:1")]
    assert {store.pull(name) for name in names} == {image_id}
    found = store.find(image_id)
    assert found is not None
    assert found.tags == tuple(sorted(names))
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(store.remove(image_id))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 4 + [True]
    assert all(store.find(name) is None for name in (*names, image_id))
    assert store.list() == ()
    assert store.fs_info().used_bytes == 0, "nothing stays behind"


def test_a_tag_moves_and_the_old_image_keeps_its_digest(
    registry: DockerRegistry, store: ImageStore, tmp_path: Path
) -> None:
    name = f"{registry.host}/moving:latest"
    ids = []
    for text in (b"old", b"new"):
        images.layout(tmp_path / text.decode(), [layer([member("./"), member("f", text)])])
        (image_id,) = store.import_(str(tmp_path / text.decode()), name=name)
        store.push(name)
        ids.append(image_id)
    store.remove(ids[0])
    store.remove(ids[1])
    assert store.pull(name) == ids[1]
    images.layout(tmp_path / "again", [layer([member("./"), member("f", b"newest")])])
    (newest,) = store.import_(str(tmp_path / "again"), name=name)
    store.push(name)
    old = store.find(ids[1])
    assert old is not None
    assert old.tags == ()
    assert old.digests, "an image whose tag moved is still known by its digest"
    found = store.find(name)
    assert found is not None
    assert found.id == newest
    store.collect(unused_images=True)
    assert store.find(ids[1]) is None


def test_mirrors_are_asked_first_and_the_name_stays(
    registry: DockerRegistry, store: ImageStore, tmp_path: Path
) -> None:
    image_id = store.build_busybox("x")
    store.push("x", f"{registry.host}/e2e/x:1")
    store.remove(image_id)
    dead = free_port()
    _hosts_toml(
        tmp_path,
        "registry.example",
        f'server = "http://127.0.0.1:{dead}"\n[host."http://127.0.0.1:{dead}"]\n capabilities = ["pull", "resolve"]\n'
        f'[host."http://{registry.host}"]\n capabilities = ["pull", "resolve"]\n',
    )
    assert store.pull("registry.example/e2e/x:1") == image_id
    found = store.find(image_id)
    assert found is not None
    assert found.tags == ("registry.example/e2e/x:1",)


def test_an_index_gives_each_platform_its_own_and_attestations_are_no_images(
    registry: DockerRegistry, store: ImageStore, tmp_path: Path
) -> None:
    from cri.images import manifest as manifests

    entries = []
    ids = {}
    for architecture, variant in (("amd64", ""), ("arm", "v6"), ("arm64", "v8")):
        images.layout(tmp_path / architecture, [layer([member("./"), member("arch", architecture.encode())])])
        path = tmp_path / architecture / "blobs/sha256"
        for file in list(path.iterdir()):
            text = file.read_bytes()
            if b'"architecture": "amd64"' in text and architecture != "amd64":
                data = text.replace(b'"architecture": "amd64"', f'"architecture": "{architecture}"'.encode())
                (path / images.digest(data)[7:]).write_bytes(data)
                index = json.loads((tmp_path / architecture / "index.json").read_text())
                old = (path / index["manifests"][0]["digest"][7:]).read_bytes()
                new = old.replace(file.name.encode(), images.digest(data)[7:].encode())
                new = new.replace(f'"size": {len(text)}'.encode(), f'"size": {len(data)}'.encode())
                (path / images.digest(new)[7:]).write_bytes(new)
                index["manifests"][0] |= {"digest": images.digest(new), "size": len(new)}
                (tmp_path / architecture / "index.json").write_text(json.dumps(index))
        (ids[architecture],) = store.import_(str(tmp_path / architecture), name=f"{registry.host}/multi:{architecture}")
        digest = store.push(f"{registry.host}/multi:{architecture}")
        found = store.find(ids[architecture])
        assert found is not None
        size = len((path / digest[7:]).read_bytes())
        platform = {"os": "linux", "architecture": architecture} | ({"variant": variant} if variant else {})
        entries.append({"mediaType": manifests.OCI_MANIFEST, "digest": digest, "size": size, "platform": platform})
    noise = dict(entries[0], platform={"os": "unknown", "architecture": "unknown"},
                 annotations={"vnd.docker.reference.type": "attestation-manifest"})  # fmt: skip
    data = manifests.to_json({"schemaVersion": 2, "mediaType": manifests.OCI_INDEX, "manifests": [noise, *entries]})
    for image in store.list():
        store.remove(image.id)
    from cri.images.reference import parse

    repository = store._parts.repository(parse(f"{registry.host}/multi"), None, None)
    repository.put_manifest("all", data, manifests.OCI_INDEX)
    assert store.pull(f"{registry.host}/multi:all", platform=Platform("linux", "arm", "v7")) == ids["arm"]
    assert store.pull(f"{registry.host}/multi:all", platform=Platform("linux", "arm64")) == ids["arm64"]
    assert store.pull(f"{registry.host}/multi:all") == ids["amd64"]
    assert f"{registry.host}/multi@{images.digest(data)}" in {d for image in store.list() for d in image.digests}
    with pytest.raises(NotFound, match="it offers linux/amd64"):
        store.pull(f"{registry.host}/multi:all", platform=Platform("linux", "s390x"))


def test_a_push_that_breaks_goes_on_behind_what_the_registry_has(
    registry: DockerRegistry, store: ImageStore, tmp_path: Path
) -> None:
    size = 40_000_000
    images.layout(tmp_path / "oci", [layer([member("./"), member("big", os.urandom(size))])])
    with Cable(registry.port, breaks=[11_000_000, 12_000_000, 29_000_000]) as cable:
        name = f"{cable.host}/broken/x:1"
        (image_id,) = store.import_(str(tmp_path / "oci"), name=name)
        store.push(name)
        assert cable.cuts == 3
        assert size < cable.sent < 2.5 * size, "three breaks, and not four times the whole"
    store.remove(image_id)
    assert store.pull(f"{registry.host}/broken/x:1") == image_id


def test_an_upload_that_the_registry_forgets_is_begun_anew(
    registry: DockerRegistry, store: ImageStore, tmp_path: Path
) -> None:
    images.layout(tmp_path / "oci", [layer([member("./"), member("big", os.urandom(20_000_000))])])
    uploads = registry.work / "data/docker/registry/v2/repositories/forgot/x/_uploads"

    forgotten: list[str] = []

    def forget(event: Event) -> None:
        if event.state == "pushing" and event.total > 10_000_000 and not forgotten:
            forgotten.append(event.subject)
            subprocess.run(["find", str(uploads), "-mindepth", "1", "-delete"], check=False, capture_output=True)

    name = f"{registry.host}/forgot/x:1"
    (image_id,) = store.import_(str(tmp_path / "oci"), name=name)
    store.push(name, progress=forget)
    assert forgotten
    store.remove(image_id)
    assert store.pull(name) == image_id


def test_connections_are_kept(store: ImageStore, tmp_path: Path, registry: DockerRegistry) -> None:
    store.build_busybox("x")
    with Cable(registry.port, breaks=[]) as cable:
        store.push("x", f"{cable.host}/kept/x:1")
        made = cable.connections
        assert made <= 5, "one for each upload at once, one each to find out that it speaks no TLS"
        for _ in range(5):
            store.pull(f"{cable.host}/kept/x:1")
        assert cable.connections == made


@needs("skopeo")
def test_an_artifact_is_kept_and_passed_on_but_is_nothing_to_run(
    registry: DockerRegistry, store: ImageStore, tmp_path: Path
) -> None:
    blobs = {images.digest(data): data for data in (b"{}", b"not a layer at all " * 1000)}
    (empty, content) = blobs
    kind = "application/vnd.example.model.v1"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": kind,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2},
            "layers": [{"mediaType": kind, "digest": content, "size": len(blobs[content])}],
        }
    ).encode()
    folder = tmp_path / "artifact/blobs/sha256"
    folder.mkdir(parents=True)
    for digest, data in (*blobs.items(), (images.digest(manifest), manifest)):
        (folder / digest[7:]).write_bytes(data)
    entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": images.digest(manifest),
             "size": len(manifest), "annotations": {"org.opencontainers.image.ref.name": "1"}}  # fmt: skip
    (tmp_path / "artifact/index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (tmp_path / "artifact/oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    _skopeo("copy", "--dest-tls-verify=false", f"oci:{tmp_path}/artifact:1", f"docker://{registry.host}/art:1")
    image_id = store.pull(f"{registry.host}/art:1")
    assert image_id == images.digest(manifest), "an artifact has no config to be named after"
    assert store.push(image_id, f"{registry.host}/art:2") == images.digest(manifest)
    assert _digest(f"{registry.host}/art:2") == images.digest(manifest)
    with pytest.raises(Unsupported, match="is an artifact"):
        store.prepare_rootfs(image_id, "k")
    with pytest.raises(Unsupported, match="is an artifact"):
        store.config(image_id)
    assert store.verify(repair=False) == ()
