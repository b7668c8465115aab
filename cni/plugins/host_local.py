# SPDX-License-Identifier: Apache-2.0
"""host-local: addresses from ranges, reserved in files on this host."""

import os
import time

from ..addresses import Prefix, parse_ip, parse_ip_or_prefix, parse_prefix, to_text
from ..call import Call
from ..errors import CONFLICT, INVALID_CONFIG, INVALID_ENVIRONMENT, MISMATCH, NOT_AVAILABLE, CniError, bad_config
from ..fields import Fields
from ..ipam import allocate, ranges
from ..ipam.allocate import Choice, Exclusions
from ..ipam.reservations import DATA_DIRECTORY, Store
from ..results import IP, Result, Route
from ..versions import at_least

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PLACEHOLDER = "usePodC"  # what all of them begin with
_PLACEHOLDERS = (f"{_PLACEHOLDER}idr", f"{_PLACEHOLDER}IDR", f"{_PLACEHOLDER}idrIPv6")


class Config:
    """The ipam section, understood."""

    __slots__ = ("data_directory", "exclude", "pools", "reservations", "resolv_conf", "rest_seconds", "routes")

    def __init__(self, call: Call) -> None:
        if "ipam" not in call.fields:
            raise bad_config("ipam", None, "host-local needs an ipam section")
        ipam = call.fields.object("ipam")
        if _has_placeholders(ipam):
            ipam = _without_placeholders(ipam, call)
        extra = ranges.parse_range_sets(call.runtime_config(), "ipRanges")
        self.pools = extra + ranges.parse_pools(ipam) if _names_ranges(ipam) or not extra else extra
        ranges.check_pools(self.pools, at_least(call.version, "0.3.0"))
        self.routes = [Route.from_fields(item) for item in ipam.objects("routes")]
        self.data_directory = ipam.text("dataDir") or DATA_DIRECTORY
        self.resolv_conf = ipam.text("resolvConf")
        self.exclude = [_any_prefix(f"ipam.exclude[{n}]", text) for n, text in enumerate(ipam.texts("exclude"))]
        self.reservations = _reservations(ipam)
        self.rest_seconds = ipam.integer("reuseDelaySeconds")

    @classmethod
    def of(cls, call: Call) -> "Config":
        """This node may get another pod CIDR; the rest of a configuration means the same in every call."""
        return cls(call) if _has_placeholders(call.fields.object("ipam")) else call.once(cls)


def add(call: Call) -> "dict[str, Any]":
    call.check_args(("IP", "MAC", "GATEWAY"))
    config, wanted = Config.of(call), _requested(call)
    dns = read_resolv_conf(config.resolv_conf) if config.resolv_conf else {}  # before anything is taken: it may fail
    with Store(config.data_directory, call.network) as store:
        _refuse_second(store, call.key)
        choices = _choose(config, store, call, wanted)
        store.hold(call.key, [choice.address for choice in choices], call.pod)
        for choice in choices:
            if not store.reserve(choice.address, call.key):
                store.release(call.key)
                raise CniError(
                    CONFLICT, f"{choice.address} was taken by somebody who does not hold {store.directory}/lock"
                )
            store.forget_release(choice.address)
            store.remember_last(choice.pool, choice.address)
    return Result(ips=_ips(choices), routes=list(config.routes), dns=dns).to_json(call.version)


def delete(call: Call) -> None:
    ipam = call.fields.object("ipam")
    directory = ipam.text("dataDir") or DATA_DIRECTORY
    if not os.path.isdir(f"{directory}/{call.network}"):
        return  # nobody has ever got an address here
    with Store(directory, call.network) as store:
        store.release(call.key, remember=ipam.integer("reuseDelaySeconds") > 0)


def check(call: Call) -> None:
    config, _ = Config.of(call), _requested(call)  # which are refused as in ADD
    with Store(config.data_directory, call.network) as store:
        if not held_by(store, call.key):
            raise CniError(
                MISMATCH, f"host-local: no address of {call.network} is reserved for {call.container_id} {call.ifname}"
            )


def status(call: Call) -> None:
    try:
        config, _ = Config.of(call), _requested(call)
        with Store(config.data_directory, call.network) as store:
            for number in range(len(config.pools)):
                _next(config, store, call, number)
    except CniError as error:
        raise CniError(NOT_AVAILABLE, f"host-local: {error.message}", error.details) from error


def gc(call: Call) -> None:
    ipam = call.fields.object("ipam")
    directory = ipam.text("dataDir") or DATA_DIRECTORY
    valid = call.valid_attachments()
    if not os.path.isdir(f"{directory}/{call.network}"):
        return
    valid_ids = {key.partition(":")[0] for key in valid}
    with Store(directory, call.network) as store:
        for holder in list(store.holders()):
            if holder.key not in valid:
                store.release(holder.key)
        for address in store.addresses():
            owner = store.owner(address)
            if not owner:
                store.free_unowned(address)  # under the lock, so nobody is about to write its name
            elif owner not in (valid if ":" in owner else valid_ids):
                store.release(owner)


def preview(call: Call) -> Result:
    """The answer that an ADD would get now, with nothing reserved."""
    config = Config.of(call)
    store = Store(config.data_directory, call.network)  # without its lock, which would make the directory
    return Result(ips=_ips(_choose(config, store, call, _requested(call))), routes=config.routes)


def _ips(choices: list[Choice]) -> list[IP]:
    ips = []
    for choice in choices:
        family, number = parse_ip(choice.address)
        gateway = to_text(family, choice.piece.gateway)
        ips.append(IP(Prefix(family, number, choice.piece.subnet.length), gateway))
    return ips


def explain(call: Call) -> list[str]:
    """What an ADD would do, in words."""
    config = Config.of(call)
    names = [f"reserve one address of {pool} ({pool.size} in all)" for pool in config.pools]
    return [f"{words} in {config.data_directory}/{call.network}" for words in names]


def held_by(store: Store, key: str) -> list[str]:
    """The addresses that are reserved for an attachment now."""
    holder = store.holder(key)
    listed = holder.addresses if holder else store.addresses()
    return [address for address in listed if store.owner(address) == key]


def _refuse_second(store: Store, key: str) -> None:
    holder = store.holder(key)
    if holder is None:
        return
    has = [address for address in holder.addresses if store.owner(address) == key]
    if has:
        container_id, _, ifname = key.partition(":")
        raise CniError(
            CONFLICT,
            f"{', '.join(has)} has been allocated to {container_id} {ifname} already (a duplicate ADD?)",
        )


def _choose(config: Config, store: Store, call: Call, requested: list[str]) -> list[Choice]:
    """One address of every pool: those asked for by address or by name first."""
    exclusions = _exclusions(config, store)
    wanted = list(requested)
    wanted += [address for address, name in config.reservations.items() if name in (call.pod, call.container_id)]
    choices = []
    for number, pool in enumerate(config.pools):
        choice = None
        for address in wanted:
            choice = allocate.requested(number, pool, address, _name(call, address, config), exclusions, _taken(store))
            if choice is not None:
                wanted.remove(address)
                break
        choices.append(choice or _next(config, store, call, number, exclusions))
    left = [address for address in wanted if address in requested]
    if left:
        where = "; ".join(str(pool) for pool in config.pools)
        raise CniError(INVALID_CONFIG, f"failed to allocate all requested IPs: {', '.join(left)} not in {where}")
    return choices


def _name(call: Call, address: str, config: Config) -> str:
    """The name by which this attachment may have a reserved address."""
    name = config.reservations.get(address, "")
    return name if name in (call.pod, call.container_id) else call.pod


def _next(config: Config, store: Store, call: Call, number: int, exclusions: Exclusions | None = None) -> Choice:
    exclusions = exclusions or _exclusions(config, store)
    pool = config.pools[number]
    now = time.time()
    taken = _taken(store)
    choice = allocate.next_free(number, pool, store.last_given(number), exclusions, taken, now)
    if choice is None:
        _free_empty_ones(store)
        choice = allocate.next_free(number, pool, store.last_given(number), exclusions, _taken(store), now)
    if choice is None:
        resting = sum(
            pool.range_of(*parse_ip(a)) is not None for a, until in exclusions.resting_until.items() if until > now
        )
        raise allocate.pool_is_full(pool, call.network, [h.pod for h in store.holders()], resting)
    return choice


def _free_empty_ones(store: Store) -> None:
    """A reservation without a name is left by a host-local that was killed between creating and writing it."""
    for address in store.addresses():
        store.free_unowned(address)


def _exclusions(config: Config, store: Store) -> Exclusions:
    resting = {}
    if config.rest_seconds:
        resting = {address: at + config.rest_seconds for address, at in store.released_at().items()}
    return Exclusions(config.exclude, config.reservations, resting)


class _Taken:
    """Whether an address is reserved: by single looks first, by one list of all when there are many."""

    __slots__ = ("_all", "_looks", "_store")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._all: set[str] | None = None
        self._looks = 0

    def __call__(self, address: str) -> bool:
        self._looks += 1
        if self._looks <= 8:
            return self._store.is_taken(address)
        if self._all is None:
            self._all = set(self._store.addresses())
        return address in self._all


def _taken(store: Store) -> _Taken:
    return _Taken(store)


def _requested(call: Call) -> list[str]:
    """Addresses asked for by CNI_ARGS, by args.cni.ips and by runtimeConfig.ips together."""
    words = [call.args["IP"]] if call.args.get("IP") else []
    words += call.cni_args().texts("ips") + call.runtime_config().texts("ips")
    found = []
    for word in words:
        try:
            text = to_text(*parse_ip_or_prefix(word))
        except ValueError as error:
            raise CniError(INVALID_ENVIRONMENT, f"requested address: {error}") from None
        if text not in found:
            found.append(text)
    return found


def _reservations(ipam: Fields) -> dict[str, str]:
    """ipam.reservations: {"<namespace>/<pod> or container id": address or [addresses]} -> address: name."""
    section = ipam.object("reservations")
    found = {}
    for name, value in section.raw.items():
        for text in value if isinstance(value, list) else [value]:
            try:
                found[to_text(*parse_ip(str(text)))] = name
            except ValueError as error:
                raise bad_config(section.at(name), text, str(error)) from None
    return found


def _any_prefix(where: str, text: str) -> Prefix:
    try:
        if "/" in text:
            return parse_prefix(text)
        family, number = parse_ip(text)
    except ValueError as error:
        raise bad_config(where, text, str(error)) from None
    return Prefix(family, number, 128 if family == 10 else 32)


def _names_ranges(ipam: Fields) -> bool:
    return "subnet" in ipam or "ranges" in ipam


def _has_placeholders(ipam: Fields) -> bool:
    return _PLACEHOLDER in str(ipam.raw)


def _without_placeholders(ipam: Fields, call: Call) -> Fields:
    """The section with usePodCidr replaced by this node's pod CIDRs."""
    from ..ipam import pod_cidrs

    path = ipam.text("nodeFile") or call.environ.get("KETCH_NODE_FILE") or pod_cidrs.NODE_FILE
    cidrs = pod_cidrs.read(path, dict(call.environ))
    filled = {key: _filled(key, value, cidrs) for key, value in ipam.raw.items()}
    return Fields(filled, ipam.where)


def _filled(key: str, value: "Any", cidrs: list[Prefix]) -> "Any":
    if isinstance(value, dict):
        return {inner: _filled(inner, item, cidrs) for inner, item in value.items()}
    if isinstance(value, list):
        return [_filled(key, item, cidrs) for item in value]
    if key in ("subnet", "dst") and value in _PLACEHOLDERS:
        from ..ipam import pod_cidrs

        return pod_cidrs.filled_in(f"ipam.{key}", value, cidrs)
    return value


def read_resolv_conf(path: str) -> "dict[str, Any]":
    """A resolv.conf as the dns of a result."""
    dns: dict[str, Any] = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise bad_config("ipam.resolvConf", path, f"cannot be read: {error.strerror}") from None
    for line in lines:
        words = line.split()
        if len(words) < 2 or words[0][0] in "#;":
            continue
        if words[0] == "nameserver":
            dns.setdefault("nameservers", []).append(words[1])
        elif words[0] == "domain":
            dns["domain"] = words[1]
        elif words[0] in ("search", "options"):
            dns.setdefault(words[0], []).extend(words[1:])
    return dns
