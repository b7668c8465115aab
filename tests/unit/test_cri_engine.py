# SPDX-License-Identifier: Apache-2.0
"""The engine's pure parts: messages become requests, records survive, verdicts are total, names are unique."""

from itertools import product

import pytest

from cri.config import Config, Handler, Runtime
from cri.engine import codec, container, handlers, pod_files, usage, validate
from cri.engine.book import Book, Ended, State, state_of
from cri.engine.cgroups import slice_path
from cri.engine.errors import AlreadyExists, BadRequest, NotFound, WrongState
from cri.engine.limits import merged
from cri.engine.pod_network import capability_args, quantity
from cri.engine.reconcile import ContainerFacts, ContainerVerdict, PodVerdict, judge_container, judge_pod
from cri.engine.records import ContainerPhase, ContainerRecord, PodPhase, PodRecord
from cri.engine.request import (
    ContainerRequest,
    Dns,
    IdRange,
    Mode,
    Namespaces,
    PodRequest,
    PortMapping,
    Resources,
    UserNamespace,
)
from cri.services import answer, metrics, wire
from proto import cri_pb2 as pb
from runtime.linux.quick_dataclasses import replace

POD = PodRequest(name="p", namespace="n", uid="u")
CONTAINER = ContainerRequest(name="c", image="i")


def pod_record(identity: str = "a" * 64, **changes: object) -> PodRecord:
    record = PodRecord(id=identity, owner="cri", boot_id="b", created_at=1, request=POD, phase=PodPhase.READY)
    return replace(record, **changes)  # type: ignore[arg-type]


def container_record(identity: str = "c" * 64, **changes: object) -> ContainerRecord:
    record = ContainerRecord(
        id=identity, pod_id="a" * 64, owner="cri", boot_id="b", created_at=1, request=CONTAINER,
        phase=ContainerPhase.CREATED,
    )  # fmt: skip
    return replace(record, **changes)  # type: ignore[arg-type]


def test_a_record_survives_the_disk() -> None:
    line = (IdRange(0, 1000, 5),)
    request = replace(
        POD,
        port_mappings=(PortMapping("TCP", 80, 8080),),
        dns=Dns(("1.1.1.1",)),
        namespaces=Namespaces(pid=Mode.CONTAINER, user=UserNamespace(Mode.POD, line, line)),
        resources=Resources(cpu_shares=2),
        labels={"a": "b"},
    )
    record = pod_record(request=request, ips=("10.0.0.1",))
    assert codec.load(PodRecord, codec.plain(record)) == record


def test_a_record_of_a_newer_version_can_be_read_and_a_damaged_one_is_refused() -> None:
    data = codec.plain(pod_record())
    assert codec.load(PodRecord, {**data, "invented": 1}) == pod_record()
    with pytest.raises(codec.BadRecord):
        codec.load(PodRecord, {"id": "x"})
    with pytest.raises(codec.BadRecord):
        codec.load(PodRecord, {**data, "phase": "dancing"})


def test_the_verdict_on_a_container_is_total_and_never_touches_a_living_one() -> None:
    for phase, *facts in product(ContainerPhase, *[(False, True)] * 5):
        seen = ContainerFacts(*facts)  # type: ignore[arg-type]
        verdict = judge_container(phase, seen)
        lives = seen.alive and seen.same_boot and seen.pod_known and phase == ContainerPhase.STARTED
        if lives and not seen.has_exit:
            assert verdict == ContainerVerdict.ADOPT
        if phase == ContainerPhase.STARTED and seen.same_boot and seen.pod_known and seen.has_exit:
            assert verdict == ContainerVerdict.ENDED


def test_the_verdict_on_a_pod_goes_on_in_the_direction_it_was_going() -> None:
    assert judge_pod(PodPhase.MAKING, same_boot=True, pinned=True) == PodVerdict.REMOVE
    assert judge_pod(PodPhase.STOPPING, same_boot=True, pinned=True) == PodVerdict.STOP
    assert judge_pod(PodPhase.READY, same_boot=True, pinned=True) == PodVerdict.KEEP
    assert judge_pod(PodPhase.READY, same_boot=True, pinned=False) == PodVerdict.STOP
    assert judge_pod(PodPhase.READY, same_boot=False, pinned=True) == PodVerdict.REMOVE
    for phase, same_boot, pinned in product(PodPhase, (False, True), (False, True)):
        assert judge_pod(phase, same_boot=same_boot, pinned=pinned) in PodVerdict


def test_an_end_that_nobody_saw_is_unknown() -> None:
    started = container_record(phase=ContainerPhase.STARTED)
    assert state_of(started, None) == State.RUNNING
    assert state_of(started, Ended(0, 1)) == State.EXITED
    assert state_of(started, Ended(None, 1)) == State.UNKNOWN


def test_names_are_taken_once_and_free_again_after_removal() -> None:
    book = Book()
    book.add_pod(pod_record())
    with pytest.raises(AlreadyExists, match="taken"):
        book.add_pod(pod_record("b" * 64))
    book.add_container(container_record())
    with pytest.raises(AlreadyExists):
        book.add_container(container_record("d" * 64))
    book.forget_container("c" * 64)
    book.add_container(container_record("d" * 64))
    book.forget_pod("a" * 64)
    book.add_pod(pod_record("b" * 64))


def test_a_pod_that_is_being_stopped_gets_no_more_members() -> None:
    book = Book()
    book.add_pod(pod_record(phase=PodPhase.STOPPING))
    with pytest.raises(WrongState):
        book.add_container(container_record())


def test_ids_may_be_shortened_while_they_are_unambiguous() -> None:
    book = Book()
    book.add_pod(pod_record("ab" + "0" * 62))
    book.add_pod(pod_record("ac" + "0" * 62, request=replace(POD, name="q")))
    assert book.pod("ab").id.startswith("ab")
    with pytest.raises(NotFound, match="2 ids"):
        book.pod("a")
    with pytest.raises(NotFound):
        book.pod("")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": ""}, r"metadata\.name"),
        ({"hostname": "a" * 65}, "hostname"),
        ({"cgroup_parent": "/a/../b"}, "cgroup_parent"),
        ({"log_directory": "relative"}, "log_directory"),
        ({"dns": Dns(("1.1.1.1\nnameserver 6.6.6.6",))}, "dns_config"),
        ({"port_mappings": (PortMapping("TCP", 80, 70000),)}, "host_port"),
        ({"port_mappings": (PortMapping("TCP", 80, 1, "nonsense"),)}, "host_ip"),
        ({"sysctls": {"kernel.panic": "1"}}, "kernel.panic"),
        ({"sysctls": {"net.core.somaxconn": "1"}, "namespaces": Namespaces(network=Mode.NODE)}, "node's network"),
        ({"namespaces": Namespaces(network=Mode.CONTAINER)}, "only POD and NODE"),
        ({"namespaces": Namespaces(user=UserNamespace(Mode.CONTAINER))}, "mode"),
        (
            {"namespaces": Namespaces(user=UserNamespace(Mode.POD, (IdRange(5, 0, 1),), (IdRange(5, 0, 1),)))},
            "must begin",
        ),
        ({"namespaces": Namespaces(user=UserNamespace(Mode.POD))}, "exactly one"),
    ],
)
def test_a_pod_that_cannot_be_is_refused_by_field(changes: dict[str, object], why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        validate.pod(replace(POD, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": ""}, r"metadata\.name"),
        ({"image": ""}, "image"),
        ({"log_path": "../../etc/passwd"}, "log_path"),
        ({"working_dir": "x"}, "working_dir"),
        ({"envs": (("A=B", "c"),)}, "envs"),
        ({"command": ("a\0b",)}, "NUL"),
    ],
)
def test_a_container_that_cannot_be_is_refused_by_field(changes: dict[str, object], why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        validate.container(replace(CONTAINER, **changes))  # type: ignore[arg-type]


def test_an_enum_value_without_a_name_is_refused() -> None:
    config = pb.PodSandboxConfig()
    config.linux.security_context.namespace_options.MergeFromString(b"\x08\x63")  # network = 99
    with pytest.raises(BadRequest, match="network: 99"):
        wire.pod(config, "")


def test_a_container_message_becomes_a_request() -> None:
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="c", attempt=2),
        image=pb.ImageSpec(image="busybox"),
        command=["sh"],
        envs=[pb.KeyValue(key="A", value=b"1")],
        stop_signal=pb.SIGNAL_SIGRTMINPLUS3,
        linux=pb.LinuxContainerConfig(
            resources=pb.LinuxContainerResources(memory_limit_in_bytes=5),
            security_context=pb.LinuxContainerSecurityContext(
                run_as_user=pb.Int64Value(value=0), seccomp=pb.SecurityProfile(profile_type=1)
            ),
        ),
    )
    request = wire.container(config)
    assert (request.name, request.attempt, request.command, request.envs) == ("c", 2, ("sh",), (("A", "1"),))
    assert request.run_as_user == 0
    assert request.run_as_group is None
    assert request.resources.memory_limit_bytes == 5
    assert request.stop_signal == "SIGRTMIN+3"
    assert container.signal_number(request.stop_signal) == 37
    assert answer.signal_value(request.stop_signal) == pb.SIGNAL_SIGRTMINPLUS3


@pytest.mark.parametrize(("name", "number"), [("TERM", 15), ("SIGUSR1", 10), ("9", 9), ("RTMAX-1", 63), ("what", 15)])
def test_stop_signals_have_many_spellings(name: str, number: int) -> None:
    assert container.signal_number(name) == number


def test_resolv_conf_and_hosts_are_written_as_resolvers_read_them() -> None:
    dns = Dns(("10.0.0.10",), ("a.local", "b.local"), ("ndots:5",))
    assert pod_files.resolv_conf(dns) == "search a.local b.local\nnameserver 10.0.0.10\noptions ndots:5\n"
    assert "10.1.0.5 web" in pod_files.hosts("web", ("10.1.0.5",))


def test_capability_arguments_are_what_plugins_expect() -> None:
    request = replace(
        POD,
        port_mappings=(PortMapping("TCP", 80, 8080), PortMapping("UDP", 53, 0)),
        annotations={"kubernetes.io/egress-bandwidth": "10M"},
    )
    built = capability_args(request)
    assert built["portMappings"] == [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]
    assert built["bandwidth"]["egressRate"] == 10_000_000
    assert quantity("1Ki") == 1024


def test_a_slice_lies_in_its_parents() -> None:
    assert slice_path("a-b-c.slice") == "/a.slice/a-b.slice/a-b-c.slice"
    assert slice_path("system.slice") == "/system.slice"
    assert slice_path("-.slice") == ""


def test_handlers_are_found_by_name_and_unknown_ones_refused() -> None:
    config = Config(runtime=Runtime(handlers={"other": Handler(command=["/bin/sh"])}))
    assert handlers.find(config, "").command == ()
    assert handlers.find(config, "other").command == ("/bin/sh",)
    with pytest.raises(BadRequest, match="'kata'"):
        handlers.find(config, "kata")
    assert [r.name for r in handlers.all_of(config)] == ["", "ketch", "other"]
    assert handlers.passed(["a.*"], {"a.b": "1", "c": "2"}) == {"a.b": "1"}


def test_an_update_leaves_what_it_does_not_name() -> None:
    old = Resources(cpu_shares=5, memory_limit_bytes=7)
    assert merged(old, Resources(memory_limit_bytes=9)) == Resources(cpu_shares=5, memory_limit_bytes=9)


def test_pressure_files_are_read_in_full() -> None:
    text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.25 total=3"
    stall = usage.pressure(text)
    assert stall is not None
    assert (stall.some.avg10, stall.some.total, stall.full.avg300, stall.full.total) == (1.5, 7, 0.25, 3)
    assert usage.pressure(None) is None


def test_each_metric_has_a_name_of_its_own_help_and_labels() -> None:
    names = [d.name for d in metrics.DESCRIPTORS]
    assert len(names) == len(set(names)) == 67  # 56 that a kubelet shows, two of the page cache, nine that suites want
    assert all(d.help and d.labels for d in metrics.DESCRIPTORS)
