# SPDX-License-Identifier: Apache-2.0
"""ketch doctor tells who owns Ketch's files, as the CIS benchmark asks, and what a cluster must not rely on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support import kernel

KETCH = Path(__file__).parents[2] / ".venv/bin/ketch"
GATE = "PodAndContainerStatsFromCRI"
pytestmark = pytest.mark.needs("root")


def doctor(folder: Path, *words: str) -> str:
    settings = folder / "config.toml"
    settings.write_text(
        f'[paths]\nroot = "{folder}/root"\nstate = "{folder}/state"\n[cri]\nsocket = "{folder}/state/ketch.sock"\n'
        f'[network]\nconf_dir = "{folder}/net.d"\nplugin_dirs = ["{folder}/bin"]\n'
    )
    command = [KETCH, "--config", settings, "doctor", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def findings(folder: Path) -> dict[str, dict[str, object]]:
    return {str(found["name"]): found for found in json.loads(doctor(folder, "--format", "json"))}


@pytest.fixture
def node(tmp_path: Path) -> Path:
    for name in ("root", "state", "net.d", "bin"):
        (tmp_path / name).mkdir(mode=0o755)
    conflist = tmp_path / "net.d/10-pods.conflist"
    conflist.write_text("{}")
    conflist.chmod(0o600)
    return tmp_path


def test_files_as_they_should_be_are_listed_with_owner_and_mode(node: Path) -> None:
    found = findings(node)
    conflist = found[f"{node}/net.d/10-pods.conflist"]
    assert (conflist["present"], conflist["owner"], conflist["mode"]) == (True, "0:0", "0600")
    assert found[f"{node}/state"]["present"] is True
    said = doctor(node)
    assert f"{node}/net.d/10-pods.conflist  0:0  0600  CNI configuration" in said
    assert "NetworkPolicy is not enforced yet" in said


def test_what_others_may_write_is_named_with_its_cure(node: Path) -> None:
    conflist = node / "net.d/10-pods.conflist"
    conflist.chmod(0o666)
    os.chown(node / "bin", 1000, 1000)
    found = findings(node)
    assert found[str(conflist)]["present"] is False
    assert found[str(conflist)]["fix"] == f"chmod 644 {conflist}"
    assert found[f"{node}/bin"]["fix"] == f"chown root:root {node}/bin"


def test_on_a_kubelets_host_doctor_says_what_its_node_lacks(node: Path) -> None:
    kernel.mount("tmpfs", "/var/lib", "tmpfs")
    try:
        settings = Path("/var/lib/kubelet/config.yaml")
        settings.parent.mkdir()
        settings.write_text("containerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n")
        assert lacking(node) == ["ketch-cri", "pod network", "kubelet's runtime", "kubelet's statistics"]
        bridge = {"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}}
        conflist = {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}
        (node / "net.d/10-pods.conflist").write_text(json.dumps(conflist))
        settings.write_text(
            f"containerRuntimeEndpoint: unix://{node}/state/ketch.sock\nfeatureGates:\n  {GATE}: true\n"
        )
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"{node}/state/ketch.sock")
            server.listen()
            assert lacking(node) == []
    finally:
        kernel.umount("/var/lib")


def lacking(folder: Path) -> list[str]:
    """What doctor finds missing of a kubelet's needs."""
    ours = ("ketch-cri", "pod network", "kubelet's runtime", "kubelet's statistics")
    found = findings(folder)
    return [name for name in ours if not found[name]["present"]]
