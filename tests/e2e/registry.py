# SPDX-License-Identifier: Apache-2.0
"""Debian's docker-registry on loopback; its storage is filled once per image set, in a network of its own."""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.e2e import cache, go_programs, image_set, local_programs
from tests.e2e.images import Image, Pusher

HERE = Path(__file__).parent
PORT = 5000
SETS: dict[str, Callable[[], Iterator[Image]]] = {
    image_set.FOR_CLUSTER: image_set.for_cluster,
    image_set.FOR_SUITES: image_set.for_suites,
    image_set.FOR_CRITEST: image_set.for_critest,
}


def storage(image_set_name: str) -> Path:
    """The registry's folder that holds this set; the first time it is filled, in a network namespace of its own."""
    sources = ["images.py", "image_set.py", "local_programs.py", "pause.c", "effective_uid.c"]
    if image_set_name != image_set.FOR_CRITEST:
        sources += ["gomod/kubernetes/go.sum", "gomod/coredns/go.sum", "gomod/suites/go.sum"]
    inside = [go_programs.PROGRAMS[name] for name in go_programs.IN_IMAGES]
    content = cache.key(image_set_name, repr(inside), *((HERE / name).read_bytes() for name in sources))

    def fill(folder: Path) -> None:
        # The process that fills has a loopback of its own and no network: what must be fetched is fetched before.
        local_programs.debian_package("docker-registry")
        for _ in SETS[image_set_name]():
            pass
        command = ["unshare", "-n", sys.executable, "-m", "tests.e2e.registry", str(folder), image_set_name]
        subprocess.run(command, cwd=HERE.parent.parent, check=True)

    return cache.made_once(f"registry-{image_set_name}", content, fill)


def configuration(folder: Path, address: str) -> str:
    """The registry's configuration file."""
    return (
        f"version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {folder}}}\n"
        f'  delete: {{enabled: true}}\nhttp: {{addr: "{address}"}}\n'
    )


def command(configuration_file: Path) -> list[str]:
    """How to start it; without the variable it tries to send traces somewhere."""
    program = local_programs.debian_package("docker-registry") / "usr/bin/docker-registry"
    return ["env", "OTEL_TRACES_EXPORTER=none", str(program), "serve", str(configuration_file)]


def answers(address: str) -> bool:
    """Does a registry answer at this address, seen from here?"""
    connection = http.client.HTTPConnection(address, timeout=2)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def wait_until_it_answers(address: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not answers(address):
        if time.monotonic() > end:
            raise TimeoutError(f"no registry answers at {address} after {seconds:.0f} s")
        time.sleep(0.05)


def fill(folder: Path, image_set_name: str) -> None:
    """Push a set into the storage folder; to be run where loopback is nobody else's."""
    address = f"127.0.0.1:{PORT}"
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    configuration_file = folder / "fill.yml"
    configuration_file.write_text(configuration(folder, address))
    server = subprocess.Popen(command(configuration_file), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_it_answers(address)
        pusher = Pusher(address)
        for image in SETS[image_set_name]():
            pusher.image(image)
    finally:
        server.terminate()
        server.wait()
    configuration_file.unlink()


if __name__ == "__main__":
    fill(Path(sys.argv[1]), sys.argv[2])
