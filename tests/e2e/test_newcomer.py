# SPDX-License-Identifier: Apache-2.0
"""What README.md tells a newcomer to type once a cluster is up, word by word."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.machine import until

pytestmark = [pytest.mark.needs("root"), pytest.mark.own_namespaces, pytest.mark.timeout(240)]
README = Path(__file__).parents[2] / "README.md"
HEADLINE = "## A cluster on this machine\n"


def typed() -> list[str]:
    """The commands that speak to the cluster; bringing it up and taking it down is what the fixture does."""
    section = README.read_text().partition(HEADLINE)[2].partition("\n## ")[0]
    block = "\n".join(line.strip() for line in section.splitlines() if line.startswith("    "))
    return [line for line in block.replace("\\\n", "").splitlines() if line.startswith("$K ")]


@pytest.fixture
def clean(cluster: Cluster) -> Iterator[None]:
    yield
    # Foreground: the deployment goes after its pods, so that the next test finds a node at rest.
    words = ("--cascade=foreground", "--grace-period=1", "--ignore-not-found", "--wait=true")
    cluster.kubectl("delete", "deployment/web", "service/web", "pod/box", *words)


def type_in(cluster: Cluster, command: str) -> subprocess.CompletedProcess[str]:
    words = ["bash", "-euc", f"K={cluster.folder}/kubectl\n{command}"]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.usefixtures("clean")
def test_what_the_readme_says_can_be_typed(cluster: Cluster) -> None:
    said = {}
    for command in typed():
        word = command.split()[1]
        if word == "exec":  # a person types slower than kube-proxy hears of the last pods
            until(lambda: type_in(cluster, command).returncode == 0, command, 10, every=0.3)  # noqa: B023
        done = type_in(cluster, command)
        assert done.returncode == 0, (command, done.stderr)
        said[word] = done.stdout
    assert list(said) == ["create", "expose", "rollout", "run", "wait", "exec", "logs"]
    assert said["exec"].startswith("web-")
    assert "HTTP server" in said["logs"]
