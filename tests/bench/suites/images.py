# SPDX-License-Identifier: Apache-2.0
"""One image from a loopback registry to an unpacked root: 8 layers, 20,000 files, 560 MB; gzip, zstd, and again."""

import json
import os
import random
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from runtime.linux import beneath
from tests.bench import peers, stopwatch
from tests.bench.contest import Contender
from tests.bench.stopwatch import Cost, Failed
from tests.support import images
from tests.support.registry import DockerRegistry, program

ROUNDS = 5

_LAYERS = 8
_FILES = 2500  # in each layer
_SIZES = (100, 1_000, 4_000, 12_000, 20_000, 100_000)


def contenders(work: Path) -> list[Contender]:
    """Everybody pulls from the same registry into a fresh store; all stores lie on one tmpfs, so no disk speaks."""
    if program() is None:
        raise Failed("docker-registry is not here (make setup unpacks it)")
    stores = Path("/var/lib/bench")  # a tmpfs of this benchmark's own world
    stores.mkdir()
    registry = DockerRegistry(work / "registry")
    names = _fill(registry, work)
    found = [Contender("ketch", _ours(names, stores / "ketch"), ours=True)]
    containerd, ctr = peers.executable("containerd"), peers.executable("ctr")
    if containerd and ctr:
        found.append(Contender("ctr images pull", _containerd(containerd, ctr, names, stores / "containerd")))
    if peers.executable("skopeo") and peers.executable("umoci"):
        found.append(Contender("skopeo+umoci", _skopeo(names, stores / "skopeo")))
    return found


def _fill(registry: DockerRegistry, work: Path) -> dict[str, str]:
    """Push the image in both compressions with our own client; returns step -> reference."""
    from cri.images.store import ImageStore

    chance = random.Random(1)
    stuff = _stuff(60_000_000)
    layers = [_layer(chance, stuff, number) for number in range(_LAYERS)]
    names = {}
    for how in ("gzip", "zstd"):
        folder = work / f"oci-{how}"
        images.layout(folder, layers, how=how)
        store = ImageStore(str(work / f"fill-{how}"), auth_files=[])
        names[how] = f"{registry.host}/bench/{how}:1"
        store.import_(str(folder), name=names[how])
        store.push(names[how])
        store.close()
        beneath.remove_tree(str(folder))
        beneath.remove_tree(str(work / f"fill-{how}"))
    return names


def _stuff(size: int) -> bytes:
    """What programs are made of: it compresses as images do, to about a third."""
    data = bytearray()
    for path in sorted(Path("/usr/lib").rglob("*.so*")):
        if path.is_file() and not path.is_symlink():
            data += path.read_bytes()
        if len(data) > size:
            break
    return bytes(data)


def _layer(chance: random.Random, stuff: bytes, number: int) -> bytes:
    members = []
    for folder in range(_FILES // 50):
        members.append(images.member(f"l{number}d{folder}/"))
        for file in range(50):
            size = 350_000 if file == 0 else chance.choice(_SIZES)
            begin = chance.randrange(len(stuff) - size)
            members.append(images.member(f"l{number}d{folder}/f{file}", stuff[begin : begin + size]))
    return images.layer(members, form=tarfile.PAX_FORMAT)


def _ours(names: dict[str, str], root: Path) -> Callable[[], Iterator[tuple[str, Cost]]]:
    def one() -> Iterator[tuple[str, Cost]]:
        for how, name in names.items():
            beneath.remove_tree(str(root))
            yield from zip((how, f"{how} again"), _daemon(root, name), strict=True)

    return one


# What the daemon does for two PullImage calls: its modules are loaded, its caches are warm for the second.
_DAEMON = """
import json, resource, sys, time
from cri.images.store import ImageStore
store = ImageStore(sys.argv[1], auth_files=[])
for _ in range(2):
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    store.pull(sys.argv[2])
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
    print(json.dumps([wall * 1e3, cpu * 1e3, float(peak)]), flush=True)
"""


def _daemon(root: Path, name: str) -> list[Cost]:
    command = [sys.executable, "-c", _DAEMON, str(root), name]
    done = subprocess.run(command, cwd=peers.TOP, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(done.stderr[-500:])
    return [Cost(*json.loads(line)) for line in done.stdout.splitlines()]


def _containerd(
    containerd: str, ctr: str, names: dict[str, str], root: Path
) -> Callable[[], Iterator[tuple[str, Cost]]]:
    root.mkdir(parents=True)
    config = root / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{root}/root"\nstate = "{root}/state"\ndisabled_plugins = ["io.containerd.grpc.v1.cri",'
        f' "io.containerd.internal.v1.opt"]\n[grpc]\n address = "{root}/sock"\n'
    )

    def one() -> Iterator[tuple[str, Cost]]:
        with open(root / "log", "ab") as log:
            daemon = subprocess.Popen([containerd, "--config", str(config)], stdout=log, stderr=log)
        try:
            base = [ctr, "--address", str(root / "sock")]
            _wait(base, root)
            for how, name in names.items():
                command = [*base, "images", "pull", "--plain-http", name]
                yield how, _with_daemon(daemon.pid, command)
                yield f"{how} again", _with_daemon(daemon.pid, command)
                subprocess.run([*base, "images", "rm", "--sync", name], check=True, capture_output=True)
        finally:
            daemon.terminate()
            daemon.wait()
            for folder in ("root", "state"):
                beneath.remove_tree(str(root / folder))

    return one


def _with_daemon(pid: int, command: list[str]) -> Cost:
    """The client's wall time, with the CPU and the peak memory of the daemon that does the work."""
    before = _cpu_ms(pid)
    cost = stopwatch.run(command)
    text = Path(f"/proc/{pid}/status").read_text()
    peak = float(next(line for line in text.splitlines() if line.startswith("VmHWM")).split()[1])
    return Cost(cost.wall_ms, (cost.cpu_ms or 0) + _cpu_ms(pid) - before, peak)


def _cpu_ms(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def _wait(base: list[str], root: Path) -> None:
    deadline = time.monotonic() + 20
    while subprocess.run([*base, "version"], capture_output=True, check=False).returncode != 0:
        if time.monotonic() > deadline:
            raise Failed((root / "log").read_text()[-300:])
        time.sleep(0.1)


def _skopeo(names: dict[str, str], root: Path) -> Callable[[], Iterator[tuple[str, Cost]]]:
    root.mkdir(parents=True)
    skopeo, umoci = peers.executable("skopeo") or "", peers.executable("umoci") or ""

    def one() -> Iterator[tuple[str, Cost]]:
        for how, name in names.items():
            if how == "zstd":
                continue  # Debian's umoci does not know it
            for folder in ("oci", "bundle"):
                beneath.remove_tree(str(root / folder))
            copy = [
                skopeo,
                "copy",
                "--insecure-policy",
                "--src-tls-verify=false",
                f"docker://{name}",
                f"oci:{root}/oci:1",
            ]
            first = stopwatch.run(copy)
            second = stopwatch.run([umoci, "unpack", "--image", f"{root}/oci:1", str(root / "bundle")])
            yield how, _sum(first, second)

    return one


def _sum(a: Cost, b: Cost) -> Cost:
    return Cost(a.wall_ms + b.wall_ms, (a.cpu_ms or 0) + (b.cpu_ms or 0), max(a.memory_kib or 0, b.memory_kib or 0))
