# SPDX-License-Identifier: Apache-2.0
"""Containers of a user without privilege: his ids by newuidmap, a user namespace that nobody asked for, no cgroup."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import instruments
from tests.support.containers import DEFAULT, Runtime
from tests.support.needs import needs

USER = 1000
# Only to read and search, for a checkout in a directory that is root's alone: it lets nobody map an id or mount.
BECOME = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
READ = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
SPACES = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]


class Users(Runtime):
    """ketch-runtime as a user runs it."""

    def call(self, *words: str, timeout: float = 60, **_: object) -> "subprocess.CompletedProcess[str]":
        subprocess.run(["chown", "-R", f"{USER}:{USER}", str(self.root.parent)], check=True)
        command = [*BECOME, *READ, instruments.command("ketch-runtime"), "--root", str(self.root), *words]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
        )


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Users]:
    tmp_path.chmod(0o755)
    for path in tmp_path.parents:
        path.chmod(path.stat().st_mode | 0o055)
    lent = tmp_path / "lent"
    lent.write_text(f"{USER}:200000:65535\n")
    named = tmp_path / "named"  # newuidmap asks for the user's name, which a new machine has not given
    named.write_text(f"root:x:0:0:root:/root:/bin/sh\nlearner:x:{USER}:{USER}::/:/bin/sh\n")
    for file, content in (("/etc/subuid", lent), ("/etc/subgid", lent), ("/etc/passwd", named)):
        subprocess.run(["mount", "-n", "--bind", str(content), file], check=True)
    runtime = Users(tmp_path)
    yield runtime
    for name in runtime.ok("list", "-q").split():
        runtime.remove(name)
    subprocess.run(["umount", "-n", "/etc/passwd", "/etc/subuid", "/etc/subgid"], check=True)


@needs("userns", "newuidmap")
def test_a_user_namespace_is_made_where_none_is_asked_for(box: Users) -> None:
    said = box.said("id -u; cat /proc/self/uid_map; touch /made; chown 7:7 /made", **{"linux.namespaces": SPACES})
    assert said.split() == ["0", "0", str(USER), "1", "1", "200000", "65535"]
    made = (box.rootfs / "made").stat()
    assert (made.st_uid, made.st_gid) == (200006, 200006)


@needs("userns", "newuidmap")
def test_ids_are_mapped_by_the_helpers_and_only_those_that_are_lent(box: Users) -> None:
    own = [{"containerID": 0, "hostID": USER, "size": 1}, {"containerID": 1, "hostID": 200000, "size": 10}]
    changes = {"linux.namespaces": [*SPACES, {"type": "user"}], "linux.uidMappings": own, "linux.gidMappings": own}
    assert box.said("cat /proc/self/gid_map", **changes).split() == ["0", str(USER), "1", "1", "200000", "10"]
    changes["linux.uidMappings"] = [{"containerID": 0, "hostID": 300000, "size": 10}]
    done = box.run("true", **changes)
    assert "linux.uidMappings: newuidmap refused the mapping; are the ranges in /etc/subuid?" in done.stderr
    assert box.ok("list", "-q") == ""


@needs("userns", "newuidmap")
def test_without_a_cgroup_a_container_lives_and_a_limit_is_refused(box: Users) -> None:
    box.write(**{"process.args": ["sleep", "1000"], "linux.namespaces": SPACES})
    words = ["run", "-d", "-b", str(box.bundle), "box"]
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(box.root.parent)], check=True)
    command = [*BECOME, *READ, instruments.command("ketch-runtime"), "--root", str(box.root), *words]
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    assert box.state()["status"] == "running"
    assert box.ok("exec", "box", "id", "-u") == "0\n"
    box.remove()
    done = box.run("true", **{"linux.namespaces": SPACES, "linux.resources": {"pids": {"limit": 9}}})
    assert "linux.resources.pids.limit: a limit needs a cgroup, and this user may make none" in done.stderr
    assert box.ok("list", "-q") == ""


@needs("userns", "newuidmap")
def test_masks_devices_and_binds_are_made_by_the_user_himself(box: Users, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    mount = {"destination": "/data", "source": str(tmp_path / "data"), "options": ["bind", "ro"]}
    script = (
        "echo x > /dev/null && head -c 1 /dev/zero | wc -c; touch /data/x 2>&1; wc -c < /proc/keys; ls /sys/firmware"
    )
    said = box.said(script, mounts=[*DEFAULT["mounts"], mount], **{"linux.namespaces": SPACES}).splitlines()
    assert said[0] == "1"
    assert "Read-only" in said[1]
    assert said[2:] == ["0"]
