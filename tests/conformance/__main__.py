# SPDX-License-Identifier: Apache-2.0
"""Runs one suite of others: python -m tests.conformance SUITE [options]; `make conformance SUITE=...` does the same."""

from __future__ import annotations

import importlib
import sys

from tests.e2e.go_build import BuildFailed
from tests.e2e.local_programs import CannotMake

SUITES = {
    "critest": "cri-tools' specs against ketch-cri or containerd",
    "kubernetes": "Kubernetes' own suites (e2e_node, test/e2e) on a node with ketch-cri or containerd",
    "http2": "h2spec's requirements of HTTP/2 against the server of ketch-cri or grpcio's",
    "crictl": "every command of crictl on ketch-cri and on containerd, both at once on one machine",
    "runtime-tools": "the OCI project's validation programs with ketch-runtime, runc or crun",
    "cni-parity": "many calls through our plugins and the Go plugins, answers and kernel compared",
    "cni-clients": "cnitool, podman, containerd and the Go plugins together with our plugins",
    "engines": "podman, containerd, buildah and conmon over ketch-runtime, runc or crun",
    "differential": "300 generated configs through ketch-runtime, runc and crun; what the containers report",
    "cni": "the CNI conformance script against our plugins or the Go plugins",
}


def main(words: list[str]) -> int:
    if not words or words[0] not in SUITES:
        print("usage: python -m tests.conformance SUITE [options]", file=sys.stderr)
        for name, purpose in SUITES.items():
            print(f"  {name:14} {purpose}", file=sys.stderr)
        return 2
    suite = importlib.import_module(f"tests.conformance.{words[0].replace('-', '_')}")
    try:
        status: int = suite.main(words[1:])
    except (BuildFailed, CannotMake) as missing:
        print(f"conformance: {words[0]} cannot run: {missing}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
