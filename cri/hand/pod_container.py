# SPDX-License-Identifier: Apache-2.0
"""One container of a manifest, to what the engine is asked for."""

from __future__ import annotations

import json

from cri.engine.request import (
    ContainerRequest,
    MountRequest,
    Namespaces,
    PortMapping,
    Profile,
    ProfileKind,
    Propagation,
    Resources,
)
from cri.hand import notes
from cri.hand.options import LEAST_MEMORY, object_name
from cri.hand.pod_plan import PLACEHOLDER_IP, Context, Volume
from cri.hand.pod_security import PodSecurity, profile, selinux
from cri.hand.pod_volumes import source_of
from cri.hand.quantity import quantity
from cri.hand.yaml_nodes import Node
from cri.oci.security import MASKED_PATHS, READONLY_PATHS
from runtime.linux.quick_dataclasses import replace

# containers
_PROPAGATIONS = {
    "None": Propagation.PRIVATE,
    "HostToContainer": Propagation.HOST_TO_CONTAINER,
    "Bidirectional": Propagation.BIDIRECTIONAL,
}


class Container:
    """One entry of containers or initContainers."""

    def __init__(
        self,
        node: Node,
        context: Context,
        volumes: dict[str, Volume],
        pod: PodSecurity,
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
                return PLACEHOLDER_IP
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
        seccomp = profile(said["seccompProfile"]) if "seccompProfile" in said else self._pod.seccomp
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
            apparmor=profile(said["appArmorProfile"]) if "appArmorProfile" in said else self._pod.apparmor,
            selinux=selinux(said["seLinuxOptions"]) if "seLinuxOptions" in said else self._pod.selinux,
        )


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
        return text.replace(PLACEHOLDER_IP, ip)

    return replace(
        request,
        envs=tuple((name, put(value)) for name, value in request.envs),
        command=tuple(map(put, request.command)),
        args=tuple(map(put, request.args)),
    )
