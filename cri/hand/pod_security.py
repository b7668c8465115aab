# SPDX-License-Identifier: Apache-2.0
"""securityContext and what a pod shares with the machine."""

from __future__ import annotations

from cri.engine.request import (
    Mode,
    Namespaces,
    Profile,
    ProfileKind,
    SELinux,
    UserNamespace,
)
from cri.hand import making
from cri.hand.yaml_nodes import Node


def namespaces_of(spec: dict[str, Node]) -> Namespaces:
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


class PodSecurity:
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
        self.seccomp = profile(fields["seccompProfile"]) if "seccompProfile" in fields else None
        self.apparmor = profile(fields["appArmorProfile"]) if "appArmorProfile" in fields else None
        self.selinux = selinux(fields["seLinuxOptions"]) if "seLinuxOptions" in fields else SELinux()
        self.sysctls: dict[str, str] = {}
        for entry in fields["sysctls"].items() if "sysctls" in fields else ():
            said = entry.known("name", "value")
            self.sysctls[said["name"].text()] = said["value"].text()


def profile(node: Node) -> Profile:
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


def selinux(node: Node) -> SELinux:
    fields = node.known("user", "role", "type", "level")
    return SELinux(**{name: value.text() for name, value in fields.items()})
