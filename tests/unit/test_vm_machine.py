# SPDX-License-Identifier: Apache-2.0
"""A machine that is down between a power cut and its boot keeps its disk: nobody starts it anew."""

from pathlib import Path

import pytest

from vagrant import machine
from vagrant.image import Image


def test_a_machine_between_a_power_cut_and_its_boot_is_not_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KETCH_CACHE", str(tmp_path))
    cut = machine.Machine(Image("bookworm", tmp_path / "image"), "cuts")
    cut.directory.mkdir(parents=True)
    for name in ("cut", "disk.qcow2"):
        cut.file(name).touch()
    with pytest.raises(machine.GuestError, match="between a power cut and its boot"):
        machine.up(cut)
    assert cut.file("disk.qcow2").exists()
