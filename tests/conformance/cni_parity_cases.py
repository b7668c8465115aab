# SPDX-License-Identifier: Apache-2.0
"""The cases that both sets of CNI plugins go through: name -> calls in order; a string is a command of the shell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
Case = tuple[str, list[Any]]


def step(plugin: str, command: str, conf: Any, **environ: str | None) -> dict[str, Any]:
    named = {"args": "CNI_ARGS", "container": "CNI_CONTAINERID", "netns": "CNI_NETNS", "ifname": "CNI_IFNAME"}
    return {
        "plugin": plugin,
        "command": command,
        "conf": conf,
        "environ": {named.get(key, key): value for key, value in environ.items()},
    }


def conf_of(plugin: str, version: str = "1.0.0", **more: Any) -> dict[str, Any]:
    return {"cniVersion": version, "name": "net", "type": plugin, **more}


def ipam(*subnets: str, **more: Any) -> dict[str, Any]:
    return {"type": "host-local", "ranges": [[{"subnet": subnet}] for subnet in subnets or ("10.1.2.0/24",)], **more}


def bridge(version: str = "1.0.0", **more: Any) -> dict[str, Any]:
    return conf_of("bridge", version, **({"bridge": "br0", "ipam": ipam()} | more))


def round_trip(plugin: str, conf: dict[str, Any], **environ: str | None) -> list[Any]:
    """ADD, CHECK where the version has it, DEL twice."""
    steps = [step(plugin, "ADD", conf, **environ)]
    if conf["cniVersion"] in ("0.4.0", "1.0.0", "1.1.0"):
        steps.append(step(plugin, "CHECK", {**conf, "prevResult": "last"}, **environ))
    deletion = {**conf, "prevResult": "last"} if conf["cniVersion"] in ("0.4.0", "1.0.0", "1.1.0") else conf
    return [*steps, step(plugin, "DEL", deletion, **environ), step(plugin, "DEL", conf, **environ)]


def cases() -> Iterator[Case]:
    for family in (_protocol, _bridge, _bridge_refusals, _host_local, _static, _chained, _chained_refusals, _links):
        yield from family()


def _protocol() -> Iterator[Case]:
    for version in VERSIONS:
        yield f"bridge in {version}", round_trip("bridge", bridge(version, isGateway=True))
        dual = ipam("10.1.2.0/24", "fd00:1::/64", routes=[{"dst": "0.0.0.0/0"}, {"dst": "::/0"}])
        yield f"dual stack in {version}", round_trip("bridge", bridge(version, isGateway=True, ipam=dual))
        yield f"loopback in {version}", round_trip("loopback", conf_of("loopback", version), ifname="lo")
        yield f"host-local in {version}", round_trip("host-local", conf_of("x", version, ipam=ipam()))
    good = bridge()
    yield "no CNI_COMMAND is known", [step("bridge", "FROB", good)]
    for key in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"):
        for verb in ("ADD", "DEL", "CHECK"):
            yield f"{verb} without {key}", [step("bridge", verb, good, **{key: None})]
    yield "a bad container id", [step("bridge", "ADD", good, container="-c")]
    for name in ("a/b", "a:b", "a b", "sixteen-byte-name", "."):
        yield f"a bad interface name {name}", [step("bridge", "ADD", good, ifname=name)]
    yield "stdin that is no JSON", [step("bridge", "ADD", "{")]
    yield "stdin that is empty", [step("bridge", "ADD", "")]
    yield "a version that nobody knows", [step("bridge", "ADD", bridge("9.9.9"))]
    yield "a version that is no version", [step("bridge", "ADD", bridge("x"))]
    yield "a version that is a number", [step("bridge", "ADD", {**good, "cniVersion": 1})]
    yield "CHECK in a version without it", [step("bridge", "CHECK", bridge("0.3.1"))]
    yield "STATUS in a version without it", [step("bridge", "STATUS", good)]
    yield "GC in a version without it", [step("bridge", "GC", good)]
    yield "no name", [step("bridge", "ADD", {key: good[key] for key in good if key != "name"})]
    yield "a bad name", [step("bridge", "ADD", {**good, "name": "a/b"})]
    yield "CNI_ARGS that are malformed", [step("bridge", "ADD", good, args="a;b")]
    yield "CNI_ARGS that are unknown", [step("bridge", "ADD", good, args="FOO=bar")]
    unknown = "IgnoreUnknown=1;FOO=bar;K8S_POD_NAME=x"
    yield "CNI_ARGS that are unknown and may be", round_trip("bridge", good, args=unknown)
    yield "a namespace that does not exist", [step("bridge", "ADD", good, netns="/run/netns/none")]
    yield (
        "a namespace that is a file",
        ["touch /run/parity/file", step("bridge", "ADD", good, netns="/run/parity/file")],
    )
    yield "DEL in a namespace that is gone", [
        step("bridge", "ADD", good), "ip netns del pod", step("bridge", "DEL", good),
    ]  # fmt: skip
    for plugin in ("bridge", "host-local", "portmap", "loopback", "tuning", "bandwidth", "firewall", "ptp", "static"):
        yield f"VERSION of {plugin}", [step(plugin, "VERSION", {"cniVersion": "1.0.0"})]
    for plugin in ("bridge", "ptp"):
        yield f"STATUS of {plugin}", [step(plugin, "STATUS", {**bridge("1.1.0"), "type": plugin})]
    none: dict[str, Any] = {"cni.dev/valid-attachments": [], "cni.dev/attachments": []}
    yield "GC of an empty host", [step("bridge", "GC", {**bridge("1.1.0"), **none})]


def _bridge() -> Iterator[Case]:
    options: dict[str, dict[str, Any]] = {
        "nothing": {}, "isGateway": {"isGateway": True}, "isDefaultGateway": {"isDefaultGateway": True},
        "mtu": {"mtu": 1300}, "hairpinMode": {"hairpinMode": True}, "promiscMode": {"promiscMode": True},
        "portIsolation": {"portIsolation": True}, "macspoofchk": {"macspoofchk": True},
        "enabledad": {"enabledad": True},
        "dns": {"dns": {"nameservers": ["10.1.0.1"], "domain": "x.y", "search": ["a"], "options": ["b"]}},
        "no ipam": {"ipam": {}}, "no ipam, a gateway": {"ipam": {}, "isGateway": True},
        "disableContainerInterface": {"ipam": {}, "disableContainerInterface": True},
        "words for booleans": {"isGateway": True, "unknownKey": {"a": 1}},
        "args.cni.mac": {"args": {"cni": {"mac": "c2:11:22:33:44:55"}}},
        "runtimeConfig.mac": {"runtimeConfig": {"mac": "c2:11:22:33:44:66"}, "capabilities": {"mac": True}},
        "both macs": {"runtimeConfig": {"mac": "c2:11:22:33:44:66"}, "args": {"cni": {"mac": "c2:11:22:33:44:55"}}},
        "masquerade by nftables": {"isGateway": True, "ipMasq": True, "ipMasqBackend": "nftables"},
        "masquerade by iptables": {"isGateway": True, "ipMasq": True, "ipMasqBackend": "iptables"},
        "a gateway of its own": {"isDefaultGateway": True, "ipam": {
            "type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24", "gateway": "10.1.2.254"}]]}},
        "routes": {"isGateway": True, "ipam": ipam(routes=[
            {"dst": "10.9.0.0/16"}, {"dst": "10.8.0.0/16", "gw": "10.1.2.9"}, {"dst": "0.0.0.0/0"}])},
        "a default route from ipam": {
            "isDefaultGateway": True, "ipam": ipam(routes=[{"dst": "0.0.0.0/0", "gw": "10.1.2.7"}])},
        "a default route without a gateway": {"isDefaultGateway": True, "ipam": ipam(routes=[{"dst": "0.0.0.0/0"}])},
        "two addresses": {"isGateway": True, "ipam": ipam("10.1.2.0/24", "10.1.3.0/24"), "forceAddress": True},
        "ipv6 alone": {"isDefaultGateway": True, "ipam": ipam("fd00:9::/64")},
        "host-local's legacy range": {"isGateway": True, "ipam": {
            "type": "host-local", "subnet": "10.4.0.0/16", "rangeStart": "10.4.5.6", "rangeEnd": "10.4.5.9"}},
    }  # fmt: skip
    for name, more in options.items():
        for version in ("0.4.0", "1.1.0"):
            yield f"bridge with {name} in {version}", round_trip("bridge", bridge(version, **more))
    extras = {"dst": "10.9.0.0/16", "mtu": 1400, "advmss": 1300, "priority": 77, "table": 300, "scope": 0}
    for key in ("mtu", "advmss", "priority", "table", "scope"):
        route = {"dst": "10.9.0.0/16", key: extras[key]}
        for version in ("1.1.0", "0.3.1"):
            conf = bridge(version, isGateway=True, ipam=ipam(routes=[route]))
            yield f"a route's {key} in {version}", round_trip("bridge", conf)
    yield "two paths", round_trip("bridge", bridge("1.1.0", isGateway=True, ipam=ipam(routes=[
        {"dst": "10.9.0.0/16", "gw": "10.1.2.7"}, {"dst": "10.9.0.0/16", "gw": "10.1.2.8"}])))  # fmt: skip
    yield "MAC by CNI_ARGS", round_trip("bridge", bridge(), args="MAC=c2:11:22:33:44:77")
    yield "IP by CNI_ARGS", round_trip("bridge", bridge(), args="IP=10.1.2.77")
    yield "ips by args", round_trip("bridge", bridge(args={"cni": {"ips": ["10.1.2.78"]}}))
    yield "ips by runtimeConfig", round_trip("bridge", bridge(runtimeConfig={"ips": ["10.1.2.79/24"]}))
    yield (
        "ipRanges by runtimeConfig",
        round_trip("bridge", bridge(runtimeConfig={"ipRanges": [[{"subnet": "10.6.0.0/24"}]]})),
    )
    for name, spoil in (
        ("its address", "ip -n pod addr flush dev eth0"),
        ("its link down", "ip -n pod link set eth0 down"),
        ("its link", "ip -n pod link del eth0"),
        ("the bridge", "ip link del br0"),
        ("its route", "ip -n pod route del 10.9.0.0/16"),
        ("its subnet's route", "ip -n pod route del 10.1.2.0/24"),
        ("its port", "ip -o link show master br0 | cut -d: -f2 | cut -d@ -f1 | xargs -I% ip link set % nomaster"),
    ):
        conf = bridge("1.1.0", isGateway=True, ipam=ipam(routes=[{"dst": "10.9.0.0/16"}]))
        checks = [step("bridge", "ADD", conf), spoil, step("bridge", "CHECK", {**conf, "prevResult": "last"})]
        yield f"CHECK that misses {name}", [*checks, step("bridge", "DEL", conf)]


def _bridge_refusals() -> Iterator[Case]:
    refusals: dict[str, dict[str, Any]] = {
        "promiscMode and hairpinMode": {"promiscMode": True, "hairpinMode": True}, "vlan 5000": {"vlan": 5000},
        "vlan -1": {"vlan": -1}, "disableContainerInterface and ipam": {"disableContainerInterface": True},
        "trunk 0": {"vlanTrunk": [{"id": 0}]}, "trunk 5000": {"vlanTrunk": [{"id": 5000}]},
        "trunk without an end": {"vlanTrunk": [{"minID": 5}]},
        "trunk upside down": {"vlanTrunk": [{"minID": 9, "maxID": 5}]},
        "mtu in words": {"mtu": "large"}, "isGateway in words": {"isGateway": "maybe"},
        "bridge a number": {"bridge": 7},
        "an unknown backend": {"isGateway": True, "ipMasq": True, "ipMasqBackend": "ebtables"},
        "a bad mac": {"args": {"cni": {"mac": "nonsense"}}}, "an ipam that is not there": {"ipam": {"type": "no-such"}},
        "an ipam without addresses": {"ipam": {"type": "static"}},
        "a long bridge name": {"bridge": "a-name-of-many-bytes"},
        "ipam a string": {"ipam": "host-local"}, "dns a string": {"dns": "x"},
    }  # fmt: skip
    for name, more in refusals.items():
        yield f"bridge refuses {name}", [step("bridge", "ADD", bridge("1.1.0", **more))]
    yield (
        "bridge refuses a link that is none",
        ["ip link add br0 type veth peer name p0", step("bridge", "ADD", bridge())],
    )
    busy = "ip -n pod link add eth0 type veth peer name x0"
    yield "bridge refuses an interface that exists", [busy, step("bridge", "ADD", bridge())]
    yield "bridge refuses a second ADD", [step("bridge", "ADD", bridge()), step("bridge", "ADD", bridge())]
    yield (
        "bridge refuses another address",
        [
            step("bridge", "ADD", bridge(isGateway=True)),
            step("bridge", "ADD", bridge(isGateway=True, ipam=ipam("10.7.0.0/24")), container="d", ifname="eth1"),
        ],
    )
    yield (
        "forceAddress",
        [
            step("bridge", "ADD", bridge(isGateway=True)),
            step("bridge", "ADD", bridge(isGateway=True, forceAddress=True, ipam=ipam("10.7.0.0/24")), ifname="eth1"),
        ],
    )
    yield "CHECK without a previous result", [step("bridge", "ADD", bridge()), step("bridge", "CHECK", bridge())]


def _host_local() -> Iterator[Case]:
    def add(version: str = "1.0.0", **section: Any) -> dict[str, Any]:
        return conf_of("x", version, ipam={"type": "host-local", **section})

    good: dict[str, dict[str, Any]] = {
        "a subnet": {"subnet": "10.1.0.0/24"}, "a /30": {"subnet": "10.1.0.0/30"}, "a /29 and a gateway": {
            "subnet": "10.1.0.0/29", "gateway": "10.1.0.6"},
        "start and end": {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.11"},
        "two pools": {"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]},
        "a pool in pieces": {"ranges": [[
            {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.9"}, {"subnet": "10.2.0.0/24"}]]},
        "old and new": {"subnet": "10.1.0.0/24", "ranges": [[{"subnet": "10.2.0.0/24"}]]},
        "routes": {"subnet": "10.1.0.0/24", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.3.0.0/16", "gw": "10.1.0.9"}]},
        "resolvConf": {"subnet": "10.1.0.0/24", "resolvConf": "/run/parity/resolv.conf"},
        "dataDir": {"subnet": "10.1.0.0/24", "dataDir": "/run/parity/data"},
    }  # fmt: skip
    resolv = (
        "printf 'nameserver 1.1.1.1 more\\ndomain x.y\\nsearch a b\\nsearch c\\noptions ndots:5 rotate\\n# no\\nbad\\n'"
        " > /run/parity/resolv.conf"
    )
    for name, section in good.items():
        adds = [step("host-local", "ADD", add(**section), container=f"c{n}") for n in range(4)]
        back = [step("host-local", "DEL", add(**section), container="c1")]
        yield f"host-local: {name}", ["mkdir -p /run/parity", resolv, *adds, *back, *adds[1:2]]
    bad: dict[str, dict[str, Any]] = {
        "no range": {}, "a /31": {"subnet": "10.1.0.0/31"}, "host bits": {"subnet": "10.1.0.7/24"},
        "no CIDR": {"subnet": "x"},
        "mixed families": {"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}]]},
        "overlaps": {"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.1.0.0/16"}]]},
        "a start outside": {"subnet": "10.1.0.0/24", "rangeStart": "10.2.0.1"},
        "an end outside": {"subnet": "10.1.0.0/24", "rangeEnd": "10.2.0.1"},
        "start after end": {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.5"},
        "a bad gateway": {"subnet": "10.1.0.0/24", "gateway": "x"}, "an empty pool": {"ranges": [[]]},
        "ranges that are no list": {"ranges": "x"}, "a route without dst": {"subnet": "10.1.0.0/24", "routes": [{}]},
        "a bad route": {"subnet": "10.1.0.0/24", "routes": [{"dst": "x"}]},
        "a resolv.conf that is not there": {"subnet": "10.1.0.0/24", "resolvConf": "/run/parity/none"},
    }  # fmt: skip
    for name, section in bad.items():
        yield f"host-local refuses {name}", [step("host-local", "ADD", add(**section))]
    small = add(subnet="10.1.0.0/30")
    yield "host-local refuses when full", [step("host-local", "ADD", small, container=f"c{n}") for n in range(3)]
    one = add(subnet="10.1.0.0/24")
    yield "host-local refuses a second ADD", [step("host-local", "ADD", one), step("host-local", "ADD", one)]
    yield "host-local: two interfaces", [step("host-local", "ADD", one), step("host-local", "ADD", one, ifname="net1")]
    for name, word in (("gateway", "10.1.0.1"), ("outside", "10.9.0.1"), ("nonsense", "x"), ("network", "10.1.0.0")):
        yield f"host-local refuses to give {name}", [step("host-local", "ADD", one, args=f"IP={word}")]
    asked = step("host-local", "ADD", one, args="IP=10.1.0.50")
    yield (
        "host-local refuses what is taken",
        [asked, {**asked, "environ": {**asked["environ"], "CNI_CONTAINERID": "d"}}],
    )
    yield "host-local goes on after what was asked for", [asked, step("host-local", "ADD", one, container="d")]
    yield (
        "host-local: CHECK of a stranger",
        [step("host-local", "CHECK", {**one, "prevResult": {"cniVersion": "1.0.0"}})],
    )
    yield "host-local: DEL of a stranger", [step("host-local", "DEL", one)]
    two = add("0.2.0", ranges=[[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]])
    yield "host-local refuses two of a family in 0.2.0", [step("host-local", "ADD", two)]
    yield "host-local without ipam", [step("host-local", "ADD", conf_of("x"))]


def _static() -> Iterator[Case]:
    def add(version: str = "1.0.0", **section: Any) -> dict[str, Any]:
        return conf_of("x", version, ipam={"type": "static", **section})

    full: dict[str, Any] = {
        "addresses": [
            {"address": "10.1.0.5/24", "gateway": "10.1.0.254"},
            {"address": "fd00::5/64", "gateway": "fd00::1"},
        ],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.3.0.0/16", "gw": "10.1.0.1"}],
        "dns": {"nameservers": ["8.8.8.8"], "domain": "x", "search": ["y"], "options": ["z"]},
    }
    for version in VERSIONS:
        yield f"static in {version}", round_trip("static", add(version, **full))
    yield "static by CNI_ARGS", round_trip("static", add(), args="IP=10.1.0.6/24;GATEWAY=10.1.0.1")
    yield (
        "static by CNI_ARGS, two",
        round_trip("static", add(), args="IP=10.1.0.6/24,fd00::6/64;GATEWAY=10.1.0.1,fd00::1"),
    )
    yield "static by both", round_trip("static", add(**full), args="IP=10.1.0.6/24;GATEWAY=10.1.0.1")
    yield "static by args", round_trip("static", {**add(), "args": {"cni": {"ips": ["10.1.0.7/24"]}}})
    yield "static by runtimeConfig", round_trip("static", {**add(), "runtimeConfig": {"ips": ["10.1.0.8/24"]}})
    for name, section in {
        "an address without a prefix": {"addresses": [{"address": "10.1.0.5"}]},
        "nonsense": {"addresses": [{"address": "x"}]},
        "a bad gateway": {"addresses": [{"address": "10.1.0.5/24", "gateway": "x"}]}, "nothing": {},
        "a family twice in 0.2.0": {"addresses": [{"address": "10.1.0.5/24"}, {"address": "10.1.0.6/24"}]},
    }.items():  # fmt: skip
        yield f"static refuses {name}", [step("static", "ADD", add("0.2.0" if "0.2.0" in name else "1.0.0", **section))]
    yield "static refuses an IP that is none", [step("static", "ADD", add(), args="IP=x")]


def _after_bridge(plugin: str, version: str = "1.0.0", **more: Any) -> list[Any]:
    own = conf_of(plugin, version, prevResult="last", **more)
    steps = [
        step("bridge", "ADD", bridge(version, isGateway=True)),
        step(plugin, "ADD", own),
        step(plugin, "CHECK", own),
    ]
    return [*steps, step(plugin, "DEL", own), step(plugin, "DEL", own)]


def _chained() -> Iterator[Case]:
    port = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
    more_ports = [port, {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"}]
    for backend in ("nftables", "iptables"):
        yield (
            f"portmap by {backend}",
            _after_bridge("portmap", backend=backend, runtimeConfig={"portMappings": more_ports}),
        )
        yield (
            f"portmap by {backend} without snat",
            _after_bridge("portmap", backend=backend, snat=False, runtimeConfig={"portMappings": [port]}),
        )
    yield "portmap without ports", _after_bridge("portmap")
    for policy in ("open", "same-bridge", "isolated"):
        yield f"firewall {policy}", _after_bridge("firewall", backend="iptables", ingressPolicy=policy)
    rates = {"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 4_000_000, "egressBurst": 400_000}
    yield "bandwidth", _after_bridge("bandwidth", **rates)
    yield "bandwidth of ingress", _after_bridge("bandwidth", ingressRate=8_000_000, ingressBurst=800_000)
    yield "bandwidth by runtimeConfig", _after_bridge("bandwidth", runtimeConfig={"bandwidth": rates})
    yield "bandwidth of nothing", _after_bridge("bandwidth")
    for name, wish in {
        "a sysctl": {"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}}, "a mac": {"mac": "c2:11:22:33:44:99"},
        "an mtu": {"mtu": 1454}, "promisc": {"promisc": True}, "allmulti": {"allmulti": True},
        "txQLen": {"txQLen": 20000},
        "a sysctl with slashes": {"sysctl": {"net/ipv4/conf/IFNAME/arp_filter": "1"}}, "nothing": {},
    }.items():  # fmt: skip
        yield f"tuning of {name}", _after_bridge("tuning", **wish)
    yield "sbr", _after_bridge("sbr")
    yield "sbr in a table", _after_bridge("sbr", table=300)
    for version in VERSIONS:
        own = conf_of("tuning", version, prevResult="last", promisc=True)
        yield f"tuning in {version}", [step("bridge", "ADD", bridge(version)), step("tuning", "ADD", own)]


def _chained_refusals() -> Iterator[Case]:
    def refused(plugin: str, **more: Any) -> list[Any]:
        own = conf_of(plugin, prevResult="last", **more)
        return [step("bridge", "ADD", bridge(isGateway=True)), step(plugin, "ADD", own)]

    for plugin in ("portmap", "firewall", "bandwidth", "tuning", "sbr"):
        yield f"{plugin} alone", [step(plugin, "ADD", conf_of(plugin, runtimeConfig={"portMappings": []}))]
        broken = conf_of(plugin, prevResult={"cniVersion": "1.0.0", "ips": [{"address": "x"}]})
        yield f"{plugin} after nonsense", [step(plugin, "ADD", broken)]
    for name, port in {
        "port 0": {"hostPort": 0, "containerPort": 80, "protocol": "tcp"}, "no protocol of ours": {
            "hostPort": 1, "containerPort": 80, "protocol": "icmp"},
        "port 70000": {"hostPort": 70000, "containerPort": 80, "protocol": "tcp"},
        "a bad hostIP": {"hostPort": 1, "containerPort": 80, "protocol": "tcp", "hostIP": "x"},
    }.items():  # fmt: skip
        yield f"portmap refuses {name}", refused("portmap", backend="nftables", runtimeConfig={"portMappings": [port]})
    yield "portmap refuses a mark of 99", refused("portmap", markMasqBit=99)
    yield "portmap refuses two ways to mark", refused("portmap", markMasqBit=5, externalSetMarkChain="X")
    yield "portmap refuses a backend", refused("portmap", backend="x")
    yield "firewall refuses a backend", refused("firewall", backend="x")
    yield "firewall refuses a policy", refused("firewall", backend="iptables", ingressPolicy="x")
    yield "bandwidth refuses a rate without a burst", refused("bandwidth", ingressRate=1000)
    yield "bandwidth refuses a burst alone", refused("bandwidth", egressBurst=1000)
    yield "bandwidth refuses a huge burst", refused("bandwidth", ingressRate=1000, ingressBurst=1 << 36)
    yield "tuning refuses a sysctl of the kernel", refused("tuning", sysctl={"kernel.hostname": "x"})
    yield "tuning refuses a way out", refused("tuning", sysctl={"net.ipv4/../../kernel/x": "1"})
    yield "tuning refuses a sysctl that is not there", refused("tuning", sysctl={"net.ipv4.conf.IFNAME.none": "1"})
    yield "tuning refuses a bad mac", refused("tuning", mac="x")


def _links() -> Iterator[Case]:
    for version in ("0.4.0", "1.0.0", "1.1.0"):
        yield f"ptp in {version}", round_trip("ptp", conf_of("ptp", version, ipam=ipam(routes=[{"dst": "0.0.0.0/0"}])))
    both = ipam("10.1.2.0/24", "fd00:1::/64", routes=[{"dst": "0.0.0.0/0"}, {"dst": "::/0"}])
    yield "ptp of both families", round_trip("ptp", conf_of("ptp", mtu=1400, ipam=both))
    by_neighbour = ipam(routes=[{"dst": "10.8.0.0/16", "gw": "10.1.2.9"}])
    yield "ptp with a route by a neighbour", round_trip("ptp", conf_of("ptp", ipam=by_neighbour))
    yield "ptp with masquerade", round_trip("ptp", conf_of("ptp", ipMasq=True, ipMasqBackend="nftables", ipam=ipam()))
    yield "ptp without ipam", [step("ptp", "ADD", conf_of("ptp"))]
    for mode in ("bridge", "private", "vepa", "passthru"):
        yield f"macvlan {mode}", round_trip("macvlan", conf_of("macvlan", master="up0", mode=mode, ipam=ipam()))
    more: dict[str, dict[str, Any]] = {
        "layer two": {"master": "up0"}, "mtu": {"master": "up0", "mtu": 1400, "ipam": ipam()},
        "a mac": {"master": "up0", "mac": "c2:11:22:33:44:55", "ipam": ipam()},
        "no mode": {"master": "up0", "mode": "x"},
        "no master": {"ipam": ipam()}, "a master that is not there": {"master": "none"},
        "a large mtu": {"master": "up0", "mtu": 9000},
    }  # fmt: skip
    for name, options in more.items():
        yield f"macvlan with {name}", round_trip("macvlan", conf_of("macvlan", **options))
    inside = "ip -n pod link add m0 type veth peer name m1; ip -n pod link set m0 up; ip -n pod link set m1 up"
    conf = conf_of("macvlan", master="m0", linkInContainer=True, ipam=ipam())
    yield "macvlan with a master inside", [inside, *round_trip("macvlan", conf)]
    for plugin, needed in (("ipvlan", {"master": "up0"}), ("vlan", {"master": "up0", "vlanId": 5}), ("dummy", {})):
        yield f"{plugin}", round_trip(plugin, conf_of(plugin, ipam=ipam(), **needed))
    yield "ipvlan with a bad mode", [step("ipvlan", "ADD", conf_of("ipvlan", master="up0", mode="l4", ipam=ipam()))]
    yield "vlan 5000", [step("vlan", "ADD", conf_of("vlan", master="up0", vlanId=5000, ipam=ipam()))]
    nic = "ip link add nic0 type veth peer name nic1"
    for name, options in {
        "a device": {"device": "nic0"}, "a device with an address": {"device": "nic0", "ipam": ipam()},
        "a device that is not there": {"device": "none"}, "nothing": {},
        "two": {"device": "nic0", "hwaddr": "c2:11:22:33:44:55"},
    }.items():  # fmt: skip
        yield f"host-device with {name}", [nic, *round_trip("host-device", conf_of("host-device", **options))]
