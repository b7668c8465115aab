# SPDX-License-Identifier: Apache-2.0
"""What an ADD hands to its caller and to the next plugin: one shape inside, that of every version outside."""

from . import versions
from .addresses import Prefix, parse_ip, parse_prefix
from .errors import DECODING_FAILURE, CniError
from .fields import Fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ROUTE_EXTRAS = ("mtu", "advmss", "priority", "table", "scope")


class Interface:
    """A link that the attachment consists of; sandbox is the netns path of one inside."""

    __slots__ = ("mac", "mtu", "name", "pci_id", "sandbox", "socket_path")

    def __init__(
        self, name: str, mac: str = "", sandbox: str = "", mtu: int = 0, socket_path: str = "", pci_id: str = ""
    ) -> None:
        self.name = name
        self.mac = mac
        self.sandbox = sandbox
        self.mtu = mtu
        self.socket_path = socket_path
        self.pci_id = pci_id

    def to_json(self, version: str) -> "dict[str, Any]":
        answer: dict[str, Any] = {"name": self.name}
        if self.mac:
            answer["mac"] = self.mac
        newest = versions.at_least(version, "1.1.0")
        if newest and self.mtu:
            answer["mtu"] = self.mtu
        if self.sandbox:
            answer["sandbox"] = self.sandbox
        if newest and self.socket_path:
            answer["socketPath"] = self.socket_path
        if newest and self.pci_id:
            answer["pciID"] = self.pci_id
        return answer


class IP:
    """An address of the attachment, its gateway, and the index of its interface in the result."""

    __slots__ = ("gateway", "interface", "prefix")

    def __init__(self, prefix: Prefix, gateway: str | None = None, interface: int | None = None) -> None:
        self.prefix = prefix
        self.gateway = gateway
        self.interface = interface

    def to_json(self, version: str) -> "dict[str, Any]":
        answer: dict[str, Any] = {}
        if not versions.at_least(version, "1.0.0"):
            answer["version"] = "6" if self.prefix.family == 10 else "4"
        if self.interface is not None:
            answer["interface"] = self.interface
        answer["address"] = str(self.prefix)
        if self.gateway:
            answer["gateway"] = self.gateway
        return answer


class Route:
    """A route of the attachment."""

    __slots__ = ("advmss", "destination", "gateway", "mtu", "priority", "scope", "table")

    def __init__(
        self,
        destination: Prefix,
        gateway: str | None = None,
        mtu: int | None = None,
        advmss: int | None = None,
        priority: int | None = None,
        table: int | None = None,
        scope: int | None = None,
    ) -> None:
        self.destination = destination
        self.gateway = gateway
        self.mtu = mtu
        self.advmss = advmss
        self.priority = priority
        self.table = table
        self.scope = scope

    def via(self, gateway: str | None) -> "Route":
        return Route(self.destination, gateway, self.mtu, self.advmss, self.priority, self.table, self.scope)

    def to_json(self, version: str) -> "dict[str, Any]":
        answer: dict[str, Any] = {"dst": str(self.destination)}
        if self.gateway:
            answer["gw"] = self.gateway
        if versions.at_least(version, "0.3.0"):  # 1.1.0 has named them, and the reference says them in all of its own
            extras = ((key, getattr(self, key)) for key in _ROUTE_EXTRAS)
            answer.update({key: value for key, value in extras if value is not None})
        return answer

    @classmethod
    def from_fields(cls, fields: Fields) -> "Route":
        destination = _prefix(fields, "dst")
        gateway = _ip(fields, "gw")
        extras = [fields.integer(key) if key in fields else None for key in _ROUTE_EXTRAS]
        return cls(destination, gateway, *extras)


class Answer(dict):  # type: ignore[type-arg]
    """A result as JSON that knows what it was written from: who called us in process need not take it apart again."""

    __slots__ = ("result",)
    result: "Result"


class Result:
    """Everything that the plugins of a chain have made so far."""

    __slots__ = ("dns", "interfaces", "ips", "routes")

    def __init__(
        self,
        interfaces: "list[Interface] | None" = None,
        ips: "list[IP] | None" = None,
        routes: "list[Route] | None" = None,
        dns: "dict[str, Any] | None" = None,
    ) -> None:
        self.interfaces = interfaces or []
        self.ips = ips or []
        self.routes = routes or []
        self.dns = dns or {}

    def to_json(self, version: str) -> "dict[str, Any]":
        if not versions.at_least(version, "0.3.0"):
            return self._to_legacy(version)  # which says less than we know, so it is read again
        answer = Answer(cniVersion=version)
        answer.result = self
        if self.interfaces:
            answer["interfaces"] = [interface.to_json(version) for interface in self.interfaces]
        if self.ips:
            answer["ips"] = [ip.to_json(version) for ip in self.ips]
        if self.routes:
            answer["routes"] = [route.to_json(version) for route in self.routes]
        if self.dns or not versions.at_least(version, "1.0.0"):  # as libcni's types of those versions write it
            answer["dns"] = self.dns
        return answer

    def _to_legacy(self, version: str) -> "dict[str, Any]":
        answer: dict[str, Any] = {"cniVersion": version}
        for ip in self.ips:
            key = "ip6" if ip.prefix.family == 10 else "ip4"
            if key in answer:
                continue  # 0.2.0 has room for one address per family
            entry: dict[str, Any] = {"ip": str(ip.prefix)}
            if ip.gateway:
                entry["gateway"] = ip.gateway
            routes = [r.to_json(version) for r in self.routes if r.destination.family == ip.prefix.family]
            if routes:
                entry["routes"] = routes
            answer[key] = entry
        answer["dns"] = self.dns
        return answer

    @classmethod
    def from_json(cls, raw: object, where: str = "prevResult") -> "Result":
        if type(raw) is Answer:
            return raw.result
        if not isinstance(raw, dict):
            raise CniError(DECODING_FAILURE, f"{where}: expected an object")
        fields = Fields(raw, where)
        if "ip4" in fields or "ip6" in fields:
            return cls._from_legacy(fields)
        interfaces = [_interface(item) for item in fields.objects("interfaces")]
        ips = [_ip_config(item, len(interfaces)) for item in fields.objects("ips")]
        routes = [Route.from_fields(item) for item in fields.objects("routes")]
        return cls(interfaces, ips, routes, fields.object("dns").raw)

    @classmethod
    def _from_legacy(cls, fields: Fields) -> "Result":
        result = cls(dns=fields.object("dns").raw)
        for key in ("ip4", "ip6"):
            if key in fields:
                entry = fields.object(key)
                result.ips.append(IP(_prefix(entry, "ip"), _ip(entry, "gateway")))
                result.routes += [Route.from_fields(item) for item in entry.objects("routes")]
        return result

    def container_interface(self, ifname: str) -> int | None:
        """The index of the interface inside that has this name."""
        for index, interface in enumerate(self.interfaces):
            if interface.sandbox and interface.name == ifname:
                return index
        return None

    def container_ips(self, ifname: str) -> "list[IP]":
        """The addresses that belong inside: those of ifname, or without interfaces all."""
        index = self.container_interface(ifname)
        if index is None:
            return [ip for ip in self.ips if ip.interface is None or self.interfaces[ip.interface].sandbox]
        return [ip for ip in self.ips if ip.interface in (None, index)]


def _interface(fields: Fields) -> Interface:
    return Interface(
        fields.text("name"), fields.text("mac"), fields.text("sandbox"), fields.integer("mtu"),
        fields.text("socketPath"), fields.text("pciID"),
    )  # fmt: skip


def _ip_config(fields: Fields, interfaces: int) -> IP:
    index = fields.integer("interface", low=-1) if "interface" in fields else None
    if index is not None and not 0 <= index < interfaces:
        index = None
    return IP(_prefix(fields, "address"), _ip(fields, "gateway"), index)


def _prefix(fields: Fields, key: str) -> Prefix:
    try:
        return parse_prefix(fields.text(key))
    except ValueError as error:
        raise CniError(DECODING_FAILURE, f"{fields.at(key)}: {error}") from None


def _ip(fields: Fields, key: str) -> str | None:
    text = fields.text(key)
    if not text:
        return None
    try:
        parse_ip(text)
    except ValueError as error:
        raise CniError(DECODING_FAILURE, f"{fields.at(key)}: {error}") from None
    return text
