# SPDX-License-Identifier: Apache-2.0
"""What is known of a container between two commands: one small file in its directory, versioned and replaced whole.

ROOT/ID/            0711, its flock serialises commands on the container
  state.json        this record; written before the first effect, removed with the directory, last
  config.json       the configuration as it was at create: exec, update and poststop must not see later edits
  start.sock        there until the program is started
"""

from __future__ import annotations

import posix

from runtime.errors import NoSuchContainer, RuntimeFailure, UsageError
from runtime.linux import durable, json_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

VERSION = 1
ID_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-.")


class Record:
    """The facts of one container; `pid` is 0 until its init exists."""

    __slots__ = (
        "annotations",
        "bundle",
        "cgroup_made",
        "cgroup_paths",
        "cgroup_v2",
        "created",
        "directory",
        "host_mounts",
        "id",
        "oci_version",
        "owner",
        "pid",
        "rootfs",
        "start_time",
        "systemd_unit",
        "uid",
    )

    def __init__(self, directory: str, facts: Mapping[str, Any]) -> None:
        self.directory = directory
        self.id: str = facts["id"]
        self.bundle: str = facts["bundle"]
        self.rootfs: str = facts["rootfs"]
        self.oci_version: str = facts["oci_version"]
        self.created: str = facts["created"]
        self.uid: int = facts["uid"]
        self.pid: int = facts["pid"]
        self.start_time: int = facts["start_time"]
        self.annotations: dict[str, str] = facts["annotations"]
        self.cgroup_v2: bool = facts["cgroup_v2"]
        self.cgroup_paths: dict[str, str] = facts["cgroup_paths"]
        self.cgroup_made: list[str] = facts["cgroup_made"]
        self.systemd_unit: str = facts.get("systemd_unit", "")
        self.host_mounts: bool = facts.get("host_mounts", False)

    def facts(self) -> dict[str, Any]:
        """As it is written."""
        return {"version": VERSION} | {
            name: getattr(self, name)
            for name in self.__slots__
            if hasattr(self, name) and name not in ("directory", "owner")
        }

    def save(self) -> None:
        """Write it whole."""
        durable.replace(f"{self.directory}/state.json", json_text.dumps(self.facts()).encode(), 0o600, durable=False)

    @property
    def start_socket(self) -> str:
        """Where the init of a created container waits."""
        return f"{self.directory}/start.sock"

    def config_bytes(self) -> bytes:
        """The configuration as it was at create."""
        data = durable.read(f"{self.directory}/config.json")
        if data is None:
            raise RuntimeFailure(
                f"{self.directory}/config.json is missing: the record of {self.id!r} is damaged; delete --force"
            )
        return data


def check_id(container_id: str) -> str:
    """An id becomes the name of a directory and of cgroups: only harmless characters."""
    if not container_id:
        raise UsageError("the container id is empty")
    if len(container_id) > 255:
        raise UsageError(f"container id is too long: {len(container_id)} characters, and 255 are the most")
    if container_id in (".", "..") or set(container_id) - ID_CHARACTERS:
        raise UsageError(f"container id {container_id!r} is not valid; expected letters, digits and _ + - . only")
    return container_id


def reserve(root: str, container_id: str) -> str:
    """Take the id: make its directory. The intent is on disk before anything is made for the container."""
    directory = f"{root}/{check_id(container_id)}"
    from runtime.linux import paths  # who creates has it anyway

    try:
        paths.make_directories(root, 0o711)
    except OSError as error:
        raise RuntimeFailure(f"cannot make the root directory {root}: {error.strerror} (see --root)") from None
    try:
        posix.mkdir(directory, 0o711)
    except FileExistsError:
        raise RuntimeFailure(f"container {container_id!r} already exists in {root}") from None
    return directory


def forget(directory: str) -> None:
    """Remove the directory and what is in it; a second time is a no-op."""
    try:
        for name in posix.listdir(directory):
            try:
                posix.unlink(f"{directory}/{name}")
            except FileNotFoundError:
                continue
            except OSError:
                _remove_tree(f"{directory}/{name}")
        posix.rmdir(directory)
    except FileNotFoundError:
        return


def _remove_tree(path: str) -> None:
    from runtime.linux import beneath

    beneath.remove_tree(path)


def lock(directory: str, *, wait: bool = True) -> durable.Locked:
    """Serialise commands on one container."""
    return durable.lock(directory, create=False, wait=wait)


def load(root: str, container_id: str) -> Record:
    """The record of a container."""
    directory = f"{root}/{check_id(container_id)}"
    data = durable.read(f"{directory}/state.json")
    if data is None:
        raise NoSuchContainer(container_id)
    return parse(directory, data)


def parse(directory: str, data: bytes) -> Record:
    """A record from its file."""
    try:
        facts = json_text.loads(data)
        if facts["version"] > VERSION:
            raise RuntimeFailure(f"{directory}/state.json was written by a newer version of Ketch")
        return Record(directory, facts)
    except (ValueError, KeyError, TypeError) as error:
        raise RuntimeFailure(
            f"{directory}/state.json is damaged: {error!r}; delete --force removes what it can"
        ) from None


def ids(root: str) -> list[str]:
    """The ids that have a directory under root."""
    try:
        names = posix.listdir(root)
    except FileNotFoundError:
        return []
    return sorted(name for name in names if not name.startswith(".") and durable.is_directory(f"{root}/{name}"))


def spec_state(entry: Record, pid: int, status: str) -> dict[str, object]:
    """The state that hooks are given."""
    state: dict[str, object] = {"ociVersion": entry.oci_version, "id": entry.id, "status": status}
    if pid:
        state["pid"] = pid
    state["bundle"] = entry.bundle
    if entry.annotations:
        state["annotations"] = entry.annotations
    return state
