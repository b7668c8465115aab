# SPDX-License-Identifier: Apache-2.0
"""A Vagrant box of the guest's disk, for machines without network: `vagrant up` with KETCH_BOX=ketch/bookworm."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

from vagrant.image import Image

_GIB = 1 << 30


def build(made_from: Image) -> Path:
    """The box beside the image it was made from; compressed, because Vagrant copies it twice."""
    box = made_from.directory / "ketch.box"
    if box.exists():
        return box
    parts = made_from.directory / "box"
    parts.mkdir(exist_ok=True)
    disk = parts / "box.img"
    compressed = ["-c", "-O", "qcow2", "-o", "compression_type=zstd"]
    subprocess.run(["qemu-img", "convert", *compressed, made_from.disk, disk], check=True)
    size_gib = json.loads(
        subprocess.run(
            ["qemu-img", "info", "--output=json", disk], capture_output=True, text=True, check=True
        ).stdout
    )["virtual-size"] // _GIB  # fmt: skip
    described = {"provider": "libvirt", "format": "qcow2", "virtual_size": size_gib}
    (parts / "metadata.json").write_text(json.dumps(described))
    (parts / "Vagrantfile").write_text('Vagrant.configure("2") {}\n')
    unfinished = box.with_suffix(".new")
    with tarfile.open(unfinished, "w") as archive:
        for name in ("metadata.json", "Vagrantfile", "box.img"):
            archive.add(parts / name, arcname=name)
            (parts / name).unlink()
    parts.rmdir()
    unfinished.rename(box)
    return box
