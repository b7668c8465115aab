# SPDX-License-Identifier: Apache-2.0
"""Where a registry's content is fetched from: mirrors, plain HTTP and private CAs, in containerd's certs.d layout.

    certs.d/docker.io/hosts.toml
        server = "https://registry-1.docker.io"
        [host."http://mirror.example:5000"]
          capabilities = ["pull", "resolve"]
          ca = "ca.pem"                       # also a list; relative to the file
          client = [["client.cert", "client.key"]]
          skip_verify = false
          override_path = false
          [host."http://mirror.example:5000".header]
            x-team = "a"

Without a file: HTTPS; a registry on loopback may also speak plain HTTP.
"""

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from cri.images.errors import ImageError
from cri.images.transport import Server, Tls
from runtime.linux.quick_dataclasses import dataclass, field

DOCKER_HUB = {"docker.io": "registry-1.docker.io"}
_ALL = frozenset(("pull", "resolve", "push"))


@dataclass(frozen=True, slots=True)
class Host:
    """One place that serves a registry's content."""

    server: Server
    prefix: str = "/v2"
    capabilities: frozenset[str] = _ALL
    headers: Mapping[str, str] = field(default_factory=dict)
    mirror: bool = False
    plain_fallback: bool = False

    def __hash__(self) -> int:
        return hash((self.server, self.prefix))


def is_loopback(host: str) -> bool:
    """localhost, 127.0.0.0/8 or ::1."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def split_port(host: str) -> tuple[str, int | None]:
    """`host:port`, `[::1]:port`, `host`."""
    parts = urlsplit(f"//{host}")
    return parts.hostname or "", parts.port


def hosts_for(registry: str, certs_d: Sequence[str]) -> tuple[Host, ...]:
    """The mirrors of a registry in the file's order, then the registry itself."""
    for directory in certs_d:
        for folder in _folders(registry):
            path = os.path.join(directory, folder, "hosts.toml")
            try:
                with open(path, "rb") as file:
                    return _read(path, tomllib.load(file), registry)
            except FileNotFoundError:
                pass
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise ImageError(f"{path}: {error}", hint="fix the file, it decides where images come from") from None
            found = _docker_layout(os.path.join(directory, folder), registry)
            if found is not None:
                return found
    return (_origin(registry, Tls()),)


def _folders(registry: str) -> tuple[str, ...]:
    """containerd's names for a registry's folder, then its default."""
    host, port = split_port(registry)
    if port is None:
        return (registry, "_default")
    name = host.replace(":", "_") if ":" in host else host
    return (registry, f"{name}_{port}_", "_default")


def _origin(registry: str, tls: Tls, url: str = "") -> Host:
    if url:
        return _host(url, {}, "", registry, mirror=False)
    host, port = split_port(DOCKER_HUB.get(registry, registry))
    fallback = is_loopback(host) and tls == Tls()
    return Host(Server("https", host, port or (80 if fallback and port is None else 443), tls), plain_fallback=fallback)


def _read(path: str, data: Mapping[str, object], registry: str) -> tuple[Host, ...]:
    folder = os.path.dirname(path)
    tables = data.get("host", {})
    if not isinstance(tables, dict):
        raise ImageError(f"{path}: host: expected tables, got {tables!r}")
    hosts = []
    for url, table in tables.items():
        if not isinstance(table, dict):
            raise ImageError(f"{path}: host.{url!r}: expected a table, got {table!r}")
        hosts.append(_checked(path, url, table, folder, registry, mirror=True))
    server = data.get("server", "")
    if not isinstance(server, str):
        raise ImageError(f"{path}: server: expected a string, got {server!r}")
    rest = {key: value for key, value in data.items() if key not in ("host", "server")}
    if server or rest:
        url = server or str(_origin(registry, Tls()).server)
        hosts.append(_checked(path, url, rest, folder, registry, mirror=False))
    else:
        hosts.append(_origin(registry, Tls()))
    return tuple(hosts)


def _checked(path: str, url: str, table: Mapping[str, object], folder: str, registry: str, *, mirror: bool) -> Host:
    try:
        return _host(url, table, folder, registry, mirror=mirror)
    except (ValueError, TypeError) as error:
        raise ImageError(f"{path}: {url}: {error}") from None


def _host(url: str, table: Mapping[str, object], folder: str, registry: str, *, mirror: bool) -> Host:
    loopback = is_loopback(split_port(url)[0]) if "://" not in url else False
    parts = urlsplit(url if "://" in url else f"{'http' if loopback else 'https'}://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected http://HOST or https://HOST")
    path = parts.path.rstrip("/")
    if not table.get("override_path", False) and not re.search(r"/v2\Z", path):
        path += "/v2"
    capabilities = frozenset(_strings(table.get("capabilities", sorted(_ALL))))
    if not capabilities <= _ALL:
        raise ValueError(f"capabilities: {sorted(capabilities - _ALL)} are unknown")
    tls = Tls(
        tuple(os.path.join(folder, name) for name in _strings(table.get("ca", []))),
        tuple(_pairs(table.get("client", []), folder)),
        table.get("skip_verify", False) is True,
    )
    header = table.get("header", {})
    if not isinstance(header, dict):
        raise TypeError(f"header: expected a table, got {header!r}")
    headers = {key: ", ".join(_strings(value)) for key, value in header.items()}
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = DOCKER_HUB.get(parts.hostname, parts.hostname) if not mirror else parts.hostname
    same = not mirror or f"{parts.hostname}:{parts.port}" == registry
    return Host(Server(parts.scheme, host, port, tls), path, capabilities, headers, mirror=not same)


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise TypeError(f"expected a string or a list of strings, got {value!r}")


def _pairs(value: object, folder: str) -> list[tuple[str, str]]:
    """client = "both.pem" | ["a.pem", ...] | [["cert", "key"], ...]"""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise TypeError(f"client: expected names or pairs, got {value!r}")
    pairs = []
    for item in items:
        names = [item] if isinstance(item, str) else _strings(item)
        if len(names) not in (1, 2):
            raise ValueError(f"client: expected a certificate and a key, got {item!r}")
        pairs.append((os.path.join(folder, names[0]), os.path.join(folder, names[1]) if len(names) == 2 else ""))
    return pairs


def _docker_layout(folder: str, registry: str) -> tuple[Host, ...] | None:
    """docker's layout of the same folder: *.crt are authorities, NAME.cert and NAME.key are clients."""
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return None
    authorities = tuple(os.path.join(folder, name) for name in names if name.endswith(".crt"))
    clients = tuple(
        (os.path.join(folder, name), os.path.join(folder, name.removesuffix(".cert") + ".key"))
        for name in names
        if name.endswith(".cert") and name.removesuffix(".cert") + ".key" in names
    )
    return (_origin(registry, Tls(authorities, clients)),) if authorities or clients else None
