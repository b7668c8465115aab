# SPDX-License-Identifier: Apache-2.0
"""One pod with one container through the CRI, call by call: ketch-cri and containerd, both warm, on one machine."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runtime.linux import beneath
from tests.bench import peers
from tests.bench.contest import Contender
from tests.bench.stopwatch import Cost, Failed
from tests.support.pod_driver import BUSYBOX, NETWORK, Daemon, wait_for

ROUNDS = 30
PAUSE = "ketch.local/pause:latest"
_CONTAINERD = """version = 3
root = "{folder}/root"
state = "{folder}/run"
[grpc]
  address = "{folder}/cri.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{pause}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        BinaryName = "{runc}"
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{plugins}"]
    conf_dir = "{folder}/net.d"
[plugins.'io.containerd.nri.v1.nri']
  disable = true
"""


class Containerd(Daemon):
    """The peer, with every path in a folder of its own and a bridge of its own."""

    def __init__(self, folder: Path, programs: dict[str, str]) -> None:
        network = json.loads(json.dumps(NETWORK))
        network["plugins"][0].update(bridge="cni1", ipMasqBackend="nftables")
        network["plugins"][0]["ipam"]["ranges"] = [[{"subnet": "10.89.0.0/16"}]]
        super().__init__(folder, network=network)
        self.config.write_text(_CONTAINERD.format(folder=folder, pause=PAUSE, **programs))
        path = ":".join(str(Path(p).parent) for p in programs.values()) + ":/usr/sbin:/usr/bin:/sbin:/bin"
        self.command = ["env", f"PATH={path}", programs["containerd"], "--config", str(self.config)]
        self._ctr = [programs["ctr"], "--address", str(self.socket), "--namespace", "k8s.io"]

    def take(self, archive: Path) -> None:
        subprocess.run([*self._ctr, "images", "import", str(archive)], check=True, capture_output=True)


def contenders(work: Path) -> list[Contender]:
    """Both get the same busybox, as a file; a socket's path must be short, so they live in /run."""
    archives = _images(work)
    ours = Daemon(Path("/run/bench-ketch"))
    _stock(ours, archives)
    ours.start()
    found = [Contender("ketch-cri", _cycle(ours), ours=True)]
    names = ("containerd", "ctr", "containerd-shim-runc-v2", "runc")
    programs = {name: peers.built(name) for name in names}
    plugins = peers.built("cni-plugins") or next((f for f in peers.CNI_FOLDERS if Path(f).is_dir()), None)
    if plugins and all(programs.values()):
        known = {name.replace("-", "_"): str(p) for name, p in programs.items()}
        known["containerd"], known["plugins"] = str(programs["containerd"]), plugins
        theirs = Containerd(Path("/run/bench-containerd"), known)
        theirs.start()
        for archive in archives:
            theirs.take(archive)
        wait_for(lambda: _ready(theirs), 20, lambda: f"containerd is not ready: {theirs.call('Status')}")
        found.append(Contender("containerd (built)", _cycle(theirs)))
    return found


def _ready(daemon: Daemon) -> bool:
    conditions = {c.type: c.status for c in daemon.call("Status").status.conditions}
    return conditions["RuntimeReady"] and conditions["NetworkReady"]


def _images(work: Path) -> list[Path]:
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


def _stock(daemon: Daemon, archives: list[Path]) -> None:
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
        program = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done")
        container = yield from _timed("Create+Start", lambda: pod.start(*program))
        yield from _timed("ExecSync true", lambda: container.exec("/bin/true"))
        yield from _timed("StopContainer", lambda: container.stop(30))
        yield from _timed("StopPodSandbox", pod.stop)
        yield from _timed("RemovePodSandbox", pod.remove)
        if daemon.logs.joinpath(name).is_dir():
            beneath.remove_tree(str(daemon.logs / name))

    return one


def _timed(step: str, call: Callable[[], Any]) -> Any:
    begun = time.perf_counter()
    try:
        result = call()
    except Exception as e:
        raise Failed(f"{step}: {e}") from e
    yield step, Cost((time.perf_counter() - begun) * 1e3, None, None)
    return result
