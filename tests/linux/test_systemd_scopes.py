# SPDX-License-Identifier: Apache-2.0
"""Containers in scopes of a real systemd: where they are, what it knows of their limits, and that nothing stays."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from proto import cri_pb2 as pb
from tests.support import instruments, own_systemd
from tests.support.containers import Runtime
from tests.support.pod_driver import daemon

# A private /run or cgroup namespace would hide a systemd that is the machine's PID 1, so there these run beside it;
# elsewhere each boots one in its own world.
ON_SYSTEMD = Path("/run/systemd/system").exists()
BESIDE_IT = [pytest.mark.needs("root", "systemd"), pytest.mark.own_namespaces]
pytestmark = BESIDE_IT if ON_SYSTEMD else pytest.mark.needs("root", "systemd_program")

SLICE = "ketch-broad.slice"
V2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
TOP = Path("/sys/fs/cgroup" if V2 else "/sys/fs/cgroup/systemd")


def done(words: list[str], timeout: float = 60) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL)


def systemctl(*words: str, beside: Sequence[str] = ()) -> str:
    return done([*beside, "systemctl", *words]).stdout.strip()


def shown(unit: str, *properties: str, beside: Sequence[str] = ()) -> dict[str, str]:
    lines = systemctl("show", unit, *(f"--property={name}" for name in properties), beside=beside).splitlines()
    return dict(line.split("=", 1) for line in lines)


class Scoped(Runtime):
    """ketch-runtime with --systemd-cgroup, where systemd is."""

    def __init__(self, top: Path, beside: list[str]) -> None:
        super().__init__(top)
        self.beside = beside

    def call(self, *words: str, timeout: float = 600, **_: object) -> "subprocess.CompletedProcess[str]":
        return done([*self.command(), *words], timeout)

    def command(self) -> list[str]:
        return [*self.beside, instruments.command("ketch-runtime"), "--root", str(self.root), "--systemd-cgroup"]

    def systemctl(self, *words: str) -> str:
        return systemctl(*words, beside=self.beside)

    def shown(self, unit: str, *properties: str) -> dict[str, str]:
        return shown(unit, *properties, beside=self.beside)

    def processes(self, group: Path) -> list[str]:
        """By the numbers that they have where systemd is."""
        return done([*self.beside, "cat", str(group / "cgroup.procs")]).stdout.split()

    def start_in(self, name: str, *script: str, **changes: Any) -> None:
        self.write(
            **{
                "linux.cgroupsPath": f"{SLICE}:t:{name}",
                "process.args": ["sh", "-c", *(script or ("sleep 1000",))],
                **changes,
            }
        )
        with open(self.root.parent / f"{name}.out", "wb") as out:
            subprocess.run(
                [*self.command(), "run", "-d", "-b", str(self.bundle), name],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                check=True,
            )


def group(name: str) -> Path:
    return TOP / "ketch.slice" / SLICE / f"t-{name}.scope"


@pytest.fixture
def beside() -> Iterator[list[str]]:
    """The words before a command that is to meet systemd."""
    if ON_SYSTEMD:
        yield []
    else:
        with own_systemd.booted() as words:
            yield words


@pytest.fixture
def box(tmp_path: Path, beside: list[str]) -> Iterator[Scoped]:
    runtime = Scoped(tmp_path, beside)
    yield runtime
    for name in runtime.ok("list", "-q").split():
        runtime.remove(name)
    assert runtime.systemctl("list-units", "--all", "--plain", "--no-legend", "t-*.scope", "ketch-*.scope") == ""
    assert not list(Path("/sys/fs/cgroup").rglob("t-*.scope"))
    runtime.systemctl("stop", SLICE, "ketch.slice")


def test_the_container_lives_in_the_scope_that_its_path_names(box: Scoped) -> None:
    box.start_in("a")
    assert box.shown("t-a.scope", "ActiveState", "Slice", "Delegate", "ControlGroup") == {
        "ActiveState": "active",
        "Slice": SLICE,
        "Delegate": "yes",
        "ControlGroup": f"/ketch.slice/{SLICE}/t-a.scope",
    }
    assert box.processes(group("a")) == [str(box.state("a")["pid"])]


def test_the_scope_goes_with_the_container_also_after_a_kill(box: Scoped) -> None:
    box.start_in("a")
    box.ok("delete", "--force", "a")
    assert not group("a").exists()
    assert box.shown("t-a.scope", "LoadState")["LoadState"] == "not-found"


def test_a_name_is_free_again_after_its_container_and_taken_while_it_runs(box: Scoped) -> None:
    box.start_in("a")
    box.write(**{"linux.cgroupsPath": f"{SLICE}:t:a"})
    done = box.call("create", "-b", str(box.bundle), "b")
    assert done.returncode != 0
    assert "a unit of that name runs" in done.stderr
    assert box.ok("list", "-q").split() == ["a"]
    box.ok("delete", "--force", "a")
    box.start_in("a")


LIMITS = {
    "memory": {"limit": 64 << 20, "reservation": 32 << 20},
    "cpu": {"quota": 25000, "period": 50000, "shares": 512, "cpus": "0"},
    "pids": {"limit": 7},
}


def test_systemd_knows_every_limit_that_it_has_a_name_for(box: Scoped) -> None:
    box.start_in("a", **{"linux.resources": LIMITS})
    names = ("TasksMax", "CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec", "DevicePolicy")
    assert box.shown("t-a.scope", *names) == {
        "TasksMax": "7",
        "CPUQuotaPerSecUSec": "500ms",
        "CPUQuotaPeriodUSec": "50ms",
        "DevicePolicy": "strict",
    }
    if V2:
        assert box.shown("t-a.scope", "MemoryMax", "MemoryLow", "CPUWeight", "AllowedCPUs") == {
            "MemoryMax": str(64 << 20),
            "MemoryLow": str(32 << 20),
            "CPUWeight": "59",
            "AllowedCPUs": "0",
        }
    else:
        assert box.shown("t-a.scope", "MemoryLimit", "CPUShares") == {"MemoryLimit": str(64 << 20), "CPUShares": "512"}


def files(name: str) -> dict[str, str]:
    if V2:
        return {f: group(name).joinpath(f).read_text().strip() for f in ("memory.max", "cpu.max", "pids.max")}
    path = f"ketch.slice/{SLICE}/t-{name}.scope"
    places = {"memory.limit_in_bytes": "memory", "cpu.cfs_quota_us": "cpu", "pids.max": "pids"}
    return {f: Path("/sys/fs/cgroup", place, path, f).read_text().strip() for f, place in places.items()}


def test_limits_survive_a_reload_of_systemd_and_an_update(box: Scoped) -> None:
    box.start_in("a", **{"linux.resources": LIMITS})
    before = files("a")
    assert before["pids.max"] == "7"
    box.systemctl("daemon-reload")
    assert files("a") == before
    box.ok("update", "--pids-limit", "9", "--memory", "80m", "a")
    box.systemctl("daemon-reload")
    now = files("a")
    assert now["pids.max"] == "9"
    assert str(80 << 20) in now.values()
    assert box.shown("t-a.scope", "TasksMax")["TasksMax"] == "9"


def test_one_process_is_enough_for_a_limit_of_one(box: Scoped) -> None:
    box.start_in("a", "exec sleep 1000", **{"linux.resources": {"pids": {"limit": 1}}})
    assert box.state("a")["status"] == "running"


@pytest.mark.parametrize(("device", "answer"), [("/dev/null", "yes"), ("/dev/full", "yes")])
def test_devices_stay_usable_after_a_reload(box: Scoped, device: str, answer: str) -> None:
    box.start_in("a", **{"linux.resources": {"devices": [{"allow": False, "access": "rwm"}]}})
    box.systemctl("daemon-reload")
    assert box.ok("exec", "a", "sh", "-c", f"head -c 0 {device} && echo yes").strip() == answer


def test_a_forbidden_device_stays_forbidden_after_a_reload(box: Scoped) -> None:
    box.start_in("a", **{"linux.resources": {"devices": [{"allow": False, "access": "rwm"}]}})
    box.systemctl("daemon-reload")
    script = "mknod /dev/mem2 c 1 1 && head -c 1 /dev/mem2"
    done = box.call("exec", "--cap", "CAP_MKNOD", "a", "sh", "-c", script)
    assert "not permitted" in done.stderr


def test_annotations_set_properties_of_the_scope(box: Scoped) -> None:
    wanted = {
        "org.systemd.property.Description": "'mine alone'",
        "org.systemd.property.TimeoutStopSec": "7",
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
        "org.systemd.property.Before": "['umount.target']",
    }
    box.start_in("a", annotations=wanted)
    facts = box.shown("t-a.scope", "Description", "TimeoutStopUSec", "CollectMode", "Before")
    assert facts["Description"] == "mine alone"
    assert facts["TimeoutStopUSec"] == "7s"
    assert facts["CollectMode"] == "inactive-or-failed"
    assert "umount.target" in facts["Before"]


def test_a_property_that_systemd_refuses_is_named_and_nothing_stays(box: Scoped) -> None:
    box.write(annotations={"org.systemd.property.NoSuchThing": "5"})
    done = box.call("create", "-b", str(box.bundle), "a")
    assert done.returncode != 0
    assert "NoSuchThing" in done.stderr
    assert box.ok("list", "-q") == ""


@pytest.mark.needs("cgroup2")
def test_a_sub_group_takes_the_container_and_its_limits(box: Scoped) -> None:
    box.start_in("a", annotations={"run.oci.systemd.subgroup": "inner"}, **{"linux.resources": LIMITS})
    assert box.processes(group("a")) == []
    assert box.processes(group("a") / "inner") == [str(box.state("a")["pid"])]
    assert (group("a") / "inner/memory.max").read_text().strip() == str(64 << 20)
    assert box.ok("exec", "a", "cat", "/proc/self/cgroup").strip() == "0::/"


@pytest.mark.needs("cgroup2")
def test_a_delegated_group_is_the_containers_own_to_divide(box: Scoped) -> None:
    mappings = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    mounts = json.loads(json.dumps([{"destination": "/proc", "type": "proc", "source": "proc"}]))
    mounts.append({"destination": "/cg", "type": "cgroup", "source": "cgroup", "options": ["rw"]})
    subprocess.run(["chown", "-R", "100000:100000", str(box.rootfs)], check=True)
    for path in (box.bundle, *box.bundle.parents):
        path.chmod(path.stat().st_mode | 0o055) if str(path).startswith("/tmp/") else None
    script = "cd /cg/mine && mkdir below && echo 0 > below/cgroup.procs && echo +pids > cgroup.subtree_control"
    box.start_in(
        "a",
        f"{script}; cat /proc/self/cgroup; cat /cg/mine/below/pids.max; sleep 1000",
        annotations={"run.oci.systemd.subgroup": "inner", "run.oci.delegate-cgroup": "mine"},
        mounts=mounts,
        **{
            "linux.namespaces": [{"type": t} for t in ("pid", "mount", "cgroup", "user", "ipc", "uts", "network")],
            "linux.uidMappings": mappings,
            "linux.gidMappings": mappings,
            "linux.maskedPaths": [],
            "linux.readonlyPaths": [],
            "linux.resources": LIMITS,
        },
    )
    for _ in range(200):
        if "max" in (said := (box.root.parent / "a.out").read_text()):
            break
        subprocess.run(["sleep", "0.1"], check=True)
    assert said.splitlines() == ["0::/mine/below", "max"]
    assert (group("a") / "inner/mine").stat().st_uid == 100000
    assert box.ok("exec", "a", "echo", "joined").strip() == "joined"


def test_a_path_of_another_form_is_refused_with_the_form_that_is_expected(box: Scoped) -> None:
    box.write(**{"linux.cgroupsPath": "/a/b"})
    done = box.call("create", "-b", str(box.bundle), "a")
    assert "linux.cgroupsPath: expected SLICE:PREFIX:NAME" in done.stderr


def test_without_a_path_the_scope_is_named_after_the_container_in_the_system_slice(box: Scoped) -> None:
    box.write(
        **{
            "process.args": ["cat", "/proc/self/cgroup"],
            "linux.namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "uts"}],
        }
    )
    said = box.ok("run", "-b", str(box.bundle), "a")
    assert "/system.slice/ketch-a.scope" in said


def test_explain_shows_the_scope_without_making_it(box: Scoped) -> None:
    box.write(**{"linux.cgroupsPath": f"{SLICE}:t:a", "linux.resources": LIMITS})
    said = box.ok("explain", "-b", str(box.bundle), "a")
    assert f"systemd: start t-a.scope in {SLICE}" in said
    assert "systemd: TasksMax = 7" in said
    assert box.shown("t-a.scope", "LoadState")["LoadState"] == "not-found"


@pytest.mark.needs("systemd", "overlay", "busybox")
@pytest.mark.own_namespaces
def test_pods_of_the_engine_are_scopes_and_a_resize_is_told_to_systemd(tmp_path: Path) -> None:
    config = '[runtime]\ncgroup_driver = "systemd"\n'
    for cri in daemon(tmp_path, config=config):
        options = {"network": "NODE", "pid": "POD"}
        linux = {"cgroup_parent": SLICE, "security_context": {"namespace_options": options}}
        pod = cri.run_pod("scoped", linux=linux)
        assert shown(f"ketch-{pod.id}.scope", "ActiveState", "Slice") == {"ActiveState": "active", "Slice": SLICE}
        container = pod.start("sleep", "1000", linux={"resources": {"memory_limit_in_bytes": 64 << 20}})
        unit = f"cri-containerd-{container.id}.scope"
        memory = "MemoryMax" if V2 else "MemoryLimit"
        assert shown(unit, "Slice", memory) == {"Slice": SLICE, memory: str(64 << 20)}
        assert container.exec("echo", "inside").stdout == b"inside\n"
        limits = pb.LinuxContainerResources(memory_limit_in_bytes=96 << 20)
        cri.call("UpdateContainerResources", container_id=container.id, linux=limits)
        systemctl("daemon-reload")
        assert shown(unit, memory) == {memory: str(96 << 20)}
        assert cri.call("ContainerStats", container_id=container.id).stats.memory.working_set_bytes.value > 0
        container.stop()
        assert container.wait().exit_code == 137
        pod.remove()
        assert shown(unit, "LoadState")["LoadState"] == "not-found"
        assert shown(f"ketch-{pod.id}.scope", "LoadState")["LoadState"] == "not-found"
    systemctl("stop", SLICE, "ketch.slice")
