# SPDX-License-Identifier: Apache-2.0
"""An attachment on an empty bridge and on one with 1,000 pods, through our CNI plugins and the Go ones."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from cni.client import Attachment, Network, Options, parse
from tests.bench import peers
from tests.bench.contest import Contender
from tests.bench.stopwatch import Cost
from tests.bench.suites import cni, cni_floor

ROUNDS = 15
PODS = int(os.environ.get("KETCH_BENCH_PODS", "1000"))


def contenders(work: Path) -> list[Contender]:
    """The crowd comes by our client, in process: it is the same for both, and quick."""
    folders = {"ketch-cni": str(peers.OUR_PLUGINS), "Go plugins": peers.go_plugins() or ""}
    found = []
    for part, (name, folder) in enumerate(folders.items()):
        if folder:
            networks = [
                cni.network(work, f"{kind}{part}", 20 + 2 * part + n, None) for n, kind in enumerate(("e", "f"))
            ]
            _crowd(work, networks[1] | {"name": f"crowd{part}"}, part)
            found.append(Contender(name, _both(folder, networks), ours=name == "ketch-cni"))
    return [*found, Contender("the kernel's messages", _messages, ours=True)]


def _crowd(work: Path, conf: dict[str, object], part: int) -> None:
    plugins = {"cniVersion": conf["cniVersion"], "name": conf["name"], "plugins": [conf | {"ipMasq": True}]}
    options = Options(path="/nonexistent", cache_dir=str(work / "cache"))
    chain = Network(parse(json.dumps(plugins).encode()), options)
    names = [f"crowd{part}-{number}" for number in range(PODS)]
    # A namespace each: several links in one make every lookup of an IPv6 route there longer (__find_rr_leaf).
    subprocess.run(["ip", "-batch", "-"], input="".join(f"netns add {n}\n" for n in names).encode(), check=True)
    for name in names:
        chain.add(Attachment(name, f"/run/netns/{name}"))


def _messages() -> Iterator[tuple[str, Cost]]:
    """What an ADD tells the kernel, by nobody's plugins: how much of the crowd's price is the kernel's own."""
    yield from cni_floor.messages("fk", "ADD, no pods")()
    yield from cni_floor.messages("f0", f"ADD, {PODS} pods")()


def _both(folder: str, networks: list[dict[str, object]]) -> Callable[[], Iterator[tuple[str, Cost]]]:
    alone, crowded = (cni.commands(folder, [conf]) for conf in networks)

    def one() -> Iterator[tuple[str, Cost]]:
        for step, cost in alone():
            yield f"{step}, no pods", cost
        for step, cost in crowded():
            yield f"{step}, {PODS} pods", cost

    return one
