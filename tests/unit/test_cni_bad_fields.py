# SPDX-License-Identifier: Apache-2.0
"""Each wrong field of each plugin is refused with the specification's code, its key and its value; nothing is made."""

import json
from typing import Any

import pytest

from cni import protocol

HL = {"type": "host-local", "subnet": "10.1.0.0/24", "dataDir": "/proc/nowhere"}  # whoever writes there is found out
AFTER = {"prevResult": {"cniVersion": "1.1.0", "interfaces": [{"name": "br0"}], "ips": [{"address": "10.1.0.2/24"}]}}
DECODING, CONFIG, UNSUPPORTED = 6, 7, 2
_Case = tuple[str, dict[str, Any], int, tuple[str, ...]]


def _ipam(**fields: Any) -> dict[str, Any]:
    return {"ipam": {**HL, **fields}}


BRIDGE: list[_Case] = [
    ("bridge", {"mtu": "large"}, CONFIG, ("mtu", '"large"')),
    ("bridge", {"mtu": 70000}, CONFIG, ("mtu", "70000")),
    ("bridge", {"isGateway": "maybe"}, CONFIG, ("isGateway", '"maybe"')),
    ("bridge", {"hairpinMode": 1}, CONFIG, ("hairpinMode", "1")),
    ("bridge", {"promiscMode": True, "hairpinMode": True}, CONFIG, ("promiscMode", "hairpinMode")),
    ("bridge", {"bridge": 7}, CONFIG, ("bridge", "7")),
    ("bridge", {"bridge": "a-name-of-many-bytes"}, CONFIG, ("bridge", "a-name-of-many-bytes")),
    ("bridge", {"vlan": 5000}, CONFIG, ("vlan", "5000", "0 to 4094")),
    ("bridge", {"vlanTrunk": [{"id": 0}]}, CONFIG, ("vlanTrunk[0].id", "0")),
    ("bridge", {"vlanTrunk": [{"minID": 9, "maxID": 5}]}, CONFIG, ("vlanTrunk[0].minID", "9", "5")),
    ("bridge", {"vlanTrunk": {"id": 5}}, CONFIG, ("vlanTrunk", "array")),
    ("bridge", {"vethPrefix": "too-long-a-prefix"}, CONFIG, ("vethPrefix", "too-long-a-prefix")),
    ("bridge", {"nonMasqueradeCIDRs": ["x"]}, CONFIG, ("nonMasqueradeCIDRs[0]", '"x"')),
    ("bridge", {"preset": "docker"}, UNSUPPORTED, ("preset", '"docker"', "kubenet")),
    ("bridge", {"args": {"cni": {"mac": "nonsense"}}}, CONFIG, ("mac", "nonsense")),
    ("bridge", {"runtimeConfig": {"mac": "01:00:5e:00:00:01"}}, CONFIG, ("mac", "01:00:5e:00:00:01", "multicast")),
    ("bridge", {"disableContainerInterface": True, "ipam": HL}, CONFIG, ("disableContainerInterface", "ipam")),
    ("bridge", {"ipam": "host-local"}, CONFIG, ("ipam", '"host-local"', "object")),
    ("bridge", {"dns": "x"}, CONFIG, ("dns", '"x"')),
]
ADDRESSES: list[_Case] = [
    ("host-local", {}, CONFIG, ("ipam",)),
    ("host-local", {"ipam": {"type": "host-local"}}, CONFIG, ("ipam.ranges", "null")),
    ("host-local", _ipam(subnet="x"), CONFIG, ("ipam.subnet", '"x"')),
    ("host-local", _ipam(subnet="10.1.0.7/24"), CONFIG, ("ipam.subnet", "10.1.0.7/24", "10.1.0.0/24")),
    ("host-local", _ipam(subnet="10.1.0.0/31"), CONFIG, ("ipam.subnet", "10.1.0.0/31", "too small")),
    ("host-local", _ipam(rangeStart="10.2.0.1"), CONFIG, ("ipam.rangeStart", "10.2.0.1", "10.1.0.0/24")),
    ("host-local", _ipam(rangeStart="10.1.0.9", rangeEnd="10.1.0.5"), CONFIG, ("ipam.rangeEnd", "10.1.0.5")),
    ("host-local", _ipam(gateway="fd00::1"), CONFIG, ("ipam.gateway", "fd00::1", "family")),
    ("host-local", _ipam(ranges=[[]]), CONFIG, ("ipam.ranges[0]", "[]")),
    ("host-local", _ipam(ranges=[[{"subnet": "10.1.0.0/16"}]]), CONFIG, ("ipam.ranges[1]", "overlaps")),
    ("host-local", _ipam(routes=[{"dst": "x"}]), DECODING, ("ipam.routes[0].dst", "x")),
    ("host-local", _ipam(exclude=["x"]), CONFIG, ("ipam.exclude[0]", '"x"')),
    ("host-local", _ipam(reservations={"a/b": "x"}), CONFIG, ("ipam.reservations.a/b", '"x"')),
    ("host-local", _ipam(reuseDelaySeconds=-1), CONFIG, ("ipam.reuseDelaySeconds", "-1")),
    ("host-local", _ipam(resolvConf="/nonexistent/resolv"), CONFIG, ("ipam.resolvConf", "/nonexistent/resolv")),
    ("static", {"ipam": {"type": "static", "addresses": [{"address": "10.1.0.5"}]}}, CONFIG, ("address", "10.1.0.5")),
    ("static", {"ipam": {"type": "static", "addresses": [{"address": "x"}]}}, CONFIG, ("address", "x")),
]
CHAINED: list[_Case] = [
    ("portmap", {**AFTER, "backend": "x"}, UNSUPPORTED, ("backend", '"x"', "nftables or iptables")),
    ("portmap", {**AFTER, "markMasqBit": 99}, CONFIG, ("markMasqBit", "99", "0 to 31")),
    ("portmap", {**AFTER, "markMasqBit": 5, "externalSetMarkChain": "X"}, CONFIG, ("externalSetMarkChain", '"X"')),
    ("portmap", {**AFTER, "conditionsV4": ["a;b"]}, CONFIG, ("conditions", "a;b")),
    (
        "portmap",
        {**AFTER, "backend": "nftables", "conditionsV4": ["-d", "1.2.3.4"]},
        CONFIG,
        ("conditionsV4", "iptables"),
    ),
    ("portmap", {**AFTER, "backend": "iptables", "conditionsV6": ["ip6"]}, CONFIG, ("conditionsV6", "nftables")),
    ("portmap", {**AFTER, "conditionsV6": ["ip6"], "conditionsV4": ["!", "-d"]}, CONFIG, ("conditionsV6", "nftables")),
    ("portmap", {**AFTER, "backend": "nftables", "externalSetMarkChain": "X"}, CONFIG, ("externalSetMarkChain", '"X"')),
    ("portmap", {}, CONFIG, ("prevResult",)),
    ("firewall", {**AFTER, "backend": "x"}, UNSUPPORTED, ("backend", '"x"')),
    ("firewall", {**AFTER, "ingressPolicy": "x"}, UNSUPPORTED, ("ingressPolicy", '"x"', "same-bridge")),
    ("bandwidth", {**AFTER, "ingressRate": 1000}, CONFIG, ("ingressBurst",)),
    ("bandwidth", {**AFTER, "ingressRate": 1000, "ingressBurst": 1 << 36}, CONFIG, ("ingressBurst", str(1 << 36))),
    ("tuning", {**AFTER, "mac": "x"}, CONFIG, ("mac", '"x"')),
    ("tuning", {**AFTER, "sysctl": {"kernel.hostname": "x"}}, CONFIG, ("kernel",)),
    ("sbr", {}, CONFIG, ("prevResult",)),
]
LINKS: list[_Case] = [
    ("macvlan", {"mode": "x", "master": "up0"}, UNSUPPORTED, ("mode", '"x"', "bridge")),
    ("ipvlan", {"mode": "l4", "master": "up0", "ipam": HL}, UNSUPPORTED, ("mode", '"l4"', "l2")),
    ("vlan", {"master": "up0", "vlanId": 5000, "ipam": HL}, CONFIG, ("vlanId", "5000")),
    ("vlan", {"vlanId": 5, "ipam": HL}, CONFIG, ("master", "null")),
    ("host-device", {"runtimeConfig": {"deviceID": "x"}}, CONFIG, ("runtimeConfig.deviceID", '"x"')),
]
PORTS = [
    ({"hostPort": 0, "containerPort": 80}, ("portMappings[0].hostPort", "0")),
    ({"hostPort": 70000, "containerPort": 80}, ("portMappings[0].hostPort", "70000")),
    ({"hostPort": 80, "containerPort": 80, "protocol": "icmp"}, ("portMappings[0].protocol", '"icmp"')),
    ({"hostPort": 80, "containerPort": 80, "hostIP": "x"}, ("portMappings[0].hostIP", '"x"')),
]


def _refusal(plugin: str, fields: dict[str, Any]) -> dict[str, Any]:
    environ = {
        "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/nonexistent/netns", "CNI_IFNAME": "eth0",
        "CNI_PATH": "/nonexistent", "KETCH_CNI_STATE": "/nonexistent/state",
    }  # fmt: skip
    conf = {"cniVersion": "1.1.0", "name": "net", "type": plugin, **fields}
    status, answer = protocol.run(plugin, environ, json.dumps(conf).encode())
    assert status == 1, answer
    refusal: dict[str, Any] = json.loads(answer)
    return refusal


@pytest.mark.parametrize(("plugin", "fields", "code", "words"), BRIDGE + ADDRESSES + CHAINED + LINKS)
def test_a_wrong_field_is_named_with_its_value(
    plugin: str, fields: dict[str, Any], code: int, words: tuple[str, ...]
) -> None:
    refusal = _refusal(plugin, fields)
    assert refusal["code"] == code, refusal
    for word in words:
        assert word in f"{refusal['msg']} {refusal.get('details', '')}"


@pytest.mark.parametrize(("mapping", "words"), PORTS)
def test_a_wrong_port_mapping_is_named_with_its_value(mapping: dict[str, Any], words: tuple[str, ...]) -> None:
    refusal = _refusal("portmap", {**AFTER, "runtimeConfig": {"portMappings": [mapping]}})
    assert refusal["code"] == CONFIG, refusal
    for word in words:
        assert word in refusal["msg"]
