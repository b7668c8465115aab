# SPDX-License-Identifier: Apache-2.0
"""One attachment through each set of CNI plugins: bridge with host-local, with and without masquerade; ADD and DEL."""

import itertools
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench import peers, stopwatch
from tests.bench.contest import Contender
from tests.bench.stopwatch import Cost

ROUNDS = 20


def contenders(work: Path) -> list[Contender]:
    numbers = itertools.count()
    return [
        Contender(name, _attachments(folder, work, index, numbers), ours=name == "ketch-cni")
        for index, (name, folder) in enumerate(peers.plugin_folders().items())
    ]


def _attachments(
    folder: str, work: Path, index: int, numbers: Iterator[int]
) -> Callable[[], Iterator[tuple[str, Cost]]]:
    def one() -> Iterator[tuple[str, Cost]]:
        for label, masquerade in (("", None), (" masquerade", "nftables")):
            name = f"bench{next(numbers)}"
            network = _network(work, index, masquerade)
            subprocess.run(["ip", "netns", "add", name], check=True)
            try:
                for verb in ("ADD", "DEL"):
                    environment = _environment(verb, name, folder)
                    command = [f"{folder}/bridge"]
                    cost = stopwatch.run(command, stdin=json.dumps(network).encode(), environment=environment)
                    yield f"{verb}{label}", cost
            finally:
                subprocess.run(["ip", "netns", "del", name], check=True)

    return one


def _environment(verb: str, name: str, folder: str) -> dict[str, str]:
    return {
        **os.environ,
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": name,
        "CNI_NETNS": f"/run/netns/{name}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": folder,
    }


def _network(work: Path, index: int, masquerade: str | None) -> dict[str, Any]:
    part = index * 2 + (masquerade is not None)
    network: dict[str, Any] = {
        "cniVersion": "1.0.0",
        "name": f"bench{part}",
        "type": "bridge",
        "bridge": f"bench{part}",
        "isGateway": True,
        "ipMasq": masquerade is not None,
        "ipam": {
            "type": "host-local",
            "dataDir": str(work / "ipam"),
            "ranges": [[{"subnet": f"10.{100 + part}.0.0/16"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return network | ({"ipMasqBackend": masquerade} if masquerade else {})
