# SPDX-License-Identifier: Apache-2.0
"""Reserved addresses on disk, in host-local's format, with what that format lacks beside it.

    <dataDir>/<network>/10.1.0.7               "<containerID>\\r\\n<ifname>": the reservation, host-local's format
                        last_reserved_ip.0     where the next search of pool 0 begins
                        lock                   flock: every change happens under it
                        .ketch/held/<containerID>:<ifname>   which addresses, since when, in which boot, for which pod
                        .ketch/released/10.1.0.8             its time stamp: when the address became free
                        .ketch/boot                          the boot in which held/ was last compared with the world

held/ is written first and forgotten last, so whoever dies in between leaves something that DEL and GC find. It also
saves reading every reservation in every ADD and DEL. A reservation appears with its content in one step (link(2)):
host-local creates and then writes, and a kill between the two leaves an empty file that nobody ever releases.
"""

import errno
import fcntl
import os
import time

from runtime.linux import json_text

from ..errors import IO_FAILURE, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any

DATA_DIRECTORY = "/var/lib/cni/networks"
_ADDRESS = frozenset("0123456789abcdef.:")


class Holder:
    """Who holds addresses, and since when; what held/ says."""

    __slots__ = ("addresses", "boot", "key", "pod", "since")

    def __init__(self, key: str, addresses: list[str], pod: str, boot: str, since: float) -> None:
        self.key = key
        self.addresses = addresses
        self.pod = pod
        self.boot = boot
        self.since = since


class Store:
    """The reservations of one network; use it in a with: that is the lock."""

    __slots__ = ("_aside", "_lock", "boot", "directory")

    def __init__(self, data_directory: str, network: str) -> None:
        self.directory = f"{data_directory}/{network}"
        self._aside = f"{self.directory}/.ketch"
        self._lock = -1
        self.boot = _boot_id()

    def __enter__(self) -> "Store":
        path = f"{self.directory}/lock"
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            try:
                self._lock = os.open(path, flags, 0o600)
            except FileNotFoundError:
                os.makedirs(self.directory, 0o755, exist_ok=True)
                self._lock = os.open(path, flags, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._compare_with_this_boot()
        except OSError as error:
            raise CniError(
                IO_FAILURE, f"cannot use {self.directory}: {error.strerror}", "ipam.dataDir moves it"
            ) from error
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", at: "TracebackType | None"
    ) -> None:
        os.close(self._lock)

    @property
    def exists(self) -> bool:
        return os.path.isdir(self.directory)

    # -- taking ------------------------------------------------------------------------------------------------------

    def hold(self, key: str, addresses: list[str], pod: str) -> None:
        """Write down that an attachment is about to take addresses."""
        content = {"addresses": addresses, "pod": pod, "boot": self.boot, "since": time.time()}
        path = self._held(key)
        temporary = f"{self._aside}/new-holder"
        try:
            _write(temporary, json_text.dumps(content))
        except FileNotFoundError:
            os.makedirs(f"{self._aside}/held", 0o700, exist_ok=True)
            _write(temporary, json_text.dumps(content))
        os.rename(temporary, path)

    def reserve(self, address: str, key: str) -> bool:
        """Take one address; False if somebody has it."""
        temporary = f"{self._aside}/new"
        _write(temporary, key.replace(":", "\r\n", 1))
        try:
            os.link(temporary, f"{self.directory}/{address}")
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        return True

    def last_given(self, pool: int) -> str:
        try:
            return _read(f"{self.directory}/last_reserved_ip.{pool}").strip()
        except FileNotFoundError:
            return ""

    def remember_last(self, pool: int, address: str) -> None:
        """Overwritten in place: ext4 sends a file that was emptied and written again to the disk at its close(2), and
        the next one who empties it waits for that (auto_da_alloc)."""
        fd = os.open(f"{self.directory}/last_reserved_ip.{pool}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, os.write(fd, address.encode()))
        finally:
            os.close(fd)

    # -- giving back -------------------------------------------------------------------------------------------------

    def release(self, key: str, *, remember: bool = False) -> list[str]:
        """Free all addresses of an attachment; says which. One that holds nothing is fine."""
        holder = self.holder(key)
        candidates = holder.addresses if holder else self.addresses()
        released = []
        for address in candidates:
            if self.owner(address) == key or (holder is None and self.owner(address) == key.partition(":")[0]):
                released.append(address)
                if remember:
                    self._note_release(address)
                _unlink(f"{self.directory}/{address}")
        if holder:
            _unlink(self._held(key))
        return released

    def free_unowned(self, address: str) -> None:
        """Remove a reservation that says nobody's name: what a killed host-local leaves."""
        if not self.owner(address):
            _unlink(f"{self.directory}/{address}")

    def released_at(self) -> dict[str, float]:
        """When recently released addresses became free."""
        found = {}
        for name in _listed(f"{self._aside}/released"):
            try:
                found[name] = os.stat(f"{self._aside}/released/{name}").st_mtime
            except FileNotFoundError:
                pass
        return found

    def forget_release(self, address: str) -> None:
        path = f"{self._aside}/released/{address}"
        if os.access(path, os.F_OK):
            _unlink(path)

    def _note_release(self, address: str) -> None:
        path = f"{self._aside}/released/{address}"
        try:
            _write(path, "")
        except FileNotFoundError:
            os.makedirs(f"{self._aside}/released", 0o700, exist_ok=True)
            _write(path, "")

    # -- reading -----------------------------------------------------------------------------------------------------

    def addresses(self) -> list[str]:
        """Every address that has a reservation, by whomever."""
        return [name for name in _listed(self.directory) if ("." in name or ":" in name) and _ADDRESS.issuperset(name)]

    def is_taken(self, address: str) -> bool:
        return os.access(f"{self.directory}/{address}", os.F_OK, follow_symlinks=False)

    def owner(self, address: str) -> str:
        """The attachment that a reservation names; only an id in the oldest format; nothing for an empty one."""
        try:
            words = _read(f"{self.directory}/{address}").strip()
        except FileNotFoundError:
            return ""
        return words.replace("\r\n", ":", 1)

    def holder(self, key: str) -> Holder | None:
        if not os.access(self._held(key), os.F_OK):
            return None  # as in every ADD; to ask is cheaper than an exception
        try:
            raw: dict[str, Any] = json_text.loads(_read(self._held(key)))
            return Holder(key, raw["addresses"], raw["pod"], raw["boot"], raw["since"])
        except (FileNotFoundError, json_text.JSONError, KeyError, TypeError):
            return None

    def holders(self) -> "Iterator[Holder]":
        for name in _listed(f"{self._aside}/held"):
            holder = self.holder(name)
            if holder is not None:
                yield holder

    def _held(self, key: str) -> str:
        if len(key) <= 250:
            return f"{self._aside}/held/{key}"
        from ..records import short_hash

        return f"{self._aside}/held/%{short_hash(key, 32)}"

    # -- a new boot, or a new owner of the directory -------------------------------------------------------------------

    def _compare_with_this_boot(self) -> None:
        """Free what was reserved before the last boot, and learn what host-local has reserved here.

        Only reservations that say in which boot they were made can be judged; host-local's do not, so they stay
        until DEL or GC. Once per boot, hence not in the way of an ADD.
        """
        try:
            if _read(f"{self._aside}/boot") == self.boot:
                return
        except FileNotFoundError:
            os.makedirs(f"{self._aside}/held", 0o700, exist_ok=True)
        known = set()
        for holder in list(self.holders()):
            if holder.boot != self.boot:
                self.release(holder.key)
            else:
                known.update(holder.addresses)
        strangers: dict[str, list[str]] = {}
        for address in self.addresses():
            if address not in known and ":" in self.owner(address):
                strangers.setdefault(self.owner(address), []).append(address)
        for key, addresses in strangers.items():
            self.hold(key, addresses, key.partition(":")[0])
        _write(f"{self._aside}/boot", self.boot)


_boot = ""


def _boot_id() -> str:
    """The kernel's name for this boot, which outlives every process."""
    global _boot
    if not _boot:
        _boot = _read("/proc/sys/kernel/random/boot_id").strip()
    return _boot


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise CniError(IO_FAILURE, f"cannot use {directory}: {error.strerror}", "ipam.dataDir moves it") from error


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 1 << 16).decode(errors="replace")
    finally:
        os.close(fd)


def _write(path: str, words: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, words.encode())
    finally:
        os.close(fd)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
