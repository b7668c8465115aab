# SPDX-License-Identifier: Apache-2.0
"""One attachment through each set of CNI plugins, by each backend, as a command and in process; ADD and DEL."""

import functools
import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cni.client import Attachment, Network, Options, parse
from tests.bench import peers, stopwatch
from tests.bench.contest import Contender
from tests.bench.stopwatch import Cost

ROUNDS = 20
_numbers = itertools.count()


def contenders(work: Path) -> list[Contender]:
    """Ours, ours in process, and every other set with each of its backends: the best of those is what counts."""
    found = []
    for part, (name, folder) in enumerate(peers.plugin_folders().items()):
        ours = name == "ketch-cni"
        for kind, backend in enumerate(("nftables",) if ours else ("iptables", "nftables")):
            networks = [network(work, f"b{part}{kind}{m}", 2 * part + kind, backend if m else None) for m in (0, 1)]
            label = name if ours else f"{name}, {backend}"
            found.append(Contender(label, commands(folder, networks), ours=ours))
    networks = [network(work, f"bp{m}", 60, "nftables" if m else None) for m in (0, 1)]
    return [*found, Contender("ketch in process", in_process(work, networks), ours=True)]


def network(work: Path, bridge: str, part: int, masquerade: str | None) -> dict[str, Any]:
    octet = 100 + 2 * part + (masquerade is not None)
    conf: dict[str, Any] = {
        "cniVersion": "1.0.0",
        "name": bridge,
        "type": "bridge",
        "bridge": bridge,
        "isGateway": True,
        "ipMasq": masquerade is not None,
        "ipam": {
            "type": "host-local",
            "dataDir": str(work / "ipam"),
            "ranges": [[{"subnet": f"10.{octet}.0.0/16"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return conf | ({"ipMasqBackend": masquerade} if masquerade else {})


def commands(folder: str, networks: list[dict[str, Any]]) -> Callable[[], Iterator[tuple[str, Cost]]]:
    """ADD and DEL on each network, by the program."""

    def one() -> Iterator[tuple[str, Cost]]:
        for conf, name in in_namespaces(networks):
            for verb in ("ADD", "DEL"):
                called = environment(verb, name, folder)
                given = json.dumps(conf).encode()
                yield _step(verb, conf), stopwatch.run([f"{folder}/bridge"], stdin=given, environment=called)

    return one


def in_process(work: Path, networks: list[dict[str, Any]]) -> Callable[[], Iterator[tuple[str, Cost]]]:
    """The same by a warm process, to the moment when its caller goes on; what a worker still does is not waited for."""
    options = Options(path="/nonexistent", cache_dir=str(work / "cache"))
    lists = [{"cniVersion": conf["cniVersion"], "name": conf["name"], "plugins": [conf]} for conf in networks]
    chains = {plugins["name"]: Network(parse(json.dumps(plugins).encode()), options) for plugins in lists}

    def one() -> Iterator[tuple[str, Cost]]:
        for conf, name in in_namespaces(networks):
            chain = chains[conf["name"]]
            attachment = Attachment(name, f"/run/netns/{name}")
            for verb, act in (("ADD", chain.add), ("DEL", chain.delete)):
                yield _step(verb, conf), timed(functools.partial(act, attachment))
            time.sleep(0.05)  # the link's deleter holds the kernel's lock, and the next ADD is not to pay for it

    return one


def timed(act: Callable[[], object]) -> Cost:
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    act()
    return Cost((time.perf_counter_ns() - wall) / 1e6, (time.process_time_ns() - cpu) / 1e6, None)


def _step(verb: str, conf: dict[str, Any]) -> str:
    return f"{verb} masquerade" if conf["ipMasq"] else verb


def in_namespaces(networks: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    for conf in networks:
        name = f"bench{next(_numbers)}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        try:
            yield conf, name
        finally:
            subprocess.run(["ip", "netns", "del", name], check=True)


def environment(verb: str, name: str, folder: str) -> dict[str, str]:
    return {
        **os.environ,
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": name,
        "CNI_NETNS": f"/run/netns/{name}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": folder,
    }
