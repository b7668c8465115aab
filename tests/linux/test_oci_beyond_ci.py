# SPDX-License-Identifier: Apache-2.0
"""What CI's machine cannot show of the OCI runtime: privileges that it lacks, and groups of cgroup v2."""

import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.containers import DEFAULT, Runtime
from tests.support.needs import needs


@needs("cap_sys_resource")
def test_a_score_is_lowered_and_a_limit_raised_where_the_caller_may(box: Runtime) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    pid = box.start(
        **{
            "process.oomScoreAdj": -321,
            "process.rlimits": [{"type": "RLIMIT_NOFILE", "soft": 300, "hard": 512}],
            "process.capabilities": {kind: ["CAP_SYS_RESOURCE"] for kind in ("bounding", "effective", "permitted")},
        }
    )
    proc = Path(f"/proc/{pid}")
    assert (proc / "oom_score_adj").read_text() == "-321\n"
    line = next(text for text in (proc / "limits").read_text().splitlines() if text.startswith("Max open files"))
    assert line.split()[3:5] == ["300", "512"]
    said = box.ok("exec", "--cap", "CAP_SYS_RESOURCE", "box", "sh", "-c", "ulimit -Hn 600 && ulimit -Hn")
    assert said == "600\n"


@needs("cgroup2", "userns")
def test_a_container_in_a_user_namespace_divides_its_own_group(box: Runtime) -> None:
    """With a cgroup namespace and a writable mount of it, the specification gives the group to the container's root."""
    mappings = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    subprocess.run(["chown", "-R", "100000:100000", str(box.rootfs)], check=True)
    for path in (box.bundle, *list(box.bundle.parents)[:-1]):
        path.chmod(path.stat().st_mode | 0o055)
    namespaces = [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network", "cgroup", "user")]
    changes: dict[str, Any] = {
        "linux.namespaces": namespaces, "linux.uidMappings": mappings, "linux.gidMappings": mappings,
    }  # fmt: skip
    script = "cd /sys/fs/cgroup && mkdir below && echo 0 > below/cgroup.procs && cat /proc/self/cgroup"
    for option, answer in (("rw", "0::/below\n"), ("ro", "")):
        group = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [option]}
        done = box.run(script, mounts=[*DEFAULT["mounts"], group], **changes)
        assert done.stdout == answer, done.stderr


@needs("cgroup2", "guest")
@pytest.mark.own_namespaces
def test_a_systemd_too_old_for_version_2_finds_its_hierarchy(box: Runtime, tmp_path: Path) -> None:
    """The host has it mounted: only the first cgroup namespace may make a hierarchy. It ends with its last group."""
    host = tmp_path / "host"
    host.mkdir()
    at = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}
    mounts = [*DEFAULT["mounts"], at]
    script = "grep ' /sys/fs/cgroup' /proc/mounts | cut -d' ' -f2,3"
    assert box.said(script, mounts=mounts).split() == ["/sys/fs/cgroup", "cgroup2"]
    # the root of a hierarchy has mode 0555
    capable = {f"process.capabilities.{kind}": ["CAP_DAC_OVERRIDE"] for kind in ("bounding", "effective", "permitted")}
    changes = {"mounts": mounts, "annotations": {"run.oci.systemd.force_cgroup_v1": "/sys/fs/cgroup"}, **capable}
    subprocess.run(["mount", "-t", "cgroup", "-o", "none,name=systemd,xattr", "cgroup", str(host)], check=True)
    try:
        said = box.said(f"{script}; cd /sys/fs/cgroup/systemd && mkdir below && rmdir below && echo made", **changes)
    finally:
        subprocess.run(["umount", str(host)], check=True)
    assert said.split() == ["/sys/fs/cgroup", "tmpfs", "/sys/fs/cgroup/systemd", "cgroup", "made"]
