# SPDX-License-Identifier: Apache-2.0
"""docker's walk-through, typed into a shell on a real terminal: once for ketch, once for Debian's podman, and compared.

In both shells `docker` is the tool under test. Output is compared line by line after ids, addresses, times and counters
have been replaced by what they are; where podman itself differs from docker the step says what docker prints.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.linux import beneath
from tests.support import images, kernel
from tests.support.hand import Ketch, Terminal
from tests.support.images import layer, member
from tests.support.instruments import command
from tests.support.needs import needs
from tests.support.registry import DockerRegistry

pytestmark = [needs("root", "overlay", "podman"), pytest.mark.timeout(600)]
PROMPT = "walk> "


class Shell:
    """A shell on a terminal in which `docker` is one of the two."""

    def __init__(self, docker: list[str], environment: dict[str, str], folder: Path) -> None:
        script = folder / "docker"
        script.write_text("#!/bin/sh\nexec " + " ".join(f"'{word}'" for word in docker) + ' "$@"\n')
        script.chmod(0o755)
        search = f"{folder}:{environment['PATH']}"
        plain = {**environment, "PATH": search, "PS1": PROMPT, "LC_ALL": "C.UTF-8"}
        self.terminal = Terminal(["/bin/bash", "--norc", "--noprofile", "+m"], plain, 160, 50)
        self.terminal.expect(PROMPT)

    def type(self, line: str, seconds: float = 90) -> str:
        """Type a line; what is shown until the next prompt, without the echo."""
        self.terminal.type(line + "\r")
        shown = self.terminal.expect(PROMPT, seconds)
        _, _, printed = shown.partition("\n")
        return re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", printed).replace("\r", "")

    def end(self) -> None:
        self.terminal.type("exit\r")
        self.terminal.end()


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """The image that is called ubuntu:22.04 here: the machine's busybox."""
    program = Path("/bin/busybox").read_bytes()
    applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    accounts = b"root:x:0:0:root:/root:/bin/sh\nmynewuser:x:1001:1001::/:/bin/sh\n"
    members = [member("./"), member("bin/"), member("bin/busybox", program, mode=0o755), member("etc/")]
    members += [member("etc/passwd", accounts), member("etc/group", b"root:x:0:\nmynewuser:x:1001:\n")]
    members += [images.symlink(f"bin/{name}", "busybox") for name in applets if name != "busybox"]
    members += [member(f"{name}/") for name in ("proc", "sys", "dev", "tmp", "root", "app")]
    config: dict[str, object] = {"Cmd": ["sh"], "Env": ["PATH=/bin"]}
    images.layout(tmp_path / "oci", [layer(members)], config=config)
    return tmp_path / "oci"


@pytest.fixture
def ketch(tmp_path: Path, layout: Path) -> Iterator[Shell]:
    hand = Ketch(_folder(Path("/run/walk-ketch")))  # pytest's folders are closed to a mapped root
    shell = Shell([command("ketch")], hand.environment, _folder(tmp_path / "as-ketch"))
    shell.type(f"docker import-layout {layout} 2>/dev/null || docker load -i {layout}")
    shell.type("docker tag $(docker images -q --no-trunc) ubuntu:22.04")
    yield shell
    shell.end()
    hand.call("volume", "rm", "myvolume")
    hand.close()
    beneath.remove_tree("/run/walk-ketch")


@pytest.fixture
def podman(tmp_path: Path, layout: Path) -> Iterator[Shell]:
    """Debian's, with everything in places of this test's own."""
    folder = _folder(Path("/run/walk"))
    (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    (folder / "containers.conf").write_text(
        '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\n'
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n[network]\nnetwork_backend = "cni"\n'
    )
    hybrid = "/sys/fs/cgroup/unified/cgroup.controllers"  # Debian's crun refuses a hybrid machine by this file
    hidden = os.path.exists(hybrid)
    if hidden:
        with tempfile.NamedTemporaryFile() as empty:
            kernel.mount(empty.name, hybrid, "", kernel.MS_BIND)
    base = ["podman", "--root", "/var/lib/walk", "--runroot", f"{folder}/run", "--tmpdir", f"{folder}/tmp"]
    base += ["--storage-driver", "overlay", "--network-config-dir", f"{folder}/net"]
    environment = {**os.environ, "CONTAINERS_CONF": f"{folder}/containers.conf", "TERM": "xterm"}
    shell = Shell(base, environment, _folder(tmp_path / "as-podman"))
    shell.type(f"docker pull -q --signature-policy {folder}/policy.json oci:{layout}:latest")
    shell.type("docker tag $(docker images -q --no-trunc) docker.io/library/ubuntu:22.04")
    yield shell
    shell.type("docker rm -f -a -t 0; docker volume rm -a -f")
    shell.end()
    if hidden:
        kernel.umount(hybrid)
    subprocess.run(["ip", "link", "delete", "cni-podman0"], capture_output=True, check=False)
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    for mount in sorted((line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()), reverse=True):
        if mount.startswith(("/var/lib/walk/", "/run/walk/", "/run/netns")):
            kernel.umount(mount)
    for left in ("walk", "netns", "libpod", "crun", "containers"):
        beneath.remove_tree(f"/run/{left}")
    for left in ("walk", "cni", "containers"):
        beneath.remove_tree(f"/var/lib/{left}")
    for group in Path("/sys/fs/cgroup").glob("*/libpod_parent"):
        for inner in [entry for entry in group.iterdir() if entry.is_dir()]:
            inner.rmdir()
        group.rmdir()


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _plain(text: str) -> str:
    """What may differ between two runs of one tool, replaced by what it is."""
    for pattern, name in (
        (r"\b([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}\b", "MAC"),
        (r"\b[0-9a-f]{64}\b", "ID64"),
        (r"\b[0-9a-f]{12}\b", "ID12"),
        (r"\b\d+\.\d+\.\d+\.\d+\b", "ADDRESS"),
        (r"fe80::[0-9a-f:]+", "ADDRESS"),
        (r"(packets|bytes|errors|overruns|frame):\d+.*", "COUNTERS"),
        (r"\d+ (seconds?|minutes?) ago|Less than a second ago|About a minute ago", "AGO"),
        (r" txqueuelen:\d+", ""),  # a veth has no queue, whatever this says
        (r"^WARN.*", ""),
        (r"[ \t]+", " "),
    ):
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return "\n".join(line.strip() for line in text.strip().splitlines() if line.strip())


def _steps() -> list[tuple[str, str]]:
    """(step, what is typed): the file has a line for each, the second one indented."""
    lines = (Path(__file__).parent / "walk-through.steps").read_text().splitlines()
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    return [(step, typed.strip()) for step, typed in zip(lines[::2], lines[1::2], strict=True)]


def test_every_step_shows_what_podman_shows(ketch: Shell, podman: Shell) -> None:
    different: dict[str, str] = {}
    for step, line in _steps():
        ours, theirs = _plain(ketch.type(line)), _plain(podman.type(line))
        if sorted(ours.splitlines()) != sorted(theirs.splitlines()):
            different[step] = f"$ {line}\n--- ketch\n{ours}\n--- podman\n{theirs}"
    if different:
        pytest.fail("\n\n".join(f"{step}: {shown}" for step, shown in different.items()), pytrace=False)


def test_a_shell_in_a_container_is_a_shell(ketch: Shell, podman: Shell) -> None:
    shown = []
    for shell in (ketch, podman):
        terminal = shell.terminal
        terminal.type("docker run -it --name box ubuntu:22.04\r")
        terminal.expect("/ # ")
        terminal.type("tty; id -u; hostname\r")
        answer = terminal.expect("/ # ")
        terminal.type("exit\r")
        terminal.expect(PROMPT)
        shown.append(_plain(answer))
        assert _plain(shell.type("docker rm box")) in ("box", "ID64")
    assert shown[0] == shown[1]


@needs("docker-registry")
def test_an_image_goes_to_a_registry_and_comes_back_as_what_it_was(ketch: Shell, podman: Shell, tmp_path: Path) -> None:
    """AC17; podman has to be told that a registry on this machine speaks plain HTTP, docker and we know."""
    with DockerRegistry(tmp_path / "registry") as registry:
        name = f"{registry.host}/my-python-image"
        for shell, plain in ((ketch, ""), (podman, "--tls-verify=false ")):
            shell.type(f"docker tag ubuntu:22.04 {name}")
            shell.type(f"docker push {plain}{name}")
            digest = f"docker inspect -f '{{{{json .RepoDigests}}}}' {name}"
            shell.type(f"docker rmi {name}")
            shell.type(f"docker pull {plain}{name}")
            assert f"{name}@{registry_digest(registry, 'my-python-image')}" in json.loads(shell.type(digest))
            assert shell.type(f"docker run --rm {name} echo here again").strip() == "here again"


def registry_digest(registry: DockerRegistry, name: str) -> str:
    """What the registry itself says that it has."""
    wanted = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
    url = f"http://{registry.host}/v2/{name}/manifests/latest"
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": wanted})) as answer:
        digest: str = answer.headers["Docker-Content-Digest"]
        return digest


def test_where_podman_differs_from_docker_we_are_docker(ketch: Shell) -> None:
    eth0 = ketch.type("docker run --rm ubuntu:22.04 ifconfig eth0")
    assert re.search(r"HWaddr 02:42:AC:11:00:0[2-9]", eth0)
    assert re.search(r"inet addr:172\.17\.0\.\d+ +Bcast:172\.17\.255\.255 +Mask:255\.255\.0\.0", eth0)
    assert "MTU:1500" in eth0
    routes = ketch.type("docker run --rm ubuntu:22.04 route -n")
    assert re.search(r"0\.0\.0\.0 +172\.17\.0\.1 +0\.0\.0\.0 +UG", routes)
    assert re.search(r"172\.17\.0\.0 +0\.0\.0\.0 +255\.255\.0\.0", routes)
    rows = [line.split() for line in ketch.type("docker network ls").splitlines()]
    assert rows[0] == ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"]
    kinds = (("bridge", "bridge"), ("host", "host"), ("none", "null"))
    assert [row[1:] for row in rows[1:4]] == [[name, driver, "local"] for name, driver in kinds]
    mounts = ketch.type("docker run --rm --mount source=myvolume,target=/app ubuntu:22.04 df -h")
    for what, size in (("overlay", ""), ("tmpfs", "64.0M"), ("shm", "64.0M")):
        assert any(line.startswith(what) and size in line for line in mounts.splitlines()), (what, mounts)
    assert "DRIVER" in ketch.type("docker volume ls").splitlines()[0]
    keys = re.findall(r'^ +"(\w+)":', ketch.type("docker volume inspect myvolume"), re.MULTILINE)
    assert sorted(keys) == ["CreatedAt", "Driver", "Labels", "Mountpoint", "Name", "Options", "Scope"]
    # AC14; Debian's crun cannot start a container with a user namespace on every machine, so podman is no judge here.
    for option, expected in (("--uidmap 0:1001:65536", range(1001, 1002)), ("--userns private", range(100_000, 2**32))):
        ketch.type(f"docker run -d --name mapped {option} ubuntu:22.04 sleep 50")
        process = "/proc/$(docker inspect -f '{{.State.Pid}}' mapped)"
        outside = ketch.type(f"awk '/^Uid/ {{print $2}}' {process}/status")
        assert int(outside.split()[-1]) in expected
        assert ketch.type("docker exec mapped id -u").strip() == "0"
        assert ketch.type("docker rm -f mapped").strip() == "mapped"
    ketch.type("docker run -d --name hosted --network host ubuntu:22.04 httpd -f -p 18080")
    assert "404" in ketch.type("until busybox wget -q -O - http://127.0.0.1:18080/ 2>&1 | grep 404; do :; done")
    assert ketch.type("docker rm -f hosted").strip() == "hosted"
