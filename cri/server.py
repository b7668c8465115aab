# SPDX-License-Identifier: Apache-2.0
"""`ketch-cri`: the daemon a kubelet talks to; and its commands for the configuration."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable, MutableMapping
from typing import Any, NoReturn

from cri import config as configuration
from cri.boundary import Boundary
from cri.config import Config
from cri.engine.engine import Engine
from cri.engine.errors import EngineError
from cri.inspection import Inspection
from cri.rpc.call import Method
from cri.rpc.server import Server
from cri.services.containers import ContainerService
from cri.services.events import EventService
from cri.services.exec import ExecService
from cri.services.images import ImageService
from cri.services.node import NodeService
from cri.services.sandboxes import SandboxService
from cri.services.stats import StatsService
from cri.services.streams import EngineBackend, Streams
from cri.streaming.server import StreamingServer, TlsFiles
from proto import cri_pb2 as pb
from runtime.keep.client import KeepError
from runtime.linux import durable, tracebacks
from runtime.linux.quick_dataclasses import replace

log = logging.getLogger(__name__)
MESSAGE_BYTES = 16 << 20
DESCRIPTORS = 65536  # one per running container and client; more than a node can have of both


class CannotServe(Exception):
    """Another daemon is here, or the socket cannot be made."""


# Answered out of memory, without waiting for anything: the thread that reads them may do that itself.
QUICK = frozenset(
    ("Version", "RuntimeConfig", "ListPodSandbox", "PodSandboxStatus", "ListContainers", "ContainerStatus")
)


def methods(service: Any, objects: list[object], boundary: Boundary) -> dict[str, Method]:
    """One per method of the service's descriptor, by its path; one that nobody has is found at start."""
    found: dict[str, Method] = {}
    for method in service.methods:
        owner = next((o for o in objects if hasattr(o, method.name)), None)
        assert owner is not None, f"no method {method.name}"
        function: Callable[[Any, Any], Any] = getattr(owner, method.name)
        kind, out = getattr(pb, method.input_type.name), getattr(pb, method.output_type.name)
        wrap = boundary.stream if method.server_streaming else boundary.unary
        found[f"/{service.full_name}/{method.name}"] = Method(
            wrap(method.name, function),
            kind.FromString,
            out.SerializeToString,
            is_streaming=method.server_streaming,
            is_quick=method.name in QUICK,
        )
    return found


def somebody_listens(path: str) -> bool:
    """Whether a living server is behind the socket: its path must not be taken over."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True
    return True


class Daemon:
    """Everything that runs between start and stop."""

    def __init__(self, config: Config, systemd: Systemd) -> None:
        self.config = config
        self.systemd = systemd
        if somebody_listens(config.cri.socket):  # before anything is made
            raise CannotServe(f"{config.cri.socket}: another server answers there (--listen chooses another socket)")
        os.makedirs(config.paths.state, mode=0o711, exist_ok=True)
        os.makedirs(config.paths.root, mode=0o711, exist_ok=True)
        self._lock = self._claim()
        self.boundary = Boundary()
        self.engine = Engine(config, "cri")
        self.streaming = StreamingServer(
            EngineBackend(self.engine),
            host=config.cri.streaming_address,
            port=config.cri.streaming_port,
            tls=tls_files(config),
        )
        self.server = Server(
            self._methods(),
            most_at_once=config.cri.max_concurrent_calls,
            most_waiting=config.cri.max_waiting_calls,
            message_bytes=MESSAGE_BYTES,
        )
        self.inspection = Inspection(self.engine, self.boundary, config.cri.metrics_address)

    def _claim(self) -> durable.Locked:
        """One daemon per state directory; the lock ends with the process."""
        path = f"{self.config.paths.state}/ketch-cri.lock"
        try:
            return durable.lock(path, wait=False)
        except BlockingIOError:
            raise CannotServe(
                f"{path}: another ketch-cri serves this state directory (--state chooses another)"
            ) from None

    def _methods(self) -> dict[str, Method]:
        streams = Streams(self.engine, self.streaming)
        objects: list[object] = [
            NodeService(self.engine),
            SandboxService(self.engine),
            ContainerService(self.engine),
            ExecService(self.engine, streams),
            StatsService(self.engine),
            EventService(self.engine),
            ImageService(self.engine),
        ]
        services = pb.DESCRIPTOR.services_by_name
        both = (methods(services[name], objects, self.boundary) for name in ("RuntimeService", "ImageService"))
        return {path: method for each in both for path, method in each.items()}

    def start(self) -> None:
        """Recover first: a kubelet must not be told that its containers are gone."""
        self.inspection.start()  # also a recovery that hangs can be looked at
        self.engine.start()
        self.streaming.start()
        path = self.config.cri.socket
        os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
        try:
            self.server.listen(path)
        except OSError as e:
            raise CannotServe(f"{path}: cannot listen: {e}") from e
        self.server.start()
        self.systemd.tell("READY=1")
        log.info("serving %s, state in %s", path, self.config.paths.state)

    def stop(self, grace_seconds: float = 5.0) -> None:
        """No new calls; those that run have a moment to end. Containers are not touched."""
        self.systemd.tell("STOPPING=1")
        self.server.stop(grace_seconds)
        self.streaming.stop()
        self.inspection.close()
        self.engine.close()
        try:
            os.unlink(self.config.cri.socket)
        except FileNotFoundError:
            pass
        self._lock.close()

    def is_well(self, seconds: float = 1.0) -> bool:
        """Whether the locks that every call needs can be had; without that, systemd may start us anew."""
        return self.boundary.is_free(seconds) and self.engine.book.is_free(seconds)

    def reload(self, path: str) -> None:
        """SIGHUP: what can be taken over is; the rest is named."""
        try:
            new, kept = configuration.reloadable(self.config, configuration.load(path))
        except (configuration.BadConfig, OSError) as e:
            log.error("not reloaded: %s", e)
            return
        self.systemd.tell("RELOADING=1")
        self.config = new
        self.engine.context.config = new
        logging.getLogger().setLevel(new.cri.log_level.upper())
        self.systemd.tell("READY=1")
        log.info("reloaded %s%s", path, f"; needs a restart: {', '.join(kept)}" if kept else "")


def tls_files(config: Config) -> TlsFiles | None:
    if not config.cri.streaming_tls_certificate:
        return None
    return TlsFiles(config.cri.streaming_tls_certificate, config.cri.streaming_tls_key)


class Systemd:
    """What systemd asked to be told, where it started us; its variables are not for our children."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        path = environment.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        allowed = environment.pop("WATCHDOG_USEC", "")
        ours = environment.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
        # Half of what systemd allows, so that one late beat is not a death.
        self.beat_seconds = int(allowed) / 2_000_000 if allowed.isdecimal() and ours else None

    def tell(self, text: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            try:
                to.sendto(text.encode(), self._address)
            except OSError as e:
                log.warning("systemd could not be told %s: %s", text, e)


def raise_descriptors() -> None:
    """A shell gives 1024, which 500 pods and their probes would use up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def serve(config: Config, path: str) -> int:
    """Until SIGTERM or SIGINT."""
    raise_descriptors()
    systemd = Systemd(os.environ)
    daemon = Daemon(config, systemd)
    signals: set[int] = set()
    # A handler runs in the middle of what this thread does: a lock that it holds there, such as an Event's, it would
    # wait for here for ever.
    woken = os.eventfd(0, os.EFD_CLOEXEC)

    def note(number: int, _: object) -> None:
        signals.add(number)
        os.eventfd_write(woken, 1)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, note)
    faulthandler.register(signal.SIGUSR1)  # what every thread is doing, into the log
    daemon.start()
    waiting = select.poll()
    waiting.register(woken, select.POLLIN)
    beat_ms = None if systemd.beat_seconds is None else systemd.beat_seconds * 1000
    while True:
        if waiting.poll(beat_ms):
            os.eventfd_read(woken)
        if daemon.is_well():
            systemd.tell("WATCHDOG=1")
        if signal.SIGHUP in signals:
            signals.discard(signal.SIGHUP)
            daemon.reload(path)
        if signals & {signal.SIGTERM, signal.SIGINT}:
            daemon.stop()
            return 0


class _Parser(argparse.ArgumentParser):
    """One line for what it refuses, as all our commands."""

    def error(self, message: str) -> NoReturn:
        tracebacks.show_if_wanted()
        self.exit(2, f"ketch-cri: {message} (ketch-cri --help lists the options)\n")


def parser() -> argparse.ArgumentParser:
    built = _Parser(prog="ketch-cri", description="The CRI v1 server of Ketch.")
    built.add_argument("--config", default="", help=f"TOML file (default {configuration.DEFAULT_PATH}, if there)")
    built.add_argument("--root", default="", help="what survives a boot: images, layers")
    built.add_argument("--state", default="", help="live objects, sockets, pins")
    built.add_argument("--listen", default="", help="path of the unix socket")
    built.add_argument("--log-level", default="", help="debug, info, warning or error")
    commands = built.add_subparsers(dest="command")
    config = commands.add_parser("config", help="print or check the configuration")
    config.add_argument("action", choices=("default", "check", "dump"))
    return built


def effective(arguments: argparse.Namespace) -> Config:
    """The file's configuration with the flags over it."""
    config = configuration.load(arguments.config or configuration.DEFAULT_PATH, required=bool(arguments.config))
    paths, cri = config.paths, config.cri
    if arguments.root:
        paths = replace(paths, root=os.path.abspath(arguments.root))
    if arguments.state:
        paths = replace(paths, state=os.path.abspath(arguments.state))
        if cri.socket == configuration.Cri().socket:
            cri = replace(cri, socket=f"{paths.state}/ketch.sock")
    if arguments.listen:
        cri = replace(cri, socket=os.path.abspath(arguments.listen.removeprefix("unix://")))
    if arguments.log_level:
        cri = replace(cri, log_level=arguments.log_level)
    return replace(config, paths=paths, cri=cri)


def run(arguments: argparse.Namespace) -> int:
    if arguments.command == "config" and arguments.action == "default":
        print(configuration.dump(Config(), documented=True), end="")
        return 0
    config = effective(arguments)
    if arguments.command == "config":
        problems = configuration.inconsistent(config)
        if problems:
            raise configuration.BadConfig(problems[0])
        print("ok" if arguments.action == "check" else configuration.dump(config), end="\n")
        return 0
    logging.basicConfig(
        level=config.cri.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    return serve(config, arguments.config or configuration.DEFAULT_PATH)


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        return run(arguments)
    except (configuration.BadConfig, CannotServe, EngineError, KeepError, OSError) as e:
        tracebacks.show_if_wanted()
        print(f"ketch-cri: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
