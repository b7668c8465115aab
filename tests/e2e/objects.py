# SPDX-License-Identifier: Apache-2.0
"""Kubernetes objects as the tests need them: small builders of what a manifest would say (pure)."""

from __future__ import annotations

from typing import Any

from tests.e2e.image_set import AGNHOST, BUSYBOX

Object = dict[str, Any]

IDLE = "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"


def shell(script: str = IDLE, *, name: str = "main", image: str = BUSYBOX, **more: Any) -> Object:
    """A container that runs this script; without one it waits, and ends when told to."""
    return {"name": name, "image": image, "command": ["sh", "-c", script]} | more


def web(port: int = 8080, *, name: str = "web", image: str = AGNHOST, **more: Any) -> Object:
    """A container with a web server that tells its host name; ready as soon as it answers."""
    probe = {"httpGet": {"path": "/hostname", "port": port}, "periodSeconds": 1}
    arguments = ["netexec", f"--http-port={port}", "--udp-port=-1"]
    return {"name": name, "image": image, "args": arguments, "readinessProbe": probe} | more


def pod(name: str, *containers: Object, labels: dict[str, str] | None = None, **spec: Any) -> Object:
    """A pod; it ends within a second when deleted."""
    listed = list(containers) or [shell()]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": listed} | spec,
    }


def is_ready(pod: Object) -> bool:
    """Ready, and not about to go."""
    conditions = pod["status"].get("conditions", [])
    return "deletionTimestamp" not in pod["metadata"] and any(
        each["type"] == "Ready" and each["status"] == "True" for each in conditions
    )


def shown_as(pod: Object) -> str:
    """The word that `kubectl get pods` has for a pod in this state."""
    if "deletionTimestamp" in pod["metadata"]:
        return "Terminating"
    waiting = [
        each["state"]["waiting"] for each in pod["status"].get("containerStatuses", []) if "waiting" in each["state"]
    ]
    return str(waiting[0]["reason"] if waiting else pod["status"]["phase"])


def deployment(
    name: str, replicas: int, *containers: Object, labels: dict[str, str] | None = None, **spec: Any
) -> Object:
    chosen = labels or {"app": name}
    template = {
        "metadata": {"labels": chosen},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [*containers]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": chosen}, "template": template} | spec,
    }


def service(name: str, selector: dict[str, str], port: int, target: int, **spec: Any) -> Object:
    ports = [{"port": port, "targetPort": target}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": selector, "ports": ports} | spec,
    }
