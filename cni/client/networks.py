# SPDX-License-Identifier: Apache-2.0
"""The networks that a configuration directory describes, read as libcni reads it."""

from __future__ import annotations

import os

from runtime.linux import json_text
from runtime.linux.quick_dataclasses import dataclass, field

from .. import versions
from ..call import is_name
from ..errors import DECODING_FAILURE, INCOMPATIBLE_VERSION, INVALID_CONFIG, IO_FAILURE, CniError, bad_config
from ..fields import Fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..call import Understood

_SUFFIXES = (".conf", ".conflist", ".json")


@dataclass(frozen=True, slots=True)
class Configuration:
    """A network: its plugins in order, in one version of the specification."""

    name: str
    version: str
    plugins: tuple[dict[str, Any], ...]
    raw: bytes  # as it goes into the cache, for whoever takes the node over
    path: str = ""
    disable_check: bool = False
    disable_gc: bool = False
    _understood: dict[int, Understood] = field(default_factory=dict)

    def understood_of(self, plugin: dict[str, Any]) -> Understood:
        """Where one of our plugins keeps what it has understood of its part; see Call.once()."""
        return self._understood.setdefault(id(plugin), {})


def load_directory(conf_dir: str) -> list[Configuration]:
    """All networks of a directory, in the order of their file names. A missing directory has none."""
    return [load_file(f"{conf_dir}/{name}") for name in configuration_files(conf_dir)]


def configuration_files(conf_dir: str) -> list[str]:
    try:
        names = os.listdir(conf_dir)
    except FileNotFoundError:
        return []
    return sorted(name for name in names if name.endswith(_SUFFIXES) and os.path.isfile(f"{conf_dir}/{name}"))


def load_file(path: str) -> Configuration:
    """One file: a list of plugins (.conflist), or a single plugin that becomes a list of one."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise CniError(IO_FAILURE, f"cannot read {path}: {error.strerror}") from None
    try:
        raw = json_text.loads(data)
    except json_text.JSONError as error:
        raise CniError(DECODING_FAILURE, f"{path}: not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise CniError(DECODING_FAILURE, f"{path}: not a JSON object")
    try:
        return _of_list(raw, data, path) if path.endswith(".conflist") or "plugins" in raw else _of_single(raw, path)
    except CniError as error:
        raise CniError(error.code, f"{path}: {error.message}", error.details) from None


def parse(data: bytes, path: str = "") -> Configuration:
    """A configuration list from its bytes, for those that are not in a directory (and for cached ones)."""
    try:
        raw = json_text.loads(data)
    except json_text.JSONError as error:
        raise CniError(DECODING_FAILURE, f"{path or 'network configuration'}: not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise CniError(DECODING_FAILURE, f"{path or 'network configuration'}: not a JSON object")
    return _of_list(raw, data, path) if "plugins" in raw else _of_single(raw, path)


def _of_list(raw: dict[str, Any], data: bytes, path: str) -> Configuration:
    fields = Fields(raw)
    name = _checked_name(raw)
    plugins = [_plugin(item) for item in fields.objects("plugins")]
    if not fields.boolean("loadOnlyInlinedPlugins") and path:
        plugins += _drop_ins(f"{os.path.dirname(path)}/{name}")
    if not plugins:
        raise bad_config("plugins", fields.raw.get("plugins"), "a network needs at least one plugin")
    return Configuration(
        name=name,
        version=choose_version(fields),
        plugins=tuple(plugins),
        raw=data,
        path=path,
        disable_check=fields.boolean("disableCheck"),
        disable_gc=fields.boolean("disableGC"),
    )


def _of_single(raw: dict[str, Any], path: str) -> Configuration:
    name = _checked_name(raw)
    version = choose_version(Fields(raw))
    plugin = _plugin(Fields(raw))
    as_list = {"cniVersion": version, "name": name, "plugins": [raw]}
    return Configuration(name, version, (plugin,), json_text.dumps(as_list).encode(), path)


def _checked_name(raw: dict[str, Any]) -> str:
    name = raw.get("name")
    if not isinstance(name, str) or not is_name(name):
        raise bad_config("name", name, "a network's name starts with a letter or digit; after it also _ . -")
    return name


def _plugin(fields: Fields) -> dict[str, Any]:
    if not fields.text("type"):
        raise bad_config(fields.at("type"), None, "a plugin needs a type: the name of its program")
    return fields.raw


def _drop_ins(directory: str) -> list[dict[str, Any]]:
    """Plugins that other packages add to a network by files of their own."""
    found = []
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".conf"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    for name in names:
        with open(f"{directory}/{name}", "rb") as file:
            try:
                raw = json_text.loads(file.read())
            except json_text.JSONError as error:
                raise CniError(DECODING_FAILURE, f"{directory}/{name}: not JSON: {error}") from None
        if not isinstance(raw, dict):
            raise CniError(DECODING_FAILURE, f"{directory}/{name}: not a JSON object")
        found.append(_plugin(Fields(raw)))
    return found


def choose_version(fields: Fields) -> str:
    """The highest version that the configuration offers and we know."""
    offered = fields.texts("cniVersions")
    single = fields.text("cniVersion")
    if single or not offered:
        offered = [*offered, single or versions.DEFAULT]
    known = [version for version in offered if version in versions.SUPPORTED]
    if not known:
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"incompatible CNI versions: the configuration says {', '.join(offered)}",
            f"we know {', '.join(versions.SUPPORTED)}",
        )
    return max(known, key=versions.parse)


def plugin_config(
    configuration: Configuration,
    plugin: dict[str, Any],
    *,
    capability_args: dict[str, Any],
    previous: dict[str, Any] | None,
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What one plugin of the chain gets on stdin."""
    answer = dict(plugin, name=configuration.name, cniVersion=configuration.version, **(extra or {}))
    wanted = plugin.get("capabilities")
    if isinstance(wanted, dict):
        given = {key: capability_args[key] for key, on in wanted.items() if on is True and key in capability_args}
        if given:
            answer["runtimeConfig"] = given
    if previous is not None:
        answer["prevResult"] = previous
    return answer


class Directory:
    """A configuration directory that is watched: networks() reads it again when it has changed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._seen: tuple[object, ...] | None = None
        self._networks: list[Configuration] = []
        self._error: CniError | None = None

    def networks(self) -> list[Configuration]:
        """The networks now; a CniError while a file cannot be understood."""
        seen = self._look()
        if seen != self._seen:
            try:
                self._networks, self._error = load_directory(self.path), None
            except CniError as error:
                self._networks, self._error = [], error
            self._seen = seen
        if self._error is not None:
            raise self._error
        return self._networks

    def _look(self) -> tuple[object, ...]:
        """What changes when any file does: names, inodes, sizes and times, those of drop-ins too."""
        seen: list[object] = []
        for directory, _, names in os.walk(self.path):
            for name in sorted(names):
                try:
                    facts = os.stat(f"{directory}/{name}")
                except FileNotFoundError:
                    continue
                seen.append((directory, name, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns))
        return tuple(seen)


def require(networks: list[Configuration], conf_dir: str) -> Configuration:
    """The first network, or the sentence that a node without one shows."""
    if not networks:
        raise CniError(INVALID_CONFIG, f"no network config found in {conf_dir} (ketch-cni conf writes one)")
    return networks[0]
