# SPDX-License-Identifier: Apache-2.0
"""tuning: kernel parameters and link attributes of an interface that another plugin has made."""

import os

from runtime.linux import durable, json_text
from runtime.linux import netlink_messages as m
from runtime.linux.kernel_error import KernelError
from runtime.linux.netlink import read_sysctl, write_sysctl
from runtime.linux.netlink_objects import Link

from ..call import Call
from ..errors import DECODING_FAILURE, INVALID_CONFIG, MISMATCH, NOT_AVAILABLE, CniError, bad_config
from ..fields import Fields
from ..wire.sandbox import Sandbox, open_if_there
from ._bridge_config import checked_mac, requested_mac

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DATA_DIRECTORY = "/run/cni/tuning"
ALLOWLIST = "/etc/cni/tuning/allowlist.conf"


class Config:
    """Everything that the user may choose; None means: leave it."""

    __slots__ = ("all_multicast", "data_directory", "mac", "mtu", "promiscuous", "queue_length", "sysctls")

    def __init__(self, call: Call) -> None:
        call.check_args(("IP", "MAC", "GATEWAY"))
        fields, args = call.fields, call.cni_args()
        self.data_directory = fields.text("dataDir") or DATA_DIRECTORY
        self.mac = requested_mac(call) or fields.text("mac")
        if self.mac:
            self.mac = checked_mac("mac", self.mac)
        self.mtu = _optional_integer("mtu", args, fields, high=65535) or 0
        self.promiscuous = _optional_boolean("promisc", args, fields) or False
        self.all_multicast = _optional_boolean("allmulti", args, fields)
        self.queue_length = _optional_integer("txQLen", args, fields)
        own = fields.object("sysctl").raw
        if isinstance(own, json_text.Repeating):
            raise bad_config("sysctl", own.key, "is named twice")
        sysctls = {**own, **args.object("sysctl").raw}
        self.sysctls = {sysctl_path(key, call.ifname): str(value) for key, value in sysctls.items()}

    @property
    def changes_link(self) -> bool:
        wanted = (self.mac, self.mtu, self.promiscuous, self.all_multicast is not None, self.queue_length is not None)
        return any(wanted)


def _optional_boolean(key: str, *places: Fields) -> bool | None:
    """From the first place that has the key."""
    return next((fields.boolean(key) for fields in places if key in fields), None)


def _optional_integer(key: str, *places: Fields, high: int = 0xFFFFFFFF) -> int | None:
    return next((fields.integer(key, high=high) for fields in places if key in fields), None)


def sysctl_path(key: str, ifname: str) -> str:
    """net.ipv4.conf.IFNAME.x or with slashes, as a path below /proc/sys; only what the namespace owns."""
    # With a slash anywhere the slashes separate, and dots belong to names (eth0.100), as sysctl(8) has it.
    path = key if "/" in key else key.replace(".", "/")
    path = path.replace("IFNAME", ifname)
    parts = path.split("/")
    if parts[0] != "net" or len(parts) < 2 or any(part in ("", ".", "..") for part in parts):
        raise bad_config("sysctl", key, "only parameters below net belong to the container's namespace")
    return path


def check_allowlist(keys: "list[str]", path: str = ALLOWLIST) -> None:
    """With an allow list, every parameter must match one of its lines (regular expressions)."""
    try:
        with open(path, encoding="utf-8") as file:
            patterns = [line.strip() for line in file if line.strip()]
    except FileNotFoundError:
        return
    import re

    for key in keys:
        if not any(re.search(pattern, key) for pattern in patterns):
            raise CniError(INVALID_CONFIG, f"sysctl {key} is not allowed: {path} allows {', '.join(patterns)}")


def add(call: Call) -> "dict[str, Any]":
    config = Config(call)
    answer = call.passed_on()
    check_allowlist(_original_keys(call), _allowlist_path(call))
    with Sandbox(call.netns) as sandbox:
        if config.changes_link:
            link = find_inside(sandbox, call)
            _back_up(call, config, link)
            _apply_link(sandbox, config, link)
        sandbox.run(lambda: _write_sysctls(config.sysctls))
    return _with_changes(call, config, answer)


def delete(call: Call) -> None:
    """Put the link back as it was; a namespace that is gone needs nothing."""
    path = _backup_path(call)
    saved = _read_backup(path)
    sandbox = open_if_there(call.netns)
    if sandbox is not None:
        with sandbox:
            link = sandbox.netlink.find_link(call.ifname)
            if saved and link is not None:
                _restore(sandbox, saved, link)
    if os.path.isdir(os.path.dirname(path)):
        durable.remove(path, durable=False)
        durable.sweep(os.path.dirname(path))


def check(call: Call) -> None:
    config = Config(call)
    if not call.has_previous:
        raise CniError(INVALID_CONFIG, "tuning: prevResult is missing: CHECK compares with it")
    with Sandbox(call.netns) as sandbox:
        for path, value in config.sysctls.items():
            have = sandbox.run(lambda path=path: read_sysctl(path))  # type: ignore[misc]  # bound in the loop
            if have is None or have.split() != value.split():
                raise CniError(MISMATCH, f"sysctl {path} is {have}, not {value}")
        link = find_inside(sandbox, call)
    pairs: tuple[tuple[str, object, object], ...] = (
        ("MAC", config.mac or None, link.mac),
        ("MTU", config.mtu or None, link.mtu),
        ("txQLen", config.queue_length, link.queue_length),
        ("promiscuous mode", config.promiscuous or None, bool(link.flags & m.IFF_PROMISC)),
        ("allmulti", config.all_multicast, bool(link.flags & m.IFF_ALLMULTI)),
    )
    for name, wanted, found in pairs:
        if wanted is not None and wanted != found:
            raise CniError(MISMATCH, f"{name} of {call.ifname} is {found}, not {wanted}")


def status(call: Call) -> None:
    try:
        Config(call)
        check_allowlist(_original_keys(call), _allowlist_path(call))
    except CniError as error:
        raise CniError(NOT_AVAILABLE, f"tuning: {error.message}", error.details) from error


def gc(call: Call) -> None:
    """Forget the backups of interfaces that are gone."""
    directory = call.fields.text("dataDir") or DATA_DIRECTORY
    valid = {key.replace(":", "_") for key in call.valid_attachments()}
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    durable.sweep(directory)
    for name in names:
        # Backups carry no network: one that another network's attachment may still need stays.
        if (
            name.endswith(".json")
            and name[: -len(".json")] not in valid
            and _is_ours(f"{directory}/{name}", call.network)
        ):
            try:
                os.unlink(f"{directory}/{name}")
            except FileNotFoundError:
                pass


def explain(call: Call) -> list[str]:
    config = Config(call)
    lines = [f"set sysctl {path} to {value} inside" for path, value in config.sysctls.items()]
    wanted = (
        ("MAC", config.mac), ("MTU", config.mtu), ("promiscuous mode", config.promiscuous),
        ("allmulti", config.all_multicast), ("txQLen", config.queue_length),
    )  # fmt: skip
    return lines + [
        f"set {name} of {call.ifname} to {value}" for name, value in wanted if value not in (None, "", 0, False)
    ]


def _original_keys(call: Call) -> list[str]:
    return [*call.fields.object("sysctl").raw, *call.cni_args().object("sysctl").raw]


def _allowlist_path(call: Call) -> str:
    return call.environ.get("KETCH_TUNING_ALLOWLIST") or ALLOWLIST


def find_inside(sandbox: Sandbox, call: Call) -> Link:
    link = sandbox.netlink.find_link(call.ifname)
    if link is None:
        raise CniError(INVALID_CONFIG, f"interface {call.ifname} is not in {call.netns}: tuning comes after its plugin")
    return link


def _apply_link(sandbox: Sandbox, config: Config, link: Link) -> None:
    change = flags = 0
    if config.promiscuous:
        change, flags = change | m.IFF_PROMISC, flags | m.IFF_PROMISC
    if config.all_multicast is not None:
        change |= m.IFF_ALLMULTI
        flags |= m.IFF_ALLMULTI if config.all_multicast else 0
    attributes = m.link_attributes(mac=config.mac or None, mtu=config.mtu, queue_length=config.queue_length)
    sandbox.netlink.transact(m.set_link(link.index, attributes, flags=flags, change=change))


def _write_sysctls(sysctls: dict[str, str]) -> None:
    for path, value in sysctls.items():
        try:
            write_sysctl(path, value)
        except KernelError as error:
            raise CniError(INVALID_CONFIG, f"cannot set sysctl {path} to {value!r}: {error.strerror}") from error


def _with_changes(call: Call, config: Config, answer: "dict[str, Any]") -> "dict[str, Any]":
    """The result names the MAC and the MTU as they are now."""
    if not config.mac and not config.mtu:
        return answer
    result = call.previous
    for interface in result.interfaces:
        if interface.name == call.ifname and interface.sandbox:
            interface.mac = config.mac or interface.mac
            interface.mtu = config.mtu or interface.mtu
    return result.to_json(call.version)


# -- the backup: in the reference plugin's file and format, so that either set's DEL restores --------------------------


def _backup_path(call: Call) -> str:
    return f"{call.fields.text('dataDir') or DATA_DIRECTORY}/{call.container_id}_{call.ifname}.json"


def _back_up(call: Call, config: Config, link: Link) -> None:
    saved: dict[str, Any] = {"network": call.network}
    if config.mac:
        saved["mac"] = link.mac
    if config.promiscuous:
        saved["promisc"] = bool(link.flags & m.IFF_PROMISC)
    if config.mtu:
        saved["mtu"] = link.mtu
    if config.all_multicast is not None:
        saved["allmulti"] = bool(link.flags & m.IFF_ALLMULTI)
    if config.queue_length is not None:
        saved["txQLen"] = link.queue_length
    path = _backup_path(call)
    if os.path.exists(path):
        return  # an ADD before this one knew the original
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    durable.replace(path, json_text.dumps(saved).encode(), durable=False)  # a boot ends what it describes


def _read_backup(path: str) -> "dict[str, Any] | None":
    try:
        with open(path, encoding="utf-8") as file:
            saved = json_text.loads(file.read())
    except FileNotFoundError:
        return None
    except json_text.JSONError as error:
        raise CniError(DECODING_FAILURE, f"{path}: not a backup of tuning: {error}") from None
    return saved if isinstance(saved, dict) else None


def _is_ours(path: str, network: str) -> bool:
    saved = _read_backup(path)
    return saved is not None and saved.get("network") in (None, network)


def _restore(sandbox: Sandbox, saved: "dict[str, Any]", link: Link) -> None:
    change = flags = 0
    for key, bit in (("promisc", m.IFF_PROMISC), ("allmulti", m.IFF_ALLMULTI)):
        if saved.get(key) is not None:
            change |= bit
            flags |= bit if saved[key] else 0
    attributes = m.link_attributes(mac=saved.get("mac"), mtu=saved.get("mtu"), queue_length=saved.get("txQLen"))
    sandbox.netlink.transact(m.set_link(link.index, attributes, flags=flags, change=change))
