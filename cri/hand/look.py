# SPDX-License-Identifier: Apache-2.0
"""Containers and pods as their files and the kernel show them: read only, no engine, few imports, so `ps` is quick.

The records are written by the engine (cri/engine/records.py); fields at their defaults are left out there. What a
container is follows from facts: an exit file, or a process of the recorded pid and start time.
"""

from __future__ import annotations

import os

from cri.hand import notes
from cri.hand.errors import HandError, suggestion
from runtime.linux import durable, json_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cri.hand.places import Places

SECOND = 1_000_000_000


class SeenPod:
    """A pod's record."""

    __slots__ = ("id", "record", "request")

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record
        self.request: dict[str, Any] = record["request"]
        self.id: str = record["id"]

    @property
    def owner(self) -> str:
        return str(self.record["owner"])

    @property
    def name(self) -> str:
        return str(self.request["name"])

    @property
    def namespace(self) -> str:
        return str(self.request["namespace"])

    @property
    def phase(self) -> str:
        return str(self.record.get("phase", "making"))

    @property
    def notes(self) -> dict[str, str]:
        """Our own remarks, kept as annotations."""
        found: dict[str, str] = self.request.get("annotations", {})
        return found

    @property
    def is_for_one(self) -> bool:
        """Whether it was made by `run` for one container, and is not shown as a pod."""
        return self.notes.get(notes.KIND) == notes.CONTAINER

    @property
    def ips(self) -> list[str]:
        return list(self.record.get("ips", []))

    @property
    def created_at(self) -> int:
        return int(self.record["created_at"])


class Seen:
    """A container: its record, its pod, and what the facts say."""

    __slots__ = ("_exit", "_state", "id", "places", "pod", "record", "request")

    def __init__(self, places: Places, record: dict[str, Any], pod: SeenPod | None) -> None:
        self.places = places
        self.record = record
        self.request: dict[str, Any] = record["request"]
        self.id: str = record["id"]
        self.pod = pod
        self._exit: dict[str, Any] | None = None
        self._state = ""

    @property
    def rootfs(self) -> str:
        """Where its root is mounted on this machine."""
        return f"{self.places.state}/bundles/{self.id}/rootfs"

    @property
    def owner(self) -> str:
        return str(self.record["owner"])

    @property
    def notes(self) -> dict[str, str]:
        found: dict[str, str] = self.request.get("annotations", {})
        return found

    @property
    def name(self) -> str:
        """The container's; of a pod with several POD/CONTAINER."""
        if self.pod is None:
            return str(self.request["name"])
        return self.pod.name if self.pod.is_for_one else f"{self.pod.name}/{self.request['name']}"

    @property
    def image(self) -> str:
        """As it was asked for."""
        return str(self.request.get("user_specified_image") or self.record.get("image_name") or self.request["image"])

    @property
    def command(self) -> list[str]:
        """What runs in it; noted at creation, for records of others what they asked for."""
        noted = self.notes.get(notes.COMMAND)
        if noted:
            words: list[str] = json_text.loads(noted)
            return words
        return [*self.request.get("command", []), *self.request.get("args", [])]

    @property
    def created_at(self) -> int:
        return int(self.record["created_at"])

    @property
    def started_at(self) -> int:
        return int(self.record.get("started_at", 0))

    @property
    def failure(self) -> str:
        """Why its start failed, if it did."""
        return str(self.record.get("failure", ""))

    @property
    def pid(self) -> int:
        return int(self.record.get("pid", 0))

    def exit(self) -> dict[str, Any] | None:
        """The exit file: exit_code, signal, finished_at, oom, oom_detail."""
        if self._exit is None:
            self._exit = read(f"{self.places.state}/containers/{self.id}/exit")
        return self._exit

    def exit_code(self) -> int | None:
        """What is known of it; None while it runs or when nobody saw it."""
        found = self.exit()
        if found is not None:
            code: int | None = found["exit_code"]
            return code
        return 128 if self.failure else None

    def state(self) -> str:
        """created, running, paused, exited or unknown."""
        if not self._state:
            self._state = self._judge()
        return self._state

    def _judge(self) -> str:
        phase = self.record.get("phase", "making")
        if phase in ("making", "created"):
            return "created"
        if self.exit() is not None:
            return "exited"
        if self.failure:
            return "created"
        if phase == "removing":
            return "removing"
        if is_alive(self.pid, int(self.record.get("start_time", 0))):
            return "paused" if self._frozen() else "running"
        # The process is gone, and the keeper may be about to write how; read once more.
        self._exit = None
        return "exited" if self.exit() is not None else "unknown"

    def _frozen(self) -> bool:
        path = str(self.record.get("cgroups_path", ""))
        for file, frozen in (
            (f"/sys/fs/cgroup/freezer{path}/freezer.state", b"FROZEN"),
            (f"/sys/fs/cgroup{path}/cgroup.freeze", b"1"),
        ):
            data = durable.read(file)
            if data is not None:
                return data.strip() == frozen
        return False


def read(path: str, *, holding: str = "") -> dict[str, Any] | None:
    """A JSON object; None when there is no such file, or not a whole one, or not this word in it."""
    data = durable.read(path)
    if data is None or holding.encode() not in data:
        return None
    try:
        found: dict[str, Any] = json_text.loads(data)
    except ValueError:
        return None
    return found


def is_alive(pid: int, started: int) -> bool:
    """As runtime.linux.processes.is_alive, without the extension module that its import loads."""
    data = durable.read(f"/proc/{pid}/stat") if pid > 0 else None
    if not data:
        return False
    fields = data[data.rindex(b")") + 2 :].split()
    return int(fields[19]) == started and fields[0] not in (b"Z", b"X")


def _records(folder: str, file: str, *, holding: str = "") -> list[dict[str, Any]]:
    """All of a folder; of those without the word in them nothing is parsed."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except PermissionError:
        raise HandError(f"{folder} belongs to root", hint="sudo ketch ...") from None
    found = [read(f"{folder}/{name}/{file}", holding=holding) for name in names]
    return [record for record in found if record is not None and "request" in record]


def raw_containers(places: Places) -> list[dict[str, Any]]:
    """Every container's record, in whatever state."""
    return _records(f"{places.state}/bundles", "container.json")


def pods(places: Places, *, all_owners: bool = False) -> list[SeenPod]:
    """Newest first; those still being made are left out."""
    found = [SeenPod(record) for record in _records(f"{places.state}/pods", "pod.json")]
    found = [pod for pod in found if (all_owners or pod.owner == notes.OWNER) and pod.phase != "making"]
    return sorted(found, key=lambda pod: -pod.created_at)


def _is_whole(record: dict[str, Any]) -> bool:
    """A container's that is neither still being made nor taken down."""
    return record.get("phase", "making") not in ("making", "removing")


def containers(places: Places, *, all_owners: bool = False) -> list[Seen]:
    """Newest first; those still being made or taken down are left out."""
    of_id = {pod.id: pod for pod in pods(places, all_owners=all_owners)}
    found = [
        Seen(places, record, of_id.get(record["pod_id"]))
        for record in _records(f"{places.state}/bundles", "container.json")
        if (all_owners or record["owner"] == notes.OWNER) and _is_whole(record)
    ]
    return sorted(found, key=lambda container: -container.created_at)


def members(places: Places, pod_id: str) -> list[Seen]:
    """The containers of one pod, whoever owns it."""
    pod = pod_of_id(places, pod_id)
    return [
        Seen(places, record, pod)
        for record in _records(f"{places.state}/bundles", "container.json", holding=pod_id)
        if record["pod_id"] == pod_id and _is_whole(record)
    ]


def pod_of_id(places: Places, identity: str) -> SeenPod | None:
    """A pod that is whole, by its id; no other record is read."""
    record = read(f"{places.state}/pods/{identity}/pod.json")
    return SeenPod(record) if record is not None and record.get("phase", "making") != "making" else None


def container_of_id(places: Places, identity: str) -> Seen | None:
    """A container that is whole, by its id; no record of others is read."""
    record = read(f"{places.state}/bundles/{identity}/container.json")
    if record is None or not _is_whole(record):
        return None
    return Seen(places, record, pod_of_id(places, str(record["pod_id"])))


def container(places: Places, word: str, *, all_owners: bool = True) -> Seen:
    """By name, id or an unambiguous beginning of an id. Raises HandError with a suggestion."""
    known = _known_as(places, word)
    if known is not None:
        return known
    found: Seen = pick(containers(places, all_owners=all_owners), word, "container")
    return found


def _known_as(places: Places, word: str) -> Seen | None:
    """One of ours by its whole name or id, without a look at any other."""
    from cri.hand import names  # it looks here for who is there

    if not word or "/" in word:
        return None
    try:
        known = container_of_id(places, names.holder_of(places, word) or word)
    except PermissionError:
        return None  # who looks at all of them will say so
    ours = known is not None and known.owner == notes.OWNER and word in (known.name, known.id)
    return known if ours else None


def pod(places: Places, word: str, *, all_owners: bool = True) -> SeenPod:
    """By name, namespace/name, id or a beginning of an id; those made by `run` are not pods to people."""
    seen = [pod for pod in pods(places, all_owners=all_owners) if not pod.is_for_one]
    spaced = [pod for pod in seen if f"{pod.namespace}/{pod.name}" == word]
    found: SeenPod = spaced[0] if spaced else pick(seen, word, "pod")
    return found


def pick(seen: list[Any], word: str, what: str) -> Any:
    """The one that a word means: our own come first, then names before ids."""
    for matches in (
        [one for one in seen if one.name == word and one.owner == notes.OWNER],
        [one for one in seen if one.id == word],
        [one for one in seen if one.name == word],
        [one for one in seen if len(word) >= 1 and one.id.startswith(word)],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            ids = ", ".join(one.id[:12] for one in matches[:4])
            raise HandError(f"{what} {word!r} could be any of {len(matches)}: {ids}", hint="give more of the id")
    near = suggestion(word, [one.name for one in seen])
    raise HandError(f"no such {what}: {word}", hint=near)


def is_locked(path: str) -> bool:
    """Whether somebody holds the lock of a file; a file that is not there is nobody's."""
    if not os.path.exists(path):
        return False
    try:
        durable.lock(path, wait=False, create=False).close()
    except (BlockingIOError, FileNotFoundError):
        return True
    return False
