# SPDX-License-Identifier: Apache-2.0
"""login and logout: credentials in the file that pulls and pushes read, which podman and docker read too."""

from __future__ import annotations

import json
import os
import sys
from base64 import b64encode

from cri.hand.errors import HandError, UsageError
from cri.hand.grammar import Arguments
from cri.hand.places import Places
from cri.images.credentials import default_files
from runtime.linux import durable

HUB = "docker.io"


def _file() -> str:
    """The one that outlives a boot, unless REGISTRY_AUTH_FILE names another."""
    files = default_files()
    return files[1] if len(files) > 1 else files[0]


def _read(path: str) -> dict[str, object]:
    data = durable.read(path)
    try:
        found = json.loads(data) if data else {}
    except ValueError:
        raise HandError(f"{path} is not JSON", hint="mend it, or move it away") from None
    return found if isinstance(found, dict) else {}


def _write(path: str, known: dict[str, object]) -> None:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    durable.replace(path, json.dumps(known, indent=2).encode() + b"\n", 0o600)


def _try(places: Places, registry: str, username: str, password: str) -> None:
    """What is kept has worked once."""
    from cri.hand.room import open_store
    from cri.images.model import Credentials

    store = open_store(places.config)
    try:
        store.log_in(registry, Credentials(username, password))
    finally:
        store.close()


def login(arguments: Arguments, places: Places) -> int:
    registry = arguments.words[0] if arguments.words else HUB
    registry = registry.removeprefix("https://").removeprefix("http://").rstrip("/")
    username = arguments.text("username")
    if not username:
        if not sys.stdin.isatty():
            raise UsageError("login: --username is missing", hint="-u NAME --password-stdin")
        username = input(f"Username for {registry}: ")
    password = _password(arguments)
    if not username or not password:
        raise UsageError("login: a user name and a password are needed")
    _try(places, registry, username, password)
    path = _file()
    known = _read(path)
    auths = known.setdefault("auths", {})
    assert isinstance(auths, dict)
    auths[registry] = {"auth": b64encode(f"{username}:{password}".encode()).decode()}
    _write(path, known)
    print("Login Succeeded")
    return 0


def _password(arguments: Arguments) -> str:
    if arguments.flag("password-stdin"):
        return sys.stdin.read().rstrip("\r\n")
    if arguments.given("password"):
        print("ketch: a password on the command line is seen by all users; better: --password-stdin", file=sys.stderr)
        return arguments.text("password")
    if not sys.stdin.isatty():
        raise UsageError("login: no terminal to ask for the password", hint="--password-stdin")
    from getpass import getpass

    return getpass("Password: ")


def logout(arguments: Arguments, _places: Places) -> int:
    registry = arguments.words[0] if arguments.words else HUB
    path = _file()
    known = _read(path)
    auths = known.get("auths")
    if not isinstance(auths, dict) or auths.pop(registry, None) is None:
        raise HandError(f"not logged in to {registry}")
    _write(path, known)
    print(f"Forgot the credentials for {registry}")
    return 0
