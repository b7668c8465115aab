# SPDX-License-Identifier: Apache-2.0
"""AppArmor profiles and SELinux labels: who gets which, and what they are made of."""

import os
import subprocess
from pathlib import Path

import pytest

from cri.engine import relabel
from cri.engine.errors import BadRequest
from cri.engine.request import ContainerRequest, PodRequest, Profile, ProfileKind, SELinux
from cri.oci import apparmor_default, security, selinux
from cri.oci.facts import Node, Refused
from runtime.linux.quick_dataclasses import replace
from tests.support import unpacked
from tests.support.needs import needs

POD = PodRequest(name="p", namespace="n", uid="u")
PLAIN = ContainerRequest(name="c", image="i")
NODE = Node(apparmor=True, selinux=True)
ID = "00000005" + "00000005" + "a" * 48


def test_the_default_profile_goes_to_whoever_does_not_say_otherwise() -> None:
    localhost = Profile(ProfileKind.LOCALHOST, "localhost/mine")
    for request, expected in (
        (PLAIN, "ketch-default"),
        (replace(PLAIN, apparmor=Profile(ProfileKind.RUNTIME_DEFAULT)), "ketch-default"),
        (replace(PLAIN, apparmor=Profile(ProfileKind.UNCONFINED)), ""),
        (replace(PLAIN, privileged=True), ""),
        (replace(PLAIN, apparmor=localhost), "mine"),
        (replace(PLAIN, apparmor=localhost, privileged=True), "mine"),
    ):
        assert security.apparmor_profile(request, NODE) == expected, request
    assert security.apparmor_profile(PLAIN, Node()) == ""
    with pytest.raises(Refused, match="no AppArmor"):
        security.apparmor_profile(replace(PLAIN, apparmor=localhost), Node())


@pytest.mark.in_vm_too
@needs("apparmor_parser")
def test_the_default_profile_compiles() -> None:
    parser = unpacked.program("apparmor_parser")
    assert parser
    command = [parser, "--skip-kernel-load", "--skip-cache", "--quiet"]
    done = subprocess.run(command, input=apparmor_default.text(pinned=False), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_an_selinux_label_is_whole_whatever_parts_were_asked_for() -> None:
    assert selinux.level(ID) == "s0:c5,c6"
    assert selinux.process_label(PLAIN, POD, ID, NODE) == "system_u:system_r:container_t:s0:c5,c6"
    assert selinux.mount_label(PLAIN, POD, ID, NODE) == "system_u:object_r:container_file_t:s0:c5,c6"
    only_level = replace(POD, selinux=SELinux(level="s0:c1,c2"))
    assert selinux.process_label(PLAIN, only_level, ID, NODE) == "system_u:system_r:container_t:s0:c1,c2"
    own = replace(PLAIN, selinux=SELinux("u", "r", "t", "s0:c9"))
    assert selinux.process_label(own, only_level, ID, NODE) == "u:r:t:s0:c9"
    assert selinux.mount_label(own, only_level, ID, NODE) == "u:object_r:container_file_t:s0:c9"
    for request, node in ((replace(PLAIN, privileged=True), NODE), (own, Node())):
        assert selinux.process_label(request, POD, ID, node) == selinux.mount_label(request, POD, ID, node) == ""


def test_a_relabelled_volume_is_marked_to_its_last_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relabel, "ATTRIBUTE", "user.ketch")  # security.* belongs to the node's policy, and to root
    volume = tmp_path / "volume"
    (volume / "a/b").mkdir(parents=True)
    (volume / "a/b/file").write_text("x")
    relabel.relabel(str(volume), "u:r:t:s0")
    for path in (volume, volume / "a", volume / "a/b", volume / "a/b/file"):
        assert os.getxattr(path, "user.ketch") == b"u:r:t:s0\0"


def test_folders_of_the_node_are_never_relabelled() -> None:
    for path in ("/", "/usr", "/etc"):
        with pytest.raises(BadRequest, match="of the node itself"):
            relabel.relabel(path, "u:r:t:s0")
