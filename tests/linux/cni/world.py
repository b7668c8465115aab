# SPDX-License-Identifier: Apache-2.0
"""A host with pods on a bridge and a neighbour outside, made of network namespaces; and clients and servers in them."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cni import protocol
from tests.support import kernel

HOST, OUTSIDE = "192.0.2.1", "192.0.2.2"
HOST6, OUTSIDE6 = "2001:db8::1", "2001:db8::2"
NETWORKS = "/var/lib/cni/networks"


def run(*command: str, check: bool = True) -> str:
    return subprocess.run(command, check=check, capture_output=True, text=True).stdout


def ip(*words: str) -> Any:
    return json.loads(run("ip", "-j", *words) or "[]")


class Refused(Exception):
    """A plugin answered with an error object."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(f"{answer['code']}: {answer['msg']} {answer.get('details', '')}")
        self.code = answer["code"]
        self.words = f"{answer['msg']} {answer.get('details', '')}"


class World:
    """The host is the test's own network namespace."""

    def __init__(self) -> None:
        self.namespaces: list[str] = []
        self.servers: list[int] = []

    def netns(self, name: str) -> str:
        run("ip", "netns", "add", name)
        self.namespaces.append(name)
        return f"/run/netns/{name}"

    def drop_netns(self, name: str) -> None:
        self.namespaces.remove(name)
        run("ip", "netns", "del", name)

    def outside(self) -> str:
        """A second host on the far side of a link; it knows only 192.0.2.0/24 and 2001:db8::/64."""
        path = self.netns("outside")
        run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1", "netns", "outside")
        for words in (
            f"addr add {HOST}/24 dev up0",
            f"-6 addr add {HOST6}/64 dev up0 nodad",
            "link set up0 up",
            f"-n outside addr add {OUTSIDE}/24 dev up1",
            f"-n outside -6 addr add {OUTSIDE6}/64 dev up1 nodad",
            "-n outside link set up1 up",
        ):
            run("ip", *words.split())
        return path

    def clean(self) -> None:
        for pid in self.servers:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        for name in self.namespaces:
            run("ip", "netns", "del", name, check=False)
        settle()
        for link in ip("link"):
            if link["ifname"] != "lo":
                run("ip", "link", "del", link["ifname"], check=False)
        run("nft", "flush", "ruleset", check=False)
        run("umount", "-R", "/run/netns", check=False)
        run("rm", "-rf", "/run/cni", "/var/lib/cni", "/run/netns", "/run/mount", "/run/xtables.lock", check=False)


@contextmanager
def world() -> Iterator[World]:
    made = World()
    try:
        yield made
    finally:
        made.clean()


def settle() -> None:
    """Wait until links that are being deleted are gone; RTM_GETLINK waits for the rtnl lock of their deleter."""
    deadline = time.monotonic() + 5
    while [link for link in ip("link") if link["ifname"].startswith("veth")] and time.monotonic() < deadline:
        time.sleep(0.02)


def call(
    plugin: str,
    command: str,
    conf: dict[str, Any],
    container: str = "c",
    netns: str = "",
    ifname: str = "eth0",
    args: str = "",
    path: str = "/nonexistent",
) -> dict[str, Any] | None:
    """One call as the program would serve it; the result of ADD."""
    status, answer = serve(plugin, command, conf, container, netns, ifname, args, path)
    if status:
        raise Refused(json.loads(answer))
    return json.loads(answer) if answer else None


def serve(
    plugin: str,
    command: str,
    conf: dict[str, Any],
    container: str,
    netns: str,
    ifname: str = "eth0",
    args: str = "",
    path: str = "/nonexistent",
) -> tuple[int, str]:
    environ = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": netns,
        "CNI_IFNAME": ifname,
        "CNI_ARGS": args,
        "CNI_PATH": path,
    }
    stdin = json.dumps(conf).encode()
    answer: list[Any] = in_netns("", lambda: list(protocol.run(plugin, {k: v for k, v in environ.items() if v}, stdin)))
    return answer[0], answer[1]


def bridge(name: str = "net", subnets: tuple[str, ...] = ("10.11.0.0/24",), **options: Any) -> dict[str, Any]:
    ipam = {"type": "host-local", "ranges": [[{"subnet": subnet}] for subnet in subnets]}
    conf = {"cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": f"br-{name}", "isDefaultGateway": True}
    return {**conf, "ipam": ipam, **options}


def address_of(result: dict[str, Any] | None, family: int = 4) -> str:
    assert result is not None
    found = [each["address"].split("/")[0] for each in result["ips"]]
    return next(address for address in found if (":" in address) == (family == 6))


def in_netns(path: str, action: Callable[[], Any]) -> Any:
    """What action returns (anything JSON can say), done by a child in that network namespace; None if it raised."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if path:
                fd = os.open(path, os.O_RDONLY)
                kernel.setns(fd, kernel.CLONE_NEWNET)
            os.write(writer, json.dumps(action()).encode())
        except OSError:
            pass
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    os.waitpid(pid, 0)
    return json.loads(said) if said else None


def _socket(family: int, kind: str) -> socket.socket:
    style = socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
    return socket.socket(family, style, socket.IPPROTO_SCTP if kind == "sctp" else 0)


def serve_port(made: World, path: str, port: int, kind: str = "tcp", family: int = 4, tag: str = "it") -> None:
    """A server in a namespace that answers with its tag and the address that it saw."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _serve_for_ever(path, port, kind, family, tag, writer)
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"1", "the server did not start"
    os.close(reader)
    made.servers.append(pid)


def _serve_for_ever(path: str, port: int, kind: str, family: int, tag: str, writer: int) -> None:
    kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
    if path:
        kernel.setns(os.open(path, os.O_RDONLY), kernel.CLONE_NEWNET)
    own = socket.AF_INET if family == 4 else socket.AF_INET6
    listener = _socket(own, kind)
    if family == 6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0" if family == 4 else "::", port))
    if kind != "udp":
        listener.listen(16)
    os.write(writer, b"1")
    while True:
        if kind != "udp":
            connection, peer = listener.accept()
            connection.sendall(f"{tag}|{peer[0]}".encode())
            connection.close()
        else:
            _, peer = listener.recvfrom(2048)
            listener.sendto(f"{tag}|{peer[0]}".encode(), peer)


def dial(path: str, address: str, port: int, kind: str = "tcp", source_port: int = 0) -> str | None:
    """Connect from a namespace ("" is the host); "tag|the address that the server saw", or None."""

    def attempt() -> str:
        own = socket.AF_INET6 if ":" in address else socket.AF_INET
        with _socket(own, kind) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if source_port:
                client.bind(("", source_port))
            client.settimeout(1.5)
            client.connect((address, port))
            if kind == "udp":
                client.send(b"x")
            return client.recv(256).decode()

    answer: str | None = in_netns(path, attempt)
    return answer
