# SPDX-License-Identifier: Apache-2.0
"""An ordinary Kubernetes Pod, with ConfigMaps and Secrets of the same file, to what the engine is asked for: pure.

What only a cluster can give a meaning (scheduling, service accounts) is read over; what this door cannot keep yet
(probes, restart policies, lifecycle hooks) is said in one line; what nobody knows is refused with its place.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from collections.abc import Callable

from cri.engine.request import (
    ContainerRequest,
    Dns,
    Mode,
    MountRequest,
    Namespaces,
    PodRequest,
    PortMapping,
    Profile,
    ProfileKind,
    Propagation,
    Resources,
    SELinux,
    UserNamespace,
)
from cri.hand import making, notes
from cri.hand.options import LEAST_MEMORY, object_name
from cri.hand.yaml_nodes import ManifestError, Node, documents
from cri.oci.security import MASKED_PATHS, READONLY_PATHS
from runtime.linux.quick_dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class File:
    """One file of a configMap or secret volume."""

    path: str
    data: bytes
    mode: int


@dataclass(frozen=True, slots=True)
class Volume:
    """What must be there before the containers: a folder of the pod, in memory or on disk, or one of the machine."""

    name: str
    kind: str  # empty, memory, host, files, claim
    host_path: str = ""
    host_type: str = ""
    files: tuple[File, ...] = ()
    claim: str = ""
    size_limit: int = 0


@dataclass(frozen=True, slots=True)
class PodPlan:
    """A pod with all its containers; init containers first, in order. `told` is what the file asks for in vain."""

    pod: PodRequest
    init: tuple[ContainerRequest, ...]
    containers: tuple[ContainerRequest, ...]
    volumes: tuple[Volume, ...]
    pull: dict[str, str] = field(default_factory=dict)  # image -> always, missing, never
    grace_seconds: int = 30
    told: tuple[str, ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()
    needs_ip: bool = False
    where: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Directories:
    """A pod's id, and where its volumes are: on disk, in memory, and the claims that outlive it."""

    id: str
    volumes: str
    secrets: str
    claims: str


@dataclass(slots=True)
class _Context:
    """What the parts of a file look up in each other."""

    config_maps: dict[str, dict[str, bytes]]
    secrets: dict[str, dict[str, bytes]]
    told: list[str]
    needs_ip: bool = False
    places: Directories = Directories("", "", "", "")


_CLUSTER_ONLY = (
    "activeDeadlineSeconds", "affinity", "automountServiceAccountToken", "enableServiceLinks", "imagePullSecrets",
    "nodeName", "nodeSelector", "preemptionPolicy", "priority", "priorityClassName", "readinessGates", "schedulerName",
    "schedulingGates", "serviceAccount", "serviceAccountName", "setHostnameAsFQDN", "subdomain", "tolerations",
    "topologySpreadConstraints", "os", "resourceClaims",
)  # fmt: skip
_PLACEHOLDER_IP = "\0podIP\0"  # known only when the pod has joined its network


def read(text: str, file: str, directories: Callable[[], Directories]) -> list[PodPlan]:
    """All pods of a file; directories() gives each of them its id and its places."""
    objects = list(_objects(text, file))
    context = _Context({}, {}, [])
    pods = []
    for node in objects:
        kind = _kind(node)
        if kind == "Pod":
            pods.append(node)
        elif kind == "ConfigMap":
            name, data = _config_map(node)
            context.config_maps[name] = data
        elif kind == "Secret":
            name, data = _secret(node)
            context.secrets[name] = data
        else:
            hint = "Pod, ConfigMap and Secret are; the rest needs a cluster"
            raise node.fields()["kind"].wrong(f"{kind!r} is not offered by hand", hint=hint)
    if not pods:
        raise ManifestError(f"{file}: no Pod in it")
    plans = []
    for node in pods:
        context.told, context.needs_ip, context.places = [], False, directories()
        plans.append(_pod(node, context, context.places.id))
    return plans


def _objects(text: str, file: str) -> list[Node]:
    found: list[Node] = []
    for node in documents(text, file):
        fields = node.fields()
        if "items" in fields and fields.get("kind") is not None and fields["kind"].text() == "List":
            found += fields["items"].items()
        else:
            found.append(node)
    return found


def _kind(node: Node) -> str:
    fields = node.fields()
    if "kind" not in fields:
        raise node.wrong("kind is missing", hint="kind: Pod")
    if "apiVersion" in fields and fields["apiVersion"].text() != "v1" and fields["kind"].text() == "Pod":
        raise fields["apiVersion"].wrong("a Pod is of version v1")
    return fields["kind"].text()


def _name_of(node: Node) -> str:
    metadata = node.fields().get("metadata")
    name = metadata.fields().get("name") if metadata is not None else None
    if name is None:
        raise node.wrong("metadata.name is missing")
    return name.text()


def _config_map(node: Node) -> tuple[str, dict[str, bytes]]:
    fields = node.known("apiVersion", "kind", "metadata", "data", "binaryData", "immutable")
    data = {name: value.encode() for name, value in fields["data"].strings().items()} if "data" in fields else {}
    for name, entry in fields["binaryData"].fields().items() if "binaryData" in fields else ():
        data[name] = _decoded(entry)
    return _name_of(node), data


def _secret(node: Node) -> tuple[str, dict[str, bytes]]:
    fields = node.known("apiVersion", "kind", "metadata", "data", "stringData", "type", "immutable")
    data = {name: _decoded(entry) for name, entry in fields["data"].fields().items()} if "data" in fields else {}
    if "stringData" in fields:
        data |= {name: value.encode() for name, value in fields["stringData"].strings().items()}
    return _name_of(node), data


def _decoded(node: Node) -> bytes:
    try:
        return b64decode(node.text(), validate=True)
    except binascii.Error:
        raise node.wrong("not base64", hint="plain text belongs into stringData") from None


def _pod(node: Node, context: _Context, identity: str) -> PodPlan:
    fields = node.known("apiVersion", "kind", "metadata", "spec", "status")
    if "spec" not in fields:
        raise node.wrong("spec is missing")
    name = object_name("metadata.name", _name_of(node))
    metadata = fields["metadata"].fields()
    namespace = metadata["namespace"].text() if "namespace" in metadata else "default"
    labels = metadata["labels"].strings() if "labels" in metadata else {}
    annotations = metadata["annotations"].strings() if "annotations" in metadata else {}
    spec = fields["spec"].known(
        "containers", "initContainers", "ephemeralContainers", "volumes", "hostNetwork", "hostPID", "hostIPC",
        "hostUsers", "shareProcessNamespace", "hostname", "hostAliases", "dnsPolicy", "dnsConfig", "securityContext",
        "restartPolicy", "terminationGracePeriodSeconds", "runtimeClassName", "overhead", "resources", *_CLUSTER_ONLY,
    )  # fmt: skip
    if "containers" not in spec or not spec["containers"].items():
        raise fields["spec"].wrong("containers is missing: a pod needs at least one")
    policy = spec.get("restartPolicy")
    if policy is not None:
        if policy.text() not in ("Always", "OnFailure", "Never"):
            raise policy.wrong(f"{policy.text()!r} is not Always, OnFailure or Never")
        if policy.text() != "Never":
            context.told.append(f"restartPolicy: {policy.text()}")
    facts = {
        "metadata.name": name,
        "metadata.namespace": namespace,
        "metadata.uid": identity,
        "spec.nodeName": "localhost",
    }
    facts |= {f"metadata.labels['{key}']": value for key, value in labels.items()}
    facts |= {f"metadata.annotations['{key}']": value for key, value in annotations.items()}
    pod_security = _PodSecurity(spec.get("securityContext"))
    namespaces = _namespaces(spec)
    volumes = {v.name: v for v in (_volume(v, context) for v in spec["volumes"].items())} if "volumes" in spec else {}
    built: dict[str, list[ContainerRequest]] = {"initContainers": [], "containers": []}
    ports: list[PortMapping] = []
    pull: dict[str, str] = {}
    names: set[str] = set()
    for key, found in built.items():
        for entry in spec[key].items() if key in spec else ():
            container = _Container(entry, context, volumes, pod_security, facts, namespaces)
            if container.name in names:
                raise entry.fields()["name"].wrong(f"a second container named {container.name}")
            names.add(container.name)
            found.append(container.request(init=key == "initContainers"))
            ports += container.ports()
            pull[container.image] = container.pull()
    _refuse_doubles(ports, spec["containers"])
    host = spec["hostNetwork"].truth() if "hostNetwork" in spec else False
    grace = spec["terminationGracePeriodSeconds"].number() if "terminationGracePeriodSeconds" in spec else 30
    remarks = {notes.KIND: notes.POD, notes.NETWORK: "host" if host else "bridge", notes.STOP_SECONDS: str(grace)}
    hosts = tuple(_aliases(spec["hostAliases"])) if "hostAliases" in spec else ()
    if hosts:
        remarks[notes.HOSTS] = json.dumps([[name_, address] for name_, address in hosts])
    request = PodRequest(
        name=name,
        namespace=namespace,
        uid=identity,
        hostname="" if host else spec["hostname"].text() if "hostname" in spec else name[:63],
        dns=_dns(spec["dnsConfig"]) if "dnsConfig" in spec else None,
        port_mappings=() if host else tuple(ports),
        labels=labels,
        annotations={**annotations, **remarks},
        sysctls=pod_security.sysctls,
        namespaces=namespaces,
        selinux=pod_security.selinux,
        run_as_user=pod_security.run_as_user,
        run_as_group=pod_security.run_as_group,
        supplemental_groups=pod_security.groups,
        privileged=any(c.privileged for c in built["containers"] + built["initContainers"]),
        handler=spec["runtimeClassName"].text() if "runtimeClassName" in spec else "",
        network="" if host else "bridge",
    )
    return PodPlan(
        pod=request,
        init=tuple(built["initContainers"]),
        containers=tuple(built["containers"]),
        volumes=tuple(volumes.values()),
        pull=pull,
        grace_seconds=grace,
        told=tuple(dict.fromkeys(context.told)),
        hosts=hosts,
        needs_ip=context.needs_ip,
        where=node.where,
        id=identity,
    )


def _refuse_doubles(ports: list[PortMapping], node: Node) -> None:
    seen: set[tuple[str, int, str]] = set()
    for mapping in ports:
        key = (mapping.protocol, mapping.host_port, mapping.host_ip)
        if key in seen:
            raise node.wrong(f"hostPort {mapping.host_port} is asked for twice")
        seen.add(key)


def _aliases(node: Node) -> list[tuple[str, str]]:
    found = []
    for entry in node.items():
        fields = entry.known("ip", "hostnames")
        found += [(name, fields["ip"].text()) for name in fields["hostnames"].texts()]
    return found


def _dns(node: Node) -> Dns:
    fields = node.known("nameservers", "searches", "options")
    options = []
    for entry in fields["options"].items() if "options" in fields else ():
        said = entry.known("name", "value")
        options.append(said["name"].text() + (f":{said['value'].any_text()}" if "value" in said else ""))
    return Dns(
        servers=fields["nameservers"].texts() if "nameservers" in fields else (),
        searches=fields["searches"].texts() if "searches" in fields else (),
        options=tuple(options),
    )


def _namespaces(spec: dict[str, Node]) -> Namespaces:
    def wants(name: str) -> bool:
        return name in spec and spec[name].truth()

    pid = Mode.NODE if wants("hostPID") else Mode.POD if wants("shareProcessNamespace") else Mode.CONTAINER
    if "hostUsers" in spec and not spec["hostUsers"].truth():
        line = making.PRIVATE_IDS
        user = UserNamespace(Mode.POD, (line,), (line,))
    else:
        user = UserNamespace()
    network = Mode.NODE if wants("hostNetwork") else Mode.POD
    return Namespaces(network=network, pid=pid, ipc=Mode.NODE if wants("hostIPC") else Mode.POD, user=user)


class _PodSecurity:
    """spec.securityContext: what holds for containers that say nothing themselves."""

    def __init__(self, node: Node | None) -> None:
        fields = (
            node.known(
                "runAsUser", "runAsGroup", "runAsNonRoot", "fsGroup", "fsGroupChangePolicy", "supplementalGroups",
                "supplementalGroupsPolicy", "sysctls", "seccompProfile", "appArmorProfile", "seLinuxOptions",
                "seLinuxChangePolicy", "windowsOptions",
            )
            if node is not None
            else {}
        )  # fmt: skip
        self.run_as_user = fields["runAsUser"].number() if "runAsUser" in fields else None
        self.run_as_group = fields["runAsGroup"].number() if "runAsGroup" in fields else None
        self.non_root = fields["runAsNonRoot"].truth() if "runAsNonRoot" in fields else False
        groups = [g.number() for g in fields["supplementalGroups"].items()] if "supplementalGroups" in fields else []
        self.fs_group = fields["fsGroup"].number() if "fsGroup" in fields else None
        self.groups = tuple(groups + ([self.fs_group] if self.fs_group is not None else []))
        self.strict = "supplementalGroupsPolicy" in fields and fields["supplementalGroupsPolicy"].text() == "Strict"
        self.seccomp = _profile(fields["seccompProfile"]) if "seccompProfile" in fields else None
        self.apparmor = _profile(fields["appArmorProfile"]) if "appArmorProfile" in fields else None
        self.selinux = _selinux(fields["seLinuxOptions"]) if "seLinuxOptions" in fields else SELinux()
        self.sysctls: dict[str, str] = {}
        for entry in fields["sysctls"].items() if "sysctls" in fields else ():
            said = entry.known("name", "value")
            self.sysctls[said["name"].text()] = said["value"].text()


def _profile(node: Node) -> Profile:
    fields = node.known("type", "localhostProfile")
    kinds = {
        "RuntimeDefault": ProfileKind.RUNTIME_DEFAULT,
        "Unconfined": ProfileKind.UNCONFINED,
        "Localhost": ProfileKind.LOCALHOST,
    }
    kind = kinds.get(fields["type"].text()) if "type" in fields else None
    if kind is None:
        raise node.wrong("type must be RuntimeDefault, Localhost or Unconfined")
    return Profile(kind, fields["localhostProfile"].text() if "localhostProfile" in fields else "")


def _selinux(node: Node) -> SELinux:
    fields = node.known("user", "role", "type", "level")
    return SELinux(**{name: value.text() for name, value in fields.items()})


# volumes


def _volume(node: Node, context: _Context) -> Volume:
    fields = node.fields()
    if "name" not in fields:
        raise node.wrong("name is missing")
    name = fields["name"].text()
    kinds = [key for key in fields if key != "name"]
    if len(kinds) > 1:
        raise node.wrong(f"{' and '.join(kinds)} exclude each other")
    kind = kinds[0] if kinds else "emptyDir"
    source = fields.get(kind)
    make = {
        "emptyDir": _empty_dir,
        "hostPath": _host_path,
        "configMap": _config_map_volume,
        "secret": _secret_volume,
        "persistentVolumeClaim": _claim,
        "projected": _projected,
    }.get(kind)
    if make is None:
        hint = "emptyDir, hostPath, configMap, secret, persistentVolumeClaim and projected are"
        raise fields[kind].wrong("this kind of volume is not offered by hand", hint=hint)
    return make(name, source, context) if source is not None else Volume(name, "empty")


def _empty_dir(name: str, node: Node, _: _Context) -> Volume:
    fields = node.known("medium", "sizeLimit")
    limit = quantity(fields["sizeLimit"]) if "sizeLimit" in fields else 0
    memory = "medium" in fields and fields["medium"].text() == "Memory"
    return Volume(name, "memory" if memory else "empty", size_limit=int(limit))


def _host_path(name: str, node: Node, _: _Context) -> Volume:
    fields = node.known("path", "type")
    if "path" not in fields or not fields["path"].text().startswith("/"):
        raise node.wrong("path must be absolute")
    return Volume(
        name, "host", host_path=fields["path"].text(), host_type=fields["type"].text() if "type" in fields else ""
    )


def _claim(name: str, node: Node, _: _Context) -> Volume:
    """A claim is a volume of that name, made if it is not there."""
    fields = node.known("claimName", "readOnly")
    return Volume(name, "claim", claim=object_name("claimName", fields["claimName"].text()))


def _config_map_volume(name: str, node: Node, context: _Context) -> Volume:
    return Volume(name, "files", files=_files(node, context.config_maps, "name", "ConfigMap"))


def _secret_volume(name: str, node: Node, context: _Context) -> Volume:
    return Volume(name, "files", files=_files(node, context.secrets, "secretName", "Secret"))


def _projected(name: str, node: Node, context: _Context) -> Volume:
    fields = node.known("sources", "defaultMode")
    files: list[File] = []
    for source in fields["sources"].items():
        for kind, inner in source.fields().items():
            if kind == "configMap":
                files += _files(inner, context.config_maps, "name", "ConfigMap")
            elif kind == "secret":
                files += _files(inner, context.secrets, "name", "Secret")
            else:
                context.told.append(f"projected {kind}")
    return Volume(name, "files", files=tuple(files))


def _files(node: Node, known: dict[str, dict[str, bytes]], name_key: str, kind: str) -> tuple[File, ...]:
    fields = node.known(name_key, "items", "defaultMode", "optional")
    mode = fields["defaultMode"].number() if "defaultMode" in fields else 0o644
    name = fields[name_key].text()
    if name not in known:
        if "optional" in fields and fields["optional"].truth():
            return ()
        raise fields[name_key].wrong(f"there is no {kind} {name} in this file", hint="add it behind a line of ---")
    if "items" not in fields:
        return tuple(File(key, data, mode) for key, data in sorted(known[name].items()))
    files = []
    for entry in fields["items"].items():
        said = entry.known("key", "path", "mode")
        key = said["key"].text()
        if key not in known[name]:
            raise said["key"].wrong(f"{kind} {name} has no {key!r}", hint=f"it has {', '.join(sorted(known[name]))}")
        path = said["path"].text()
        if path.startswith("/") or ".." in path.split("/"):
            raise said["path"].wrong("must stay inside the volume")
        files.append(File(path, known[name][key], said["mode"].number() if "mode" in said else mode))
    return tuple(files)


_SUFFIXES = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "Ki": 2.0**10, "Mi": 2.0**20}
_SUFFIXES |= {"Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}


def quantity(node: Node) -> float:
    """500m, 64Mi, 1.5, 1e3."""
    text = node.any_text()
    digits = text.rstrip("mkMGTPi")
    try:
        return float(digits) * _SUFFIXES[text[len(digits) :]]
    except (ValueError, KeyError):
        raise node.wrong(f"{text!r} is not a quantity", hint="such as 500m, 64Mi or 2") from None


# containers

_PROPAGATIONS = {
    "None": Propagation.PRIVATE,
    "HostToContainer": Propagation.HOST_TO_CONTAINER,
    "Bidirectional": Propagation.BIDIRECTIONAL,
}


class _Container:
    """One entry of containers or initContainers."""

    def __init__(
        self,
        node: Node,
        context: _Context,
        volumes: dict[str, Volume],
        pod: _PodSecurity,
        facts: dict[str, str],
        namespaces: Namespaces,
    ) -> None:
        self._fields = node.known(
            "name", "image", "imagePullPolicy", "command", "args", "workingDir", "env", "envFrom", "ports", "resources",
            "volumeMounts", "volumeDevices", "securityContext", "stdin", "stdinOnce", "tty", "livenessProbe",
            "readinessProbe", "startupProbe", "lifecycle", "restartPolicy", "resizePolicy", "terminationMessagePath",
            "terminationMessagePolicy",
        )  # fmt: skip
        for name in ("name", "image"):
            if name not in self._fields:
                raise node.wrong(f"{name} is missing")
        self._node = node
        self._context = context
        self._volumes = volumes
        self._pod = pod
        self._facts = facts
        self._namespaces = namespaces
        self.name = object_name("name", self._fields["name"].text())
        self.image = self._fields["image"].text()
        for name in ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle"):
            if name in self._fields:
                context.told.append(name)

    def _text(self, name: str) -> str:
        return self._fields[name].text() if name in self._fields else ""

    def _truth(self, name: str) -> bool:
        return name in self._fields and self._fields[name].truth()

    def pull(self) -> str:
        policy = self._text("imagePullPolicy")
        if policy not in ("", "Always", "IfNotPresent", "Never"):
            raise self._fields["imagePullPolicy"].wrong(f"{policy!r} is not Always, IfNotPresent or Never")
        return {"Always": "always", "Never": "never"}.get(policy, "missing")

    def ports(self) -> list[PortMapping]:
        found = []
        for entry in self._fields["ports"].items() if "ports" in self._fields else ():
            said = entry.known("name", "containerPort", "hostPort", "protocol", "hostIP")
            if "containerPort" not in said:
                raise entry.wrong("containerPort is missing")
            for name in ("containerPort", "hostPort"):
                if name in said and not 0 < said[name].number() < 65536:
                    raise said[name].wrong(f"{said[name].number()} is not a port between 1 and 65535")
            protocol = said["protocol"].text() if "protocol" in said else "TCP"
            if protocol not in ("TCP", "UDP", "SCTP"):
                raise said["protocol"].wrong(f"{protocol!r} is not TCP, UDP or SCTP")
            if "hostPort" in said:
                address = said["hostIP"].text() if "hostIP" in said else ""
                found.append(
                    PortMapping(protocol.lower(), said["containerPort"].number(), said["hostPort"].number(), address)
                )
        return found

    def request(self, *, init: bool) -> ContainerRequest:
        env = self._environment()
        command = tuple(_expanded(w, env) for w in self._fields["command"].texts()) if "command" in self._fields else ()
        args = tuple(_expanded(w, env) for w in self._fields["args"].texts()) if "args" in self._fields else ()
        remarks = {notes.INIT: "sidecar" if self._text("restartPolicy") == "Always" else "true"} if init else {}
        claims = [v.claim for v in self._volumes.values() if v.claim]
        if claims:
            remarks[notes.VOLUMES] = json.dumps(claims)
        request = ContainerRequest(
            name=self.name,
            image=self.image,
            user_specified_image=self.image,
            command=command,
            args=args,
            working_dir=self._text("workingDir"),
            envs=tuple(env.items()),
            mounts=tuple(self._mounts()),
            annotations=remarks,
            log_path=f"{self.name}.log",
            stdin=self._truth("stdin"),
            stdin_once=self._truth("stdinOnce"),
            tty=self._truth("tty"),
            resources=self._resources(),
            namespaces=self._namespaces,
        )
        return self._secured(request)

    def _environment(self) -> dict[str, str]:
        env: dict[str, str] = {}
        for entry in self._fields["envFrom"].items() if "envFrom" in self._fields else ():
            said = entry.known("prefix", "configMapRef", "secretRef")
            prefix = said["prefix"].text() if "prefix" in said else ""
            for kind, known in (("configMapRef", self._context.config_maps), ("secretRef", self._context.secrets)):
                if kind in said:
                    env |= {
                        prefix + k: v.decode(errors="replace") for k, v in self._reference(said[kind], known).items()
                    }
        for entry in self._fields["env"].items() if "env" in self._fields else ():
            said = entry.known("name", "value", "valueFrom")
            if "name" not in said:
                raise entry.wrong("name is missing")
            if "valueFrom" in said:
                value = self._from(said["valueFrom"])
            else:
                value = _expanded(said["value"].text(), env) if "value" in said else ""
            if value is not None:
                env[said["name"].text()] = value
        return env

    def _reference(self, node: Node, known: dict[str, dict[str, bytes]]) -> dict[str, bytes]:
        said = node.known("name", "optional")
        name = said["name"].text()
        if name in known:
            return known[name]
        if "optional" in said and said["optional"].truth():
            return {}
        raise said["name"].wrong(f"{name!r} is not in this file", hint="add it behind a line of ---")

    def _from(self, node: Node) -> str | None:
        fields = node.known("configMapKeyRef", "secretKeyRef", "fieldRef", "resourceFieldRef")
        for kind, known in (("configMapKeyRef", self._context.config_maps), ("secretKeyRef", self._context.secrets)):
            if kind in fields:
                said = fields[kind].known("name", "key", "optional")
                data = known.get(said["name"].text(), {}).get(said["key"].text())
                if data is None and not ("optional" in said and said["optional"].truth()):
                    raise fields[kind].wrong(
                        f"there is no {said['name'].text()} with {said['key'].text()!r} in this file"
                    )
                return None if data is None else data.decode(errors="replace")
        if "fieldRef" in fields:
            path_node = fields["fieldRef"].known("fieldPath", "apiVersion")["fieldPath"]
            path = path_node.text()
            if path in ("status.podIP", "status.podIPs"):
                self._context.needs_ip = True
                return _PLACEHOLDER_IP
            if path in ("status.hostIP", "status.hostIPs"):
                return "127.0.0.1"
            if path == "spec.serviceAccountName":
                return "default"
            if path not in self._facts:
                if path.startswith(("metadata.labels[", "metadata.annotations[")):
                    return ""
                raise path_node.wrong(
                    f"{path!r} is not known", hint=f"known: {', '.join(sorted(self._facts))}, status.podIP"
                )
            return self._facts[path]
        if "resourceFieldRef" in fields:
            return self._own_limit(fields["resourceFieldRef"])
        raise node.wrong("one of configMapKeyRef, secretKeyRef, fieldRef and resourceFieldRef is missing")

    def _own_limit(self, node: Node) -> str:
        said = node.known("resource", "containerName", "divisor")
        kind, _, what = said["resource"].text().partition(".")
        limits = self._fields["resources"].fields().get(kind) if "resources" in self._fields else None
        entry = limits.fields().get(what) if limits is not None else None
        if entry is None:
            raise said["resource"].wrong("the container sets no such limit")
        divisor = quantity(said["divisor"]) if "divisor" in said else 1.0
        return str(-int(-quantity(entry) // (divisor or 1.0)))

    def _mounts(self) -> list[MountRequest]:
        found = []
        for entry in self._fields["volumeMounts"].items() if "volumeMounts" in self._fields else ():
            said = entry.known(
                "name", "mountPath", "subPath", "subPathExpr", "readOnly", "mountPropagation", "recursiveReadOnly"
            )
            for name in ("name", "mountPath"):
                if name not in said:
                    raise entry.wrong(f"{name} is missing")
            volume = self._volumes.get(said["name"].text())
            if volume is None:
                hint = f"there are {', '.join(self._volumes)}" if self._volumes else "add it to spec.volumes"
                raise said["name"].wrong(f"there is no volume {said['name'].text()!r}", hint=hint)
            sub = said["subPath"].text() if "subPath" in said else ""
            if sub.startswith("/") or ".." in sub.split("/"):
                raise said["subPath"].wrong("must stay inside the volume")
            how = said["mountPropagation"].text() if "mountPropagation" in said else "None"
            if how not in _PROPAGATIONS:
                raise said["mountPropagation"].wrong(f"{how!r} is not None, HostToContainer or Bidirectional")
            if not said["mountPath"].text().startswith("/"):
                raise said["mountPath"].wrong("must be absolute")
            source = source_of(volume, self._context.places)
            found.append(
                MountRequest(
                    said["mountPath"].text(),
                    f"{source}/{sub}" if sub else source,
                    readonly=("readOnly" in said and said["readOnly"].truth()) or volume.kind == "files",
                    recursive_readonly="recursiveReadOnly" in said and said["recursiveReadOnly"].text() == "Enabled",
                    propagation=_PROPAGATIONS[how],
                )
            )
        return found

    def _resources(self) -> Resources:
        if "resources" not in self._fields:
            return Resources()
        said = self._fields["resources"].known("limits", "requests", "claims")
        limits = said["limits"].fields() if "limits" in said else {}
        requests = said["requests"].fields() if "requests" in said else {}
        memory = int(quantity(limits["memory"])) if "memory" in limits else 0
        if 0 < memory < LEAST_MEMORY:
            raise limits["memory"].wrong("too little for any process", hint="at least 6Mi")
        cpu = quantity(limits["cpu"]) if "cpu" in limits else 0.0
        if "cpu" in limits and cpu < 0.01:
            raise limits["cpu"].wrong("too little for any process", hint="at least 10m")
        wanted = quantity(requests["cpu"]) if "cpu" in requests else cpu
        return Resources(
            memory_limit_bytes=memory,
            memory_swap_limit_bytes=memory,
            cpu_period=100_000 if cpu else 0,
            cpu_quota=int(cpu * 100_000),
            cpu_shares=max(2, int(wanted * 1024)) if wanted else 0,
        )

    def _secured(self, request: ContainerRequest) -> ContainerRequest:
        node = self._fields.get("securityContext")
        said = (
            node.known(
                "runAsUser", "runAsGroup", "runAsNonRoot", "capabilities", "privileged", "readOnlyRootFilesystem",
                "allowPrivilegeEscalation", "seccompProfile", "appArmorProfile", "seLinuxOptions", "procMount",
                "windowsOptions",
            )
            if node is not None
            else {}
        )  # fmt: skip
        privileged = "privileged" in said and said["privileged"].truth()
        capabilities = said["capabilities"].known("add", "drop") if "capabilities" in said else {}
        user = said["runAsUser"].number() if "runAsUser" in said else self._pod.run_as_user
        non_root = said["runAsNonRoot"].truth() if "runAsNonRoot" in said else self._pod.non_root
        if non_root and user == 0:
            raise self._node.wrong("runAsNonRoot and runAsUser 0 exclude each other")
        unmasked = privileged or ("procMount" in said and said["procMount"].text() == "Unmasked")
        seccomp = _profile(said["seccompProfile"]) if "seccompProfile" in said else self._pod.seccomp
        return replace(
            request,
            run_as_user=user,
            run_as_group=said["runAsGroup"].number() if "runAsGroup" in said else self._pod.run_as_group,
            supplemental_groups=self._pod.groups,
            strict_groups=self._pod.strict,
            privileged=privileged,
            readonly_rootfs="readOnlyRootFilesystem" in said and said["readOnlyRootFilesystem"].truth(),
            no_new_privileges="allowPrivilegeEscalation" in said and not said["allowPrivilegeEscalation"].truth(),
            add_capabilities=capabilities["add"].texts() if "add" in capabilities else (),
            drop_capabilities=capabilities["drop"].texts() if "drop" in capabilities else (),
            masked_paths=() if unmasked else MASKED_PATHS,
            readonly_paths=() if unmasked else READONLY_PATHS,
            seccomp=Profile(ProfileKind.UNCONFINED) if privileged else seccomp,
            apparmor=_profile(said["appArmorProfile"]) if "appArmorProfile" in said else self._pod.apparmor,
            selinux=_selinux(said["seLinuxOptions"]) if "seLinuxOptions" in said else self._pod.selinux,
        )


def source_of(volume: Volume, places: Directories) -> str:
    """Where a volume's files are on this machine."""
    if volume.kind == "host":
        return volume.host_path
    if volume.kind == "claim":
        return f"{places.claims}/{volume.claim}/_data"
    return f"{places.secrets if volume.kind in ('files', 'memory') else places.volumes}/{volume.name}"


def _expanded(text: str, env: dict[str, str]) -> str:
    """$(NAME) of variables that are known, $$ for $: Kubernetes' own rule."""
    out, at = [], 0
    while at < len(text):
        if text.startswith("$$", at):
            out.append("$")
            at += 2
        elif text.startswith("$(", at) and (end := text.find(")", at)) > 0:
            name = text[at + 2 : end]
            out.append(env.get(name, text[at : end + 1]))
            at = end + 1
        else:
            out.append(text[at])
            at += 1
    return "".join(out)


def with_ip(request: ContainerRequest, ip: str) -> ContainerRequest:
    """The pod's address in the places that wait for it."""

    def put(text: str) -> str:
        return text.replace(_PLACEHOLDER_IP, ip)

    return replace(
        request,
        envs=tuple((name, put(value)) for name, value in request.envs),
        command=tuple(map(put, request.command)),
        args=tuple(map(put, request.args)),
    )
