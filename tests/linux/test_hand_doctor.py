# SPDX-License-Identifier: Apache-2.0
"""ketch doctor tells who owns Ketch's files, as the CIS benchmark asks, and what a cluster must not rely on."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

KETCH = Path(__file__).parents[2] / ".venv/bin/ketch"
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
