# SPDX-License-Identifier: Apache-2.0
"""An ordinary Kubernetes Pod, with ConfigMaps and Secrets of the same file, to what the engine is asked for: pure.

What only a cluster can give a meaning (scheduling, service accounts) is read over; what this door cannot keep yet
(probes, restart policies, lifecycle hooks) is said in one line; what nobody knows is refused with its place.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from cri.engine.request import (
    ContainerRequest,
    Dns,
    Namespaces,
    PodRequest,
    PortMapping,
)
from cri.hand import notes
from cri.hand.options import object_name
from cri.hand.pod_container import Container
from cri.hand.pod_objects import config_map, name_of, secret
from cri.hand.pod_plan import Context, Directories, PodPlan
from cri.hand.pod_security import PodSecurity, namespaces_of
from cri.hand.pod_volumes import read_volume
from cri.hand.yaml_nodes import ManifestError, Node, documents

_CLUSTER_ONLY = (
    "activeDeadlineSeconds", "affinity", "automountServiceAccountToken", "enableServiceLinks", "imagePullSecrets",
    "nodeName", "nodeSelector", "preemptionPolicy", "priority", "priorityClassName", "readinessGates", "schedulerName",
    "schedulingGates", "serviceAccount", "serviceAccountName", "setHostnameAsFQDN", "subdomain", "tolerations",
    "topologySpreadConstraints", "os", "resourceClaims",
)  # fmt: skip


def read(text: str, file: str, directories: Callable[[], Directories]) -> list[PodPlan]:
    """All pods of a file; directories() gives each of them its id and its places."""
    objects = list(_objects(text, file))
    context = Context({}, {}, [])
    pods = []
    for node in objects:
        kind = _kind(node)
        if kind == "Pod":
            pods.append(node)
        elif kind == "ConfigMap":
            name, data = config_map(node)
            context.config_maps[name] = data
        elif kind == "Secret":
            name, data = secret(node)
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


def _pod(node: Node, context: Context, identity: str) -> PodPlan:
    """One pod with everything in it."""
    fields = node.known("apiVersion", "kind", "metadata", "spec", "status")
    if "spec" not in fields:
        raise node.wrong("spec is missing")
    named = _Metadata(node)
    spec = _spec(fields["spec"])
    _restart_policy(spec, context)
    security, namespaces = PodSecurity(spec.get("securityContext")), namespaces_of(spec)
    members = _Members(spec, context, security, namespaces, named.facts(identity))
    network = _Network(spec)
    grace = spec["terminationGracePeriodSeconds"].number() if "terminationGracePeriodSeconds" in spec else 30
    remarks = {notes.KIND: notes.POD, notes.STOP_SECONDS: str(grace), **network.remarks()}
    request = PodRequest(
        name=named.name,
        namespace=named.namespace,
        uid=identity,
        hostname="" if network.host else spec["hostname"].text() if "hostname" in spec else named.name[:63],
        dns=_dns(spec["dnsConfig"]) if "dnsConfig" in spec else None,
        port_mappings=() if network.host else tuple(members.ports),
        labels=named.labels,
        annotations={**named.annotations, **remarks},
        sysctls=security.sysctls,
        namespaces=namespaces,
        selinux=security.selinux,
        run_as_user=security.run_as_user,
        run_as_group=security.run_as_group,
        supplemental_groups=security.groups,
        privileged=any(container.privileged for container in (*members.init, *members.containers)),
        handler=spec["runtimeClassName"].text() if "runtimeClassName" in spec else "",
        network="" if network.host else "bridge",
    )
    return PodPlan(
        pod=request,
        init=tuple(members.init),
        containers=tuple(members.containers),
        volumes=tuple(members.volumes.values()),
        pull=members.pull,
        grace_seconds=grace,
        told=tuple(dict.fromkeys(context.told)),
        hosts=network.hosts,
        needs_ip=context.needs_ip,
        where=node.where,
        id=identity,
    )


class _Metadata:
    """What the pod is called."""

    def __init__(self, node: Node) -> None:
        self.name = object_name("metadata.name", name_of(node))
        fields = node.fields()["metadata"].fields()
        self.namespace = fields["namespace"].text() if "namespace" in fields else "default"
        self.labels = fields["labels"].strings() if "labels" in fields else {}
        self.annotations = fields["annotations"].strings() if "annotations" in fields else {}

    def facts(self, identity: str) -> dict[str, str]:
        """What an environment variable may be taken from, by fieldPath."""
        facts = {
            "metadata.name": self.name,
            "metadata.namespace": self.namespace,
            "metadata.uid": identity,
            "spec.nodeName": "localhost",
        }
        facts |= {f"metadata.labels['{key}']": value for key, value in self.labels.items()}
        return facts | {f"metadata.annotations['{key}']": value for key, value in self.annotations.items()}


def _spec(node: Node) -> dict[str, Node]:
    found = node.known(
        "containers", "initContainers", "ephemeralContainers", "volumes", "hostNetwork", "hostPID", "hostIPC",
        "hostUsers", "shareProcessNamespace", "hostname", "hostAliases", "dnsPolicy", "dnsConfig", "securityContext",
        "restartPolicy", "terminationGracePeriodSeconds", "runtimeClassName", "overhead", "resources", *_CLUSTER_ONLY,
    )  # fmt: skip
    if "containers" not in found or not found["containers"].items():
        raise node.wrong("containers is missing: a pod needs at least one")
    return found


def _restart_policy(spec: dict[str, Node], context: Context) -> None:
    policy = spec.get("restartPolicy")
    if policy is None:
        return
    if policy.text() not in ("Always", "OnFailure", "Never"):
        raise policy.wrong(f"{policy.text()!r} is not Always, OnFailure or Never")
    if policy.text() != "Never":
        context.told.append(f"restartPolicy: {policy.text()}")


class _Members:
    """Volumes and containers, with their ports and when their images are pulled."""

    def __init__(
        self,
        spec: dict[str, Node],
        context: Context,
        security: PodSecurity,
        namespaces: Namespaces,
        facts: dict[str, str],
    ) -> None:
        volumes = spec["volumes"].items() if "volumes" in spec else []
        self.volumes = {volume.name: volume for volume in (read_volume(entry, context) for entry in volumes)}
        self.init: list[ContainerRequest] = []
        self.containers: list[ContainerRequest] = []
        self.ports: list[PortMapping] = []
        self.pull: dict[str, str] = {}
        names: set[str] = set()
        for key, found in (("initContainers", self.init), ("containers", self.containers)):
            for entry in spec[key].items() if key in spec else ():
                container = Container(entry, context, self.volumes, security, facts, namespaces)
                if container.name in names:
                    raise entry.fields()["name"].wrong(f"a second container named {container.name}")
                names.add(container.name)
                found.append(container.request(init=key == "initContainers"))
                self.ports += container.ports()
                self.pull[container.image] = container.pull()
        _refuse_doubles(self.ports, spec["containers"])


class _Network:
    """The machine's or the bridge, and lines for /etc/hosts."""

    def __init__(self, spec: dict[str, Node]) -> None:
        self.host = spec["hostNetwork"].truth() if "hostNetwork" in spec else False
        self.hosts = tuple(_aliases(spec["hostAliases"])) if "hostAliases" in spec else ()

    def remarks(self) -> dict[str, str]:
        found = {notes.NETWORK: "host" if self.host else "bridge"}
        if self.hosts:
            found[notes.HOSTS] = json.dumps([[name, address] for name, address in self.hosts])
        return found


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
