# SPDX-License-Identifier: Apache-2.0
"""Cases of SUITE=cni-parity that chance puts together: options, addresses and verbs that nobody thinks of together."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from tests.conformance.cni_parity_cases import Case, bridge, conf_of, round_trip, step

_VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
_MACS = ("c2:11:22:33:44:55", "C2-11-22-33-44-56", "c2:11:22:33:44:57")


def cases(seed: int, count: int) -> Iterator[Case]:
    """count cases of each plugin."""
    makers: dict[str, Callable[[random.Random], list[Any]]] = {
        "bridge": _bridge, "host-local": _host_local, "static": _static, "portmap": _portmap, "tuning": _tuning,
        "bandwidth": _bandwidth, "firewall": _firewall, "ptp": _ptp, "macvlan": _macvlan,
    }  # fmt: skip
    for name, make in makers.items():
        for number in range(count):
            yield f"generated {name} {number}", make(random.Random(f"{seed} {name} {number}"))


def _some(chance: random.Random, options: dict[str, list[Any]], likely: float = 0.35) -> dict[str, Any]:
    return {key: chance.choice(values) for key, values in options.items() if chance.random() < likely}


def _ipam(chance: random.Random) -> dict[str, Any]:
    pools: list[list[dict[str, Any]]] = [[{"subnet": chance.choice(["10.1.2.0/24", "10.1.0.0/16", "10.1.2.128/25"])}]]
    if chance.random() < 0.3:
        pools.append([{"subnet": "fd00:1::/64"}])
    if chance.random() < 0.2:
        pools[0][0]["gateway"] = "10.1.2.200"
    found: dict[str, Any] = {"type": "host-local", "ranges": pools}
    if chance.random() < 0.5:
        routes: list[dict[str, Any]] = [
            {"dst": "10.9.0.0/16"}, {"dst": "0.0.0.0/0"}, {"dst": "10.8.0.0/16", "gw": "10.1.2.9"},
            {"dst": "10.7.0.1/32"}, {"dst": "10.6.0.0/16", "priority": 7},
        ]  # fmt: skip
        found["routes"] = chance.sample(routes, chance.randint(1, 3))
    return found


def _bridge(chance: random.Random) -> list[Any]:
    flags = [
        "isGateway", "isDefaultGateway", "forceAddress", "hairpinMode", "promiscMode", "portIsolation", "macspoofchk",
        "disableContainerInterface",
    ]  # fmt: skip
    options = _some(chance, {flag: [True, False] for flag in flags}, 0.25)
    options |= _some(chance, {
        "mtu": [1400, 9000, 0], "ipMasq": [True], "ipMasqBackend": ["iptables", "nftables"],
        "dns": [{"nameservers": ["10.1.0.1"]}, {"domain": "x"}, {}],
        "args": [{"cni": {"mac": _MACS[0]}}, {"cni": {"ips": ["10.1.2.77"]}}],
        "runtimeConfig": [{"mac": _MACS[2]}, {"ips": ["10.1.2.78"]}, {}],
    }, 0.2)  # fmt: skip
    conf = bridge(chance.choice(_VERSIONS), **({"ipam": _ipam(chance)} | options))
    return _spoilt(chance, round_trip("bridge", conf))


def _spoilt(chance: random.Random, steps: list[Any]) -> list[Any]:
    """Perhaps with something changed between ADD and CHECK."""
    spoil = chance.choice([
        "", "", "", "ip -n pod link set eth0 down", "ip -n pod addr flush dev eth0", "ip -n pod link del eth0",
        "ip -n pod route flush table main", "ip link del br0", "rm -rf /var/lib/cni/networks/net/10.*",
    ])  # fmt: skip
    return [steps[0], spoil, *steps[1:]] if spoil and len(steps) == 4 else steps


def _address(chance: random.Random) -> str:
    return f"10.1.{chance.randint(0, 1)}.{chance.choice([0, 1, 2, 3, 5, 7, 8, 127, 254, 255])}"


def _range(chance: random.Random) -> dict[str, Any]:
    if chance.random() < 0.2:
        return {"subnet": chance.choice(["fd00::/64", "fd00::/126", "fd00::/127", "fd00::1/64"])}
    length = chance.choice([16, 24, 24, 29, 30, 31])
    subnet = {16: "10.1.0.0/16", 24: "10.1.0.0/24", 29: "10.1.0.0/29", 30: "10.1.0.4/30", 31: "10.1.0.0/31"}[length]
    return {"subnet": subnet} | {
        key: _address(chance) for key in ("rangeStart", "rangeEnd", "gateway") if chance.random() < 0.25
    }


def _host_local(chance: random.Random) -> list[Any]:
    section: dict[str, Any] = {"type": "host-local"}
    if chance.random() < 0.4:
        section |= _range(chance)
    if chance.random() < 0.7:
        section["ranges"] = [
            [_range(chance) for _ in range(chance.choice([1, 1, 2]))] for _ in range(chance.choice([1, 1, 2]))
        ]
    more: dict[str, Any] = {}
    if chance.random() < 0.15:
        more["runtimeConfig"] = {"ipRanges": [[{"subnet": "10.6.0.0/29"}]]}
    conf = conf_of("x", chance.choice(("0.2.0", *_VERSIONS)), ipam=section, **more)
    steps = []
    for number in range(8):
        verb = chance.choice(["ADD", "ADD", "ADD", "DEL", "CHECK"])
        # Last, for theirs goes on in its round after an ADD that it has refused, and all later addresses would differ.
        asked = {"args": f"IP={_address(chance)}"} if verb == "ADD" and number > 6 else {}
        who = {"container": f"c{chance.randint(0, 3)}", "ifname": chance.choice(["eth0", "eth0", "net1"])}
        steps.append(step("host-local", verb, conf, **who, **asked))
    return steps


def _static(chance: random.Random) -> list[Any]:
    words = ["10.1.0.5/24", "10.1.0.6/24", "fd00::5/64", "10.1.0.7", "x", "10.1.0.8/33"]
    addresses = [
        {"address": chance.choice(words[:3] * 4 + words)}
        | _some(chance, {"gateway": ["10.1.0.1", "fd00::1", "10.2.0.1"]})
        for _ in range(chance.randint(0, 3))
    ]
    section: dict[str, Any] = {"type": "static", "addresses": addresses}
    section |= _some(chance, {"routes": [[{"dst": "0.0.0.0/0"}], [{"dst": "x"}]], "dns": [{"domain": "y"}, {}]})
    more = _some(chance, {
        "args": [{"cni": {"ips": ["10.1.0.9/24"]}}, {"cni": {"ips": ["10.1.0.9"]}}],
        "runtimeConfig": [{"ips": ["10.1.0.10/24", "fd00::a/64"]}, {"ips": []}],
    }, 0.2)  # fmt: skip
    args = chance.choice(
        [None, None, "IP=10.1.0.11/24", "IP=10.1.0.11/24;GATEWAY=10.1.0.1", "IP=10.1.0.11", "GATEWAY=x"]
    )
    return round_trip("static", conf_of("x", chance.choice(("0.2.0", *_VERSIONS)), ipam=section, **more), args=args)


def _chained(chance: random.Random, plugin: str, options: dict[str, Any], **of_bridge: Any) -> list[Any]:
    version = chance.choice(_VERSIONS[1:])
    conf = conf_of(plugin, version, prevResult="last", **options)
    first = step("bridge", "ADD", bridge(version, isGateway=True, **of_bridge))
    return [first, *(step(plugin, verb, conf) for verb in ("ADD", "CHECK", "DEL", "CHECK", "DEL"))]


def _portmap(chance: random.Random) -> list[Any]:
    ports = [
        {"hostPort": chance.choice([80, 8080, 8081, 65535, 0]), "containerPort": chance.choice([80, 53, 0, 65535])}
        | {"protocol": chance.choice(["tcp", "udp", "sctp"])}
        | _some(chance, {"hostIP": ["127.0.0.1", "0.0.0.0", "192.0.2.1", "", "fd00:7::1"]})
        for _ in range(chance.choice([1, 1, 2, 17]))
    ]
    options = _some(chance, {"snat": [False], "masqAll": [True], "markMasqBit": [5, 31], "conditionsV4": [
        ["!", "-s", "192.0.2.9/32"], []]}, 0.25)  # fmt: skip
    options["backend"] = "iptables" if "conditionsV4" in options else chance.choice(["iptables", "nftables"])
    ipam = _ipam(chance)
    if len(ipam["ranges"]) == 1 and all(port.get("hostIP") == "fd00:7::1" for port in ports):
        del ports[0]["hostIP"]  # where nothing is mapped theirs looks for a chain that it has left empty
    return _chained(chance, "portmap", {**options, "runtimeConfig": {"portMappings": ports}}, ipam=ipam)


def _tuning(chance: random.Random) -> list[Any]:
    wishes = {
        "mac": list(_MACS), "mtu": [1400, 1280, 0], "promisc": [True, False], "allmulti": [True, False],
        "txQLen": [0, 77, 5000],
        "sysctl": [{"net.ipv4.conf.IFNAME.arp_filter": "1"}, {"net/ipv4/conf/all/arp_ignore": "1"}, {"kernel.x": "1"}],
    }  # fmt: skip
    options = _some(chance, wishes)
    if chance.random() < 0.3:
        options["args"] = {"cni": _some(chance, wishes | {"sysctl": [{}]})}
        options.setdefault("sysctl", {})  # theirs panics where only args have some
    if chance.random() < 0.2:
        options["runtimeConfig"] = {"mac": _MACS[2]} if "mac" not in options.get("args", {}).get("cni", {}) else {}
    return _chained(chance, "tuning", options)


def _bandwidth(chance: random.Random) -> list[Any]:
    rates, bursts = [8000, 8_000_000, 10_000_000_000], [80_000, 800_000, 8_000_000_000, 1 << 36]
    options = _some(chance, {
        "ingressRate": rates, "ingressBurst": bursts, "egressRate": rates, "egressBurst": bursts,
    }, 0.8)  # fmt: skip
    if chance.random() < 0.3:
        options = {"runtimeConfig": {"bandwidth": options}}
    return _chained(chance, "bandwidth", options)


def _firewall(chance: random.Random) -> list[Any]:
    options = _some(chance, {
        "ingressPolicy": ["open", "same-bridge", "isolated"], "iptablesAdminChainName": ["OURS"],
    })  # fmt: skip
    return _chained(chance, "firewall", {"backend": "iptables", **options}, ipam=_ipam(chance))


def _ptp(chance: random.Random) -> list[Any]:
    options = _some(chance, {
        "mtu": [1400, 0], "ipMasq": [True], "ipMasqBackend": ["iptables", "nftables"],
        "dns": [{"nameservers": ["10.1.0.1"]}, {}],
    })  # fmt: skip
    return _spoilt(chance, round_trip("ptp", conf_of("ptp", chance.choice(_VERSIONS), ipam=_ipam(chance), **options)))


def _macvlan(chance: random.Random) -> list[Any]:
    options = _some(chance, {
        "mode": ["bridge", "private", "vepa", "passthru", "x"], "mtu": [1400, 0, 9000], "mac": list(_MACS[:1]),
        "runtimeConfig": [{"mac": _MACS[2]}], "dns": [{"nameservers": ["10.1.0.1"]}], "bcqueuelen": [500],
    })  # fmt: skip
    if chance.random() < 0.8:
        options["ipam"] = _ipam(chance)
    conf = conf_of("macvlan", chance.choice(_VERSIONS), master="up0", **options)
    return _spoilt(chance, round_trip("macvlan", conf))
