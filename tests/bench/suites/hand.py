# SPDX-License-Identifier: Apache-2.0
"""ketch and podman by hand: run --rm with a bridge network, exec, ps with 100 containers."""

import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import peers, stopwatch
from tests.bench.contest import Contender
from tests.bench.stopwatch import Cost, Failed
from tests.support import images

ROUNDS = 10
MANY = 100


def contenders(work: Path) -> list[Contender]:
    """Both have a busybox image, a container that runs, and MANY that were made and never started."""
    layout = _busybox(work)
    ours = _ketch(work, layout)
    found = [Contender("ketch", _steps(*ours), ours=True)]
    if peers.executable("podman"):
        found.append(Contender("podman", _steps(*_podman(work, layout))))
    return found


def _busybox(work: Path) -> Path:
    """One layer: the machine's static busybox and a link per applet."""
    program = Path("/bin/busybox").read_bytes()
    applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    members = [images.member("./"), images.member("bin/"), images.member("bin/busybox", program, mode=0o755)]
    members += [
        images.member(f"bin/{name}", kind=tarfile.LNKTYPE, link="bin/busybox", mode=0o755)
        for name in applets
        if name != "busybox"
    ]
    members += [images.member(f"{name}/") for name in ("etc", "proc", "sys", "dev", "tmp")]
    images.layout(work / "oci", [images.layer(members, form=tarfile.PAX_FORMAT)], config={"Cmd": ["sh"]})
    return work / "oci"


Steps = tuple[list[str], dict[str, str], str]


def _steps(base: list[str], environment: dict[str, str], image: str) -> Callable[[], Iterator[tuple[str, Cost]]]:
    run = [*base, "run", "--rm", "--network", "bridge" if "ketch" in base[0] else "podman", image, "true"]

    def one() -> Iterator[tuple[str, Cost]]:
        os.environ.update(environment)  # of this benchmark's own process
        yield "run --rm true", stopwatch.run(run)
        yield "exec true", stopwatch.run([*base, "exec", "sleeper", "true"])
        yield f"ps -a, {MANY} there", stopwatch.run([*base, "ps", "-a"])
        yield "inspect", stopwatch.run([*base, "inspect", "sleeper"])

    return one


def _fill(base: list[str], environment: dict[str, str], image: str, network: list[str]) -> None:
    os.environ.update(environment)
    _run([*base, "run", "-d", "--name", "sleeper", *network, image, "sleep", "1000"])
    for number in range(MANY - 1):
        _run([*base, "create", "--name", f"c{number}", "--network", "none", image, "true"])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {done.stderr[-300:]}")


def _ketch(work: Path, layout: Path) -> Steps:
    folder = Path("/run/bench-ketch")  # with its mounts it ends with this world
    folder.mkdir()
    config = folder / "config.toml"
    parent = next(
        line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line or "::" in line
    )
    config.write_text(
        f'[paths]\nstate = "{folder}/state"\nroot = "/var/lib/bench-ketch"\nnetns = "{folder}/netns"\n'
        f'[runtime]\ndefault_cgroup_parent = "{parent.split(":")[2].rstrip("/")}/ketch-bench"\n'
    )
    environment = {"KETCH_CONFIG": str(config)}
    base = [str(peers.OURS / "ketch")]
    os.environ.update(environment)
    _run([*base, "load", "-i", str(layout)])
    image = json.loads(subprocess.run([*base, "images", "--format", "json"], capture_output=True, check=True).stdout)
    name = str(image[0]["ID"]) if isinstance(image, list) else str(image["ID"])
    _fill(base, environment, name, [])
    return base, environment, name


def _podman(work: Path, layout: Path) -> Steps:
    """podman as Debian ships it: overlay, CNI bridge, crun or runc; everything in this world's own folders."""
    folder = Path("/run/bench-podman")
    folder.mkdir()
    (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    (folder / "containers.conf").write_text(
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n[network]\nnetwork_backend = "cni"\n'
    )
    environment = {"CONTAINERS_CONF": str(folder / "containers.conf")}
    base = [peers.executable("podman") or "", "--root", "/var/lib/bench-podman", "--runroot", f"{folder}/run"]
    base += ["--tmpdir", f"{folder}/tmp", "--storage-driver", "overlay", "--network-config-dir", f"{folder}/net"]
    os.environ.update(environment)
    _run([*base, "pull", "--quiet", "--signature-policy", str(folder / "policy.json"), f"oci:{layout}:latest"])
    done = subprocess.run([*base, "images", "-q", "--no-trunc"], capture_output=True, text=True, check=True)
    name = done.stdout.split()[0].removeprefix("sha256:")
    _fill(base, environment, name, [])
    return base, environment, name
