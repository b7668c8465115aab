# SPDX-License-Identifier: Apache-2.0
"""One call of a plugin: its environment and configuration, checked once at the edge."""

import os

from runtime.linux import json_text

from . import versions
from .errors import (
    DECODING_FAILURE,
    INCOMPATIBLE_VERSION,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    INVALID_NETNS,
    CniError,
    bad_config,
)
from .fields import Fields
from .results import Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar

    T = TypeVar("T")
    Understood = dict[Callable[["Call"], object], Any]

COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
_REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
}
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_ATTACHMENTS = ("cni.dev/valid-attachments", "cni.dev/attachments")  # the second is what libcni said before 1.1.0


class Call:
    """What a plugin works on. Frozen after parse()."""

    __slots__ = (
        "_previous", "_understood", "args", "command", "container_id", "environ", "fields", "ifname", "in_process",
        "netns", "network", "path", "raw", "version",
    )  # fmt: skip

    def __init__(
        self,
        command: str,
        environ: "Mapping[str, str]",
        raw: "dict[str, Any]",
        *,
        in_process: bool,
        understood: "Understood | None" = None,
    ) -> None:
        self._understood = understood
        self.command = command
        self.environ = environ
        self.raw = raw
        self.in_process = in_process
        self.fields = Fields(raw)
        self.container_id = environ.get("CNI_CONTAINERID", "")
        self.netns = environ.get("CNI_NETNS", "")
        self.ifname = environ.get("CNI_IFNAME", "")
        self.path = environ.get("CNI_PATH", "")
        self.version = str(raw.get("cniVersion") or versions.DEFAULT)
        self.network = str(raw.get("name") or "")
        self.args = parse_args(environ.get("CNI_ARGS", ""))
        self._previous: Result | None = None

    def once(self, understand: "Callable[[Call], T]") -> "T":
        """understand(self), worked out once for all calls of a client with this configuration. It may follow from
        nothing else: not from CNI_ARGS, not from prevResult (and not from runtimeConfig: with one, nothing is kept)."""
        if self._understood is None:
            return understand(self)
        if understand not in self._understood:
            self._understood[understand] = understand(self)
        found: T = self._understood[understand]
        return found

    @property
    def has_previous(self) -> bool:
        return self.raw.get("prevResult") is not None

    @property
    def previous(self) -> Result:
        """What the plugins before this one have made; refused if nobody has."""
        if self._previous is None:
            if not self.has_previous:
                raise CniError(
                    INVALID_CONFIG,
                    f"{self.raw.get('type')}: prevResult is missing: this plugin must come after another",
                )
            self._previous = Result.from_json(self.raw["prevResult"])
        return self._previous

    def passed_on(self) -> "dict[str, Any]":
        """The previous result as the next plugin expects it: unchanged, where that is possible."""
        previous = self.previous  # understood even if it is passed on as it is: nonsense must not spread
        raw = self.raw.get("prevResult")
        if isinstance(raw, dict) and raw.get("cniVersion", self.version) == self.version:
            return raw
        return previous.to_json(self.version)

    @property
    def pod(self) -> str:
        """namespace/name of the pod, as kubelet's runtimes say it; the container's id otherwise."""
        name = self.args.get("K8S_POD_NAME", "")
        return f"{self.args.get('K8S_POD_NAMESPACE', '')}/{name}" if name else self.container_id

    @property
    def key(self) -> str:
        """The attachment's name within its network."""
        return attachment_key(self.container_id, self.ifname)

    @property
    def says_what_is_valid(self) -> bool:
        return any(name in self.raw for name in _ATTACHMENTS)

    def valid_attachments(self) -> "set[str]":
        """GC: the keys of the attachments that live."""
        for name in _ATTACHMENTS:
            if name in self.raw:  # libcni writes an empty list as null
                listed = self.fields.objects(name)
                return {attachment_key(item.text("containerID"), item.text("ifname")) for item in listed}
        raise bad_config(_ATTACHMENTS[0], None, "GC needs the list of attachments that are still valid")

    def check_args(self, known: "tuple[str, ...]") -> None:
        """Refuse keys of CNI_ARGS that nobody knows, unless the caller said IgnoreUnknown."""
        if self.args.get("IgnoreUnknown", "").lower() in ("1", "true", "t"):
            return
        for key in self.args:
            if key not in known and key != "IgnoreUnknown" and not key.startswith("K8S_POD_"):
                raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: unknown key {key!r} (IgnoreUnknown=1 would allow it)")

    def runtime_config(self) -> Fields:
        return self.fields.object("runtimeConfig")

    def cni_args(self) -> Fields:
        return self.fields.object("args").object("cni")


def attachment_key(container_id: str, ifname: str) -> str:
    """Neither part can contain a colon, so this is one file name for both."""
    return f"{container_id}:{ifname}"


def parse(environ: "Mapping[str, str]", stdin: bytes, *, in_process: bool = False) -> Call:
    """Check environment and configuration as far as they are the same for every plugin."""
    command = environ.get("CNI_COMMAND", "")
    check_environment(command, environ)
    raw = parse_config(stdin)
    return of_config(command, environ, raw, in_process=in_process)


def of_config(
    command: str,
    environ: "Mapping[str, str]",
    raw: "dict[str, Any]",
    *,
    in_process: bool,
    understood: "Understood | None" = None,
) -> Call:
    """As parse(), for a configuration that is an object already."""
    version = raw.get("cniVersion") or versions.DEFAULT
    check_version(version, command)
    if not is_name(raw.get("name")):
        raise bad_config("name", raw.get("name"), "a network's name starts with a letter or digit; after it also _ . -")
    call = Call(command, environ, raw, in_process=in_process, understood=understood)
    if command in ("ADD", "DEL") and _is_our_own_namespace(call.netns, environ):
        if command == "ADD":
            raise CniError(INVALID_NETNS, f"CNI_NETNS: {call.netns} is the plugin's own network namespace")
        call.netns = ""  # the container's is gone, and a pid's or file's new owner must not lose its interfaces
    return call


def check_environment(command: str, environ: "Mapping[str, str]") -> None:
    if command not in COMMANDS:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_COMMAND: unknown command {command!r} (use {', '.join(COMMANDS)})")
    missing = [name for name in _REQUIRED.get(command, ()) if not environ.get(name)]
    if missing:
        raise CniError(INVALID_ENVIRONMENT, f"required environment variables missing: {', '.join(missing)}")
    container_id, ifname = environ.get("CNI_CONTAINERID", ""), environ.get("CNI_IFNAME", "")
    if command in _REQUIRED and not is_name(container_id):
        raise CniError(
            INVALID_ENVIRONMENT, f"CNI_CONTAINERID: {container_id!r}: letters, digits, _ . - only, first no sign"
        )
    if command in _REQUIRED and not is_ifname(ifname):
        raise CniError(
            INVALID_ENVIRONMENT, f"CNI_IFNAME: {ifname!r}: at most 15 bytes, no / : or space, and neither . nor .."
        )


def parse_config(stdin: bytes) -> "dict[str, Any]":
    try:
        raw = json_text.loads(stdin, mark_repeating=True)
    except json_text.JSONError as error:
        raise CniError(DECODING_FAILURE, f"the configuration on stdin is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise CniError(DECODING_FAILURE, "the configuration on stdin is not a JSON object")
    return raw


def check_version(version: object, command: str) -> None:
    if not isinstance(version, str):
        raise CniError(DECODING_FAILURE, f"cniVersion: {version!r}: expected a string")
    if version not in versions.SUPPORTED:
        raise incompatible(version, versions.SUPPORTED)
    if not versions.has_verb(version, command):
        raise CniError(INCOMPATIBLE_VERSION, f"the configuration's cniVersion {version} has no {command}")


def incompatible(version: str, known: "tuple[str, ...]") -> CniError:
    return CniError(
        INCOMPATIBLE_VERSION,
        f"incompatible CNI versions: the configuration says {version!r}",
        f"this plugin knows {', '.join(known)}",
    )


def is_name(value: object) -> bool:
    """[a-zA-Z0-9][a-zA-Z0-9_.-]*"""
    return isinstance(value, str) and bool(value) and value[0] not in "_.-" and _NAME.issuperset(value)


def is_ifname(value: str) -> bool:
    """What the kernel's dev_valid_name() accepts."""
    bad = any(character in "/:" or character.isspace() for character in value)
    return bool(value) and len(value.encode()) < 16 and value not in (".", "..") and not bad


def parse_args(text: str) -> dict[str, str]:
    """CNI_ARGS: key=value;key=value."""
    found = {}
    for pair in text.split(";") if text else ():
        key, equals, value = pair.partition("=")
        if not equals:
            raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: {pair!r} is not key=value")
        found[key] = value
    return found


def _is_our_own_namespace(netns: str, environ: "Mapping[str, str]") -> bool:
    """A caller that passes its own namespace by mistake would get the host's interfaces rebuilt."""
    if not netns or environ.get("CNI_NETNS_OVERRIDE", "").lower() in ("1", "true"):
        return False
    try:
        theirs = os.stat(netns)
    except OSError:
        return False  # the plugin that needs it says so; IPAM does not need it
    ours = os.stat("/proc/thread-self/ns/net")
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
