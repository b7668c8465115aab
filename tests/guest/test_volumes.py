# SPDX-License-Identifier: Apache-2.0
"""Volumes as a node's storage drivers hand them over: NFS, iSCSI and a raw block device, made here, reach a pod."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from proto import cri_pb2 as pb
from tests.guest.node import Node, run
from tests.support.pod_driver import wait_for

TARGET = "iqn.2026-01.example:ketch"


def mounted_at(path: Path) -> dict[str, list[dict[str, str]]]:
    return {"mounts": [{"host_path": str(path), "container_path": "/data"}]}


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_an_nfs_volume_is_written_by_a_pod(node: Node, tmp_path: Path, undo: ExitStack) -> None:
    exported, volume = Path("/srv/exported"), tmp_path / "volume"
    exported.mkdir(exist_ok=True)
    volume.mkdir()
    run("systemctl", "start", "nfs-server")
    undo.callback(run, "systemctl", "stop", "nfs-server")
    run("exportfs", "-o", "rw,no_root_squash,fsid=0,insecure", f"127.0.0.1:{exported}")
    undo.callback(run, "exportfs", "-ua")
    run("mount", "-t", "nfs4", "-o", "soft,timeo=300", "127.0.0.1:/", str(volume))
    undo.callback(run, "umount", str(volume))
    pod = node.run_pod()
    said = pod.run("echo from the pod > /data/file && grep ' /data ' /proc/mounts", **mounted_at(volume))
    assert " nfs4 " in said, said
    assert (exported / "file").read_text() == "from the pod\n"
    pod.remove()


def test_an_iscsi_disk_is_formatted_and_reaches_a_pod(node: Node, tmp_path: Path, undo: ExitStack) -> None:
    image, volume = tmp_path / "lun", tmp_path / "volume"
    volume.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    run("systemctl", "start", "tgt", "iscsid")
    undo.callback(run, "systemctl", "stop", "tgt", "iscsid")
    run("tgtadm", "--op", "new", "--mode", "target", "--tid", "1", "-T", TARGET)
    undo.callback(run, "tgtadm", "--op", "delete", "--mode", "target", "--tid", "1", "--force")
    run("tgtadm", "--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", str(image))
    run("tgtadm", "--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")
    run("iscsiadm", "-m", "discovery", "-t", "sendtargets", "-p", "127.0.0.1")
    run("iscsiadm", "-m", "node", "-T", TARGET, "-p", "127.0.0.1", "--login")
    undo.callback(run, "iscsiadm", "-m", "node", "-T", TARGET, "-p", "127.0.0.1", "--logout")
    disk = Path("/dev/disk/by-path", f"ip-127.0.0.1:3260-iscsi-{TARGET}-lun-1")
    wait_for(disk.exists, 20, lambda: run("iscsiadm", "-m", "session", "-P", "3"))
    run("mkfs.ext4", "-q", str(disk))
    run("mount", str(disk), str(volume))
    undo.callback(run, "umount", str(volume))
    pod = node.run_pod()
    said = pod.run("echo on a disk > /data/file && sync && grep ' /data ' /proc/mounts", **mounted_at(volume))
    assert " ext4 " in said, said
    assert (volume / "file").read_text() == "on a disk\n"
    pod.remove()


def test_a_raw_block_volume_is_a_device_in_the_container(node: Node, tmp_path: Path, undo: ExitStack) -> None:
    image = tmp_path / "disk"
    image.write_bytes(b"first sector".ljust(512, b"\0") + bytes((1 << 20) - 512))
    device = run("losetup", "--find", "--show", str(image)).strip()
    undo.callback(run, "losetup", "--detach", device)
    pod = node.run_pod()
    given = {"devices": [{"host_path": device, "container_path": "/dev/xvda", "permissions": "mrw"}]}
    said = pod.run(
        "head -c 12 /dev/xvda; echo written | dd of=/dev/xvda bs=512 seek=1 conv=fsync 2> /dev/null", **given
    )
    assert said.startswith("first sector"), said
    with open(device, "rb", buffering=0) as back:
        os.posix_fadvise(back.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert back.read(4096)[512:520] == b"written\n"
    refused = pod.start("sh", "-c", "mknod /tmp/own b 7 250 && head -c 1 /tmp/own", name="other")
    assert refused.wait().exit_code != 0, "a device that was not handed over was opened"
    assert refused.status().state == pb.CONTAINER_EXITED
    pod.remove()
