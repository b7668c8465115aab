# SPDX-License-Identifier: Apache-2.0
"""pod apply, ls, inspect, logs, exec, delete: Kubernetes pods by hand, from the same YAML that a kubelet takes."""

from __future__ import annotations

import os
import stat
import sys
import time

from cri.hand import look, names, notes
from cri.hand.errors import HandError, suggestion
from cri.hand.tables import age, print_rows
from runtime.linux.quick_dataclasses import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cri.engine.request import ContainerRequest
    from cri.hand.grammar import Arguments
    from cri.hand.places import Places
    from cri.hand.pod_plan import Directories, PodPlan, Volume
    from cri.hand.room import Room
    from cri.images.model import Image


def volumes_dir(places: Places, pod_id: str) -> str:
    """emptyDir on disk: goes with the pod."""
    return f"{places.root}/pods/{pod_id}"


def secrets_dir(places: Places, pod_id: str) -> str:
    """Secrets and emptyDir in memory: the state directory is a tmpfs, nothing of them reaches a disk."""
    return f"{places.hand}/pods/{pod_id}"


def logs_dir(places: Places, pod_id: str) -> str:
    return f"{places.root}/logs/{pod_id}"


def directories(places: Places, pod_id: str = "") -> Directories:
    """Where a pod's volumes are; a new pod gets its id here."""
    from cri.hand.pod_plan import Directories

    pod_id = pod_id or os.urandom(32).hex()
    return Directories(pod_id, volumes_dir(places, pod_id), secrets_dir(places, pod_id), places.volumes)


def read_manifest(places: Places, path: str) -> list[PodPlan]:
    """All pods of a file; - is stdin."""
    from cri.hand import manifest

    try:
        if path == "-":
            text = sys.stdin.read()
        else:
            with open(path) as file:
                text = file.read()
    except OSError as e:
        raise HandError(f"cannot read {path}: {e.strerror}") from None
    except UnicodeDecodeError:
        raise HandError(f"{path} is not text", hint="a YAML file is needed") from None
    return manifest.read(text, path if path != "-" else "stdin", lambda: directories(places))


def apply(arguments: Arguments, places: Places) -> int:
    """Run the pods of a file."""
    from cri.hand.room import Room

    path = arguments.text("filename")
    if not path:
        raise HandError("pod apply: -f FILE is missing", hint="ketch pod apply -f pod.yaml")
    plans = read_manifest(places, path)
    with Room(places) as room:
        for plan in plans:
            if plan.told:
                print(f"{plan.where}: not kept by hand yet: {', '.join(plan.told)} (a kubelet does)", file=sys.stderr)
            _apply_one(room, plan, plan.id, arguments)
            print(f"pod/{plan.pod.name} created")
    return 0


def _key(plan: PodPlan) -> str:
    return f"pod {plan.pod.namespace}/{plan.pod.name}"


def _apply_one(room: Room, plan: PodPlan, identity: str, arguments: Arguments) -> None:
    from cri.hand import networks, ports

    places = room.places
    for old in look.pods(places):
        if (old.namespace, old.name) == (plan.pod.namespace, plan.pod.name) and not old.is_for_one:
            if not arguments.flag("replace"):
                hint = f"--replace, or ketch pod delete {old.name}"
                raise HandError(f"there is a pod {old.name} already", hint=hint)
            remove(room, old, 0.0)
    images = _images(room, plan)
    if plan.pod.network:
        networks.require(places, plan.pod.network)
    request = replace(ports.settle(places, plan.pod), log_directory=logs_dir(places, identity))
    plan = replace(plan, pod=request)
    with room.making(identity):
        names.take(places, _key(plan), identity)
        try:
            _bring_up(room, plan, identity, images)
        except BaseException:
            _undo(room, plan, identity)
            raise
    _start(room, plan, identity)


def _images(room: Room, plan: PodPlan) -> dict[str, Image]:
    from cri.hand import images

    return {name: images.need(room.context.images, name, when) for name, when in plan.pull.items()}


def _bring_up(room: Room, plan: PodPlan, identity: str, images: dict[str, Image]) -> None:
    """Volumes, pod, containers; nothing runs yet."""
    import json

    from cri.engine import container as engine
    from cri.engine import sandbox
    from cri.hand import hosts

    os.makedirs(logs_dir(room.places, identity), mode=0o700, exist_ok=True)
    for volume in plan.volumes:
        _prepare(room.places, volume, identity)
    _make_sub_paths(plan)
    sandbox.run(room.context, plan.pod, identity)
    hosts.write(room.places, identity)
    ip = next(iter(room.context.book.pod(identity).ips), "")
    for request in (*plan.init, *plan.containers):
        image = images[request.image]
        config = room.context.images.config(image.id)
        argv = [*(request.command or config.entrypoint), *(request.args or (() if request.command else config.cmd))]
        if not argv:
            raise HandError(f"{plan.where}: image {request.image} names no command", hint="set command")
        remarks = {**request.annotations, notes.COMMAND: json.dumps(argv)}
        ready = replace(_with_ip(plan, request, ip), image=image.id, annotations=remarks)
        engine.create(room.context, identity, ready)


def _with_ip(plan: PodPlan, request: ContainerRequest, ip: str) -> ContainerRequest:
    from cri.hand.pod_container import with_ip

    return with_ip(request, ip) if plan.needs_ip else request


def _prepare(places: Places, volume: Volume, identity: str) -> None:
    """What a mount will find at its source."""
    from cri.hand import pod_volumes, volumes

    path = pod_volumes.source_of(volume, directories(places, identity))
    if volume.kind == "claim":
        volumes.ensure(places, volume.claim)
    elif volume.kind == "host":
        _check_host(volume)
    else:
        os.makedirs(path, mode=0o755, exist_ok=True)
        if volume.kind != "files":
            os.chmod(path, 0o777)  # noqa: S103 - as a kubelet makes them: whoever runs in the pod may write
    for file in volume.files:
        target = f"{path}/{file.path}"
        os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, file.mode)
        os.fchmod(fd, file.mode)
        os.write(fd, file.data)
        os.close(fd)


_TYPES = {
    "Directory": stat.S_ISDIR,
    "File": stat.S_ISREG,
    "Socket": stat.S_ISSOCK,
    "CharDevice": stat.S_ISCHR,
    "BlockDevice": stat.S_ISBLK,
}


def _check_host(volume: Volume) -> None:
    """hostPath's type, as a kubelet understands it."""
    path, kind = volume.host_path, volume.host_type
    if kind == "DirectoryOrCreate":
        os.makedirs(path, mode=0o755, exist_ok=True)
    elif kind == "FileOrCreate":
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    elif kind:
        check = _TYPES.get(kind)
        if check is None:
            raise HandError(
                f"volume {volume.name}: unknown hostPath type {kind!r}", hint=suggestion(kind, list(_TYPES))
            )
        if not os.path.exists(path) or not check(os.stat(path).st_mode):
            raise HandError(f"volume {volume.name}: {path} is no {kind}")


def _make_sub_paths(plan: PodPlan) -> None:
    """A subPath that is not there becomes a folder, as under a kubelet."""
    folders = {v.name for v in plan.volumes if v.kind != "files"}
    for request in (*plan.init, *plan.containers):
        for mount in request.mounts:
            if folders and not os.path.lexists(mount.host_path):
                os.makedirs(mount.host_path, mode=0o755, exist_ok=True)


def _undo(room: Room, plan: PodPlan, identity: str) -> None:
    from cri.engine import sandbox

    if identity in room.context.book.pods:
        sandbox.remove(room.context, identity)
    _forget(room.places, identity)
    names.release(room.places, _key(plan), identity)


def _forget(places: Places, identity: str) -> None:
    from runtime.linux import beneath, mounts

    for folder in (volumes_dir(places, identity), secrets_dir(places, identity), logs_dir(places, identity)):
        if os.path.isdir(folder):
            mounts.detach_all_beneath(folder)
            beneath.remove_tree(folder)


def _start(room: Room, plan: PodPlan, identity: str) -> None:
    """Init containers one after the other, each to its end, then all others."""
    from cri.engine import container as engine
    from cri.engine.errors import EngineError

    name = plan.pod.name
    of_name = {record.request.name: record for record in room.context.book.of_pod(identity)}
    for request in plan.init:
        record = of_name[request.name]
        engine.start(room.context, record.id)
        if request.annotations.get(notes.INIT) == "sidecar":
            continue
        ended = room.context.keep.wait(record.id)
        if ended is None or ended.exit_code != 0:
            code = "unknown" if ended is None else ended.exit_code
            hint = f"ketch pod logs {name} -c {request.name}; ketch why {name}/{request.name}"
            raise HandError(f"pod {name}: init container {request.name} ended with {code}", hint=hint)
    for request in plan.containers:
        try:
            engine.start(room.context, of_name[request.name].id)
        except EngineError as e:
            sentence = str(e).replace(f"container {of_name[request.name].id}: ", "")
            raise HandError(
                f"pod {name}: container {request.name}: {sentence}", hint=f"ketch why {name}/{request.name}"
            ) from e


# what there is


def members(places: Places, pod: look.SeenPod) -> list[look.Seen]:
    """Its containers in the order of their making."""
    return sorted(look.members(places, pod.id), key=lambda container: container.created_at)


def status_of(found: list[look.Seen], pod: look.SeenPod) -> str:
    """Running, Completed, Error, Init:0/1 ...: kubectl's words."""
    if pod.phase != "ready":
        return "Stopped"
    init = [c for c in found if c.notes.get(notes.INIT) == "true"]
    done = [c for c in init if c.state() == "exited" and c.exit_code() == 0]
    if len(done) < len(init):
        failed = any(c.state() == "exited" and c.exit_code() != 0 for c in init)
        return "Init:Error" if failed else f"Init:{len(done)}/{len(init)}"
    main = [c for c in found if not c.notes.get(notes.INIT)]
    states = {c.state() for c in main}
    if any((c.exit() or {}).get("oom") for c in main):
        return "OOMKilled"
    if any(c.failure for c in main):
        return "StartError"
    if states & {"running", "paused"}:
        return "Running"
    if states == {"exited"}:
        return "Completed" if all(c.exit_code() == 0 for c in main) else "Error"
    return "Created" if states == {"created"} else "Unknown"


def ls(arguments: Arguments, places: Places) -> int:
    """NAME, READY, STATUS, AGE, IP."""
    rows: list[dict[str, object]] = []
    now = time.time()
    for pod in look.pods(places, all_owners=arguments.flag("all-owners")):
        if pod.is_for_one:
            continue
        found = members(places, pod)
        main = [c for c in found if not c.notes.get(notes.INIT)]
        running = sum(c.state() == "running" for c in main)
        rows.append(
            {
                "ID": pod.id if arguments.flag("no-trunc") else pod.id[:12],
                "Name": pod.name,
                "Namespace": pod.namespace,
                "Ready": f"{running}/{len(main)}",
                "Status": status_of(found, pod),
                "Age": age(now - pod.created_at / look.SECOND),
                "IP": next(iter(pod.ips), "<none>"),
                "Owner": pod.owner,
            }
        )
    if arguments.flag("quiet"):
        for row in rows:
            print(row["ID"])
        return 0
    columns = [("POD ID", "ID"), ("NAME", "Name"), ("NAMESPACE", "Namespace"), ("READY", "Ready"), ("STATUS", "Status")]
    columns += [("AGE", "Age"), ("IP", "IP")]
    if arguments.flag("all-owners"):
        columns.append(("OWNER", "Owner"))
    print_rows(rows, columns, arguments.text("format"))
    return 0


def describe(places: Places, pod: look.SeenPod) -> dict[str, object]:
    """Everything of a pod."""
    from cri.hand import show

    found = members(places, pod)
    return {
        "Id": pod.id,
        "Name": pod.name,
        "Namespace": pod.namespace,
        "Created": show._time(pod.created_at),
        "State": status_of(found, pod),
        "Hostname": pod.record.get("hostname", ""),
        "IPs": pod.ips,
        "Labels": pod.request.get("labels", {}),
        "Annotations": {k: v for k, v in pod.notes.items() if not k.startswith("ketch.hand/")},
        "Network": pod.notes.get(notes.NETWORK, pod.record.get("network", "")),
        "NetworkNamespace": pod.record.get("netns", ""),
        "Namespaces": pod.record.get("pins", {}),
        "Ports": pod.request.get("port_mappings", []),
        "Owner": pod.owner,
        "Containers": [show.describe(places, container) for container in found],
    }


def inspect(arguments: Arguments, places: Places) -> int:
    found = [describe(places, look.pod(places, word)) for word in arguments.words]
    form = arguments.text("format")
    if form and form != "json":
        from cri.hand.templates import fill_template

        for pod in found:
            print(fill_template(form, pod))
    else:
        from json import dumps

        print(dumps(found, indent=4))
    return 0


def _chosen(places: Places, pod: look.SeenPod, wanted: str) -> look.Seen:
    found = members(places, pod)
    if not found:
        raise HandError(f"pod {pod.name} has no containers")
    known = [str(c.request["name"]) for c in found]
    if not wanted:
        main = [c for c in found if not c.notes.get(notes.INIT)]
        return (main or found)[0]
    for container in found:
        if container.request["name"] == wanted:
            return container
    raise HandError(
        f"pod {pod.name} has no container {wanted!r}", hint=suggestion(wanted, known) or f"it has {', '.join(known)}"
    )


def logs(arguments: Arguments, places: Places) -> int:
    from cri.hand import logs as printing

    pod = look.pod(places, arguments.words[0])
    return printing.print_logs(arguments, places, _chosen(places, pod, arguments.text("container")))


def exec_(arguments: Arguments, places: Places) -> int:
    from cri.hand import inside

    pod = look.pod(places, arguments.words[0])
    words = arguments.words[1:]
    if words[:1] == ["--"]:
        words = words[1:]
    seen = _chosen(places, pod, arguments.text("container"))
    if seen.state() != "running":
        raise HandError(f"container {seen.name} is not running", hint=f"ketch why {seen.name}")
    return inside.exec_in(arguments, places, seen, words)


def delete(arguments: Arguments, places: Places) -> int:
    """Each container its stop signal and its time, then all of the pod."""
    from cri.hand.room import Room

    words = list(arguments.words)
    if arguments.given("filename"):
        plans = read_manifest(places, arguments.text("filename"))
        words += [f"{plan.pod.namespace}/{plan.pod.name}" for plan in plans]
    if not words:
        raise HandError("pod delete: POD missing", hint="ketch pod ls lists them")
    with Room(places) as room:
        for word in words:
            pod = look.pod(places, word, all_owners=False)
            grace = arguments.text("grace-period") or pod.notes.get(notes.STOP_SECONDS, "30")
            remove(room, pod, float(grace))
            print(f"pod/{pod.name} deleted")
    return 0


def remove(room: Room, pod: look.SeenPod, grace_seconds: float) -> None:
    """All of it: containers stopped together, network, volumes, logs, name."""
    import threading

    from cri.engine import container as engine
    from cri.engine import sandbox

    room.load_pod(pod.id)
    records = room.context.book.of_pod(pod.id)
    threads = [
        threading.Thread(target=engine.stop, args=(room.context, record.id, grace_seconds)) for record in records
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sandbox.remove(room.context, pod.id)
    _forget(room.places, pod.id)
    names.release(room.places, f"pod {pod.namespace}/{pod.name}", pod.id)
