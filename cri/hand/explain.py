# SPDX-License-Identifier: Apache-2.0
"""explain: everything that a command, a pod, a bundle or a CNI list would make, in order; no root, no effect.

The same plans that `run` and `pod apply` carry out are built here and only described: what is printed is what would be
done.
"""

from __future__ import annotations

import os
import sys
from ipaddress import ip_network

from cri.engine import handlers, node
from cri.engine.request import ContainerRequest, Mode, PodRequest
from cri.hand import commands, grammar, making, networks, notes, pods
from cri.hand.errors import USAGE, HandError, UsageError, suggestion
from cri.hand.grammar import Arguments
from cri.hand.places import Places
from cri.hand.pod_container import with_ip
from cri.hand.room import config_of
from cri.images.model import Image, ImageConfig, Platform
from cri.oci import config as oci_config
from cri.oci import devices, mounts, security, users
from cri.oci.facts import BoundMount, ContainerFacts, ImageDefaults, Node, PodPlace, Refused
from cri.oci.resources import cgroups_path

Lines = list[tuple[str, str]]

_EMPTY = ImageConfig(platform=Platform("linux", "amd64"))


def explain(arguments: Arguments, places: Places) -> int:
    """Find out what is meant, build its plan, print it."""
    lines = lines_of(arguments.words, places)
    form = arguments.text("format")
    if form == "json":
        from json import dumps

        print(dumps([{"phase": phase, "step": step} for phase, step in lines], indent=2))
        return 0
    if form not in ("", "text"):
        raise UsageError(f"--format: expected text or json, got {form!r}", code=USAGE)
    width = max(len(phase) for phase, _ in lines)
    for phase, step in lines:
        sys.stdout.write(f"\n{step}\n" if phase == "title" else f"{phase:<{width}}  {step}\n")
    return 0


def lines_of(words: list[str], places: Places) -> Lines:
    """By the look of it: a file, a folder, or a command line."""
    what = words[0]
    if os.path.isdir(what):
        return bundle(what)
    if what.endswith((".conflist", ".conf")):
        return network_file(what)
    if what.endswith((".yaml", ".yml")) or what == "-":
        return manifest(what, places)
    if what == "ketch":
        words = words[1:]
    if words[:1] in (["run"], ["create"]) or words[:2] in (["container", "run"], ["container", "create"]):
        return command_line(words, places)
    if words[:2] == ["pod", "apply"] or words[:1] == ["apply"]:
        command = next(c for c in commands.ALL if c.words == "pod apply")
        file = grammar.parse(command, words[2:] if words[0] == "pod" else words[1:]).text("filename")
        if not file:
            raise UsageError("explain pod apply: -f FILE is missing", code=USAGE)
        return manifest(file, places)
    if os.path.exists(what):
        raise HandError(f"{what}: cannot tell what it is", hint="a .yaml, a .conflist, or a folder with a config.json")
    hint = suggestion(what, ["run", "create", "pod"]) or "explain run IMAGE, pod.yaml, BUNDLE or NET.conflist"
    raise HandError(f"cannot explain {what!r}", hint=hint)


# a command line


def command_line(words: list[str], places: Places) -> Lines:
    command, rest = grammar.find_command([w for w in words if w != "container"], commands.ALL)
    arguments = grammar.parse(command, rest)
    image, config, known = _image(places, arguments.words[0])
    identity = "0" * 64
    facts = making.Facts(
        id=identity,
        name=arguments.text("name") or "NAME",
        image_name=image.id if image else arguments.words[0],
        image=config,
        environment=dict(os.environ),
        volumes_dir=places.volumes,
        logs_dir=f"{places.root}/logs/ID",
        user_range=making.PRIVATE_IDS,
    )
    planned = making.plan(arguments, facts)
    lines: Lines = [("title", f"ketch {' '.join(words)}")]
    lines += [("image", known)]
    lines += [("name", f"take {facts.name}" if arguments.given("name") else "invent a name of two words")]
    lines += [("volume", f"make {name[:12]} if it is not there") for name in planned.volumes]
    lines += [("folder", f"make {path} if it is not there") for path in planned.folders if not os.path.lexists(path)]
    if planned.joins:
        lines += [("pod", f"join the pod of container {planned.joins}: its network, IPC and host name")]
    else:
        lines += pod_lines(places, planned.pod)
    lines += container_lines(places, planned.pod, planned.container, identity, config or _EMPTY)
    if arguments.flag("rm"):
        lines.append(("end", "remove the container and its anonymous volumes"))
    return [(phase, _readable(step, identity)) for phase, step in lines]


def _readable(step: str, identity: str) -> str:
    return step.replace(identity, "ID").replace(identity[:12], "ID")


def _image(places: Places, name: str) -> tuple[Image | None, ImageConfig | None, str]:
    """The image as far as we may look: without root the store is closed to us."""
    if os.geteuid() != 0:
        return None, None, f"find {name} (what it says about its command and user needs root to read)"
    if not os.path.isdir(f"{places.root}/images"):
        return None, None, f"pull {name}: there are no images on this machine yet"
    from cri.hand.room import open_store

    store = open_store(config_of(places))
    try:
        image = store.find(name)
        if image is None:
            return None, None, f"pull {name}: it is not on this machine"
        return image, store.config(image.id), f"use {name} ({image.id.removeprefix('sha256:')[:12]}), it is here"
    finally:
        store.close()


# a pod


def manifest(path: str, places: Places) -> Lines:
    lines: Lines = []
    for plan in pods.read_manifest(places, path):
        lines.append(("title", f"pod {plan.pod.namespace}/{plan.pod.name} of {path}"))
        lines += [("not kept", f"{what} (a kubelet keeps it)") for what in plan.told]
        lines += [
            ("image", f"{name}: {'pull' if when == 'always' else 'use, or pull if missing'}")
            for name, when in plan.pull.items()
        ]
        for volume in plan.volumes:
            said = {
                "empty": "an empty folder that goes with the pod",
                "memory": "an empty folder in memory",
                "host": f"{volume.host_path} of this machine",
                "files": f"{len(volume.files)} files, in memory",
                "claim": f"the volume {volume.claim}, which outlives the pod",
            }[volume.kind]
            lines.append(("volume", f"{volume.name}: {said}"))
        lines += pod_lines(places, plan.pod)
        for request in (*plan.init, *plan.containers):
            first = "init container" if request.annotations.get(notes.INIT) else "container"
            lines.append(("title", f"{first} {request.name} of pod {plan.pod.name}"))
            _, config, known = _image(places, request.image)
            lines.append(("image", known))
            known_ip = with_ip(request, "(the address it will have)")
            lines += container_lines(places, plan.pod, known_ip, plan.id, config or _EMPTY)
        lines = [(phase, _readable(step, plan.id)) for phase, step in lines]
    return lines


def pod_lines(places: Places, request: PodRequest) -> Lines:
    """Namespaces that outlive any process, network, files."""
    asked = request.namespaces
    directory = f"{places.state}/pods/ID"
    lines: Lines = []
    pinned = []
    if asked.user.mode == Mode.POD:
        line = asked.user.uids[0]
        lines.append(("pod", f"new user namespace: ids 0..{line.length - 1} inside are {line.host_id}.. outside"))
        pinned.append("user")
    if asked.network == Mode.POD:
        pinned += ["net", "uts"]
    if asked.ipc == Mode.POD:
        pinned.append("ipc")
    if asked.pid == Mode.POD:
        pinned.append("pid")
    words = {"net": "network", "uts": "UTS (host name)", "ipc": "IPC", "user": "user", "pid": "PID"}
    for kind in pinned:
        where = f"{config_of(places).paths.netns}/ketch-ID" if kind == "net" else f"{directory}/{kind}"
        lines.append(("pod", f"new {words[kind]} namespace, pinned at {where}"))
    if asked.pid == Mode.POD:
        lines.append(("pod", "start the reaper as PID 1 of the shared PID namespace"))
    lines += [("pod", f"sysctl {name} = {value}") for name, value in request.sysctls.items()]
    if asked.network == Mode.POD:
        lines.append(("pod", f"host name {request.hostname}"))
    else:
        lines.append(("pod", "share the network of this machine"))
    if asked.ipc == Mode.POD:
        lines.append(("pod", f"mount a tmpfs of 64 MiB for /dev/shm at {directory}/shm"))
    if asked.network == Mode.POD and request.network == "none":
        lines.append(("network", "none: only loopback"))
    elif asked.network == Mode.POD:
        lines += network_lines(places, request)
    lines.append(("pod", f"write hostname, hosts and resolv.conf in {directory}"))
    return lines


def network_lines(places: Places, request: PodRequest) -> Lines:
    """What its CNI list would do."""
    name = request.network or networks.BRIDGE
    described = networks.read(places, name)
    if described is None:
        if name != networks.BRIDGE:
            return [("network", f"{name}: there is no such network")]
        described = networks.conflist(places, name, ["172.17.0.0/16"])
    ports = [
        {
            "hostPort": m.host_port,
            "containerPort": m.container_port,
            "protocol": m.protocol.lower(),
            "hostIP": m.host_ip,
        }
        for m in request.port_mappings
    ]
    return chain_lines(described, {"portMappings": ports} if ports else {})


def bundle(directory: str) -> Lines:
    """An OCI bundle: what `ketch-runtime create` would do with it."""
    from runtime import creation
    from runtime.errors import RuntimeFailure
    from runtime.linux import cgroup
    from runtime.plan import container

    request = creation.CreateRequest("/run/ketch-runtime", os.path.basename(os.path.abspath(directory)), directory)
    request.bundle = os.path.abspath(directory)
    try:
        _, config = creation.read_config(f"{request.bundle}/config.json")
        plan = creation.plan_for(request, config, cgroup.layout())
    except RuntimeFailure as e:
        raise HandError(str(e)) from None
    lines: Lines = [("title", f"bundle {request.bundle}"), *container.describe(plan)]
    return lines + [("warning", text) for text in plan.warnings]


# a CNI list


def network_file(path: str) -> Lines:
    from cni.client import CniError, load_file

    try:
        configuration = load_file(path)
    except (CniError, OSError) as e:
        raise HandError(f"{path}: {e}") from None
    described: dict[str, object] = {
        "name": configuration.name,
        "cniVersion": configuration.version,
        "plugins": configuration.plugins,
    }
    return [("title", f"network {configuration.name} of {path}"), *chain_lines(described, {})]


def chain_lines(described: dict[str, object], capability_args: dict[str, object]) -> Lines:
    """Each plugin of ours asked for its plan; for others only that they would be executed."""
    from cni import call as calls
    from cni import protocol
    from cni.errors import CniError

    lines: Lines = []
    environ = {"CNI_CONTAINERID": "ID", "CNI_NETNS": "/run/netns/ketch-ID", "CNI_IFNAME": "eth0", "CNI_PATH": ""}
    previous: dict[str, object] | None = None
    plugins = described["plugins"]
    assert isinstance(plugins, (list, tuple))
    for plugin in plugins:
        kind = str(plugin["type"])
        module = protocol.plugin(kind)
        if module is None:
            lines.append(("network", f"{kind}: execute the plugin of that name"))
            continue
        raw = {**plugin, "name": described["name"], "cniVersion": described["cniVersion"]}
        wanted = plugin.get("capabilities") or {}
        given = {key: value for key, value in capability_args.items() if wanted.get(key)}
        if given:
            raw["runtimeConfig"] = given
        if previous is not None:
            raw["prevResult"] = previous
        try:
            steps = module.explain(calls.Call("ADD", environ, raw, in_process=True))
        except (CniError, OSError) as e:
            steps = [f"cannot be planned here: {e}"]
        lines += [("network", f"{kind}: {step}") for step in steps]
        previous = previous or _result_of(plugin, str(described["cniVersion"]))
    return lines


def _result_of(plugin: dict[str, object], version: str) -> dict[str, object]:
    """What the first plugin would answer, with the first address of its range, so that the others can plan."""
    address, gateway = "192.0.2.2/24", "192.0.2.1"
    ipam = plugin.get("ipam")
    ranges = ipam.get("ranges") if isinstance(ipam, dict) else None
    subnet = ranges[0][0].get("subnet") if ranges else ipam.get("subnet") if isinstance(ipam, dict) else None
    if subnet:
        net = ip_network(str(subnet), strict=False)
        address, gateway = f"{net.network_address + 2}/{net.prefixlen}", str(net.network_address + 1)
    return {
        "cniVersion": version,
        "interfaces": [
            {"name": str(plugin.get("bridge", "cni0"))},
            {"name": "vethID"},
            {"name": "eth0", "sandbox": "/run/netns/ketch-ID"},
        ],
        "ips": [{"address": address, "gateway": gateway, "interface": 2}],
    }


# a container


def container_lines(
    places: Places, pod: PodRequest, request: ContainerRequest, identity: str, image: ImageConfig
) -> Lines:
    """The runtime's own plan for the config.json that would be written."""
    from runtime.linux import capabilities, cgroup
    from runtime.plan import container
    from runtime.spec import parse
    from runtime.spec.reader import SpecError

    seen = node.look(config_of(places))
    try:
        built = _config(places, pod, request, identity, image, seen)
        layout = cgroup.layout()
        plan = container.build(
            parse.config(built),
            container_id=identity,
            bundle=f"{places.state}/bundles/ID",
            host=container.HostFacts(cgroup_v2=layout.v2, capabilities=capabilities.bounding(), euid=0, egid=0),
            options=container.CreateOptions(),
            cgroup_paths=layout.directories(cgroups_path(pod.cgroup_parent, identity, seen)),
        )
    except (Refused, SpecError) as e:
        raise HandError(str(e)) from None
    lines = [("image", f"mount its layers and a writable layer as overlay at {places.state}/bundles/ID/rootfs")]
    lines += container.describe(plan)
    return lines + [("warning", text) for text in plan.warnings]


def _config(
    places: Places, pod: PodRequest, request: ContainerRequest, identity: str, image: ImageConfig, seen: Node
) -> dict[str, object]:
    directory = f"{places.state}/pods/ID"
    asked = pod.namespaces
    own = asked.network == Mode.POD
    place = PodPlace(
        id=identity,
        request=pod,
        hostname=pod.hostname,
        network_namespace=f"{config_of(places).paths.netns}/ketch-ID" if own else "",
        ipc_namespace=f"{directory}/ipc" if asked.ipc == Mode.POD else "",
        uts_namespace=f"{directory}/uts" if own else "",
        pid_namespace=f"{directory}/pid" if asked.pid == Mode.POD else "",
        user_namespace=f"{directory}/user" if asked.user.mode == Mode.POD else "",
        uids=asked.user.uids,
        gids=asked.user.gids,
        shm=f"{directory}/shm" if asked.ipc == Mode.POD else "/dev/shm",  # noqa: S108
        etc_hostname=f"{directory}/hostname",
        etc_hosts=f"{directory}/hosts",
        resolv_conf=f"{directory}/resolv.conf",
    )
    defaults = ImageDefaults(
        entrypoint=image.entrypoint,
        cmd=image.cmd,
        env=image.env,
        working_dir=image.working_dir,
        user=image.user,
        stop_signal=image.stop_signal,
        volumes=image.volumes,
    )
    if not (request.command or request.args or image.entrypoint or image.cmd):
        defaults = ImageDefaults(cmd=("(the command that the image names)",))
    handler = handlers.find(config_of(places), pod.handler)
    facts = ContainerFacts(
        id=identity,
        image_name=request.image,
        defaults=defaults,
        user=users.resolve(request, image.user, "", "")
        if _is_numeric(request, image)
        else users.resolve(request, "0", "root:x:0:0::/root:", ""),
        mounts=tuple(_bound(mount) for mount in request.mounts),
        devices=()
        if request.privileged and handler.settings.privileged_without_host_devices
        else devices.devices(request),
        seccomp=security.seccomp(request, seen, None),
        apparmor=security.apparmor_profile(request, seen),
    )
    built: dict[str, object] = oci_config.config(request, place, facts, seen)
    return built


def _is_numeric(request: ContainerRequest, image: ImageConfig) -> bool:
    """Names can only be looked up in the image's files, which are not mounted here."""
    name = users.asked(request, image.user).partition(":")[0]
    return name.isdecimal()


def _bound(mount: object) -> BoundMount:
    from cri.engine.request import MountRequest

    assert isinstance(mount, MountRequest)
    if mount.kind == "tmpfs":
        options = ("nosuid", "nodev", "ro" if mount.readonly else "rw", *mount.options)
        return BoundMount(mount.container_path, "tmpfs", options, kind="tmpfs")
    return BoundMount(
        mount.container_path, mount.host_path, mounts.bind_options(mount), uids=mount.uids, gids=mount.gids
    )
