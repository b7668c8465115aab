# SPDX-License-Identifier: Apache-2.0
"""The calls a kubelet makes, over the real socket: a ketch-cri of one's own, and pods and containers through it."""

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format

from proto import cri_pb2 as pb

TOP = Path(__file__).parents[2]
BUSYBOX = "ketch.local/busybox:latest"
NETWORK = {
    "cniVersion": "1.1.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.88.0.0/16"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
# An emulated CPU is many times slower: the VM's driver says by how much.
_PATIENCE = float(os.environ.get("KETCH_TIMEOUT_FACTOR", "1"))
METHODS = {m.name: (s, m) for s in pb.DESCRIPTOR.services_by_name.values() for m in s.methods}


class Daemon:
    """One `ketch-cri` with every path in a folder of its own."""

    def __init__(self, folder: Path, *, config: str = "", network: dict[str, Any] | None = NETWORK) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.root = folder / "root"
        self.socket = folder / "cri.sock"
        self.logs = folder / "logs"
        self.log = folder / "ketch-cri.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.command = [str(TOP / ".venv/bin/ketch-cri"), "--config", str(folder / "config.toml")]
        self._numbers = itertools.count()
        for directory in (self.state, self.root, self.logs, folder / "net.d", folder / "cni"):
            directory.mkdir(parents=True, exist_ok=True)
        for parent in (folder, *folder.parents):
            if parent.stat().st_mode & 0o11 != 0o11:  # root of a user namespace must find its way to the bundle
                parent.chmod(parent.stat().st_mode | 0o11)
        if network is not None:
            plugins = json.loads(json.dumps(network))
            plugins["plugins"][0]["ipam"]["dataDir"] = str(folder / "cni/networks")
            (folder / "net.d/10-pods.conflist").write_text(json.dumps(plugins))
        self.config = folder / "config.toml"
        self.config.write_text(
            f'[paths]\nstate = "{self.state}"\nroot = "{self.root}"\nnetns = "{folder}/netns"\n'
            f'[cri]\nsocket = "{self.socket}"\n'
            f'[network]\nconf_dir = "{folder}/net.d"\ndata_dir = "{folder}/cni"\n{config}'
        )

    def start(self) -> "Daemon":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(lambda: self._answers(), 60, lambda: f"the daemon does not answer:\n{self.log.read_text()}")
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"ketch-cri ended with {self.process.returncode}:\n{self.log.read_text()}")
        if not self.socket.exists():
            return False
        try:
            self.channel = grpc.insecure_channel(
                f"unix:{self.socket}", options=[("grpc.max_receive_message_length", 16 << 20)]
            )  # as a kubelet has it
            self.call("Version", deadline=2)
        except grpc.RpcError:
            self.channel.close()
            return False
        return True

    def call(self, method: str, message: Any = None, *, deadline: float = 60, **fields: Any) -> Any:
        """One RPC; the request is a message or is made of keyword arguments."""
        service, described = METHODS[method]
        kind = getattr(pb, described.input_type.name)
        answer = getattr(pb, described.output_type.name)
        make = self.channel.unary_stream if described.server_streaming else self.channel.unary_unary
        stub = make(
            f"/{service.full_name}/{method}",
            request_serializer=kind.SerializeToString,
            response_deserializer=answer.FromString,
        )
        return stub(message if message is not None else kind(**fields), timeout=deadline * _PATIENCE)

    def stop(self) -> None:
        """As systemd stops it: containers live on."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20 * _PATIENCE)
        self.channel.close()

    def kill(self) -> None:
        """As a crash ends it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.channel.close()

    def take_apart(self) -> None:
        """Everything this daemon has made goes, also what stays on purpose on a real node."""
        from runtime.keep.client import Client
        from runtime.linux import mounts

        if self.process is None or self.process.poll() is not None:
            self.start()
        for pod in self.call("ListPodSandbox").items:
            self.call("RemovePodSandbox", pod_sandbox_id=pod.id)
        self.stop()
        Client(str(self.state), start=False).shutdown(force=True)
        mounts.detach(str(self.folder / "netns"))
        subprocess.run(["ip", "link", "del", "cni0"], capture_output=True)
        subprocess.run(["nft", "delete", "table", "inet", "ketch_cni"], capture_output=True)
        subprocess.run(["nft", "delete", "table", "bridge", "ketch_cni"], capture_output=True)

    # what a kubelet does

    def run_pod(self, name: str = "", handler: str = "", **changes: Any) -> "Pod":
        """RunPodSandbox; changes are fields of the config in their JSON form."""
        name = name or f"pod-{next(self._numbers)}"
        config = {
            "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
            "log_directory": str(self.logs / name),
            "linux": {"security_context": {"namespace_options": {"pid": "CONTAINER"}}},
        }
        merge(config, changes)
        message = json_format.ParseDict(config, pb.PodSandboxConfig())
        identity = self.call("RunPodSandbox", config=message, runtime_handler=handler).pod_sandbox_id
        return Pod(self, identity, message)


class Pod:
    """One that runs."""

    def __init__(self, daemon: Daemon, identity: str, config: Any) -> None:
        self.daemon = daemon
        self.id = identity
        self.config = config

    def status(self) -> Any:
        return self.daemon.call("PodSandboxStatus", pod_sandbox_id=self.id).status

    def create(self, *command: str, name: str = "c", image: str = BUSYBOX, **changes: Any) -> "Container":
        config: dict[str, Any] = {
            "metadata": {"name": name},
            "image": {"image": image},
            "log_path": f"{name}.log",
            "command": list(command),
        }
        merge(config, changes)
        message = json_format.ParseDict(config, pb.ContainerConfig())
        identity = self.daemon.call(
            "CreateContainer", pod_sandbox_id=self.id, config=message, sandbox_config=self.config
        ).container_id
        return Container(self.daemon, identity)

    def start(self, *command: str, **changes: Any) -> "Container":
        container = self.create(*command, **changes)
        container.start()
        return container

    def run(self, script: str, **changes: Any) -> str:
        """A container of its own that runs a shell script to its end; what it printed."""
        container = self.start("sh", "-c", script, **changes)
        container.wait()
        return container.output()

    def stop(self) -> None:
        self.daemon.call("StopPodSandbox", pod_sandbox_id=self.id)

    def remove(self) -> None:
        self.daemon.call("RemovePodSandbox", pod_sandbox_id=self.id)


class Container:
    """One that was created."""

    def __init__(self, daemon: Daemon, identity: str) -> None:
        self.daemon = daemon
        self.id = identity

    def start(self) -> None:
        self.daemon.call("StartContainer", container_id=self.id)

    def status(self) -> Any:
        return self.daemon.call("ContainerStatus", container_id=self.id).status

    def info(self) -> dict[str, Any]:
        """The verbose part, as crictl inspect shows it."""
        answer = self.daemon.call("ContainerStatus", container_id=self.id, verbose=True)
        found: dict[str, Any] = json.loads(answer.info["info"])
        return found

    def wait(self, seconds: float = 20) -> Any:
        """Until it has ended; its status then."""
        wait_for(
            lambda: self.status().state not in (pb.CONTAINER_RUNNING, pb.CONTAINER_CREATED),
            seconds,
            lambda: f"container still runs: {self.status()}",
        )
        return self.status()

    def lines(self) -> list[tuple[str, str, str]]:
        """(stream, tag, text) of its log."""
        text = Path(self.status().log_path).read_text()
        return [(stream, tag, rest) for _, stream, tag, rest in (line.split(" ", 3) for line in text.splitlines())]

    def output(self) -> str:
        """What it printed, both streams."""
        return "".join(rest + ("\n" if tag == "F" else "") for _, tag, rest in self.lines())

    def exec(self, *argv: str, seconds: int = 10) -> Any:
        return self.daemon.call("ExecSync", container_id=self.id, cmd=argv, timeout=seconds)

    def sh(self, script: str) -> str:
        """Run a script inside; it must succeed."""
        answer = self.exec("sh", "-c", script)
        assert answer.exit_code == 0, (script, answer)
        text: str = answer.stdout.decode()
        return text

    def stop(self, seconds: int = 0) -> None:
        self.daemon.call("StopContainer", container_id=self.id, timeout=seconds)

    def remove(self) -> None:
        self.daemon.call("RemoveContainer", container_id=self.id)


def merge(into: dict[str, Any], changes: dict[str, Any]) -> None:
    """Nested: what both have as objects is merged, the rest replaced."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def wait_for(condition: Callable[[], bool], seconds: float, complaint: Callable[[], str]) -> None:
    """Poll a condition; the complaint says what was seen instead."""
    deadline = time.monotonic() + seconds * _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(complaint())
        time.sleep(0.01)


def daemon(folder: Path, **settings: Any) -> Iterator[Daemon]:
    """For fixtures: a running daemon with a busybox image, taken apart afterwards."""
    from cri.images.store import ImageStore

    made = Daemon(folder, **settings)
    store = ImageStore(str(made.root / "images"))
    store.build_busybox(BUSYBOX)
    store.close()
    made.start()
    try:
        yield made
    finally:
        made.take_apart()


def processes_of(container: Container) -> list[int]:
    """Host pids of a container's processes, found by its cgroup."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                if container.id in Path(f"/proc/{name}/cgroup").read_text():
                    found.append(int(name))
            except OSError:
                continue
    return found
