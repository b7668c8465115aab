# SPDX-License-Identifier: Apache-2.0
"""Whose account a registry is asked with: from the call, from auth.json, from docker's config and its helpers."""

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Mapping, Sequence

from cri.images.errors import ImageError
from cri.images.model import Credentials
from cri.images.reference import Reference

_HELPER_SECONDS = 20.0
_HUB_KEYS = ("docker.io", "index.docker.io", "https://index.docker.io/v1/", "registry-1.docker.io")


def default_files(environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Where podman, skopeo and docker look, in podman's order."""
    env = os.environ if environment is None else environment
    if env.get("REGISTRY_AUTH_FILE"):
        return (env["REGISTRY_AUTH_FILE"],)
    home = env.get("HOME", "/root")
    runtime = env.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.getuid()}"
    sub = "containers/auth.json"
    docker = env.get("DOCKER_CONFIG") or os.path.join(home, ".docker")
    return (
        os.path.join(runtime, sub),
        os.path.join(env.get("XDG_CONFIG_HOME") or os.path.join(home, ".config"), sub),
        os.path.join(docker, "config.json"),
    )


def decode(credentials: Credentials) -> Credentials:
    """Credentials with `auth` taken apart into user name and password."""
    if credentials.username or not credentials.auth:
        return credentials
    try:
        text = base64.b64decode(credentials.auth, validate=False).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise ImageError("the credentials' auth is not base64", hint="it is base64 of user:password") from None
    username, colon, password = text.rstrip("\0").partition(":")
    if not colon:
        raise ImageError("the credentials' auth holds no password", hint="it is base64 of user:password")
    return Credentials(
        username,
        password,
        identity_token=credentials.identity_token,
        registry_token=credentials.registry_token,
        server_address=credentials.server_address,
    )


def matches(credentials: Credentials, host: str) -> bool:
    """Whether the credentials of a call are meant for this registry."""
    address = credentials.server_address
    if not address:
        return True
    bare = address.partition("://")[2] or address
    return bare.partition("/")[0] == host or (host == "docker.io" and address in _HUB_KEYS)


def find(reference: Reference, files: Sequence[str]) -> Credentials | None:
    """The most specific entry for a repository, in the first file that has one."""
    for path in files:
        try:
            with open(path, encoding="utf-8") as file:
                value = json.load(file)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        except ValueError as error:
            raise ImageError(f"{path}: not JSON: {error}") from None
        found = _in_file(value if isinstance(value, dict) else {}, reference, path)
        if found is not None:
            return found
    return None


def keys(reference: Reference) -> tuple[str, ...]:
    """What an entry may be called, the most specific first: host/a/b, host/a, host, and docker's URLs."""
    parts = reference.path.split("/")
    names = [f"{reference.host}/{'/'.join(parts[:n])}" for n in range(len(parts), 0, -1)] + [reference.host]
    names += [f"https://{reference.host}", f"https://{reference.host}/v1/", f"https://{reference.host}/v2/"]
    names += [f"http://{reference.host}"]
    return (*names, *_HUB_KEYS) if reference.host == "docker.io" else tuple(names)


def _in_file(value: dict[str, object], reference: Reference, path: str) -> Credentials | None:
    helpers, auths = value.get("credHelpers"), value.get("auths")
    store = value.get("credsStore")
    for key in keys(reference):
        if isinstance(helpers, dict) and isinstance(helpers.get(key), str):
            return _ask_helper(helpers[key], key)
        entry = auths.get(key) if isinstance(auths, dict) else None
        if isinstance(entry, dict):
            found = _entry(entry, path, key)
            if found is not None:
                return found
    # docker asks its store whether the file has an entry or not; the names are the host's own, or the hub's URL.
    if isinstance(store, str):
        for key in _HUB_KEYS[2:0:-1] if reference.host == "docker.io" else (reference.host,):
            found = _ask_helper(store, key)
            if found is not None:
                return found
    return None


def _entry(entry: dict[str, object], path: str, key: str) -> Credentials | None:
    texts = {name: value for name, value in entry.items() if isinstance(value, str) and value}
    token = texts.get("identitytoken", "")
    registry_token = texts.get("registrytoken", "")
    if not (texts.get("auth") or texts.get("username") or token or registry_token):
        return None
    try:
        return decode(
            Credentials(
                texts.get("username", ""), texts.get("password", ""), texts.get("auth", ""), token, registry_token
            )
        )
    except ImageError as error:
        raise ImageError(f"{path}: {key}: {error}") from None


def _ask_helper(helper: str, key: str) -> Credentials | None:
    """docker-credential-NAME get: the key on stdin, JSON on stdout."""
    if not helper.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise ImageError(f"{helper!r} is no credential helper's name")
    try:
        done = subprocess.run(
            [f"docker-credential-{helper}", "get"],
            input=key.encode(),
            capture_output=True,
            timeout=_HELPER_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise ImageError(f"docker-credential-{helper} is not on PATH", hint="the auth file names it") from None
    except subprocess.TimeoutExpired:
        raise ImageError(f"docker-credential-{helper} did not answer in {_HELPER_SECONDS:g} s") from None
    if done.returncode != 0:
        return None
    try:
        value = json.loads(done.stdout)
        username, secret = value["Username"], value["Secret"]
    except (ValueError, KeyError, TypeError):
        raise ImageError(f"docker-credential-{helper} answered nonsense") from None
    return Credentials(identity_token=secret) if username == "<token>" else Credentials(username, secret)
