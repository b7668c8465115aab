# SPDX-License-Identifier: Apache-2.0
"""What is written down about a pod and a container: one small JSON file each, before the first effect in the kernel.

state directory/
  pods/ID/pod.json          PodRecord; beside it the pod's hostname, hosts, resolv.conf, shm and pins
  bundles/ID/container.json ContainerRecord; beside it config.json, rootfs and volumes
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from enum import StrEnum

from cri.engine import codec
from cri.engine.request import ContainerRequest, IdRange, PodRequest
from runtime.linux import beneath, durable
from runtime.linux.quick_dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T", bound="PodRecord | ContainerRecord")

VERSION = 1


class PodPhase(StrEnum):
    """making -> ready -> stopping -> stopped; a pod that was never ready is removed, not stopped."""

    MAKING = "making"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"


class ContainerPhase(StrEnum):
    """making -> created -> starting -> started -> removing. Whether a started one still runs is told by facts."""

    MAKING = "making"
    CREATED = "created"
    STARTING = "starting"
    STARTED = "started"
    REMOVING = "removing"


@dataclass(frozen=True, slots=True)
class PodRecord:
    id: str
    owner: str
    boot_id: str
    created_at: int
    request: PodRequest
    phase: PodPhase = PodPhase.MAKING
    version: int = VERSION
    hostname: str = ""
    # kind of namespace -> path where it is pinned
    pins: dict[str, str] = field(default_factory=dict)
    netns: str = ""
    reaper_pid: int = 0
    reaper_start_time: int = 0
    reaper_cgroup: str = ""
    ips: tuple[str, ...] = ()
    network: str = ""
    network_result: dict[str, Any] = field(default_factory=dict)
    uids: tuple[IdRange, ...] = ()
    gids: tuple[IdRange, ...] = ()


@dataclass(frozen=True, slots=True)
class MountState:
    """A mount as ContainerStatus shows it."""

    container_path: str
    image_ref: str = ""


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    id: str
    pod_id: str
    owner: str
    boot_id: str
    created_at: int
    request: ContainerRequest
    phase: ContainerPhase = ContainerPhase.MAKING
    version: int = VERSION
    image_id: str = ""
    image_ref: str = ""
    image_name: str = ""
    log_path: str = ""
    stop_signal: str = ""
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    cgroups_path: str = ""
    handler: tuple[str, ...] = ()
    pid: int = 0
    start_time: int = 0
    started_at: int = 0
    volume_refs: dict[str, str] = field(default_factory=dict)
    volume_keys: tuple[str, ...] = ()
    # What went wrong when it was started; then it has ended without ever running.
    failure: str = ""
    failed_at: int = 0


class Records:
    """The files of one kind of object: save, load, forget."""

    def __init__(self, folder: str, name: str, kind: type[Any]) -> None:
        self.folder = folder
        self._name = name
        self._kind = kind
        self._requests: dict[str, tuple[Any, str]] = {}  # of each record its request, and that as text
        os.makedirs(folder, mode=0o711, exist_ok=True)

    def directory(self, identity: str) -> str:
        return f"{self.folder}/{identity}"

    def path(self, identity: str) -> str:
        return f"{self.folder}/{identity}/{self._name}"

    def save(self, record: Any) -> None:
        """Intent first: the directory and the record are there before any effect they describe."""
        text = self._text(record).encode()
        try:
            self._write(record.id, text)
        except FileNotFoundError:
            # Another door, which starts now, took our new directory for one that a crash has left.
            self._write(record.id, text)

    def _text(self, record: Any) -> str:
        """The request, which is most of it and stays as it is, is put into words once."""
        known = self._requests.get(record.id)
        if known is None or known[0] is not record.request:
            known = self._requests[record.id] = record.request, _written(codec.plain(record.request))
        return f'{{"request":{known[1]},{_written(codec.plain(record, without="request"))[1:]}'

    def note(self, record: Any) -> None:
        """Save what has happened already, or goes down: a full disk must not stop that, because a restart finds it out
        again from the older record and the facts. Nor is a directory made anew that somebody has removed."""
        if not os.path.isdir(self.directory(record.id)):
            return
        try:
            self.save(record)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            from logging import getLogger

            getLogger(__name__).warning("%s: %s; going on without", self.path(record.id), error.strerror)

    def _write(self, identity: str, text: bytes) -> None:
        try:
            os.mkdir(self.directory(identity), 0o711)
        except FileExistsError:
            pass
        # The state directory is gone after a boot anyway, so nothing is flushed.
        durable.replace(self.path(identity), text, durable=False)

    def load(self, identity: str) -> Any:
        """The record; None when there is none. Raises BadRecord for one that cannot be read."""
        data = durable.read(self.path(identity))
        if data is None:
            return None
        try:
            return codec.load(self._kind, json.loads(data))
        except ValueError as e:
            raise codec.BadRecord(f"{self.path(identity)}: {e}") from None

    def all(self) -> Iterator[tuple[str, Any]]:
        """(id, record) of every directory; the record is None where the file is missing or unreadable."""
        for name in sorted(os.listdir(self.folder)):
            try:
                yield name, self.load(name)
            except codec.BadRecord:
                yield name, None

    def forget(self, identity: str) -> None:
        """The last step of a teardown: without the record nothing is tried again."""
        self._requests.pop(identity, None)
        beneath.remove_tree(self.directory(identity))


def _written(plain: Any) -> str:
    return json.dumps(plain, separators=(",", ":"))


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
