# SPDX-License-Identifier: Apache-2.0
"""People's networks: one CNI list each under ROOT/networks, never in /etc/cni/net.d, where a kubelet looks."""

from __future__ import annotations

import json
import os
import time

from cri.hand import look, notes, options
from cri.hand.errors import USAGE, HandError, UsageError, need_root, suggestion
from cri.hand.grammar import Arguments
from cri.hand.places import Places
from cri.hand.tables import print_rows
from runtime.linux import durable

BRIDGE, HOST, NONE = "bridge", "host", "none"
BUILT_IN = (BRIDGE, HOST, NONE)
OURS = "org.ketch"  # our own key in the list; CNI lets runtimes have such


def path_of(places: Places, name: str) -> str:
    """The list's file."""
    return f"{places.networks}/{name}.conflist"


def read(places: Places, name: str) -> dict[str, object] | None:
    """The list; None when there is none."""
    return look.read(path_of(places, name))


def identity(name: str) -> str:
    """64 hex digits that stay the same: what docker shows as a network's id."""
    from hashlib import sha256

    return sha256(f"ketch network {name}".encode()).hexdigest()


def bridge_name(name: str) -> str:
    """The link on this machine."""
    return "ketch0" if name == BRIDGE else f"br-{identity(name)[:12]}"


def conflist(
    places: Places, name: str, subnets: list[str], *, gateway: str = "", internal: bool = False
) -> dict[str, object]:
    """What CNI is told: a bridge with addresses, published ports, and no way in from other networks."""
    ranges = []
    for subnet in subnets:
        line = {"subnet": subnet}
        if gateway and (":" in gateway) == (":" in subnet):
            line["gateway"] = gateway
        ranges.append([line])
    routes = [] if internal else [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in subnets]
    bridge: dict[str, object] = {
        "type": "bridge",
        "bridge": bridge_name(name),
        "isGateway": True,
        "ipMasq": not internal,
        "hairpinMode": True,
        "macFromAddress": True,
        "ipam": {"type": "host-local", "dataDir": f"{places.root}/addresses", "ranges": ranges, "routes": routes},
    }
    plugins = [
        bridge,
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "firewall", "ingressPolicy": "same-bridge"},
    ]
    return {"cniVersion": "1.0.0", "name": name, "plugins": plugins}


def ensure_default(places: Places) -> None:
    """The network `bridge` is made when it is first used."""
    if read(places, BRIDGE) is None:
        from cri.hand import subnets

        _write(places, BRIDGE, [subnets.free(places, first=17)], {}, gateway="", internal=False)


def _write(
    places: Places, name: str, subnets: list[str], labels: dict[str, str], *, gateway: str, internal: bool
) -> bool:
    os.makedirs(places.networks, mode=0o755, exist_ok=True)
    described = conflist(places, name, subnets, gateway=gateway, internal=internal)
    described[OURS] = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "internal": internal,
        "labels": labels,
    }
    return durable.create_exclusive(path_of(places, name), json.dumps(described, indent=2).encode() + b"\n", 0o644)


def custom(places: Places) -> list[str]:
    """Names of all lists there are, `bridge` among them once it was used."""
    try:
        names = os.listdir(places.networks)
    except FileNotFoundError:
        return []
    return sorted(name.removesuffix(".conflist") for name in names if name.endswith(".conflist"))


def require(places: Places, name: str) -> None:
    """Raise HandError with a suggestion when there is no such network."""
    if name == BRIDGE:
        ensure_default(places)
    elif name not in BUILT_IN and read(places, name) is None:
        known = [*BUILT_IN, *custom(places)]
        hint = suggestion(name, known) or f"ketch network create {name}"
        raise HandError(f"no such network: {name}", hint=hint, code=125)


def create(arguments: Arguments, places: Places) -> int:
    need_root()
    name = options.object_name("network", arguments.words[0])
    if arguments.text("driver") != "bridge":
        raise HandError(f"network driver {arguments.text('driver')!r} is not known", hint="bridge is the only one")
    if name in BUILT_IN or read(places, name) is not None:
        raise HandError(f"there is a network {name} already")
    subnet = arguments.text("subnet")
    from cri.hand import subnets as ranges

    subnets = [ranges.checked(places, subnet)] if subnet else [ranges.free(places, first=18)]
    if arguments.flag("ipv6"):
        subnets.append(f"fd00:{identity(name)[:4]}:{identity(name)[4:8]}::/64")
    gateway = arguments.text("gateway")
    if gateway and not ranges.holds(subnets, options.address("--gateway", gateway)):
        raise UsageError(f"--gateway: {gateway} is not in {subnets[0]}", code=USAGE)
    labels = options.pairs("--label", arguments.many("label"))
    if not _write(places, name, subnets, labels, gateway=gateway, internal=arguments.flag("internal")):
        raise HandError(f"there is a network {name} already")
    print(identity(name))
    return 0


def users(places: Places, name: str) -> list[look.SeenPod]:
    """The pods on a network."""
    return [pod for pod in look.pods(places) if pod.notes.get(notes.NETWORK) == name]


def ls(arguments: Arguments, places: Places) -> int:
    ensure_default(places) if os.access(os.path.dirname(places.root) or "/", os.W_OK) else None
    known = [(BRIDGE, "bridge"), (HOST, "host"), (NONE, "null")]
    known += [(name, "bridge") for name in custom(places) if name not in BUILT_IN]
    wanted = [f.partition("=") for f in arguments.many("filter")]
    rows: list[dict[str, object]] = []
    for name, driver in sorted(known):
        if all((key == "name" and value in name) or (key == "driver" and value == driver) for key, _, value in wanted):
            shown = identity(name) if arguments.flag("no-trunc") else identity(name)[:12]
            rows.append({"ID": shown, "Name": name, "Driver": driver, "Scope": "local"})
    if arguments.flag("quiet"):
        for row in rows:
            print(row["ID"])
    else:
        columns = [("NETWORK ID", "ID"), ("NAME", "Name"), ("DRIVER", "Driver"), ("SCOPE", "Scope")]
        print_rows(rows, columns, arguments.text("format"))
    return 0


def find(places: Places, word: str) -> str:
    """The name behind a name, an id or its beginning."""
    known = [*BUILT_IN, *[name for name in custom(places) if name not in BUILT_IN]]
    if word in known:
        return word
    matches = [name for name in known if identity(name).startswith(word)]
    if len(matches) == 1:
        return matches[0]
    raise HandError(f"no such network: {word}", hint=suggestion(word, known))


def describe(places: Places, name: str) -> dict[str, object]:
    """What inspect shows, in docker's shape."""
    from cri.hand import subnets

    described = read(places, name) or {}
    ours = described.get(OURS, {})
    assert isinstance(ours, dict)
    nets = subnets.with_gateways(described) if described else []
    config = [{"Subnet": str(net), "Gateway": gateway} for net, gateway in nets]
    members = {}
    for pod in users(places, name):
        v4 = next((ip for ip in pod.ips if ":" not in ip), "")
        members[pod.id] = {
            "Name": pod.name,
            "IPv4Address": v4,
            "IPv6Address": next((i for i in pod.ips if ":" in i), ""),
        }
    driver = {HOST: "host", NONE: "null"}.get(name, "bridge")
    return {
        "Name": name,
        "Id": identity(name),
        "Created": ours.get("created", ""),
        "Scope": "local",
        "Driver": driver,
        "EnableIPv6": any(":" in str(entry["Subnet"]) for entry in config),
        "IPAM": {"Driver": "default", "Options": None, "Config": config},
        "Internal": ours.get("internal", False),
        "Containers": members,
        "Options": {"com.docker.network.bridge.name": bridge_name(name)} if driver == "bridge" else {},
        "Labels": ours.get("labels", {}),
    }


def inspect(arguments: Arguments, places: Places) -> int:
    if BRIDGE in arguments.words:
        ensure_default(places)
    found = [describe(places, find(places, word)) for word in arguments.words]
    form = arguments.text("format")
    if form and form != "json":
        from cri.hand.templates import fill_template

        for network in found:
            print(fill_template(form, network))
    else:
        print(json.dumps(found, indent=4))
    return 0


def remove(arguments: Arguments, places: Places) -> int:
    need_root()
    for word in arguments.words:
        name = find(places, word)
        if name in BUILT_IN:
            raise HandError(f"{name} is one of the networks that are always there")
        if members := users(places, name):
            who = " ".join(pod.name for pod in members)
            raise HandError(f"network {name} is in use by {who}", hint=f"ketch rm -f {who}")
        delete(places, name)
        print(name)
    return 0


def delete(places: Places, name: str) -> None:
    """A network without members goes, with its bridge."""
    durable.remove(path_of(places, name))
    _remove_link(bridge_name(name))


def _remove_link(name: str) -> None:
    """The bridge itself: CNI leaves it, because it does not know who else uses it; here nobody does."""
    from runtime.linux import netlink_messages as messages
    from runtime.linux.netlink import Netlink

    with Netlink() as netlink:
        link = netlink.find_link(name)
        if link is not None:
            netlink.transact(messages.delete_link(link.index))
