# SPDX-License-Identifier: Apache-2.0
"""What a plugin has made for an attachment, written down before it is made.

A record is a file <state>/<network>/<plugin>/<containerID>:<ifname>. It lives as long as what it describes, which the
kernel forgets at a boot: hence under /run. DEL and GC work from it and need neither the netns nor a prevResult.
"""

import os

from runtime.linux import json_text

from .call import Call
from .errors import CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from typing import Any

STATE_DIRECTORY = "/run/cni/ketch"
_blake2s: "Any" = None  # its constructor, once somebody has asked for a hash


class Records:
    """The records of one plugin on one network."""

    __slots__ = ("directory",)

    def __init__(self, call: Call, plugin: str) -> None:
        state = call.fields.text("stateDir") or call.environ.get("KETCH_CNI_STATE") or STATE_DIRECTORY
        self.directory = f"{state}/{call.network}/{plugin}"

    def path(self, key: str) -> str:
        return f"{self.directory}/{_file_name(key)}"

    def write(self, key: str, content: "dict[str, Any]") -> None:
        """Replace the record in one step. Not fsynced: a boot ends what it describes."""
        path = self.path(key)
        temporary = f"{self.directory}/.{os.getpid()}-{_file_name(key)}"[:250]
        data = json_text.dumps({**content, "attachment": key}).encode()
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            os.makedirs(self.directory, 0o700, exist_ok=True)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
        os.rename(temporary, path)

    def read(self, key: str) -> "dict[str, Any] | None":
        return _read(self.path(key))

    def forget(self, key: str) -> None:
        try:
            os.unlink(self.path(key))
        except FileNotFoundError:
            pass

    def keys(self) -> list[str]:
        """The attachments that have a record; half-written ones of dead writers are not among them."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        keys = []
        for name in names:
            if name.startswith("."):
                continue
            if name.startswith("%"):
                content = _read(f"{self.directory}/{name}")
                keys.append(str(content["attachment"]) if content else name)
            else:
                keys.append(name)
        return sorted(keys)

    def all(self) -> "list[tuple[str, dict[str, Any]]]":
        found = [(key, self.read(key)) for key in self.keys()]
        return [(key, content) for key, content in found if content is not None]

    def remove_stale(self, valid: "Container[str]", remove: "Callable[[str, dict[str, Any]], None]") -> list[str]:
        """Remove what every record that is not valid describes, then the record; what failed, which stops no other."""
        failures = []
        for key, record in self.all():
            if key in valid:
                continue
            try:
                remove(key, record)
                self.forget(key)
            except (CniError, OSError) as error:
                failures.append(f"{key}: {error}")
        return failures

    def sweep(self) -> None:
        """Remove what writers left that died before their rename."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return
        for name in names:
            pid = name[1:].partition("-")[0]
            if name.startswith(".") and not os.path.exists(f"/proc/{pid}"):
                try:
                    os.unlink(f"{self.directory}/{name}")
                except FileNotFoundError:
                    pass


def _file_name(key: str) -> str:
    """A key may be longer than a file name can be."""
    if len(key) <= 200:
        return key
    return f"%{short_hash(key, 16)}"


def short_hash(text: str, size: int) -> str:
    """size bytes of a hash of text, in hex; for names, not for secrets."""
    global _blake2s
    if _blake2s is None:  # hashlib would cost a cold command 2 ms
        from _blake2 import blake2s as _blake2s
    digest: str = _blake2s(text.encode(), digest_size=size).hexdigest()
    return digest


def _read(path: str) -> "dict[str, Any] | None":
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        data = os.read(fd, 1 << 20)
    finally:
        os.close(fd)
    try:
        content = json_text.loads(data)
    except json_text.JSONError:
        return None  # written by nobody of ours: a record appears whole or not at all
    return content if isinstance(content, dict) else None
