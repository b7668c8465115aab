# SPDX-License-Identifier: Apache-2.0
"""systemd over D-Bus: scopes started, changed and stopped; the manager of the system, or of a user."""

import os

from runtime.linux import dbus, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Property = tuple[str, str, Any]  # name, D-Bus type, value

_NAME = "org.freedesktop.systemd1"
_OBJECT = "/org/freedesktop/systemd1"
_MANAGER = _NAME + ".Manager"
JOB_SECONDS = 30.0


class SystemdError(OSError):
    """systemd could not be reached, or did not do what it was asked for."""


def uses_user_manager() -> bool:
    """Whether our units are those of a user."""
    return namespaces.is_rootless()


def _sockets(*, user: bool) -> list[tuple[str, bool]]:
    """Where a manager may listen, and whether a bus is between. Its own socket needs no bus and saves a process."""
    if not user:
        return [("/run/systemd/private", False), ("/run/dbus/system_bus_socket", True)]
    directory = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    found = [(f"{directory}/systemd/private", False), (f"{directory}/bus", True)]
    address = os.environ.get("DBUS_SESSION_BUS_ADDRESS", "").partition(",")[0].partition(";")[0]
    if address.startswith("unix:path="):
        found.append((address.removeprefix("unix:path="), True))
    return found


class Manager:
    """A conversation with a systemd."""

    __slots__ = ("_bus", "_through_bus")

    def __init__(self, *, user: bool) -> None:
        tried = []
        for path, through_bus in _sockets(user=user):
            try:
                self._bus = dbus.Connection(path, bus=through_bus, seconds=JOB_SECONDS)
            except (OSError, dbus.DBusError) as error:
                tried.append(f"{path}: {error.strerror if isinstance(error, OSError) else error}")
                continue
            self._through_bus = through_bus
            return
        who = "the user's systemd" if user else "systemd"
        raise SystemdError(f"cannot reach {who} ({'; '.join(tried)}); does it run here? cgroupfs needs none")

    def close(self) -> None:
        """End the conversation."""
        self._bus.close()

    def __enter__(self) -> "Manager":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, member: str, signature: str = "", *values: "Any") -> "Sequence[Any]":
        return self._bus.call(_NAME, _OBJECT, _MANAGER, member, signature, *values)

    def version(self) -> int:
        """Its version: 252 for "252.39-1~deb12u1"."""
        answer = self._bus.call(_NAME, _OBJECT, "org.freedesktop.DBus.Properties", "Get", "ss", _MANAGER, "Version")
        text = str(answer[0].value).lstrip("v")
        digits = text[: len(text) - len(text.lstrip("0123456789"))]
        return int(digits or 0)

    def _job(self, member: str, signature: str, *values: "Any") -> str:
        """Call what makes a job, and wait for its end; gives its result."""
        if self._through_bus:
            rule = f"type='signal',sender='{_NAME}',interface='{_MANAGER}',member='JobRemoved'"
            name = "org.freedesktop.DBus"
            self._bus.call(name, "/org/freedesktop/DBus", name, "AddMatch", "s", rule)
        job = self._call(member, signature, *values)[0]
        return str(self._bus.signal("JobRemoved", lambda removed: removed[1] == job)[3])

    def start_scope(self, unit: str, pids: "Sequence[int]", properties: "Sequence[Property]") -> None:
        """Make a transient scope of these processes. One of the same name that has failed is forgotten first."""
        pairs = [(name, dbus.Variant(kind, value)) for name, kind, value in properties]
        pairs.append(("PIDs", dbus.Variant("au", list(pids))))
        for attempt in (1, 2):
            try:
                result = self._job("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "replace", pairs, [])
                break
            except dbus.DBusError as error:
                if error.name == _NAME + ".UnitExists" and attempt == 1 and self.reset_failed(unit):
                    continue
                raise SystemdError(f"systemd does not start {unit}: {error}{_hint(error)}") from None
        if result != "done":
            raise SystemdError(f"systemd did not start {unit}: its job ended as {result!r} (systemctl status {unit})")

    def set_properties(self, unit: str, properties: "Sequence[Property]") -> None:
        """Change a unit until the next boot."""
        pairs = [(name, dbus.Variant(kind, value)) for name, kind, value in properties]
        try:
            self._call("SetUnitProperties", "sba(sv)", unit, True, pairs)  # noqa: FBT003
        except dbus.DBusError as error:
            raise SystemdError(f"systemd does not change {unit}: {error}") from None

    def attach(self, unit: str, pids: "Sequence[int]") -> None:
        """Move processes into a unit: what a user may not do by himself, his manager has done for him."""
        try:
            self._call("AttachProcessesToUnit", "ssau", unit, "", list(pids))
        except dbus.DBusError as error:
            raise SystemdError(f"systemd does not move process {pids[0]} into {unit}: {error}") from None

    def stop(self, unit: str) -> None:
        """Stop a unit and wait for that; a no-op for one that is gone."""
        try:
            self._job("StopUnit", "ss", unit, "replace")
        except dbus.DBusError as error:
            if error.name != _NAME + ".NoSuchUnit":
                raise SystemdError(f"systemd does not stop {unit}: {error}") from None

    def reset_failed(self, unit: str) -> bool:
        """Forget that a unit failed, which also frees its name; whether there was such a unit."""
        try:
            self._call("ResetFailedUnit", "s", unit)
        except dbus.DBusError:
            return False
        return True


def _hint(error: dbus.DBusError) -> str:
    if error.name == _NAME + ".UnitExists":
        return " (a unit of that name runs: another container with this name?)"
    if error.name == "org.freedesktop.DBus.Error.PropertyReadOnly":
        return " (this systemd does not know the property, or does not let scopes have it)"
    return ""


def end(unit: str) -> None:
    """Have a unit without processes stopped and forgotten. Without a systemd to ask there is no unit either."""
    try:
        manager = Manager(user=uses_user_manager())
    except SystemdError:
        return
    with manager:
        manager.stop(unit)
        manager.reset_failed(unit)
