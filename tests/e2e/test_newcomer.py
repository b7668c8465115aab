# SPDX-License-Identifier: Apache-2.0
"""What README.md tells a newcomer to type once a cluster is up, word by word."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster

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


@pytest.mark.usefixtures("clean")
def test_what_the_readme_says_can_be_typed(cluster: Cluster) -> None:
    said = {}
    for command in typed():
        script = f"K={cluster.folder}/kubectl\n{command}"
        done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (command, done.stderr)
        said[command.split()[1]] = done.stdout
    assert list(said) == ["create", "expose", "rollout", "run", "wait", "exec", "logs"]
    assert said["exec"].startswith("web-")
    assert "HTTP server" in said["logs"]
