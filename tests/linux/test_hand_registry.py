# SPDX-License-Identifier: Apache-2.0
"""login, push, pull, logout by hand, against Debian's docker-registry with accounts; skopeo compares the digests."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hand import Ketch
from tests.support.needs import needs
from tests.support.registry import DockerRegistry

pytestmark = [
    needs("overlay", "docker-registry", "skopeo"),
    pytest.mark.filterwarnings("ignore:'crypt' is deprecated"),
]


@pytest.fixture
def ketch(tmp_path: Path) -> Iterator[Ketch]:
    hand = Ketch(tmp_path)
    hand.environment["REGISTRY_AUTH_FILE"] = str(tmp_path / "auth.json")
    hand("image", "local")
    yield hand
    hand.close()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    import crypt

    hashed = crypt.crypt("s3cret", crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16))
    (tmp_path / "htpasswd").write_text(f"anna:{hashed}\n")
    auth = {"htpasswd": {"realm": "here", "path": str(tmp_path / "htpasswd")}}
    with DockerRegistry(tmp_path / "registry", auth=auth) as made:
        yield made


def _digest(name: str) -> str:
    command = ["skopeo", "inspect", "--tls-verify=false", "--creds", "anna:s3cret", f"docker://{name}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    digest: str = json.loads(done.stdout)["Digest"]
    return digest


def test_an_image_makes_the_round_trip_through_a_registry_with_accounts(
    ketch: Ketch, registry: DockerRegistry, tmp_path: Path
) -> None:
    name = f"{registry.host}/my-python-image"
    ketch("tag", "busybox", name)
    assert "log in" in ketch.refused("push", name)
    assert "user name and password" in ketch.refused(
        "login", "-u", "anna", "--password-stdin", registry.host, stdin="x"
    )
    assert not (tmp_path / "auth.json").exists(), "a password that does not fit is not kept"
    assert "Login Succeeded" in ketch("login", "-u", "anna", "--password-stdin", registry.host, stdin="s3cret\n")
    assert (tmp_path / "auth.json").stat().st_mode & 0o777 == 0o600
    pushed = ketch("push", name)
    digest = _digest(f"{name}:latest")
    assert digest in pushed
    identity = ketch("images", "-q", "--no-trunc", name).strip()
    ketch("rmi", "-f", identity)
    assert digest in ketch("pull", name)
    assert ketch("images", "-q", "--no-trunc", name).strip() == identity
    assert ketch("run", "--rm", name, "echo", "it runs") == "it runs\n"
    ketch("logout", registry.host)
    ketch("rmi", "-f", identity)
    assert "log in" in ketch.refused("pull", name)


def test_the_password_is_asked_for_on_a_terminal_and_not_shown(ketch: Ketch, registry: DockerRegistry) -> None:
    asking = ketch.terminal("login", registry.host)
    asking.expect("Username")
    asking.type("anna\r")
    asking.expect("Password: ")
    asking.type("s3cret\r")
    shown = asking.expect("Login Succeeded")
    assert "s3cret" not in shown
    assert asking.end() == 0


def test_a_pull_on_a_terminal_draws_a_bar_for_each_layer_and_plain_lines_in_a_pipe(
    ketch: Ketch, registry: DockerRegistry
) -> None:
    ketch("login", "-u", "anna", "--password-stdin", registry.host, stdin="s3cret\n")
    name = f"{registry.host}/bars:1"
    ketch("tag", "busybox", name)
    ketch("push", name)
    identity = ketch("images", "-q", "--no-trunc", name).strip()
    ketch("rmi", "-f", identity)
    drawn = ketch.terminal("pull", name)
    assert drawn.end() == 0
    assert "\x1b[" in drawn.shown
    assert "Digest: sha256:" in drawn.shown
    ketch("rmi", "-f", identity)
    assert "\x1b" not in ketch("pull", name)
