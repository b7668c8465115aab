# SPDX-License-Identifier: Apache-2.0
"""The images that the cluster, its checks and critest ask for, made of local programs under the names they use."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.e2e import go_build, local_programs
from tests.e2e.images import DOCKER, OCI, Blob, Image, Layer

PAUSE = "registry.k8s.io/pause:3.10.2"
BUSYBOX = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1"
AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.63.0"
COREDNS = "registry.k8s.io/coredns/coredns:v1.15.0"
# the names of the sets
FOR_CLUSTER, FOR_SUITES, FOR_CRITEST = "cluster", "suites", "critest"
MIRRORED_HOSTS = ("registry.k8s.io", "k8s.gcr.io", "gcr.io", "public.ecr.aws")

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_USERS = (
    ("root", 0, 0, "/root", "/bin/sh"),
    ("daemon", 1, 1, "/usr/sbin", "/bin/false"),
    ("bin", 2, 2, "/bin", "/bin/false"),
    ("www-data", 33, 33, "/var/www", "/bin/false"),
    ("nobody", 65534, 65534, "/home", "/bin/false"),
)
_GROUPS = (("root", 0), ("daemon", 1), ("bin", 2), ("tty", 5), ("wheel", 10), ("www-data", 33), ("nogroup", 65534))
PASSWD = "".join(f"{name}:x:{uid}:{gid}:{name}:{home}:{shell}\n" for name, uid, gid, home, shell in _USERS)
GROUP = "".join(f"{name}:x:{gid}:\n" for name, gid in _GROUPS)
_SHELL: dict[str, Any] = {"Cmd": ["sh"], "Env": [_PATH]}


def _with_libraries(layer: Layer, programs: list[Path]) -> Layer:
    for where, real in local_programs.libraries(programs):
        layer.file(where.lstrip("/"), real, 0o755)
    return layer


def busybox_layer() -> Blob:
    """A small system. Each applet is a hard link, as in the published image: masking /bin/ls must not mask them all."""
    program = local_programs.busybox()
    applets = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    layer = Layer().file("bin/[", program, 0o755)
    for applet in sorted(set(applets) - {"["}):
        layer.link(f"bin/{applet}", "bin/[", hard=True)
    _with_libraries(layer, [program])
    layer.folder("dev").file("etc/passwd", PASSWD).file("etc/group", GROUP)
    layer.file("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    layer.folder("home", 0o755, (65534, 65534)).folder("root", 0o700).folder("tmp", 0o1777)
    layer.folder("usr/bin").link("usr/bin/env", "bin/[", hard=True).folder("usr/sbin")
    return layer.folder("var/www", 0o755, (33, 33)).done()


def _mark(name: str) -> Blob:
    """A layer that only makes an image differ from its siblings."""
    return Layer().file(f"etc/{name}", f"{name}\n").done()


def _pause(tag: str) -> Image:
    layer = Layer().file("pause", local_programs.c_program("pause"), 0o755).done()
    config = {"Entrypoint": ["/pause"], "Env": [_PATH], "User": "65535:65535", "WorkingDir": "/"}
    return Image("pause", (tag,), (layer,), config | {"Labels": {"version": tag}})


def for_cluster() -> Iterator[Image]:
    """What the cluster itself runs and what its checks run in it."""
    base = busybox_layer()
    yield _pause("3.10.2")
    yield Image("e2e-test-images/busybox", ("1.37.0-1",), (base,), _SHELL)
    yield Image("e2e-test-images/agnhost", ("2.63.0",), (base, _agnhost_layer()), _agnhost_config())
    # a second version of the same server, for rolling updates and blue/green switches
    yield Image("e2e-test-images/agnhost", ("2.64.0",), (base, _agnhost_layer(), _mark("edge")), _agnhost_config())
    coredns = Layer().file("coredns", go_build.program("coredns"), 0o755).file("etc/passwd", PASSWD).done()
    yield Image("coredns/coredns", ("v1.15.0",), (coredns,), {"Entrypoint": ["/coredns"], "Env": [_PATH]})
    yield _setuid_image("1.4")
    yield Image("e2e-test-images/nonroot", ("1.5",), (base, _mark("nonroot")), _SHELL | {"User": "1234"})
    data = Layer().file("data.json", '{"image": "volume"}\n').file("nested/deep.txt", "deep\n").done()
    yield Image("e2e-test-images/volume-data", ("1",), (base, data), _SHELL)


def for_suites() -> Iterator[Image]:
    """What Kubernetes' own suites ask for besides: stand-ins that hold what the specs look at."""
    yield from (each for each in for_cluster() if f"registry.k8s.io/{each.repository}:{each.tags[0]}" != AGNHOST)
    base = busybox_layer()
    tools = (base, _programs_layer("curl", "bash"))
    # the suites start the program by a second name, and their scripts name /bin/bash
    names = Layer().link("agnhost-2", "agnhost").link("bin/bash", "/usr/bin/bash").done()
    served = (*tools, _agnhost_layer(), _localhost_certificate_layer(), names)
    yield Image("e2e-test-images/agnhost", ("2.63.0",), served, _agnhost_config())
    yield Image("e2e-test-images/agnhost", ("2.55",), (*served, _mark("old")), _agnhost_config())
    for repository, tag in (("busybox", "1.36.1-1"), ("ipc-utils", "1.4"), ("glibc-dns-testing", "2.0.0")):
        yield Image(f"e2e-test-images/{repository}", (tag,), (base, _mark(repository)), _SHELL)
    for tag in ("1.15-4", "1.27-0"):
        yield Image("e2e-test-images/nginx", (tag,), (base, _nginx_layer(80), _mark(tag)), _nginx_config())
    system = 'NAME="Alpine Linux"\nID=alpine\n'
    for name in ("kitten", "nautilus"):
        data = Layer().file("data.json", f'{{"image":"{name}.jpg"}}\n').file("etc/os-release", system).done()
        yield Image(f"e2e-test-images/{name}", ("1.8",), (base, data), _SHELL)
    consumer = Layer().file("consumer", go_build.program("resource-consumer"), 0o755).done()
    config = {"Entrypoint": ["/consumer"], "Env": [_PATH]}
    yield Image("e2e-test-images/resource-consumer", ("1.14",), (base, consumer), config)


def _programs_layer(*names: str) -> Blob:
    """Programs of this machine and the libraries that they need."""
    found = [Path("/usr/bin", name) for name in names]
    layer = _with_libraries(Layer(), found)
    for program in found:
        layer.file(f"usr/bin/{program.name}", program, 0o755)
    return layer.done()


def _localhost_certificate_layer() -> Blob:
    """The pair with which agnhost serves TLS when a spec asks for it."""
    folder = local_programs.localhost_certificate()
    return Layer().file("localhost.crt", folder / "tls.crt").file("localhost.key", folder / "tls.key").done()


def _agnhost_layer() -> Blob:
    named = "user-defined-in-image:x:1000:1000:a user:/home/user-defined-in-image:/bin/sh\n"
    layer = Layer().file("agnhost", go_build.program("agnhost"), 0o755).folder("uploads")
    layer.file("etc/passwd", PASSWD + named)
    groups = "user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n"
    return layer.file("etc/group", GROUP + groups).done()


def _agnhost_config() -> dict[str, Any]:
    return {"Entrypoint": ["/agnhost"], "Cmd": ["pause"], "Env": [_PATH]}


def _setuid_image(tag: str, base: Blob | None = None) -> Image:
    layer = Layer().file("nnp", local_programs.c_program("effective_uid"), 0o6755).done()
    layers = (base, layer) if base else (layer,)
    return Image("e2e-test-images/nonewprivs", (tag,), layers, {"Cmd": ["/nnp"], "Env": [_PATH]}, DOCKER)


def for_critest() -> Iterator[Image]:
    """What critest 1.36 pulls; most behind an index of several platforms, in Docker's format as the originals."""
    base = busybox_layer()
    foreign = (Layer().file("wrong-platform", "this image is for another platform\n").done(),)

    def docker(repository: str, tags: tuple[str, ...], layers: tuple[Blob, ...], config: dict[str, Any]) -> Image:
        return Image(repository, tags, layers, config, DOCKER, foreign)

    staging = "k8s-staging-cri-tools"
    yield docker("e2e-test-images/busybox", ("1.29-2",), (base,), _SHELL)
    yield docker("e2e-test-images/nginx", ("1.14-2",), (base, _nginx_layer(80)), _nginx_config())
    hostnet = (base, _nginx_layer(12003))
    yield Image(f"{staging}/hostnet-nginx-amd64", ("latest",), hostnet, _nginx_config(), DOCKER)
    yield docker("e2e-test-images/httpd", ("2.4.39-4",), (base, _httpd_layer()), {"Cmd": ["serve"], "Env": [_PATH]})
    yield _setuid_image("1.3", base)
    # each tag has an id of its own: 3.9 is pulled and removed by tests and must not be a sandbox's image
    yield from (_pause(tag) for tag in ("3.9", "3.10", "3.10.1", "3.10.2"))
    users = {"uid": "1002", "username": "www-data", "uid-group": "1003:1004", "username-group": "www-data:1004"}
    for name, user in users.items():
        yield docker(f"{staging}/test-image-user-{name}", ("latest",), (base,), _SHELL | {"User": user})
    predefined = (base, _predefined_group_layer())
    yield docker(f"{staging}/test-image-predefined-group", ("latest",), predefined, _SHELL | {"User": "1000"})
    for name in ("test-image-1", "test-image-2", "test-image-3", "test-image-latest"):
        yield docker(f"{staging}/{name}", ("latest",), (base, _mark(name)), _SHELL)
    yield digest_image(base)
    yield docker(f"{staging}/test-image-tags", ("1", "2", "3"), (base, _mark("same-image")), _SHELL)
    for tag in ("test", "all"):
        yield docker(f"{staging}/test-image-tag", (tag,), (base, _mark(tag)), _SHELL)
    for tag in ("1", "1-glibc", "1-musl", "1-uclibc", "1.35.0-glibc"):
        yield Image("docker/library/busybox", (tag,), (base, _mark(f"variant-{tag}")), _SHELL, OCI)


def digest_image(base: Blob) -> Image:
    """The image that critest pulls by a digest: ours has another one, so critest.py puts ours into the program."""
    layers = (base, _mark("test-image-digest"))
    return Image("k8s-staging-cri-tools/test-image-digest", ("latest",), layers, _SHELL, DOCKER)


def _predefined_group_layer() -> Blob:
    layer = Layer().file("etc/passwd", PASSWD + "default-user:x:1000:1000:a user:/home/default-user:/bin/sh\n")
    layer.file("etc/group", GROUP + "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")
    return layer.folder("home/default-user", 0o755, (1000, 1000)).done()


def _httpd_layer() -> Blob:
    """The suite wants port 80 and the word httpd in the log."""
    start = "#!/bin/sh\necho 'httpd: serving /srv on port 80' >&2\nexec httpd -f -vv -p 80 -h /srv\n"
    return Layer().file("srv/index.html", "<html>It works!</html>\n").file("bin/serve", start, 0o755).done()


def _nginx_config() -> dict[str, Any]:
    return {"Cmd": ["nginx", "-g", "daemon off;"], "Env": [_PATH], "StopSignal": "SIGQUIT"}


def _nginx_layer(port: int) -> Blob:
    program = local_programs.debian_package("nginx") / "usr/sbin/nginx"
    layer = _with_libraries(Layer(), [program]).file("usr/sbin/nginx", program, 0o755)
    layer.folder("run").link("var/run", "/run").folder("var/lib/nginx", 0o755, (101, 101)).folder("var/log/nginx")
    layer.link("var/log/nginx/access.log", "/dev/stdout").link("var/log/nginx/error.log", "/dev/stderr")
    layer.file("usr/share/nginx/html/index.html", "<html><title>Welcome to nginx!</title></html>\n")
    layer.file("etc/passwd", PASSWD + "nginx:x:101:101:nginx:/nonexistent:/bin/false\n")
    layer.file("etc/group", GROUP + "nginx:x:101:\n")
    return layer.file("etc/nginx/nginx.conf", _NGINX.replace("PORT", str(port))).done()


_NGINX = """user nginx;
worker_processes 1;
error_log /var/log/nginx/error.log notice;
pid /var/run/nginx.pid;
events { worker_connections 64; }
http {
  default_type text/html;
  access_log /var/log/nginx/access.log;
  server { listen PORT; location / { root /usr/share/nginx/html; index index.html; } }
}
"""
