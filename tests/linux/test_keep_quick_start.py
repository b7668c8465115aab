# SPDX-License-Identifier: Apache-2.0
"""A container made without an interpreter is the same as one made with: what it sees, and what a failure says."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import lifecycle
from runtime.keep import client as keep
from tests.linux.test_keep import Node, wait_until
from tests.linux.test_keep_budgets import faults
from tests.support import kernel

# What a container can see of itself, in an order that does not depend on when it was made.
LOOK = """
grep -E '^(Uid|Gid|Groups|Cap|NoNew|Seccomp|Umask|SigBlk|SigIgn|Shd|NSpid|NSsid)' /proc/self/status
id; pwd; env | sort; umask; ulimit -a; ls /proc/self/fd; cat /proc/self/oom_score_adj /proc/self/cgroup; hostname
sort -k 5 /proc/self/mountinfo; cat /proc/1/comm; echo $$ $PPID
ls -ln /dev /dev/pts /dev/shm /proc/acpi /sys/firmware | sed 's/ [A-Z][a-z][a-z] .* / /'
cat /proc/keys /proc/timer_list; echo x >/proc/sysrq-trigger; echo x >/proc/sys/vm/swappiness
touch /touched && rm /touched; ls /sys/fs/cgroup; cat /proc/sys/kernel/shm_rmid_forced; ip link show lo
cat /etc/volume /a/b/volume; ls /volumes/deep
"""
QUIET = ["nosuid", "noexec", "nodev"]
DEV = ["nosuid", "strictatime", "mode=755", "size=65536k"]
PTS = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]


def mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def mounts(top: Path) -> list[dict[str, Any]]:
    (top / "file").write_text("a volume\n")
    (top / "folder/inner").mkdir(parents=True, exist_ok=True)
    return [
        mount("/proc", "proc", "proc", *QUIET),
        mount("/dev", "tmpfs", "tmpfs", *DEV),
        mount("/dev/pts", "devpts", "devpts", *PTS),
        mount("/dev/shm", "tmpfs", "shm", *QUIET, "mode=1777", "size=65536k"),
        mount("/dev/mqueue", "mqueue", "mqueue", *QUIET),
        mount("/sys", "sysfs", "sysfs", *QUIET, "ro"),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", *QUIET, "relatime", "ro"),
        mount("/etc/volume", "bind", str(top / "file"), "rbind", "rprivate", "rw"),
        mount("/a/b/volume", "bind", str(top / "file"), "bind", "ro"),
        mount("/volume", "bind", str(top / "file"), "bind", "ro"),
        mount("//c//./volume/", "bind", str(top / "file"), "bind", "ro"),
        mount("/volumes/deep", "bind", str(top / "folder"), "rbind", "rslave", "rro", "nosuid"),
    ]


LINUX: dict[str, Any] = {
    "resources": {
        "memory": {"limit": 64 << 20},
        "pids": {"limit": 100},
        "cpu": {"shares": 512},
        "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "access": "rwm"}],
    },
    "maskedPaths": ["/proc/acpi", "/proc/keys", "/proc/timer_list", "/proc/nosuch", "/sys/firmware"],
    "readonlyPaths": ["/proc/bus", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/proc/nosuch"],
    "devices": [{"path": "/dev/mine/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o600, "uid": 7, "gid": 8}],
}
SPACES = ["pid", "network", "ipc", "uts", "mount"]
CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
CASES: list[dict[str, Any]] = [
    {"spaces": SPACES},
    {"spaces": [*SPACES, "cgroup"], "sysctl": {"kernel.shm_rmid_forced": "1"}, "readonly": True},
    {
        "spaces": SPACES,
        "process": {
            "user": {"uid": 1000, "gid": 1001, "additionalGids": [5], "umask": 0o27},
            "cwd": "/new/work",
            "noNewPrivileges": True,
            "oomScoreAdj": 321,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 100}],
            "capabilities": dict.fromkeys(
                ("bounding", "effective", "permitted", "inheritable", "ambient"), CAPABILITIES
            ),
        },
    },
    {
        "spaces": SPACES,
        "rootfsPropagation": "rprivate",
        "process": {"capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES)},
        "seccomp": {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}],
        },
    },
]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.close()


def seen(node: Node, name: str, *, hooks: bool, case: dict[str, Any], args: tuple[str, ...] = ()) -> str:
    """The output of a container; with a hook, which leaves no trace in it, it is made the long way."""
    case = dict(case)
    bundle = Path(node.bundle(name, *(args or ("sh", "-c", LOOK)), process=case.pop("process", {}), **LINUX))
    import json

    config = json.loads((bundle / "config.json").read_text())
    config["mounts"] = mounts(node.top)
    config["hostname"] = "looked-at"
    config["root"]["readonly"] = case.pop("readonly", False)
    config["linux"]["cgroupsPath"] = "/keep/same"
    spaces = case.pop("spaces")
    config["linux"].update(case, namespaces=[{"type": kind} if isinstance(kind, str) else kind for kind in spaces])
    if hooks:
        config["hooks"] = {"poststart": [{"path": "/bin/true"}]}
    (bundle / "config.json").write_text(json.dumps(config))
    node.client.start(keep.StartRequest(id=name, bundle=str(bundle), log_path=node.log_path(name)))
    ended = node.client.wait(name, 20)
    assert ended is not None
    lifecycle.delete(f"{node.state}/runtime", name, force=True)
    text = node.output(name) + node.output(name, "stderr")
    # The numbers of mounts and of anonymous devices are the kernel's, one higher each time.
    text = re.sub(r"^\d+ \d+ \d+:\d+ ", "", text, flags=re.M)
    return re.sub(r"(shared|master|propagate_from):\d+", r"\1", text)


@pytest.mark.parametrize("quick_first", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_both_ways_make_the_same_container(node: Node, case: dict[str, Any], *, quick_first: bool) -> None:
    """Whoever is first finds none of the directories and files to mount on."""
    first = seen(node, "first", hooks=not quick_first, case=case)
    assert "a volume" in first
    assert seen(node, "second", hooks=quick_first, case=case) == first


def test_the_namespaces_of_a_pod_are_joined(node: Node) -> None:
    subprocess.run(["ip", "netns", "add", "pod"], check=True)
    try:
        pod = {"type": "network", "path": "/run/netns/pod"}
        case = {"spaces": ["pid", "ipc", "uts", "mount", pod]}
        args = ("readlink", "/proc/self/ns/net")
        found = [seen(node, name, hooks=name == "long", case=case, args=args) for name in ("long", "quick")]
        assert found[0] == found[1] == f"net:[{os.stat('/run/netns/pod').st_ino}]\n"
    finally:
        subprocess.run(["ip", "netns", "del", "pod"], check=True)
        kernel.umount("/run/netns")
        os.rmdir("/run/netns")


@pytest.mark.parametrize(
    ("args", "changes", "said"),
    [
        (["nosuch"], {}, "executable file not found"),
        (["/etc"], {}, "is a directory"),
        (["true"], {"mounts": [mount("/x", "bind", "/nosuch/source", "bind")]}, "/nosuch/source"),
        (["true"], {"mounts": [mount("/proc/bus/x", "tmpfs", "tmpfs")]}, "inside /proc"),
    ],
)
def test_a_failure_finds_its_words_and_leaves_nothing(
    node: Node, args: list[str], changes: dict[str, Any], said: str
) -> None:
    import json

    bundle = Path(node.bundle("a", *args))
    config = json.loads((bundle / "config.json").read_text()) | changes
    (bundle / "config.json").write_text(json.dumps(config))
    with pytest.raises(keep.StartFailed, match=re.escape(said)):
        node.client.start(keep.StartRequest(id="a", bundle=str(bundle)))
    assert not Path(node.state, "runtime/a").exists()
    assert not list(Path("/sys/fs/cgroup").glob("*/keep/a"))
    node.client.start(keep.StartRequest(id="a", bundle=node.bundle("b", "true")))  # the id is free again


def test_symlinks_of_an_image_stay_in_its_root(node: Node) -> None:
    root = node.top / "rootfs"
    outside = node.top / "outside"
    outside.mkdir()
    (root / "inside").mkdir()
    for name, target in (("trap", str(outside)), ("dangling", "/made/by/link"), ("up", "../../../../../inside")):
        (root / name).symlink_to(target)
    node.bundle("plain", "true")
    bundle = Path(node.top / "bundles/plain")
    import json

    config = json.loads((bundle / "config.json").read_text())
    (node.top / "folder").mkdir()
    (node.top / "folder/here").write_text("x")
    config["mounts"] += [mount(f"/{n}", "bind", str(node.top / "folder"), "bind") for n in ("dangling", "up")]
    config["process"]["args"] = ["ls", "/made/by/link", "/inside"]
    (bundle / "config.json").write_text(json.dumps(config))
    node.client.start(keep.StartRequest(id="plain", bundle=str(bundle), log_path=node.log_path("plain")))
    node.client.wait("plain", 10)
    assert node.output("plain").count("here") == 2
    assert list(outside.iterdir()) == []


def test_what_was_foreseen_counts_only_while_it_is_true(node: Node) -> None:
    for name, words in (("same", "one"), ("changed", "two")):
        bundle = Path(node.bundle(name, "echo", "one"))
        request = keep.StartRequest(id=name, bundle=str(bundle), log_path=node.log_path(name))
        node.client.foresee(request)
        node.client.ping()  # it has been heard
        assert not Path(node.state, "runtime", name).exists()
        assert not Path(node.state, "containers", name).exists()
        config = bundle / "config.json"
        if words != "one":
            config.write_text(config.read_text().replace("one", words))
        node.client.start(request)
        node.client.wait(name, 10)
        assert node.output(name) == f"{words}\n"


def test_what_a_killed_spawner_had_begun_ends_by_itself(node: Node) -> None:
    node.start("first", "sleep", "1000")
    (keeper,) = node.keeper_pids()
    before = children(keeper)
    config = Path(node.bundle("a", "true"), "config.json")
    config.unlink()
    os.mkfifo(config)  # the spawner waits in open(2): it has told the keeper, and not yet planned
    request = keep.StartRequest(id="a", bundle=str(config.parent))

    def ask() -> None:
        with pytest.raises(keep.SpawnerGone):
            node.client.start(request)

    asked = threading.Thread(target=ask)
    spawner = node.spawner_pid()
    asked.start()
    wait_until(lambda: children(keeper) > before)
    assert Path(node.state, "containers/a/kept").exists()
    os.kill(spawner, signal.SIGKILL)
    asked.join(10)
    wait_until(lambda: children(keeper) == before)
    assert not Path(node.state, "containers/a").exists()
    assert not Path(node.state, "runtime/a").exists()


def children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_page_faults_of_a_start_stay_within_their_budget(node: Node) -> None:
    node.start("first", "true")
    node.client.wait("first", 10)
    processes = (node.spawner_pid(), *node.keeper_pids())
    before = sum(map(faults, processes))
    for number in range(10):
        node.start(f"c{number}", "true")
        node.client.wait(f"c{number}", 10)
    # Most are those of `true`. With an interpreter it was 2,200; with a child of the keeper 440.
    assert (sum(map(faults, processes)) - before) / 10 < 200
