# SPDX-License-Identifier: Apache-2.0
"""bandwidth: limits what an attachment receives (a token bucket on the host's end) and sends (one on an ifb link)."""

import errno

from runtime.linux import netlink_messages as m
from runtime.linux import netlink_traffic as traffic
from runtime.linux.kernel_error import KernelError
from runtime.linux.netlink import Netlink
from runtime.linux.netlink_objects import Link
from runtime.linux.netlink_traffic import Qdisc

from ..call import Call
from ..errors import CONFLICT, INVALID_CONFIG, MISMATCH, NOT_AVAILABLE, UNSUPPORTED_KERNEL, CniError, bad_config
from ..fields import Fields
from ..records import Records
from ..results import Interface
from ..wire.sandbox import Sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LATENCY_MS = 25
_BURST_LIMIT = 8 * 0xFFFFFFFF  # bits; the kernel counts a burst's bytes in 32 bits


class Limit:
    """So many bits a second, so many at once."""

    __slots__ = ("burst", "rate")

    def __init__(self, fields: Fields, direction: str) -> None:
        self.rate = fields.integer(f"{direction}Rate", high=1 << 50)
        self.burst = fields.integer(f"{direction}Burst", high=1 << 50)
        if self.rate and not self.burst:
            raise bad_config(fields.at(f"{direction}Burst"), self.burst, f"{direction}Rate is set, so a burst must be")
        if self.burst and not self.rate:
            raise bad_config(fields.at(f"{direction}Rate"), self.rate, f"{direction}Burst is set, so a rate must be")
        if self.burst >= _BURST_LIMIT:
            raise bad_config(fields.at(f"{direction}Burst"), self.burst, "expected less than 4 GiB")
        if 0 < self.rate < 8 or 0 < self.burst < 8:
            raise bad_config(fields.at(f"{direction}Rate"), self.rate, "bits, and at least one byte of them")

    def __bool__(self) -> bool:
        return self.rate > 0

    @property
    def bytes_per_second(self) -> int:
        return self.rate // 8

    def request(self, link: int) -> m.Request:
        return traffic.add_token_bucket(
            link, bytes_per_second=self.bytes_per_second, burst_bytes=self.burst // 8, latency_ms=_LATENCY_MS
        )


class Config:
    """Both directions, as the container sees them."""

    __slots__ = ("egress", "ingress")

    def __init__(self, call: Call) -> None:
        own = any(key in call.fields for key in ("ingressRate", "ingressBurst", "egressRate", "egressBurst"))
        fields = call.fields if own else call.runtime_config().object("bandwidth")
        self.ingress, self.egress = Limit(fields, "ingress"), Limit(fields, "egress")


def ifb_name(call_network: str, container_id: str) -> str:
    """The reference plugin's name for it, so that either set's DEL finds it."""
    from hashlib import sha512

    return ("bwp" + sha512(f"{call_network}{container_id}".encode()).hexdigest())[:15]


def add(call: Call) -> "dict[str, Any]":
    config = Config(call)
    previous = call.previous
    if not config.ingress and not config.egress:
        return call.passed_on()
    records = Records(call, "bandwidth")
    with Netlink() as host:
        link = _host_end(call, host)
        name = ifb_name(call.network, call.container_id)
        records.write(call.key, {"ifb": name if config.egress else "", "host": link.name, "pod": call.pod})
        try:
            if config.ingress:
                host.transact(config.ingress.request(link.index))
            if not config.egress:
                return call.passed_on()
            ifb = _make_ifb(host, name, link, config.egress)
        except KernelError as error:
            _remove(host, name)
            records.forget(call.key)
            if error.errno in (errno.EOPNOTSUPP, errno.ENOENT):
                raise CniError(
                    UNSUPPORTED_KERNEL, f"bandwidth: this kernel lacks traffic shaping: {error}",
                    "needs CONFIG_NET_SCH_TBF, CONFIG_IFB, CONFIG_NET_CLS_U32 and CONFIG_NET_ACT_MIRRED",
                ) from error  # fmt: skip
            raise
    previous.interfaces.append(Interface(ifb.name, ifb.mac, mtu=ifb.mtu))
    return previous.to_json(call.version)


def delete(call: Call) -> None:
    """The buckets on the host's end go with it; the ifb link is ours to remove."""
    records = Records(call, "bandwidth")
    record = records.read(call.key)
    if record is None or record["ifb"]:
        with Netlink() as host:
            _remove(host, ifb_name(call.network, call.container_id))
    records.forget(call.key)


def check(call: Call) -> None:
    config = Config(call)
    with Netlink() as host:
        link = _host_end(call, host)
        if config.ingress:
            _check_bucket(host, link, config.ingress, "ingress")
        if config.egress:
            name = ifb_name(call.network, call.container_id)
            ifb = host.find_link(name)
            if ifb is None:
                raise CniError(MISMATCH, f"bandwidth: {name}, which limits egress, does not exist any more")
            _check_bucket(host, ifb, config.egress, "egress")
            if not host.dump(traffic.dump_filters(link.index, traffic.INGRESS_HANDLE)):
                raise CniError(MISMATCH, f"bandwidth: {link.name} does not redirect to {name} any more")


def status(call: Call) -> None:
    try:
        Config(call)
    except CniError as error:
        raise CniError(NOT_AVAILABLE, f"bandwidth: {error.message}", error.details) from error


def gc(call: Call) -> None:
    records = Records(call, "bandwidth")
    valid = call.valid_attachments()
    with Netlink() as host:
        for key, record in records.all():
            if key not in valid:
                if record["ifb"]:
                    _remove(host, record["ifb"])
                records.forget(key)
    records.sweep()


def explain(call: Call) -> list[str]:
    config = Config(call)
    lines = []
    if config.ingress:
        lines.append(f"limit what is received to {config.ingress.rate} bit/s (burst {config.ingress.burst}) by tbf")
    if config.egress:
        name = ifb_name(call.network, call.container_id)
        lines.append(f"limit what is sent to {config.egress.rate} bit/s (burst {config.egress.burst}) by tbf on {name}")
    return lines


def _host_end(call: Call, host: Netlink) -> Link:
    """The host's end of the container's interface, as prevResult and the kernel agree on it."""
    with Sandbox(call.netns) as sandbox:
        inside = sandbox.netlink.find_link(call.ifname)
    if inside is None:
        raise CniError(INVALID_CONFIG, f"bandwidth: interface {call.ifname} is not in {call.netns}")
    names = {interface.name for interface in call.previous.interfaces if not interface.sandbox}
    for name in names:
        link = host.find_link(name)
        if link is not None and link.index == inside.lower and link.kind == "veth":
            return link
    raise CniError(INVALID_CONFIG, f"bandwidth: prevResult names no host end of {call.ifname}")


def _make_ifb(host: Netlink, name: str, link: Link, limit: Limit) -> Link:
    try:
        host.transact(m.new_link(name, "ifb", m.link_attributes(mtu=link.mtu), up=True))
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise
        raise CniError(
            CONFLICT, f"bandwidth: {name} exists already", "has this container been limited before? DEL it"
        ) from error
    ifb = host.link(name)
    host.transact(
        traffic.add_ingress(link.index), traffic.redirect_incoming(link.index, ifb.index), limit.request(ifb.index)
    )
    return ifb


def _remove(host: Netlink, name: str) -> None:
    if host.find_link(name) is not None:
        host.transact(m.delete_link(name=name).tolerating(errno.ENODEV))


def _check_bucket(host: Netlink, link: Link, limit: Limit, direction: str) -> None:
    found = [Qdisc(body) for body in host.dump(traffic.dump_qdiscs(link.index))]
    buckets = [qdisc for qdisc in found if qdisc.kind == "tbf" and qdisc.link == link.index]
    if not buckets:
        raise CniError(MISMATCH, f"bandwidth: {link.name} does not limit {direction} any more")
    if buckets[0].bytes_per_second != limit.bytes_per_second:
        have = buckets[0].bytes_per_second * 8
        raise CniError(MISMATCH, f"bandwidth: {link.name} limits {direction} to {have} bit/s, not {limit.rate}")
    ticks = traffic.burst_ticks(limit.bytes_per_second, limit.burst // 8)
    if abs(buckets[0].ticks - ticks) > 1 + ticks // 1000:  # the kernel has calculated it again, with other roundings
        raise CniError(MISMATCH, f"bandwidth: {link.name} limits {direction} with another burst than {limit.burst} bit")
