# SPDX-License-Identifier: Apache-2.0
"""Pods under real kubelets, a node on containerd and one on Ketch: 100 pods up and gone, probes, memory, idle, one."""

from __future__ import annotations

import argparse

from tests.e2e import bench

ROUNDS = 3
WATCHED_SECONDS = 20  # three rounds then take about eleven minutes


def run(arguments: argparse.Namespace) -> int:
    """This suite has a rig of its own, so it does not take part in a contest."""
    json = ["--json", str(arguments.json.absolute())] if arguments.json else []
    rounds = ["--rounds", str(arguments.rounds or ROUNDS)]
    return bench.main([*rounds, "--seconds", str(WATCHED_SECONDS), *json])
