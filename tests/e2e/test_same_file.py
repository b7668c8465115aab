# SPDX-License-Identifier: Apache-2.0
"""The pod that a person makes with `ketch pod apply`, from the same file, unchanged, under a kubelet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import registry
from tests.e2e.cluster import Cluster
from tests.e2e.control_plane import SITE_ADDRESS
from tests.e2e.machine import until
from tests.e2e.runtimes import PROJECT, write
from tests.e2e.space import Space

pytestmark = [pytest.mark.needs("root"), pytest.mark.own_namespaces, pytest.mark.timeout(240)]
FILE = Path(__file__).parent / "demo-pod.yaml"
PORT = 5001
CERTS = "/run/certs.d/docker.io"


@pytest.fixture
def space(cluster: Cluster) -> Iterator[Space]:
    with Space(cluster, "same-file") as made:
        yield made


@pytest.fixture
def pulled_image(cluster: Cluster) -> Iterator[None]:
    """The file's image where a kubelet looks for it: in a stand-in for docker.io, made and pushed as README.md says."""
    site, folder = cluster.site, "/run/docker.io"
    write(site, f"{folder}/registry.yml", registry.configuration(Path(folder, "data"), f":{PORT}"))
    site.start("docker.io", *registry.command(Path(folder, "registry.yml")))
    until(lambda: site.run("curl", "-sf", f"http://127.0.0.1:{PORT}/v2/", check=False).returncode == 0, "it answers")
    ketch = (str(PROJECT / ".venv/bin/ketch"), "--root", f"{folder}/root", "--state", f"{folder}/state")
    site.run(*ketch, "image", "local", "demo/busybox")
    site.run(*ketch, "tag", "demo/busybox", f"127.0.0.1:{PORT}/demo/busybox")
    site.run(*ketch, "push", f"127.0.0.1:{PORT}/demo/busybox")
    for node in cluster.nodes:
        write(node.machine, f"{CERTS}/hosts.toml", f'[host."http://{SITE_ADDRESS}:{PORT}"]\n')
    yield
    for node in cluster.nodes:
        node.machine.run("rm", "-r", CERTS)
    site.stop("docker.io")
    site.run("rm", "-r", folder)


@pytest.mark.usefixtures("pulled_image")
def test_the_file_of_pod_apply_works_unchanged_under_a_kubelet(cluster: Cluster, space: Space) -> None:
    space.kubectl("apply", "-f", "-", given=FILE.read_text())
    space.wait_until_ready("hello")
    seen = space.get("pod", "hello")
    assert seen["status"]["initContainerStatuses"][0]["state"]["terminated"]["reason"] == "Completed"
    [node] = [node for node in cluster.nodes if node.name == seen["spec"]["nodeName"]]
    page = ("curl", "-sf", "-m", "5", f"http://{node.address}:8080/")
    assert cluster.site.read(*page) == "Hello from a pod that was made by hand.\n"
    until(lambda: "state" in space.exec("hello", "ls", "/site", container="sync").split(), "sync has seen the page")
    assert "Hello from a pod that was made by hand." in space.logs("hello", "sync")
    space.remove("pod", "hello")
    assert cluster.site.run(*page, check=False).returncode != 0
