# SPDX-License-Identifier: Apache-2.0
"""Each security field by what the process in the container sees."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.support.needs import needs
from tests.support.pod_driver import Container, Daemon, daemon

pytestmark = needs("root", "overlay", "veth", "bridge", "nft", "busybox")


@pytest.fixture
def cri(tmp_path: Path) -> Iterator[Daemon]:
    yield from daemon(tmp_path)


def with_security(cri: Daemon, **context: object) -> Container:
    return cri.run_pod().start("sleep", "1000", linux={"security_context": context})


def status_of(container: Container, field: str) -> str:
    return container.sh(f"grep ^{field}: /proc/1/status").split(":", 1)[1].strip()


def test_a_read_only_root_and_volume_refuse_writes(cri: Daemon, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    container = cri.run_pod().start(
        "sleep",
        "1000",
        mounts=[{"container_path": "/test", "host_path": str(tmp_path / "volume"), "readonly": True}],
        linux={"security_context": {"readonly_rootfs": True}},
    )
    for path in ("/x", "/test/x"):
        assert b"Read-only file system" in container.exec("touch", path).stderr


def test_the_user_is_what_was_asked(cri: Daemon) -> None:
    container = with_security(
        cri, run_as_user={"value": 1000}, run_as_group={"value": 2000}, supplemental_groups=[3000, 4000]
    )
    assert container.sh("id -u; id -g; id -G").split() == ["1000", "2000", "2000", "3000", "4000"]
    user = container.status().user.linux
    assert (user.uid, user.gid, sorted(user.supplemental_groups)) == (1000, 2000, [2000, 3000, 4000])


def test_a_user_may_be_given_by_name_and_an_unknown_one_is_refused(cri: Daemon) -> None:
    assert with_security(cri, run_as_username="nobody").sh("id -u").strip() == "65534"
    with pytest.raises(grpc.RpcError, match="not in the image's /etc/passwd"):
        with_security(cri, run_as_username="mallory")
    with pytest.raises(grpc.RpcError, match="run_as_group"):
        with_security(cri, run_as_group={"value": 5})


def test_capabilities_are_added_and_dropped(cri: Daemon) -> None:
    added = with_security(cri, capabilities={"add_capabilities": ["NET_ADMIN"], "drop_capabilities": ["CHOWN"]})
    bits = int(status_of(added, "CapEff"), 16)
    assert bits >> 12 & 1
    assert not bits & 1
    assert int(status_of(with_security(cri, capabilities={"drop_capabilities": ["ALL"]}), "CapBnd"), 16) == 0


def test_ambient_capabilities_reach_a_plain_user(cri: Daemon) -> None:
    container = with_security(
        cri, run_as_user={"value": 1000}, capabilities={"add_ambient_capabilities": ["NET_BIND_SERVICE"]}
    )
    assert int(status_of(container, "CapEff"), 16) == 1 << 10


def test_no_new_privileges_is_set_when_asked(cri: Daemon) -> None:
    assert status_of(with_security(cri, no_new_privs=True), "NoNewPrivs") == "1"
    assert status_of(with_security(cri), "NoNewPrivs") == "0"


def test_seccomp_profiles_do_what_they_say(cri: Daemon, tmp_path: Path) -> None:
    assert status_of(with_security(cri), "Seccomp") == "0"
    assert status_of(with_security(cri, seccomp={"profile_type": "Unconfined"}), "Seccomp") == "0"
    default = with_security(cri, seccomp={"profile_type": "RuntimeDefault"})
    assert status_of(default, "Seccomp") == "2"
    assert default.exec("unshare", "-U", "true").exit_code != 0
    profile = tmp_path / "no-chmod.json"
    profile.write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": '
        '[{"names": ["chmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO"}]}'
    )
    local = with_security(cri, seccomp={"profile_type": "Localhost", "localhost_ref": str(profile)})
    assert b"not permitted" in local.exec("chmod", "700", "/tmp").stderr
    with pytest.raises(grpc.RpcError, match="no such file"):
        with_security(cri, seccomp={"profile_type": "Localhost", "localhost_ref": "/nowhere.json"})


def test_the_restricted_profile_leaves_nothing(cri: Daemon) -> None:
    container = with_security(
        cri,
        run_as_user={"value": 1000},
        capabilities={"drop_capabilities": ["ALL"]},
        readonly_rootfs=True,
        no_new_privs=True,
        seccomp={"profile_type": "RuntimeDefault"},
    )
    assert int(status_of(container, "CapEff"), 16) == 0
    assert status_of(container, "Seccomp") == "2"
    assert status_of(container, "NoNewPrivs") == "1"
    assert container.exec("mount", "-t", "tmpfs", "x", "/tmp").exit_code != 0


def test_paths_are_masked_and_read_only(cri: Daemon) -> None:
    container = with_security(cri)
    assert container.exec("sh", "-c", "test -s /proc/kcore").exit_code == 1
    assert container.exec("sh", "-c", "echo 1 > /proc/sys/kernel/panic").exit_code != 0
    own = with_security(cri, masked_paths=["/bin/true"], readonly_paths=["/tmp"])
    assert own.exec("sh", "-c", "test -s /bin/true").exit_code == 1
    assert b"Read-only" in own.exec("touch", "/tmp/x").stderr


def test_a_privileged_container_has_what_the_node_has(cri: Daemon) -> None:
    container = with_security(cri, privileged=True)
    assert status_of(container, "Seccomp") == "0"
    assert int(status_of(container, "CapEff"), 16) >> 21 & 1
    assert container.exec("mount", "-t", "tmpfs", "x", "/tmp").exit_code == 0


def test_a_device_is_given_with_its_permissions(cri: Daemon) -> None:
    devices = [{"container_path": "/dev/mine", "host_path": "/dev/zero", "permissions": "r"}]
    container = cri.run_pod().start("sleep", "1000", devices=devices)
    assert container.exec("sh", "-c", "head -c 4 /dev/mine | wc -c").stdout.strip() == b"4"
    with pytest.raises(grpc.RpcError, match="/dev/nothing"):
        cri.run_pod().start("true", devices=[{"host_path": "/dev/nothing", "permissions": "r"}])


def test_mount_requests_that_cannot_be_granted_are_refused(cri: Daemon, tmp_path: Path) -> None:
    pod = cri.run_pod()
    base = {"container_path": "/x", "host_path": str(tmp_path)}
    for change, why in (
        ({"recursive_read_only": True}, "needs readonly"),
        ({"recursive_read_only": True, "readonly": True, "propagation": "PROPAGATION_BIDIRECTIONAL"}, "PRIVATE"),
        ({"mount_options": ["upperdir=/"]}, "upperdir"),
    ):
        with pytest.raises(grpc.RpcError, match=why):
            pod.create("true", mounts=[{**base, **change}])
    assert cri.call("ListContainers").containers == []


@needs("userns")
def test_a_pod_with_a_user_namespace_is_root_only_inside(cri: Daemon) -> None:
    line = [{"host_id": 100000, "container_id": 0, "length": 65536}]
    options = {"namespace_options": {"pid": "CONTAINER", "userns_options": {"mode": "POD", "uids": line, "gids": line}}}
    pod = cri.run_pod(linux={"security_context": options})
    container = pod.start("sleep", "1000", linux={"security_context": options})
    assert container.sh("cat /proc/self/uid_map").split() == ["0", "100000", "65536"]
    assert container.sh("id -u; touch /x; stat -c %u /x").split() == ["0", "0"]
    pid = container.info()["pid"]
    assert Path(f"/proc/{pid}").stat().st_uid == 100000


def test_host_namespaces_are_the_nodes_own(cri: Daemon) -> None:
    options = {"namespace_options": {"network": "NODE", "pid": "NODE", "ipc": "NODE"}}
    container = cri.run_pod(linux={"security_context": options}).start(
        "sleep", "1000", linux={"security_context": options}
    )
    for kind in ("net", "pid", "ipc", "uts"):
        assert container.sh(f"readlink /proc/self/ns/{kind}").strip() == str(Path(f"/proc/self/ns/{kind}").readlink())
