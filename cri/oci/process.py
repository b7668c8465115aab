# SPDX-License-Identifier: Apache-2.0
"""The process of a container: command, environment, user, capabilities, limits."""

from __future__ import annotations

from cri.engine.request import ContainerRequest
from cri.oci import selinux
from cri.oci.facts import ContainerFacts, ImageDefaults, Node, PodPlace, Refused, User
from cri.oci.security import capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def command(request: ContainerRequest, image: ImageDefaults) -> list[str]:
    """The image's entrypoint stands only where no command was given, its cmd only where neither was."""
    if request.command:
        return [*request.command, *request.args]
    entrypoint = [] if image.entrypoint == ("",) else list(image.entrypoint)
    argv = entrypoint + list(request.args or image.cmd)
    if not argv:
        raise Refused(
            f"container {request.name}: no command: neither the request nor the image {request.image} names one"
        )
    return argv


def environment(request: ContainerRequest, image: ImageDefaults, hostname: str, home: str) -> list[str]:
    """Later settings win over earlier ones, and keep the earlier one's place."""
    env = {"PATH": PATH, "HOSTNAME": hostname}
    if request.tty:
        env["TERM"] = "xterm"
    for line in image.env:
        name, separator, value = line.partition("=")
        if separator:
            env[name] = value
    env.update(request.envs)
    env.setdefault("HOME", home)
    return [f"{name}={value}" for name, value in env.items()]


def rlimits(request: ContainerRequest, node: Node) -> list[dict[str, Any]]:
    """RLIMIT_NOFILE is always set: what a daemon inherits is either far too much or far too little."""
    limits = {"RLIMIT_NOFILE": node.nofile}
    limits.update({limit.type: (limit.soft, limit.hard) for limit in request.rlimits})
    return [{"type": name, "soft": soft, "hard": hard} for name, (soft, hard) in limits.items()]


def user_json(user: User) -> dict[str, Any]:
    return {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)}


def process(request: ContainerRequest, pod: PodPlace, facts: ContainerFacts, node: Node) -> dict[str, Any]:
    """The `process` object of config.json."""
    built: dict[str, Any] = {
        "terminal": request.tty,
        "user": user_json(facts.user),
        "args": command(request, facts.defaults),
        "env": environment(request, facts.defaults, pod.hostname, facts.user.home),
        "cwd": request.working_dir or facts.defaults.working_dir or "/",
        "capabilities": capabilities(request, node),
        "rlimits": rlimits(request, node),
        "noNewPrivileges": request.no_new_privileges,
        "oomScoreAdj": max(request.resources.oom_score_adj, node.oom_score_adj_floor),
    }
    if request.tty and request.console[0]:
        built["consoleSize"] = {"width": request.console[0], "height": request.console[1]}
    if facts.apparmor:
        built["apparmorProfile"] = facts.apparmor
    label = selinux.process_label(request, pod.request, pod.id, node)
    if label:
        built["selinuxLabel"] = label
    return built
