# SPDX-License-Identifier: Apache-2.0
"""Running a network's chain of plugins for one attachment, with cached results in between.

ADD    p1 -> p2 -> p3 (each gets the result before it) -> cache
CHECK  p1 -> p2 -> p3, each with the cached result
DEL    p3 -> p2 -> p1, each with the cached result -> forget
GC     DEL of every cached attachment that is not valid, then GC of every plugin
"""

from __future__ import annotations

from collections.abc import Iterable

from runtime.linux.quick_dataclasses import dataclass, field

from .. import delegate, versions
from ..errors import INVALID_CONFIG, PLUGIN, CniError
from ..results import Result
from ..wire import closing
from .cache import CACHE_DIRECTORY, Cache, Cached
from .networks import Configuration, load_directory, parse, plugin_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PLUGIN_PATH = "/opt/cni/bin"
_FOREIGN_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface of one container on one network."""

    container_id: str
    netns: str
    ifname: str = "eth0"
    args: tuple[tuple[str, str], ...] = ()  # CNI_ARGS, in order
    capability_args: dict[str, Any] = field(default_factory=dict)  # portMappings, bandwidth, ipRanges, dns, mac, ...

    @property
    def environ_args(self) -> str:
        return ";".join(f"{key}={value}" for key, value in self.args)


@dataclass(frozen=True, slots=True)
class Options:
    """Where plugins and cached results are; which variables plugins of ours see besides CNI_*."""

    path: str = PLUGIN_PATH  # CNI_PATH: directories by colon
    cache_dir: str = CACHE_DIRECTORY
    environ: dict[str, str] = field(default_factory=dict)  # KETCH_CNI_STATE, KETCH_NODE_FILE, KETCH_POD_CIDR
    foreign_timeout_seconds: float = _FOREIGN_SECONDS


def load(conf_dir: str, options: Options | None = None) -> list[Network]:
    """The networks of a directory, in the order of their files; the first is what a runtime uses by default."""
    options = options or Options()
    return [Network(configuration, options) for configuration in load_directory(conf_dir)]


class Network:
    """A network whose chain can be run."""

    __slots__ = ("_cache", "_options", "configuration")

    def __init__(self, configuration: Configuration, options: Options | None = None) -> None:
        self.configuration = configuration
        self._options = options or Options()
        self._cache = Cache(self._options.cache_dir)

    @property
    def name(self) -> str:
        return self.configuration.name

    @property
    def version(self) -> str:
        return self.configuration.version

    def add(self, attachment: Attachment) -> Result:
        """Connect. After a failure delete() is due, as the specification demands of a runtime."""
        raw: dict[str, Any] | None = None
        for plugin in self.configuration.plugins:
            answer = self._invoke(plugin, "ADD", attachment, previous=raw)
            raw = answer or raw
        if raw is None:
            raise CniError(INVALID_CONFIG, f"no plugin of network {self.name} has answered a result")
        raw = _in_version(raw, self.version)
        self._cache.write(
            Cached(
                network=self.name,
                container_id=attachment.container_id,
                ifname=attachment.ifname,
                netns=attachment.netns,
                config=self.configuration.raw,
                args=attachment.args,
                capability_args=attachment.capability_args,
                result=raw,
            )
        )
        return Result.from_json(raw, "the result")

    def delete(self, attachment: Attachment) -> None:
        """Disconnect. May be repeated; every plugin is asked even if one fails, then the first failure is raised."""
        cached = self._cache.read(self.name, attachment.container_id, attachment.ifname)
        previous = cached.result if cached and versions.at_least(self.version, "0.4.0") else None
        attachment = _with_cached_args(attachment, cached)
        failures = []
        with closing.AfterTheChain():
            for plugin in reversed(self.configuration.plugins):
                try:
                    self._invoke(plugin, "DEL", attachment, previous=previous)
                except CniError as error:
                    failures.append((plugin["type"], error))
        if failures:
            name, first = failures[0]
            raise CniError(first.code, f"plugin {name} failed (delete): {first.message}", first.details) from first
        self._cache.forget(self.name, attachment.container_id, attachment.ifname)

    def check(self, attachment: Attachment) -> None:
        """Whether everything is as ADD left it; a CniError says what is not."""
        if not versions.has_verb(self.version, "CHECK") or self.configuration.disable_check:
            return
        cached = self._cache.read(self.name, attachment.container_id, attachment.ifname)
        if cached is None:
            raise CniError(
                INVALID_CONFIG, f"no cached result of {attachment.container_id} {attachment.ifname} on {self.name}"
            )
        attachment = _with_cached_args(attachment, cached)
        for plugin in self.configuration.plugins:
            self._invoke(plugin, "CHECK", attachment, previous=cached.result)

    def status(self) -> None:
        """Whether an ADD could be served now; a CniError says why not. Older networks cannot tell."""
        if not versions.has_verb(self.version, "STATUS"):
            return
        for plugin in self.configuration.plugins:
            self._invoke(plugin, "STATUS", None, previous=None)

    def gc(self, valid: Iterable[Attachment]) -> None:
        """Remove whatever belongs to attachments that are not in valid."""
        if self.configuration.disable_gc:
            return
        valid = list(valid)
        living = {(attachment.container_id, attachment.ifname) for attachment in valid}
        failures = []
        for cached in self._cache.all(self.name):
            if (cached.container_id, cached.ifname) not in living:
                try:
                    self._delete_cached(cached)
                except CniError as error:
                    failures.append(f"{cached.container_id} {cached.ifname}: {error}")
        if versions.has_verb(self.version, "GC"):
            listed = [{"containerID": a.container_id, "ifname": a.ifname} for a in valid]
            extra = {"cni.dev/valid-attachments": listed, "cni.dev/attachments": listed}
            for plugin in self.configuration.plugins:
                try:
                    self._invoke(plugin, "GC", None, previous=None, extra=extra)
                except CniError as error:
                    failures.append(f"{plugin['type']}: {error}")
        self._cache.sweep()
        if failures:
            raise CniError(PLUGIN, f"network {self.name}: GC: {'; '.join(failures)}")

    def cached(self) -> list[Cached]:
        """The attachments of this network that were added, by us or by another runtime that keeps libcni's cache."""
        return self._cache.all(self.name)

    def result_of(self, attachment: Attachment) -> Result | None:
        """What ADD answered."""
        cached = self._cache.read(self.name, attachment.container_id, attachment.ifname)
        return Result.from_json(cached.result) if cached and cached.result else None

    def _delete_cached(self, cached: Cached) -> None:
        """With the configuration that it was added with: the file may say something else today."""
        attachment = Attachment(
            cached.container_id, cached.netns, cached.ifname, cached.args, cached.capability_args or {}
        )
        network = self
        if cached.config:
            try:
                network = Network(parse(cached.config, self.configuration.path), self._options)
            except CniError:
                pass  # then with today's
        network.delete(attachment)

    def _invoke(
        self,
        plugin: dict[str, Any],
        command: str,
        attachment: Attachment | None,
        *,
        previous: dict[str, Any] | None,
        extra: dict[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        capability_args = attachment.capability_args if attachment else {}
        raw = plugin_config(self.configuration, plugin, capability_args=capability_args, previous=previous, extra=extra)
        environ = {**self._options.environ, "CNI_PATH": self._options.path}
        if attachment is not None:
            environ["CNI_CONTAINERID"] = attachment.container_id
            environ["CNI_IFNAME"] = attachment.ifname
            environ["CNI_ARGS"] = attachment.environ_args
            environ["CNI_NETNS"] = attachment.netns
        return delegate.invoke(
            plugin["type"], command, environ, raw,
            in_process=True, timeout_seconds=self._options.foreign_timeout_seconds,
            understood=None if "runtimeConfig" in raw else self.configuration.understood_of(plugin),
        )  # fmt: skip


def _with_cached_args(attachment: Attachment, cached: Cached | None) -> Attachment:
    """A caller that has forgotten what it had asked for gets it from the cache."""
    if cached is None or attachment.args or attachment.capability_args:
        return attachment
    return Attachment(
        attachment.container_id,
        attachment.netns or cached.netns,
        attachment.ifname,
        cached.args,
        cached.capability_args or {},
    )


def _in_version(raw: dict[str, Any], version: str) -> dict[str, Any]:
    """A plugin of an older version may have ended the chain."""
    return raw if raw.get("cniVersion") == version else Result.from_json(raw).to_json(version)


def pod_ips(result: Result, ifname: str) -> list[str]:
    """The pod's addresses, its first one first: what a CRI server reports."""
    return [ip.prefix.ip for ip in result.container_ips(ifname)]
