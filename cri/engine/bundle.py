# SPDX-License-Identifier: Apache-2.0
"""From an image and a request to a bundle: root mounted, volumes found, user looked up, config.json written."""

from __future__ import annotations

import json
import os
import stat

from cri.engine import apparmor, relabel
from cri.engine.book import changed
from cri.engine.context import Context
from cri.engine.errors import BadRequest, Failed, NotFound
from cri.engine.handlers import Runner, passed
from cri.engine.phases import phase
from cri.engine.records import ContainerRecord, PodRecord
from cri.engine.request import ContainerRequest, Mode, MountRequest, ProfileKind, Propagation
from cri.images import errors as image_errors
from cri.images.model import IdMapping, Image
from cri.oci import devices, mounts, namespaces, security, selinux, users
from cri.oci.config import config
from cri.oci.facts import BoundMount, ContainerFacts, Device, ImageDefaults, PodPlace, Refused
from runtime.linux import beneath, mountinfo
from runtime.linux.quick_dataclasses import replace


def find_image(context: Context, name: str) -> Image:
    image = context.images.find(name)
    if image is None:
        raise NotFound(f"config.image {name!r}: no such image on this node; pull it first")
    return image


def place_of(context: Context, pod: PodRecord) -> PodPlace:
    """Where this pod's shared things lie."""
    directory = context.pods.directory(pod.id)
    return PodPlace(
        id=pod.id,
        request=pod.request,
        hostname=pod.hostname,
        network_namespace=pod.pins.get("net", ""),
        ipc_namespace=pod.pins.get("ipc", ""),
        uts_namespace=pod.pins.get("uts", ""),
        pid_namespace=pod.pins.get("pid", ""),
        user_namespace=pod.pins.get("user", ""),
        uids=pod.uids,
        gids=pod.gids,
        shm=f"{directory}/shm" if pod.request.namespaces.ipc == Mode.POD else "/dev/shm",  # noqa: S108
        etc_hostname=f"{directory}/hostname",
        etc_hosts=f"{directory}/hosts",
        resolv_conf=f"{directory}/resolv.conf",
    )


def defaults_of(context: Context, image: Image) -> ImageDefaults:
    """What the image says; it may have been removed since it was found."""
    try:
        said = context.images.config(image.id)
    except image_errors.NotFound as e:
        raise NotFound(str(e)) from None
    return ImageDefaults(
        entrypoint=said.entrypoint,
        cmd=said.cmd,
        env=said.env,
        working_dir=said.working_dir,
        user=said.user,
        stop_signal=said.stop_signal,
        volumes=said.volumes,
    )


def volume_keys(identity: str, request: ContainerRequest) -> tuple[str, ...]:
    """Under which the store prepares its volumes: known before any of them is."""
    return tuple(f"{identity}-{index}" for index, mount in enumerate(request.mounts) if mount.image)


def make(
    context: Context, pod: PodRecord, record: ContainerRecord, defaults: ImageDefaults, runner: Runner
) -> ContainerRecord:
    """Lay out the bundle; returns the record with what was found out."""
    try:
        return _make(context, pod, record, defaults, runner)
    except Refused as e:
        raise BadRequest(str(e)) from None
    except image_errors.NotFound as e:
        raise NotFound(str(e)) from None


def _make(
    context: Context, pod: PodRecord, record: ContainerRecord, defaults: ImageDefaults, runner: Runner
) -> ContainerRecord:
    request = record.request
    directory = context.bundles.directory(record.id)
    with phase("rootfs"):
        label = selinux.mount_label(request, pod.request, pod.id, context.node)
        root = mount_rootfs(context, pod, record, f"{directory}/rootfs", label)
    try:
        with phase("volumes"):
            bound, refs = volumes(context, pod, record, directory, label)
            bound += image_volumes(pod, record, defaults, root, directory)
        with phase("config"):
            user = users.resolve(request, defaults.user, text_of(root, "etc/passwd"), text_of(root, "etc/group"))
    finally:
        os.close(root)
    facts = ContainerFacts(
        id=record.id,
        image_name=record.image_name,
        defaults=defaults,
        user=user,
        mounts=tuple(bound),
        devices=device_nodes(request, runner),
        target_pid_namespace=target_of(context, pod, request),
        seccomp=security.seccomp(request, context.node, seccomp_text(request)),
        apparmor=apparmor.prepare(security.apparmor_profile(request, context.node), request.apparmor, context.node),
        annotations={
            **passed(runner.settings.pod_annotations, pod.request.annotations),
            **passed(runner.settings.container_annotations, request.annotations),
        },
    )
    place = place_of(context, pod)
    if label:
        relabel.mark((place.etc_hostname, place.etc_hosts, place.resolv_conf), label)
    built = config(with_defaults(context, request), place, facts, context.node)
    with open(f"{directory}/config.json", "w") as file:
        file.write(json.dumps(built, separators=(",", ":")))
    return changed(record, uid=user.uid, gid=user.gid, groups=user.groups, volume_refs=refs)


def with_defaults(context: Context, request: ContainerRequest) -> ContainerRequest:
    """What the configuration limits where the request says nothing."""
    most = context.config.runtime.pids_limit
    if not most or request.resources.pids_limit:
        return request
    return replace(request, resources=replace(request.resources, pids_limit=most))


def id_mappings(pod: PodRecord) -> tuple[list[IdMapping], list[IdMapping]]:
    return (
        [IdMapping(r.container_id, r.host_id, r.length) for r in pod.uids],
        [IdMapping(r.container_id, r.host_id, r.length) for r in pod.gids],
    )


def mount_rootfs(context: Context, pod: PodRecord, record: ContainerRecord, target: str, label: str) -> int:
    """Mount the image with a writable layer; returns a descriptor of its root."""
    uids, gids = id_mappings(pod)
    rootfs = context.images.prepare_rootfs(record.image_id, record.id, uid_mappings=uids, gid_mappings=gids)
    os.mkdir(target, 0o755)
    if rootfs.upperdir:
        # A container's own layer does not outlive the boot, so nobody will miss what a power cut takes from it. Without
        # this, unmounting it flushes the whole filesystem beneath: 5 to 100 ms.
        rootfs = replace(rootfs, options=(*rootfs.options, "volatile"))
    if label:
        rootfs = replace(rootfs, options=(*rootfs.options, f"context={label}"))
    rootfs.mount(target, pod.pins.get("user", ""))
    return os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def text_of(root: int, path: str) -> str:
    """A file of the container, never of the host, whatever links its image holds."""
    try:
        data = beneath.read_file(root, path)
    except OSError:
        return ""
    return data.decode(errors="replace") if data else ""


def volumes(
    context: Context, pod: PodRecord, record: ContainerRecord, directory: str, label: str
) -> tuple[list[BoundMount], dict[str, str]]:
    """The mounts that were asked for, each with its source found; and the images behind the image volumes."""
    bound, refs = [], {}
    for index, mount in enumerate(record.request.mounts):
        if mount.image:
            source, ref = image_mount(context, pod, mount, f"{record.id}-{index}", f"{directory}/volume-{index}")
            refs[mount.container_path] = ref
            options: tuple[str, ...] = ("rbind", "rprivate", "ro", *mount.options)
            bound.append(BoundMount(mount.container_path, source, options))
        elif mount.kind == "tmpfs":
            options = ("nosuid", "nodev", "ro" if mount.readonly else "rw", *mount.options)
            bound.append(BoundMount(mount.container_path, "tmpfs", options, kind="tmpfs"))
        else:
            source = host_source(mount)
            if mount.relabel and label:
                relabel.relabel(source, label)
            bound.append(
                BoundMount(mount.container_path, source, mounts.bind_options(mount), uids=mount.uids, gids=mount.gids)
            )
    return bound, refs


def host_source(mount: MountRequest) -> str:
    """The host path with its links followed; a missing one is made, as a folder."""
    where = f"config.mounts[{mount.container_path!r}].host_path {mount.host_path!r}"
    try:
        real = os.path.realpath(mount.host_path)
        os.makedirs(real, mode=0o755, exist_ok=True) if not os.path.lexists(real) else None
    except OSError as e:
        raise Failed(f"{where}: {e.strerror}") from e
    if mount.propagation != Propagation.PRIVATE:
        check_propagation(mount, real, where)
    return real


def check_propagation(mount: MountRequest, real: str, where: str) -> None:
    """What the container should see, or show, must be possible on the host's side of the mount."""
    entry = mountinfo.holding(real)
    kinds = " ".join(entry.propagation) if entry is not None else ""
    shared = "shared:" in kinds
    if mount.propagation == Propagation.BIDIRECTIONAL and not shared:
        raise BadRequest(f"{where}: BIDIRECTIONAL needs a shared mount (mount --make-shared)")
    if not shared and "master:" not in kinds:
        raise BadRequest(f"{where}: HOST_TO_CONTAINER needs a shared or slave mount (mount --make-shared)")


def image_mount(context: Context, pod: PodRecord, mount: MountRequest, key: str, target: str) -> tuple[str, str]:
    """(path to bind, image id) of an image volume."""
    image = find_image(context, mount.image)
    uids, gids = id_mappings(pod)
    prepared = context.images.prepare_volume(
        image.id, key, sub_path=mount.image_sub_path, uid_mappings=uids, gid_mappings=gids
    )
    os.mkdir(target, 0o755)
    prepared.mount(target, pod.pins.get("user", ""))
    return target, image.id


def image_volumes(
    pod: PodRecord, record: ContainerRecord, defaults: ImageDefaults, root: int, directory: str
) -> list[BoundMount]:
    """VOLUME of the image: writable even where the root is not. With a writable root its own layer serves."""
    taken = {mounts.normal(mount.container_path) for mount in record.request.mounts}
    bound = []
    for index, path in enumerate(defaults.volumes):
        if mounts.normal(path) in taken:
            continue
        if not record.request.readonly_rootfs:
            os.close(beneath.make_directories(root, path))
            continue
        source = f"{directory}/image-volume-{index}"
        os.mkdir(source, 0o755)
        owner = pod.uids[0].host_id if pod.uids else 0
        os.chown(source, owner, owner)
        bound.append(BoundMount(path, source, ("rbind", "rprivate", "rw")))
    return bound


def device_nodes(request: ContainerRequest, runner: Runner) -> tuple[Device, ...]:
    if request.privileged and runner.settings.privileged_without_host_devices:
        return ()
    return devices.devices(request)


def seccomp_text(request: ContainerRequest) -> str | None:
    """The text of a localhost profile; the wire holds an absolute path."""
    profile = request.seccomp
    if profile is None or profile.kind != ProfileKind.LOCALHOST or request.privileged:
        return None
    path = profile.reference.removeprefix("localhost/")
    try:
        with open(path) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            return file.read(4 << 20)
    except (OSError, ValueError):
        return None


def target_of(context: Context, pod: PodRecord, request: ContainerRequest) -> str:
    """The PID namespace of the container that a debug container wants to look at."""
    from cri.engine.container import alive

    asked = namespaces.of_container(request, place_of(context, pod))
    if asked.pid != Mode.TARGET:
        return ""
    target = context.book.containers.get(asked.target_id)
    if target is None or (target.pod_id != pod.id and not asked.target_anywhere) or not alive(target):
        return ""
    return f"/proc/{target.pid}/ns/pid"
