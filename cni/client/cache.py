# SPDX-License-Identifier: Apache-2.0
"""Cached results, in libcni's place and format: another runtime can take the node over, and we can from another."""

from __future__ import annotations

import binascii
import os

from runtime.linux import durable, json_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CACHE_DIRECTORY = "/var/lib/cni"
_KIND = "cniCacheV1"


class Cached:
    """What an ADD was called with and what it answered."""

    __slots__ = ("args", "capability_args", "config", "container_id", "ifname", "netns", "network", "result")

    def __init__(
        self,
        *,
        network: str,
        container_id: str,
        ifname: str,
        netns: str,
        config: bytes,
        args: tuple[tuple[str, str], ...],
        capability_args: dict[str, Any] | None,
        result: dict[str, Any] | None,
    ) -> None:
        self.network = network
        self.container_id = container_id
        self.ifname = ifname
        self.netns = netns
        self.config = config
        self.args = args
        self.capability_args = capability_args
        self.result = result

    def to_json(self) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "kind": _KIND,
            "containerId": self.container_id,
            "config": binascii.b2a_base64(self.config, newline=False).decode(),
            "ifName": self.ifname,
            "networkName": self.network,
        }
        if self.netns:
            answer["netns"] = self.netns
        if self.args:
            answer["cniArgs"] = [list(pair) for pair in self.args]
        if self.capability_args:
            answer["capabilityArgs"] = self.capability_args
        answer["result"] = self.result
        return answer


class Cache:
    """The files <directory>/results/<network>-<containerID>-<ifname>."""

    def __init__(self, directory: str = CACHE_DIRECTORY) -> None:
        self.directory = f"{directory}/results"

    def path(self, network: str, container_id: str, ifname: str) -> str:
        return f"{self.directory}/{network}-{container_id}-{ifname}"

    def write(self, cached: Cached) -> None:
        path = self.path(cached.network, cached.container_id, cached.ifname)
        data = json_text.dumps(cached.to_json()).encode()
        # Not fsynced, as libcni does not: a boot ends what it describes.
        try:
            durable.replace(path, data, 0o600, durable=False)
        except FileNotFoundError:
            os.makedirs(self.directory, 0o700, exist_ok=True)
            durable.replace(path, data, 0o600, durable=False)

    def read(self, network: str, container_id: str, ifname: str) -> Cached | None:
        """None if there is none, or if it cannot be understood (a DEL must go on without it)."""
        return _read(self.path(network, container_id, ifname))

    def forget(self, network: str, container_id: str, ifname: str) -> None:
        durable.remove(self.path(network, container_id, ifname), durable=False)

    def sweep(self) -> None:
        """Remove what writers have left that died before their file had its name."""
        if os.path.isdir(self.directory):
            durable.sweep(self.directory)

    def all(self, network: str | None = None) -> list[Cached]:
        """Every attachment that somebody has cached, of one network or of all."""
        try:
            names = sorted(os.listdir(self.directory))
        except FileNotFoundError:
            return []
        found = [_read(f"{self.directory}/{name}") for name in names if not name.startswith(".")]
        return [cached for cached in found if cached is not None and network in (None, cached.network)]


def _read(path: str) -> Cached | None:
    data = durable.read(path)
    if data is None:
        return None
    try:
        raw = json_text.loads(data)
        if raw["kind"] != _KIND:
            return None
        return Cached(
            network=raw["networkName"],
            container_id=raw["containerId"],
            ifname=raw["ifName"],
            netns=raw.get("netns", ""),
            config=binascii.a2b_base64(raw["config"]),
            args=tuple((key, value) for key, value in raw.get("cniArgs") or ()),
            capability_args=raw.get("capabilityArgs"),
            result=raw["result"],
        )
    except (json_text.JSONError, KeyError, TypeError, ValueError):
        return None
