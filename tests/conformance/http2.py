# SPDX-License-Identifier: Apache-2.0
"""Runs h2spec against the gRPC server of ketch-cri, or grpcio's: python -m tests.conformance http2 [--server]."""

from __future__ import annotations

import argparse
import socket
import subprocess
import tempfile
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

from cri.rpc.call import Method
from cri.rpc.server import Server
from tests.conformance import table
from tests.conformance.table import Result
from tests.e2e import go_build

HERE = Path(__file__).parent
_MOST_BYTES = 1 << 20


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        target.close()


def _forward(listener: socket.socket, path: str) -> None:
    """h2spec speaks to a TCP port, our server listens on a unix socket."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        server = socket.socket(socket.AF_UNIX)
        server.connect(path)
        for pair in ((client, server), (server, client)):
            threading.Thread(target=_pump, args=pair, daemon=True).start()


@contextmanager
def _ours(folder: str) -> Iterator[int]:
    echo = Method(lambda request, _: request, bytes, bytes)
    server = Server({"/h2.Spec/Echo": echo}, most_at_once=8, most_waiting=8, message_bytes=_MOST_BYTES)
    server.listen(f"{folder}/server.sock")
    server.start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_forward, args=(listener, f"{folder}/server.sock"), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    server.stop(0)


@contextmanager
def _grpcio(_: str) -> Iterator[int]:
    import grpc

    server = grpc.server(futures.ThreadPoolExecutor(8))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(0)


SERVERS = {"ketch": _ours, "grpcio": _grpcio}


def read_results(path: Path) -> list[Result]:
    """h2spec's JUnit report: a suite per section, a case per requirement."""
    results = []
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):
        for case in suite.iter("testcase"):
            name = f"{case.get('package')}: {case.get('classname')}"
            failure = next((child for child in case if child.tag in ("failure", "error")), None)
            outcome = "failed" if failure is not None else "skipped" if case.find("skipped") is not None else "passed"
            said = "" if failure is None else "".join(failure.itertext())
            results.append(Result(name, outcome, float(case.get("time") or 0), said))
    return results


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="http2", description=__doc__)
    parser.add_argument("--server", choices=SERVERS, default="ketch")
    wanted = parser.parse_args(words)
    program = go_build.program("h2spec")
    with tempfile.TemporaryDirectory(prefix="ketch-http2-") as folder:
        report = Path(folder) / "report.xml"
        with SERVERS[wanted.server](folder) as port:
            command = [str(program), "-h", "127.0.0.1", "-p", str(port), "-j", str(report)]
            subprocess.run(command, stdout=subprocess.DEVNULL, timeout=600, check=False)
        results = read_results(report)
    expected_file = HERE / f"http2-{wanted.server}.expected"
    expected = table.parse_expected(expected_file.read_text()) if expected_file.exists() else {}
    text, status = table.report(results, expected, is_whole_suite=True)
    print(f"HTTP/2 requirements against {wanted.server}: {text}")
    return status
