# SPDX-License-Identifier: Apache-2.0
"""A CRI request becomes a config.json: commands, users, capabilities, mounts, namespaces, limits."""

import pytest

from cri.engine.request import (
    ContainerRequest,
    IdRange,
    Mode,
    MountRequest,
    Namespaces,
    PodRequest,
    Profile,
    ProfileKind,
    Propagation,
    Resources,
    UserNamespace,
)
from cri.oci import mounts, process, resources, security, users
from cri.oci.config import config
from cri.oci.facts import BoundMount, ContainerFacts, ImageDefaults, Node, PodPlace, Refused, User
from runtime.linux.quick_dataclasses import replace

POD = PodPlace(
    id="p",
    request=PodRequest(name="pod", namespace="ns", uid="u", cgroup_parent="/kubepods/podu"),
    hostname="host",
    network_namespace="/run/netns/x",
    uts_namespace="/s/uts",
    ipc_namespace="/s/ipc",
    pid_namespace="/s/pid",
    shm="/s/shm",
    resolv_conf="/s/resolv.conf",
)
CONTAINER = ContainerRequest(name="c", image="busybox")
IMAGE = ImageDefaults(entrypoint=("/entry",), cmd=("run",), env=("A=1", "PATH=/bin"), working_dir="/app")
NODE = Node(cgroup_version=2)


def facts(**changes: object) -> ContainerFacts:
    return replace(ContainerFacts(id="c1", image_name="busybox", defaults=IMAGE, user=User()), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        ((), (), ["/entry", "run"]),
        ((), ("x",), ["/entry", "x"]),
        (("sh",), (), ["sh"]),
        (("sh",), ("-c", "y"), ["sh", "-c", "y"]),
    ],
)
def test_the_image_command_stands_only_where_none_was_given(
    command: tuple[str, ...], args: tuple[str, ...], expected: list[str]
) -> None:
    assert process.command(replace(CONTAINER, command=command, args=args), IMAGE) == expected


def test_a_container_without_any_command_is_refused() -> None:
    with pytest.raises(Refused, match="no command"):
        process.command(CONTAINER, ImageDefaults())


def test_the_request_environment_wins_over_the_image() -> None:
    env = process.environment(replace(CONTAINER, envs=(("A", "2"), ("B", "3"))), IMAGE, "host", "/root")
    assert env == ["PATH=/bin", "HOSTNAME=host", "A=2", "B=3", "HOME=/root"]


def test_dropping_all_and_adding_one_leaves_one() -> None:
    request = replace(CONTAINER, drop_capabilities=("ALL",), add_capabilities=("chown",))
    assert security.effective_capabilities(request, NODE) == {"CAP_CHOWN"}


def test_a_privileged_container_gets_what_root_has_here_and_not_more() -> None:
    node = Node(capabilities=("CAP_CHOWN", "CAP_KILL"))
    assert security.effective_capabilities(replace(CONTAINER, privileged=True), node) == {"CAP_CHOWN", "CAP_KILL"}


def test_an_unknown_capability_is_refused_by_name() -> None:
    with pytest.raises(Refused, match="MAGIC"):
        security.effective_capabilities(replace(CONTAINER, add_capabilities=("MAGIC",)), NODE)


def test_ambient_capabilities_are_inheritable_and_nothing_else_is() -> None:
    built = security.capabilities(replace(CONTAINER, ambient_capabilities=("NET_ADMIN",)), NODE)
    assert built["ambient"] == built["inheritable"] == ["CAP_NET_ADMIN"]
    assert security.capabilities(CONTAINER, NODE)["inheritable"] == []


PASSWD = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\nbroken\n"
GROUP = "root:x:0:\nbob:x:1000:\nextra:x:50000:bob,eve\n"


@pytest.mark.parametrize(
    ("image_user", "changes", "expected"),
    [
        ("", {}, User(0, 0, (0,), "/root")),
        ("bob", {}, User(1000, 1000, (1000, 50000), "/home/bob")),
        ("1000:0", {}, User(1000, 0, (0, 50000), "/home/bob")),
        ("4242", {}, User(4242, 0, (0,), "/")),
        ("", {"run_as_username": "bob", "run_as_group": 7}, User(1000, 7, (7, 50000), "/home/bob")),
        ("", {"supplemental_group_names": ("extra", "7")}, User(0, 0, (0, 50000, 7), "/root")),
        ("bob", {"supplemental_groups": (1234,)}, User(1000, 1000, (1000, 1234, 50000), "/home/bob")),
        (
            "bob",
            {"supplemental_groups": (1234,), "strict_groups": True},
            User(1000, 1000, (1000, 1234), "/home/bob"),
        ),
    ],
)
def test_users_are_found_by_name_and_by_number(image_user: str, changes: dict[str, object], expected: User) -> None:
    assert users.resolve(replace(CONTAINER, **changes), image_user, PASSWD, GROUP) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"run_as_username": "nobody-here"}, "not in the image's /etc/passwd"),
        ({"run_as_group": 5}, "needs run_as_user"),
        ({"run_as_user": 2**33}, "is not between"),
        ({"supplemental_groups": (-1,)}, "negative"),
    ],
)
def test_a_user_that_cannot_be_is_refused(changes: dict[str, object], why: str) -> None:
    with pytest.raises(Refused, match=why):
        users.resolve(replace(CONTAINER, **changes), "", PASSWD, GROUP)  # type: ignore[arg-type]


def test_a_pod_namespace_is_joined_and_a_node_namespace_is_absent() -> None:
    built = config(CONTAINER, POD, facts(), NODE)["linux"]["namespaces"]
    assert {"type": "network", "path": "/run/netns/x"} in built
    assert {"type": "pid", "path": "/s/pid"} in built
    own = replace(CONTAINER, namespaces=Namespaces(pid=Mode.NODE))
    assert "pid" not in [n["type"] for n in config(own, POD, facts(), NODE)["linux"]["namespaces"]]
    own = replace(CONTAINER, namespaces=Namespaces(pid=Mode.CONTAINER))
    assert {"type": "pid"} in config(own, POD, facts(), NODE)["linux"]["namespaces"]


def test_a_target_that_does_not_run_is_refused() -> None:
    with pytest.raises(Refused, match="target_id"):
        config(replace(CONTAINER, namespaces=Namespaces(pid=Mode.TARGET, target_id="x")), POD, facts(), NODE)


def test_a_volume_replaces_the_pods_file_and_comes_after_its_parent() -> None:
    request = replace(
        CONTAINER,
        mounts=(
            MountRequest("/a/b", "/srv/b"),
            MountRequest("/a", "/srv/a"),
            MountRequest("/etc/resolv.conf", "/srv/resolv"),
        ),
    )
    bound = tuple(BoundMount(m.container_path, m.host_path, mounts.bind_options(m)) for m in request.mounts)
    built = mounts.mounts(request, POD, bound)
    order = [m["destination"] for m in built]
    assert order.index("/a") < order.index("/a/b")
    assert [m["source"] for m in built if m["destination"] == "/etc/resolv.conf"] == ["/srv/resolv"]


@pytest.mark.parametrize(
    ("mount", "why"),
    [
        (MountRequest("/a", "/b", recursive_readonly=True), "needs readonly"),
        (
            MountRequest("/a", "/b", readonly=True, recursive_readonly=True, propagation=Propagation.BIDIRECTIONAL),
            "PROPAGATION_PRIVATE",
        ),
        (MountRequest("/a", image="busybox"), "must be readonly"),
        (MountRequest("/a"), "neither"),
        (MountRequest("", "/b"), "container_path"),
        (MountRequest("/a", "/b", options=("upperdir=/",)), "upperdir"),
    ],
)
def test_a_mount_that_cannot_be_granted_is_refused(mount: MountRequest, why: str) -> None:
    with pytest.raises(Refused, match=why):
        mounts.check(mount)


def test_cgroup_names_are_those_the_kubelet_expects() -> None:
    assert resources.cgroups_path("/kubepods/podu", "c1", NODE) == "/kubepods/podu/c1"
    systemd = Node(cgroup_driver="systemd")
    assert resources.cgroups_path("/a.slice/a-podu.slice", "c1", systemd) == "a-podu.slice:cri-containerd:c1"


def test_limits_that_were_not_asked_for_are_absent() -> None:
    assert set(resources.resources(Resources(), NODE)) == {"devices"}
    built = resources.resources(Resources(memory_limit_bytes=5, cpu_quota=7, cpu_period=9), NODE)
    assert built["memory"] == {"limit": 5}
    assert built["cpu"] == {"quota": 7, "period": 9}


def test_unified_limits_are_refused_on_cgroup_v1() -> None:
    with pytest.raises(Refused, match="cgroup v2"):
        resources.resources(Resources(unified={"memory.high": "1"}), Node(cgroup_version=1))


def test_no_seccomp_field_means_unconfined_and_privileged_ignores_the_profile() -> None:
    default = Profile(ProfileKind.RUNTIME_DEFAULT)
    assert security.seccomp(CONTAINER, NODE, None) is None
    assert security.seccomp(replace(CONTAINER, seccomp=default, privileged=True), NODE, None) is None
    built = security.seccomp(replace(CONTAINER, seccomp=default), NODE, None)
    assert built is not None
    assert built["defaultAction"] == "SCMP_ACT_ERRNO"


def test_the_default_filter_opens_with_a_capability() -> None:
    default = replace(CONTAINER, seccomp=Profile(ProfileKind.RUNTIME_DEFAULT))

    def allowed(request: ContainerRequest) -> set[str]:
        built = security.seccomp(request, NODE, None)
        assert built is not None
        return {n for call in built["syscalls"] if call["action"] == "SCMP_ACT_ALLOW" for n in call["names"]}

    assert "mount" not in allowed(default)
    assert "mount" in allowed(replace(default, add_capabilities=("SYS_ADMIN",)))


def test_a_localhost_profile_that_is_missing_or_broken_is_refused() -> None:
    request = replace(CONTAINER, seccomp=Profile(ProfileKind.LOCALHOST, "/p.json"))
    with pytest.raises(Refused, match="no such file"):
        security.seccomp(request, NODE, None)
    with pytest.raises(Refused, match="not JSON"):
        security.seccomp(request, NODE, "{")
    assert security.seccomp(request, NODE, '{"defaultAction": "SCMP_ACT_ALLOW"}') == {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [],
    }


def test_paths_are_masked_unless_a_user_namespace_makes_that_needless() -> None:
    assert "/proc/kcore" in security.hidden_paths(CONTAINER, POD)[0]
    line = (IdRange(0, 1000, 65536),)
    inside = Namespaces(user=UserNamespace(Mode.POD, line, line))
    unmasked = replace(POD, request=replace(POD.request, namespaces=inside))
    assert security.hidden_paths(CONTAINER, unmasked) == ([], [])
    assert security.hidden_paths(replace(CONTAINER, privileged=True), POD) == ([], [])
