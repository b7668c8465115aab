# SPDX-License-Identifier: Apache-2.0
"""From the engine's records to messages."""

from __future__ import annotations

from typing import Any

from cri.engine.book import Book, Ended, State
from cri.engine.records import ContainerRecord, PodPhase, PodRecord
from cri.engine.request import Mode, MountRequest, Namespaces, Propagation, Resources
from proto import cri_pb2 as pb

STATES = {
    State.CREATED: pb.CONTAINER_CREATED,
    State.RUNNING: pb.CONTAINER_RUNNING,
    State.EXITED: pb.CONTAINER_EXITED,
    State.UNKNOWN: pb.CONTAINER_UNKNOWN,
}
MODES = {Mode.POD: pb.POD, Mode.CONTAINER: pb.CONTAINER, Mode.NODE: pb.NODE, Mode.TARGET: pb.TARGET}
PROPAGATIONS = {
    Propagation.PRIVATE: pb.PROPAGATION_PRIVATE,
    Propagation.HOST_TO_CONTAINER: pb.PROPAGATION_HOST_TO_CONTAINER,
    Propagation.BIDIRECTIONAL: pb.PROPAGATION_BIDIRECTIONAL,
}


def pod_state(record: PodRecord) -> Any:
    return pb.SANDBOX_READY if record.phase == PodPhase.READY else pb.SANDBOX_NOTREADY


def pod_metadata(record: PodRecord) -> Any:
    request = record.request
    return pb.PodSandboxMetadata(
        name=request.name, uid=request.uid, namespace=request.namespace, attempt=request.attempt
    )


def pod_item(record: PodRecord) -> Any:
    """A line of ListPodSandbox."""
    return pb.PodSandbox(
        id=record.id,
        metadata=pod_metadata(record),
        state=pod_state(record),
        created_at=record.created_at,
        labels=record.request.labels,
        annotations=record.request.annotations,
        runtime_handler=record.request.handler,
    )


def namespace_option(asked: Namespaces) -> Any:
    option = pb.NamespaceOption(
        network=MODES[asked.network], pid=MODES[asked.pid], ipc=MODES[asked.ipc], target_id=asked.target_id
    )
    if asked.user.mode != Mode.NODE or asked.user.uids:
        option.userns_options.CopyFrom(
            pb.UserNamespace(
                mode=MODES[asked.user.mode],
                uids=[id_mapping(r) for r in asked.user.uids],
                gids=[id_mapping(r) for r in asked.user.gids],
            )
        )
    return option


def id_mapping(line: Any) -> Any:
    return pb.IDMapping(host_id=line.host_id, container_id=line.container_id, length=line.length)


def pod_status(record: PodRecord) -> Any:
    status = pb.PodSandboxStatus(
        id=record.id,
        metadata=pod_metadata(record),
        state=pod_state(record),
        created_at=record.created_at,
        linux=pb.LinuxPodSandboxStatus(namespaces=pb.Namespace(options=namespace_option(record.request.namespaces))),
        labels=record.request.labels,
        annotations=record.request.annotations,
        runtime_handler=record.request.handler,
        network=pb.PodSandboxNetworkStatus(),
    )
    # A pod on the node's network has the node's addresses; the kubelet fills those in itself.
    if record.ips and record.phase == PodPhase.READY:
        status.network.ip = record.ips[0]
        status.network.additional_ips.extend(pb.PodIP(ip=ip) for ip in record.ips[1:])
    return status


def container_metadata(record: ContainerRecord) -> Any:
    return pb.ContainerMetadata(name=record.request.name, attempt=record.request.attempt)


def image_spec(record: ContainerRecord) -> Any:
    return pb.ImageSpec(
        image=record.request.image,
        annotations=record.request.image_annotations,
        user_specified_image=record.request.user_specified_image,
        runtime_handler=record.request.image_handler,
    )


def named_image_spec(record: ContainerRecord) -> Any:
    """As a person named it: a kubelet creates by id, and shows this name as the image of the running container."""
    spec = image_spec(record)
    spec.image = record.request.user_specified_image or record.request.image
    return spec


def container_item(record: ContainerRecord, state: State) -> Any:
    """A line of ListContainers."""
    return pb.Container(
        id=record.id,
        pod_sandbox_id=record.pod_id,
        metadata=container_metadata(record),
        image=image_spec(record),
        image_ref=record.image_id,
        image_id=record.image_id,
        state=STATES[state],
        created_at=record.created_at,
        labels=record.request.labels,
        annotations=record.request.annotations,
    )


def mount(asked: MountRequest, record: ContainerRecord) -> Any:
    built = pb.Mount(
        container_path=asked.container_path,
        host_path=asked.host_path,
        readonly=asked.readonly,
        selinux_relabel=asked.relabel,
        propagation=PROPAGATIONS[asked.propagation],
        uidMappings=[id_mapping(r) for r in asked.uids],
        gidMappings=[id_mapping(r) for r in asked.gids],
        recursive_read_only=asked.recursive_readonly,
        image_sub_path=asked.image_sub_path,
        mount_options=asked.options,
    )
    if asked.image:
        ref = record.volume_refs.get(asked.container_path, "")
        built.image.CopyFrom(pb.ImageSpec(image=asked.image, user_specified_image=asked.image, image_ref=ref))
    return built


def resources(limits: Resources) -> Any:
    return pb.LinuxContainerResources(
        cpu_period=limits.cpu_period,
        cpu_quota=limits.cpu_quota,
        cpu_shares=limits.cpu_shares,
        memory_limit_in_bytes=limits.memory_limit_bytes,
        memory_swap_limit_in_bytes=limits.memory_swap_limit_bytes,
        oom_score_adj=limits.oom_score_adj,
        cpuset_cpus=limits.cpuset_cpus,
        cpuset_mems=limits.cpuset_mems,
        hugepage_limits=[pb.HugepageLimit(page_size=h.page_size, limit=h.limit) for h in limits.hugepages],
        unified=limits.unified,
    )


def reason(record: ContainerRecord, ended: Ended) -> str:
    """One word, as kubelets and people know it."""
    if record.failure or not record.pid:
        return "StartError"
    if ended.exit_code is None:
        return "Unknown"
    if ended.oom and ended.exit_code != 0:
        return "OOMKilled"
    return "Completed" if ended.exit_code == 0 else "Error"


def container_status(record: ContainerRecord, book: Book) -> Any:
    ended = book.ends.get(record.id)
    status = pb.ContainerStatus(
        id=record.id,
        metadata=container_metadata(record),
        state=STATES[book.state(record)],
        created_at=record.created_at,
        started_at=record.started_at,
        image=named_image_spec(record),
        image_ref=record.image_ref,
        image_id=record.image_id,
        labels=record.request.labels,
        annotations=record.request.annotations,
        mounts=[mount(m, record) for m in record.request.mounts],
        log_path=record.log_path,
        resources=pb.ContainerResources(linux=resources(record.request.resources)),
        user=pb.ContainerUser(
            linux=pb.LinuxContainerUser(uid=record.uid, gid=record.gid, supplemental_groups=record.groups)
        ),
        stop_signal=signal_value(record.stop_signal),
    )
    if ended is not None:
        status.finished_at = ended.finished_at
        # Where nobody saw the code the state says UNKNOWN; the number is then the one that means failure everywhere.
        status.exit_code = 255 if ended.exit_code is None else ended.exit_code
        status.reason = reason(record, ended)
        status.message = record.failure or ended.detail
    return status


def signal_value(name: str) -> Any:
    """The wire's number of a signal's name; none for what has none."""
    wanted = name.upper().removeprefix("SIG").replace("+", "PLUS").replace("-", "MINUS")
    try:
        return pb.Signal.Value(f"SIGNAL_SIG{wanted}")
    except ValueError:
        return None
