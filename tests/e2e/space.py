# SPDX-License-Identifier: Apache-2.0
"""A namespace of the cluster for one module of tests, and the questions that tests ask about what is in it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any

from tests.e2e.cluster import Cluster
from tests.e2e.machine import until
from tests.e2e.objects import Object


@dataclass(frozen=True, slots=True)
class Space:
    """One namespace; all words given to kubectl are about it."""

    cluster: Cluster
    name: str

    def create(self, settings: dict[str, str] | None = None) -> None:
        metadata = {"name": self.name, "labels": settings or {}}
        self.cluster.apply(json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
        until(lambda: self.get("serviceaccount", "default"), f"{self.name} has its service account", 30)

    def __enter__(self) -> Space:
        self.create()
        return self

    def __exit__(self, *_: object) -> None:
        self.delete()

    def delete(self) -> None:
        self.cluster.kubectl("delete", "namespace", self.name, "--wait=true", "--ignore-not-found", seconds=180)

    def run(
        self, *words: str, given: str | None = None, check: bool = True, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return self.cluster.run_kubectl("-n", self.name, *words, given=given, check=check, seconds=seconds)

    def kubectl(self, *words: str, given: str | None = None) -> str:
        return self.run(*words, given=given).stdout

    def get(self, *words: str) -> Any:
        return self.cluster.get("-n", self.name, *words)

    def apply(self, *objects: Object) -> None:
        self.kubectl("apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": [*objects]}))

    def exec(self, pod: str, *command: str, container: str = "", check: bool = True) -> str:
        chosen = ["-c", container] if container else []
        return self.run("exec", pod, *chosen, "--", *command, check=check).stdout

    def logs(self, pod: str, container: str = "") -> str:
        return self.kubectl("logs", pod, *(["-c", container] if container else []))

    def phase(self, pod: str) -> str:
        seen = self.get("pod", pod)
        return str(seen["status"].get("phase", "")) if seen else ""

    def wait_for_phase(self, pod: str, wanted: str, seconds: float = 60) -> None:
        until(lambda: self.phase(pod) == wanted, f"pod {pod} is {wanted}", seconds, every=0.2)

    def wait_until_ready(self, *pods: str, seconds: int = 60) -> None:
        self.kubectl("wait", "--for=condition=Ready", f"--timeout={seconds}s", *(f"pod/{pod}" for pod in pods))

    def run_to_the_end(self, pod: Object) -> str:
        """Start a pod that ends by itself, and return what it printed."""
        name = pod["metadata"]["name"]
        self.apply(pod | {"spec": {"restartPolicy": "Never"} | pod["spec"]})
        until(lambda: self.phase(name) in ("Succeeded", "Failed"), f"pod {name} ends", 60, every=0.2)
        return self.logs(name)

    def remove(self, kind: str, *names: str) -> None:
        self.kubectl("delete", kind, *names, "--wait=true", "--ignore-not-found")

    def version(self) -> str:
        """Where the API's history of this namespace's pods stands."""
        return str(json.loads(self.cluster.kubectl("get", "--raw", self._pods()))["metadata"]["resourceVersion"])

    def history(self, pod: str, since: str) -> list[Object]:
        """Each state of this pod since then: a watch also tells what is past, so none is missed."""
        query = f"watch=1&timeoutSeconds=1&resourceVersion={since}&fieldSelector=metadata.name%3D{pod}"
        said = self.cluster.kubectl("get", "--raw", f"{self._pods()}?{query}")
        return [json.loads(line)["object"] for line in said.splitlines()]

    def _pods(self) -> str:
        return f"/api/v1/namespaces/{self.name}/pods"

    def address(self, pod: str) -> str:
        return str(self.get("pod", pod)["status"]["podIP"])

    def rollout(self, what: str, seconds: int = 90) -> None:
        self.run("rollout", "status", what, f"--timeout={seconds}s", seconds=seconds + 10)
