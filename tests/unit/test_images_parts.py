# SPDX-License-Identifier: Apache-2.0
"""The pure parts of cri/images: names, platforms, manifests, hosts, challenges, tar."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cri.images import authorize, credentials, hosts, inflate, manifest, platforms, tar, tarwriter, unpack
from cri.images import digest as digests
from cri.images.errors import BadReference, Corrupt, HostileLayer, ImageError, NotFound, Unsupported
from cri.images.model import Credentials, Descriptor, Platform
from cri.images.patience import Backoff
from cri.images.proxies import is_exempt, proxy_for
from cri.images.reference import Reference, parse

HEX = "a" * 64
D = f"sha256:{HEX}"
quick = settings(max_examples=25, deadline=None)  # this folder ends within seconds, on a busy machine too


# -- names --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("busybox", "docker.io/library/busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("a/b", "docker.io/a/b"),
        ("index.docker.io/a/b", "docker.io/a/b"),
        ("localhost/x", "localhost/x"),
        ("localhost:5000/x:y", "localhost:5000/x:y"),
        ("ghcr.io/a/b/c:V1.0", "ghcr.io/a/b/c:V1.0"),
        ("[::1]:5000/x", "[::1]:5000/x"),
        (f"quay.io/x:1@{D}", f"quay.io/x:1@{D}"),
        ("a__b/c-d.e", "docker.io/a__b/c-d.e"),
        ("Host/x", "Host/x"),
    ],
)
def test_a_name_is_made_full(text: str, full: str) -> None:
    assert str(parse(text)) == full


NO_NAMES = [
    "",
    ":1",
    "a:",
    "a/",
    "/a",
    "a//b",
    "A",
    "a b",
    "a@sha256:12",
    "a@",
    "a:b c",
    "a..b",
    "-a",
    "../a",
    "a/../b",
]


@pytest.mark.parametrize("text", [*NO_NAMES, "x/" * 200, "a:" + "t" * 129])
def test_what_is_no_name_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(BadReference) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


@quick
@given(st.from_regex(r"\A[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,3}(:[A-Za-z0-9_]{1,8})?\Z"))
def test_a_full_name_is_its_own_full_name(text: str) -> None:
    full = str(parse(text))
    assert str(parse(full)) == full
    assert parse(parse(text).familiar) == parse(text)


def test_no_digest_is_a_path() -> None:
    for bad in ("sha256:../../etc/passwd", "md5:" + "a" * 32, "sha256:" + "A" * 64, "sha256:" + "a" * 63):
        assert not digests.is_digest(bad)


def test_chain_ids_are_those_of_the_specification() -> None:
    assert digests.chain_ids((D,)) == (D,)
    assert digests.chain_ids((D, D))[1] == digests.of(f"{D} {D}".encode())


# -- platforms ----------------------------------------------------------------------------------------------------
def test_an_arm_machine_takes_older_variants_and_the_best_first() -> None:
    found = [str(p) for p in platforms.candidates(Platform("linux", "arm", "v7"))]
    assert found == ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]
    assert str(platforms.candidates(Platform("linux", "arm64"))[0]) == "linux/arm64/v8"
    assert [str(p) for p in platforms.candidates(Platform("linux", "amd64", "v3"))] == [
        "linux/amd64/v3",
        "linux/amd64/v2",
        "linux/amd64",
        "linux/386",
    ]


@pytest.mark.parametrize(
    ("text", "full"),
    [("arm64", "linux/arm64/v8"), ("linux/x86_64", "linux/amd64"), ("linux/arm/7", "linux/arm/v7")],
)
def test_platforms_are_read_as_people_write_them(text: str, full: str) -> None:
    assert str(platforms.normal(platforms.parse(text))) == full


# -- manifests ----------------------------------------------------------------------------------------------------
def _manifest(**more: object) -> dict[str, object]:
    config = {"mediaType": manifest.OCI_CONFIG, "digest": D, "size": 2}
    layer = {"mediaType": manifest.OCI_LAYER, "digest": D, "size": 3}
    return {"schemaVersion": 2, "mediaType": manifest.OCI_MANIFEST, "config": config, "layers": [layer], **more}


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"mediaType": "text/plain"}, None, ""),
        ({"manifests": []}, Corrupt, "both"),
        ({"schemaVersion": 1}, Unsupported, "schema 1"),
        ({"layers": [{"mediaType": "x", "digest": "sha256:../x", "size": 1}]}, Corrupt, r"layers\[0\]\.digest"),
        ({"layers": [{"mediaType": "x", "digest": D, "size": -1}]}, Corrupt, r"layers\[0\]\.size"),
        ({"layers": {}}, Corrupt, "expected a list"),
        ({"config": None}, Corrupt, "config"),
    ],
)
def test_a_bad_manifest_is_refused_with_its_place(
    change: dict[str, object], kind: type[Exception] | None, said: str
) -> None:
    data = json.dumps(_manifest(**change)).encode()
    if kind is None:
        assert isinstance(manifest.parse(data, "", "it"), manifest.Manifest)
        return
    with pytest.raises(kind, match=said):
        manifest.parse(data, "", "it")


@quick
@given(st.binary(max_size=200))
def test_rubbish_is_never_more_than_corrupt(data: bytes) -> None:
    with pytest.raises((Corrupt, Unsupported)):
        manifest.parse(data, "", "it")
    try:
        found = manifest.config(data, "it")
    except Corrupt:
        return
    assert found.diff_ids == (), "a JSON object may be the configuration of an image without layers, no more"


def test_foreign_layers_are_refused_clearly() -> None:
    with pytest.raises(Unsupported, match="foreign"):
        manifest.compression(Descriptor(f"{manifest.FOREIGN[0]}.gzip", D, 1))
    with pytest.raises(Unsupported, match="not a file system layer"):
        manifest.compression(Descriptor("application/json", D, 1))


def test_an_index_offers_the_best_and_says_what_it_has() -> None:
    def one(platform: Platform, **more: object) -> Descriptor:
        return Descriptor(manifest.OCI_MANIFEST, digests.of(str(platform).encode()), 1, platform, **more)  # type: ignore[arg-type]

    arm6, amd = one(Platform("linux", "arm", "v6")), one(Platform("linux", "amd64"))
    attestation = one(Platform("unknown", "unknown"))
    index = manifest.Index(manifest.OCI_INDEX, (attestation, arm6, amd), {})
    assert manifest.choose(index, Platform("linux", "arm", "v7"), "it") == arm6
    assert manifest.choose(index, Platform("linux", "amd64", "v3"), "it") == amd
    with pytest.raises(NotFound, match=r"no image for linux/s390x \(it offers linux/amd64, linux/arm/v6\)"):
        manifest.choose(index, Platform("linux", "s390x"), "it")


# -- where from ---------------------------------------------------------------------------------------------------
def _toml(tmp_path: Path, registry: str, text: str) -> tuple[hosts.Host, ...]:
    folder = tmp_path / registry
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text(text)
    return hosts.hosts_for(registry, [str(tmp_path)])


def test_hosts_toml_is_read_as_containerd_reads_it(tmp_path: Path) -> None:
    found = _toml(
        tmp_path,
        "docker.io",
        'server = "https://registry-1.docker.io"\n[host."http://m:5000"]\n capabilities = ["pull"]\n ca = "ca.pem"\n'
        ' skip_verify = true\n [host."http://m:5000".header]\n  x-a = ["1", "2"]\n'
        '[host."https://n/path"]\n override_path = true\n client = [["c.pem", "k.pem"]]\n',
    )
    assert [str(host.server) for host in found] == ["http://m:5000", "https://n", "https://registry-1.docker.io"]
    assert [host.prefix for host in found] == ["/v2", "/path", "/v2"]
    assert found[0].capabilities == {"pull"}
    assert found[0].server.tls.authorities == (str(tmp_path / "docker.io" / "ca.pem"),)
    assert found[0].headers == {"x-a": "1, 2"}
    assert found[1].server.tls.clients == ((str(tmp_path / "docker.io/c.pem"), str(tmp_path / "docker.io/k.pem")),)
    assert [host.mirror for host in found] == [True, True, False]


def test_without_a_file_it_is_https_and_loopback_may_be_plain() -> None:
    (hub,) = hosts.hosts_for("docker.io", [])
    assert (str(hub.server), hub.plain_fallback) == ("https://registry-1.docker.io", False)
    assert hosts.hosts_for("127.0.0.1:5000", [])[0].plain_fallback
    assert not hosts.hosts_for("127.0.0.1.example:5000", [])[0].plain_fallback


@pytest.mark.parametrize(
    "text", ["server = 3", "[host]\nx = 1", "not toml", '[host."ftp://x"]', '[host."http://x"]\ncapabilities = ["fly"]']
)
def test_a_bad_hosts_toml_is_named(text: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"hosts\.toml"):
        _toml(tmp_path, "r.example", text)


def test_proxies_come_from_the_environment() -> None:
    env = {"HTTPS_PROXY": "http://u:p%40@proxy:3128", "NO_PROXY": "internal.example,.corp"}
    found = proxy_for("https", "r.example", 443, env)
    assert found is not None
    assert (found.host, found.port, found.authorization) == ("proxy", 3128, "Basic dTpwQA==")
    for host in ("internal.example", "a.corp", "127.0.0.1", "127.1.2.3", "localhost", "::1"):
        assert proxy_for("https", host, 443, env) is None
    assert proxy_for("http", "r.example", 80, env) is None
    assert proxy_for("http", "r.example", 80, {"all_proxy": "proxy"}) is not None
    with pytest.raises(ImageError, match="socks5"):
        proxy_for("http", "r.example", 80, {"http_proxy": "socks5://proxy"})


@pytest.mark.parametrize(
    ("no_proxy", "host", "exempt"),
    [
        ("*", "r.example", True),
        ("r.example", "r.example", True),
        ("r.example", "a.r.example", True),
        ("r.example", "other.example", False),
        ("r.example", "evilr.example", False),
        (".example", "r.example", True),
        (".example", "example", False),
        ("*.example", "r.example", True),
        ("R.EXAMPLE", "r.example", True),
        ("a, b ,r.example", "r.example", True),
        ("r.example:5000", "r.example", True),
        ("r.example:443", "r.example", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "r.example", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:80", "10.1.2.3", False),
        ("fd00::/8", "fd00::1", True),
        ("fd00::1", "fd00::1", True),
        ("", "r.example", False),
        ("nonsense/99", "r.example", False),
    ],
)
def test_no_proxy_is_read_as_go_reads_it(no_proxy: str, host: str, exempt: bool) -> None:
    assert is_exempt(host, 5000, no_proxy) is exempt


# -- who ----------------------------------------------------------------------------------------------------------
def test_the_most_specific_account_is_taken(tmp_path: Path) -> None:
    def auth(user: str) -> dict[str, str]:
        import base64

        return {"auth": base64.b64encode(f"{user}:pw".encode()).decode()}

    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": {"r.io": auth("all"), "r.io/team": auth("team"), "https://index.docker.io/v1/": auth("hub")}}))  # fmt: skip  # noqa: E501
    files = [str(tmp_path / "absent"), str(path)]

    def who(name: str) -> str:
        found = credentials.find(parse(name), files)
        return found.username if found else ""

    assert [who(n) for n in ("r.io/team/x", "r.io/other", "busybox", "q.io/x")] == ["team", "all", "hub", ""]


def test_credentials_of_a_call_are_for_their_registry_only() -> None:
    mine = Credentials("u", "p", server_address="https://r.io/v1/")
    assert credentials.matches(mine, "r.io")
    assert not credentials.matches(mine, "r.io.evil")
    with pytest.raises(ImageError, match="base64"):
        credentials.decode(Credentials(auth="!"))


@pytest.mark.parametrize(
    ("header", "scheme", "realm"),
    [
        ('Bearer realm="https://a/token",service="r",scope="repository:x:pull,push"', "bearer", "https://a/token"),
        ('Basic realm="r"', "basic", "r"),
        ('Basic realm="r", Bearer realm="t"', "bearer", "t"),
        ("bearer realm=https://x", "bearer", "https://x"),
    ],
)
def test_challenges_are_understood(header: str, scheme: str, realm: str) -> None:
    found = authorize.parse_challenge(header)
    assert found is not None
    assert (found.scheme, found.realm) == (scheme, realm)


def test_waiting_grows_and_obeys_the_server() -> None:
    backoff = Backoff(first_seconds=1, longest_seconds=8)
    assert 0.5 <= backoff.delay(0, 0) <= 1
    assert 4 <= backoff.delay(9, 0) <= 8
    assert backoff.delay(0, 5) == 5
    assert backoff.delay(0, 10_000) <= 80


# -- archives -----------------------------------------------------------------------------------------------------
def _pieces(data: bytes, size: int) -> Callable[[], bytes]:
    parts = iter([data[i : i + size] for i in range(0, len(data), size)])
    return lambda: next(parts, b"")


NAMES = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="/\\"), min_size=1, max_size=120
)


@quick
@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=8),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.integers(1, 3000),
)
def test_what_tarfile_writes_we_read_in_any_pieces(members: list[tuple[str, bytes]], form: int, size: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid = len(data), 12345.5, 3_000_000
            archive.addfile(info, io.BytesIO(data))
    reader = tar.Reader(_pieces(out.getvalue(), size))
    found = []
    for entry in reader:
        parts: list[bytes] = []
        reader.copy(lambda piece, parts=parts: parts.append(bytes(piece)))  # type: ignore[misc]
        found.append((entry.name.decode(), b"".join(parts)))
        assert entry.uid == 3_000_000
        assert entry.mtime_ns == (12_345_500_000_000 if form == tarfile.PAX_FORMAT else 12_345_000_000_000)
    assert found == [(name.rstrip("/"), data) for name, data in members]


@quick
@given(NAMES, NAMES, st.integers(0, 2**40), st.integers(-(2**62), 2**62), st.binary(max_size=50))
def test_what_we_write_tarfile_reads(name: str, link: str, uid: int, mtime_ns: int, value: bytes) -> None:
    member = tarwriter.Member(name.encode(), b"2", 0o777, uid, 0, 0, mtime_ns, link.encode(), xattrs={"user.x": value})
    data = tarwriter.header(member) + bytes(1024)
    entry = next(iter(tar.Reader(_pieces(data, 512))))
    assert (entry.name, entry.link, entry.uid, entry.mtime_ns) == (name.encode(), link.encode(), uid, mtime_ns)
    assert entry.xattrs == {"user.x": value}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        theirs = archive.next()
    assert theirs is not None
    assert (theirs.name, theirs.linkname, theirs.uid) == (name.rstrip("/"), link, uid)


@quick
@given(st.binary(max_size=3000))
def test_rubbish_is_never_an_archive_that_surprises(data: bytes) -> None:
    reader = tar.Reader(_pieces(data, 700))
    try:
        for _ in reader:
            pass
    except (Corrupt, HostileLayer):
        pass


@quick
@given(st.binary(min_size=1, max_size=5000), st.integers(1, 600), st.sampled_from(["gzip", "zstd", "plain"]))
def test_inflating_does_not_depend_on_the_pieces(data: bytes, size: int, how: str) -> None:
    import zstandard

    packed = {"gzip": gzip.compress(data) + gzip.compress(b"tail"), "zstd": zstandard.compress(data) + zstandard.compress(b"tail")}  # fmt: skip  # noqa: E501
    if how == "plain":
        packed["plain"] = b"\0\0\0\0" + data
    source = inflate.plain(_pieces(packed[how], size))
    out = b"".join(iter(source, b""))
    assert out == (packed["plain"] if how == "plain" else data + b"tail")


def test_zlib_steps_in_where_isal_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflate, "HAS_ISAL", False)
    data = bytes(range(256)) * 5000
    assert b"".join(iter(inflate.plain(_pieces(gzip.compress(data), 999)), b"")) == data


@pytest.mark.parametrize("cut", [5, 30, -1, -9])
def test_a_gzip_stream_that_ends_early_is_corrupt(cut: int) -> None:
    packed = gzip.compress(b"data" * 1000)[:cut]
    with pytest.raises(Corrupt):
        list(iter(inflate.plain(_pieces(packed, 7)), b""))


@quick
@given(st.binary(max_size=300))
def test_a_cleaned_path_never_leads_out(name: bytes) -> None:
    try:
        path = unpack.clean(name, unpack.Limits())
    except HostileLayer:
        return
    assert not path.startswith(b"/")
    assert b".." not in path.split(b"/")
    assert unpack.clean(path, unpack.Limits()) == path


@pytest.mark.parametrize(
    ("text", "ns"),
    [(b"1", 10**9), (b"-1.25", -1_250_000_000), (b"1700000000.123456789", 1_700_000_000_123_456_789)],
)
def test_times_keep_their_last_digit(text: bytes, ns: int) -> None:
    assert tar.time_ns(text) == ns


def test_a_reference_keeps_its_parts() -> None:
    assert parse(f"r.io/a:1@{D}") == Reference("r.io", "a", "1", D)
