# SPDX-License-Identifier: Apache-2.0
"""The engine dies just before each change that a call makes: afterwards the call can be repeated, and nothing leaks.

A few points of each call run here, all of them by hand: with KETCH_CRASH_POINTS=0.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cri import config as configuration
from cri.config import Config
from cri.engine.book import State
from cri.engine.engine import Engine
from cri.engine.records import PodPhase
from cri.engine.request import ContainerRequest, Mode, Namespaces, PodRequest
from cri.images.store import ImageStore
from runtime.keep.client import Client
from runtime.linux import mounts
from tests.support import crash
from tests.support.needs import needs

pytestmark = needs("root", "overlay", "veth", "bridge", "nft", "busybox")
POINTS = int(os.environ.get("KETCH_CRASH_POINTS", "5"))
# Whatever makes, changes or removes something: files, mounts, and questions to spawner, keepers and the kernel.
CHANGES = (
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir"),
    *("mount", "move_mount", "umount2", "sendmsg", "sendto", "kill", "pidfd_send_signal"),
)
IMAGE = "ketch.local/busybox:latest"
POD = PodRequest("pod", "default", "uid", namespaces=Namespaces(pid=Mode.CONTAINER))
CONTAINER = ContainerRequest("c", IMAGE, command=("sleep", "1000"), log_path="c.log")
BRIDGE = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True}


class Place:
    """A state of its own, and what is done to it in children: an engine must die without taking the test with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ipam = {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "dataDir": f"{folder}/cni/networks"}
        plugins = [{**BRIDGE, "ipam": ipam}]
        (folder / "net.d").mkdir()
        text = json.dumps({"cniVersion": "1.1.0", "name": "pods", "plugins": plugins})
        (folder / "net.d/10-pods.conflist").write_text(text)
        data = {
            "paths": {"state": f"{folder}/state", "root": f"{folder}/root", "netns": f"{folder}/netns"},
            "network": {"conf_dir": f"{folder}/net.d", "data_dir": f"{folder}/cni"},
        }
        self.config: Config = configuration.parse(data, "test")

    def engine(self) -> Engine:
        made = Engine(self.config, "cri")
        made.start()
        return made

    def in_a_child(self, act: Callable[[Engine], None]) -> None:
        """To its end; its failure is ours."""
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                engine = self.engine()
                act(engine)
                engine.close()
                code = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o11 != 0o11:
            parent.chmod(parent.stat().st_mode | 0o11)
    store = ImageStore(f"{tmp_path}/root/images", auth_files=[])
    store.build_busybox(IMAGE)
    store.close()
    made = Place(tmp_path)
    made.in_a_child(lambda engine: engine.remove_pod(engine.run_pod(replace(POD, name="first"))))
    yield made
    made.in_a_child(remove_all)
    Client(f"{tmp_path}/state", start=False).shutdown(force=True)
    mounts.detach(f"{tmp_path}/netns")
    for command in ("ip link del cni0", "nft delete table inet ketch_cni", "nft delete table bridge ketch_cni"):
        subprocess.run(command.split(), capture_output=True)


def remove_all(engine: Engine) -> None:
    for pod in engine.pods():
        for _ in range(2):
            engine.stop_pod(pod.id)
            engine.remove_pod(pod.id)


def only_pod(engine: Engine) -> str:
    (pod,) = engine.pods()
    return pod.id


def only_container(engine: Engine) -> str:
    (container,) = engine.containers()
    return container.id


def to_nothing(engine: Engine) -> None: ...


def to_pod(engine: Engine) -> None:
    engine.run_pod(replace(POD, log_directory=f"{engine.config.paths.state}/logs"))


def to_created(engine: Engine) -> None:
    to_pod(engine)
    engine.create_container(only_pod(engine), CONTAINER)


def to_started(engine: Engine) -> None:
    to_created(engine)
    engine.start_container(only_container(engine))


# name -> what must be there before, and the call itself
CALLS: dict[str, tuple[Callable[[Engine], None], Callable[[Engine], None]]] = {
    "RunPodSandbox": (to_nothing, to_pod),
    "CreateContainer": (to_pod, lambda e: print(e.create_container(only_pod(e), CONTAINER)) if e.pods() else None),
    "StartContainer": (to_created, lambda e: e.start_container(only_container(e))),
    "StopPodSandbox": (to_started, lambda e: e.stop_pod(only_pod(e))),
    "RemovePodSandbox": (to_started, lambda e: e.remove_pod(only_pod(e))),
}


def repeat(name: str, engine: Engine) -> None:
    """After the crash: what is seen is a state of its own, and the same call, or the next one, works."""
    pods, containers = engine.pods(), engine.containers()
    if name == "RunPodSandbox":
        assert [p.phase for p in pods] in ([], [PodPhase.READY])
        if not pods:
            to_pod(engine)
    elif name == "CreateContainer":
        assert [engine.book.state(c) for c in containers] in ([], [State.CREATED])
        if not containers:
            engine.create_container(only_pod(engine), CONTAINER)
        engine.start_container(only_container(engine))
    elif name == "StartContainer":
        (container,) = containers
        state = engine.book.state(container)
        if state == State.CREATED:
            engine.start_container(container.id)
        elif state != State.RUNNING:
            end = engine.book.ends[container.id]
            assert end.exit_code in (None, 128, 137), "an exit code was invented"
    elif name == "StopPodSandbox":
        engine.stop_pod(only_pod(engine))
        assert all(engine.book.state(c) != State.RUNNING for c in engine.containers())
    remove_all(engine)


def leftovers(place: Place) -> list[str]:
    """Names of what a removed pod must not leave."""
    found = []
    for folder in ("state/pods", "state/bundles", "netns", "root/images/rootfs", "cni/networks/pods"):
        path = place.folder / folder
        names = os.listdir(path) if path.is_dir() else []
        found += [f"{folder}/{name}" for name in names if len(name) >= 64 or name.startswith("10.88.")]
    table = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line.split()[4]}" for line in table if f"{place.folder}/state/b" in line]
    links = Path("/proc/net/dev").read_text().splitlines()
    found += [f"link {line.split(':')[0].strip()}" for line in links if "veth" in line]
    return found


def chosen(total: int) -> list[int]:
    """Spread over the whole call."""
    if POINTS == 0 or total <= POINTS:
        return list(range(1, total + 1))
    return sorted({1 + round(i * (total - 1) / (POINTS - 1)) for i in range(POINTS)})


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CALLS)
def test_a_call_can_be_repeated_wherever_it_died(place: Place, name: str) -> None:
    before, call = CALLS[name]

    def act() -> None:
        call(place.engine())

    place.in_a_child(before)
    total = crash.count(act, only=CHANGES)
    place.in_a_child(lambda engine: repeat(name, engine))
    points = chosen(total)
    for point in points:
        place.in_a_child(before)
        outcome = crash.kill_at(act, point, only=CHANGES)
        place.in_a_child(lambda engine: repeat(name, engine))
        place.in_a_child(lambda engine: None)  # what is deleted after the call is gone after one more start
        assert leftovers(place) == [], f"{name} died before change {point} of {total}, {outcome.call}"
    print(f"{name}: {len(points)} of {total} points")
