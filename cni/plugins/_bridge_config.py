# SPDX-License-Identifier: Apache-2.0
"""The bridge plugin's configuration, understood: defaults and refusals as the reference plugin's."""

from ..addresses import Prefix, parse_prefix
from ..call import Call
from ..errors import bad_config, unsupported
from ..fields import Fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BACKENDS = ("nftables", "iptables")
KUBENET: "dict[str, Any]" = {
    "bridge": "cbr0",
    "isDefaultGateway": True,
    "forceAddress": True,
    "hairpinMode": True,
    "ipMasq": True,
    "mtu": "auto",
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "usePodCidr"}]]},
}


class Config:
    """Everything that the user may choose."""

    __slots__ = (
        "bridge", "disable_container_interface", "dns", "duplicate_detection", "exceptions", "force_address", "hairpin",
        "ip_masq", "is_default_gateway", "is_gateway", "isolated", "layer_two", "mac_from_address",
        "macspoofchk", "masquerade_backend", "may_have_rules", "mtu", "preserve_default_vlan", "promiscuous", "trunk",
        "veth_prefix", "vlan",
    )  # fmt: skip

    def __init__(self, call: Call) -> None:
        fields = call.fields
        self._links(fields)
        self._layer_three(fields)
        self.vlan = fields.integer("vlan", high=4094)
        self.trunk = _trunk(fields)
        self.preserve_default_vlan = fields.boolean("preserveDefaultVlan")
        self.dns = dns_of(fields)
        self.layer_two = not fields.object("ipam").text("type")
        self._refuse_contradictions()

    def _links(self, fields: Fields) -> None:
        self.bridge = fields.text("bridge") or "cni0"
        if len(self.bridge.encode()) > 15 or "/" in self.bridge:
            raise bad_config("bridge", self.bridge, "not a name of a link: at most 15 bytes, no /")
        self.mtu = mtu_of(fields)
        self.hairpin = fields.boolean("hairpinMode")
        self.promiscuous = fields.boolean("promiscMode")
        self.isolated = fields.boolean("portIsolation")
        self.macspoofchk = fields.boolean("macspoofchk")
        self.duplicate_detection = fields.boolean("enabledad")
        self.disable_container_interface = fields.boolean("disableContainerInterface")
        self.mac_from_address = fields.boolean("macFromAddress")
        self.veth_prefix = fields.text("vethPrefix") or "veth"
        if not 1 <= len(self.veth_prefix) <= 7 or not self.veth_prefix.isalnum():
            raise bad_config("vethPrefix", self.veth_prefix, "one to seven letters or digits; eight more follow")

    def _layer_three(self, fields: Fields) -> None:
        self.is_default_gateway = fields.boolean("isDefaultGateway")
        self.is_gateway = fields.boolean("isGateway") or self.is_default_gateway
        self.force_address = fields.boolean("forceAddress")
        self.ip_masq = fields.boolean("ipMasq")
        self.masquerade_backend = (
            fields.text("ipMasqBackend") or "nftables"
        )  # judged when it is needed: checked_backend()
        self.exceptions = prefixes_of(fields, "nonMasqueradeCIDRs")
        self.may_have_rules = self.ip_masq

    def _refuse_contradictions(self) -> None:
        if self.hairpin and self.promiscuous:
            raise bad_config("promiscMode", "true", "cannot be set together with hairpinMode")
        if self.disable_container_interface and not self.layer_two:
            raise bad_config("disableContainerInterface", "true", "cannot be set together with ipam")

    @classmethod
    def of(cls, call: Call) -> "Config":
        """The MTU of the uplink may be another one in the next call; the rest of a configuration means the same."""
        call.check_args(("IP", "MAC", "GATEWAY"))
        return cls(call) if call.raw.get("mtu") == "auto" else call.once(cls)

    @classmethod
    def for_removal(cls, call: Call) -> "Config":
        """DEL and GC must work with a configuration that ADD would refuse today."""
        from ..errors import CniError

        try:
            return cls.of(call)
        except CniError:
            config = cls.__new__(cls)
            config.veth_prefix = "veth"
            config.may_have_rules = True
            return config


def with_preset(call: Call) -> Call:
    """preset: kubenet stands for what kubelets once did themselves: cbr0, the node's pod CIDR, masquerade beyond it."""
    if call.fields.choice("preset", "", ("", "kubenet")) != "kubenet":
        return call
    return Call(call.command, call.environ, {**KUBENET, **call.raw}, in_process=call.in_process)


def dns_of(fields: Fields) -> "dict[str, Any]":
    """What the plugin itself says of name servers; an empty word says nothing."""
    return {key: value for key, value in fields.object("dns").raw.items() if value}


def mtu_of(fields: Fields) -> int:
    """A number; "auto" is the MTU of the link that the default route leaves by."""
    if fields.raw.get("mtu") != "auto":
        return fields.integer("mtu", high=65535)
    from runtime.linux.netlink import Netlink

    with Netlink() as host:
        uplink = host.default_link()
    return uplink.mtu if uplink is not None else 0


def checked_backend(value: str, key: str = "ipMasqBackend") -> str:
    if value not in BACKENDS:
        raise unsupported(key, value, " or ".join(BACKENDS))
    return value


def requested_mac(call: Call) -> str:
    """runtimeConfig before args before CNI_ARGS."""
    mac = call.runtime_config().text("mac") or call.cni_args().text("mac") or call.args.get("MAC", "")
    if not mac:
        return ""
    return checked_mac("mac", mac)


def checked_mac(where: str, mac: str) -> str:
    octets = mac.lower().replace("-", ":").split(":")
    good = len(octets) == 6 and all(len(octet) == 2 and set(octet) <= set("0123456789abcdef") for octet in octets)
    if not good:
        raise bad_config(where, mac, "not a MAC address")
    if int(octets[0], 16) & 1:
        raise bad_config(where, mac, "a multicast address cannot be an interface's own")
    return ":".join(octets)


def prefixes_of(fields: Fields, key: str) -> list[Prefix]:
    found = []
    for number, text in enumerate(fields.texts(key)):
        try:
            found.append(parse_prefix(text))
        except ValueError as error:
            raise bad_config(f"{fields.at(key)}[{number}]", text, str(error)) from None
    return found


def _trunk(fields: Fields) -> list[tuple[int, int]]:
    found = []
    for item in fields.objects("vlanTrunk"):
        if "id" in item:
            vid = item.integer("id", low=1, high=4094)
            found.append((vid, vid))
        if "minID" in item or "maxID" in item:
            if "minID" not in item or "maxID" not in item:
                raise bad_config(item.where, item.raw, "minID and maxID belong together")
            first, last = item.integer("minID", low=1, high=4094), item.integer("maxID", low=1, high=4094)
            if first > last:
                raise bad_config(item.at("minID"), first, f"is above maxID {last}")
            found.append((first, last))
    return found
