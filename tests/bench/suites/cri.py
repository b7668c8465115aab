# SPDX-License-Identifier: Apache-2.0
"""One pod with one container through the CRI, call by call: ketch-cri and each containerd here, all warm."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runtime.linux import beneath
from tests.bench import peers
from tests.bench.contest import Contender
from tests.bench.stopwatch import Cost, Failed
from tests.e2e import local_programs
from tests.support.containerd import Containerd
from tests.support.pod_driver import BUSYBOX, NETWORK, Container, Daemon, wait_for

ROUNDS = 30
PAUSE = "ketch.local/pause:latest"
PROGRAMS = ("containerd", "ctr", "containerd-shim-runc-v2", "runc")


class Peer(Daemon):
    """The peer, with every path in a folder of its own and a bridge of its own."""

    def __init__(self, folder: Path, programs: dict[str, str], number: int) -> None:
        network = json.loads(json.dumps(NETWORK))
        said = subprocess.run([programs["containerd"], "--version"], capture_output=True, text=True).stdout
        is_old = " 1." in said or "v1." in said  # Debian's, with plugins that know neither nftables nor CNI 1.1
        if is_old:
            network["cniVersion"] = "1.0.0"
        network["plugins"][0].update(bridge=f"cni{number}", **({} if is_old else {"ipMasqBackend": "nftables"}))
        network["plugins"][0]["ipam"]["ranges"] = [[{"subnet": f"10.{88 + number}.0.0/16"}]]
        super().__init__(folder, network=network)
        configuration = Containerd(
            root=f"{folder}/root",
            state=f"{folder}/run",
            socket=str(self.socket),
            pause=PAUSE,
            runc=programs["runc"],
            plugins=programs["plugins"],
            networks=f"{folder}/net.d",
            is_release_1=is_old,
        )
        self.config.write_text(configuration.text())
        path = ":".join(str(Path(p).parent) for p in programs.values()) + ":/usr/sbin:/usr/bin:/sbin:/bin"
        self.command = ["env", f"PATH={path}", programs["containerd"], "--config", str(self.config)]
        self._ctr = [programs["ctr"], "--address", str(self.socket), "--namespace", "k8s.io"]

    def take(self, archive: Path) -> None:
        subprocess.run([*self._ctr, "images", "import", str(archive)], check=True, capture_output=True)


def contenders(work: Path) -> list[Contender]:
    return [Contender(name, _cycle(daemon), ours=ours) for name, daemon, ours in daemons(work)]


def daemons(work: Path) -> list[tuple[str, Daemon, bool]]:
    """All get the same busybox, as a file; a socket's path must be short, so they live in /run."""
    archives = images(work)
    ours = Daemon(Path("/run/bench-ketch"))
    stock(ours, archives)
    ours.start()
    found = [("ketch-cri", ours, True)]
    for kind, programs in (("built", _built()), ("Debian's", _debians())):
        if all(programs.values()):
            theirs = Peer(Path(f"/run/bench-{kind[:5].lower()}"), programs, len(found))
            theirs.start()
            for archive in archives:
                theirs.take(archive)
            wait_for(lambda t=theirs: _ready(t), 20, lambda: "containerd is not ready")  # type: ignore[misc]
            found.append((f"containerd ({kind})", theirs, False))
    return found


def _built() -> dict[str, str]:
    """The pinned release, with its runc and the plugins of the pinned module."""
    return {name: peers.built(name) or "" for name in PROGRAMS} | {"plugins": peers.go_plugins() or ""}


def _debians() -> dict[str, str]:
    """Debian's containerd, runc and plugins, unpacked beside the machine's own: nothing is installed."""
    try:
        folder = local_programs.debian_package("containerd", "runc", "containernetworking-plugins")
    except local_programs.CannotMake as e:
        print(f"bench: no containerd of Debian: {e}", file=sys.stderr)
        return {"": ""}
    programs = {name: f"{folder}/usr/{'sbin' if name == 'runc' else 'bin'}/{name}" for name in PROGRAMS}
    return programs | {"plugins": f"{folder}/usr/lib/cni"}


def _ready(daemon: Daemon) -> bool:
    conditions = {c.type: c.status for c in daemon.call("Status").status.conditions}
    return conditions["RuntimeReady"] and conditions["NetworkReady"]


def images(work: Path) -> list[Path]:
    from cri.images.store import ImageStore

    store = ImageStore(str(work / "images"), auth_files=[])
    store.build_busybox(BUSYBOX)
    folder = work / "pause"
    folder.mkdir()
    source = folder / "pause.c"
    source.write_text("#include <unistd.h>\nint main(void) { for (;;) pause(); }\n")
    subprocess.run(["cc", "-static", "-Os", "-o", folder / "pause", source], check=True)
    source.unlink()
    store.build_from_directory(str(folder), PAUSE, config={"Entrypoint": ["/pause"]})
    archives = []
    for number, name in enumerate((BUSYBOX, PAUSE)):
        archives.append(work / f"image-{number}.tar")
        store.export([name], str(archives[-1]), form="docker-archive")
    store.close()
    return archives


def stock(daemon: Daemon, archives: list[Path]) -> None:
    from cri.images.store import ImageStore

    store = ImageStore(str(daemon.root / "images"), auth_files=[])
    for archive in archives:
        store.import_(str(archive))
    store.close()


def _cycle(daemon: Daemon) -> Callable[[], Iterator[tuple[str, Cost]]]:
    """The life of a pod as a kubelet leads it; the container obeys its stop signal at once."""
    numbers = iter(range(1_000_000))

    def one() -> Iterator[tuple[str, Cost]]:
        name = f"bench-{next(numbers)}"
        pod = yield from _timed("RunPodSandbox", lambda: daemon.run_pod(name))
        container = yield from _timed("Create+Start", lambda: pod.start(*OBEDIENT))
        until_it_obeys(container)
        yield from _timed("ExecSync true", lambda: container.exec("/bin/true"))
        yield from _timed("StopContainer", lambda: container.stop(30))
        yield from _timed("StopPodSandbox", pod.stop)
        yield from _timed("RemovePodSandbox", pod.remove)
        if daemon.logs.joinpath(name).is_dir():
            beneath.remove_tree(str(daemon.logs / name))

    return one


# The first process of a PID namespace ignores a signal that it has no handler for, so it says when it has one.
OBEDIENT = ("sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait; done")


def until_it_obeys(container: Container) -> None:
    path = Path(container.status().log_path)
    wait_for(lambda: path.exists() and path.stat().st_size > 0, 20, lambda: f"{path} is empty")


def _timed(step: str, call: Callable[[], Any]) -> Any:
    begun = time.perf_counter()
    try:
        result = call()
    except Exception as e:
        raise Failed(f"{step}: {e}") from e
    yield step, Cost((time.perf_counter() - begun) * 1e3, None, None)
    return result
