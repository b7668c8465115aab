# SPDX-License-Identifier: Apache-2.0
"""What a pod may and may not do, by what its processes see: acceptance cases AC70 to AC81."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.machine import until
from tests.e2e.node import POD_PIDS
from tests.e2e.objects import IDLE, pod, shell
from tests.e2e.space import Space

pytestmark = [pytest.mark.needs("root"), pytest.mark.own_namespaces, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def space(cluster: Cluster) -> Iterator[Space]:
    with Space(cluster, "security") as made:
        yield made


def status_of(script_output: str) -> dict[str, str]:
    """The fields of /proc/self/status."""
    fields = (line.partition(":") for line in script_output.splitlines())
    return {name: value.strip() for name, _, value in fields}


def own_status(space: Space, name: str, context: dict[str, Any], **spec: Any) -> dict[str, str]:
    main = shell("cat /proc/self/status", securityContext=context)
    return status_of(space.run_to_the_end(pod(name, main, **spec)))


def test_ac70_without_a_token_there_are_no_secrets(space: Space) -> None:
    main = shell("ls /var/run/secrets 2> /dev/null || echo none")
    assert space.run_to_the_end(pod("no-token", main, automountServiceAccountToken=False)).splitlines()[-1] == "none"


def test_ac71_a_projected_token_is_read_only_in_memory(space: Space) -> None:
    token = {"serviceAccountToken": {"path": "vault", "expirationSeconds": 3600, "audience": "vault"}}
    volumes = [{"name": "tokens", "projected": {"sources": [token]}}]
    main = shell(
        "stat -f -c %T /var/run/secrets/tokens; cat /var/run/secrets/tokens/vault; echo;"
        "(echo x > /var/run/secrets/tokens/vault) 2> /dev/null || echo refused",
        volumeMounts=[{"name": "tokens", "mountPath": "/var/run/secrets/tokens", "readOnly": True}],
    )
    kind, written, refused = space.run_to_the_end(pod("projected", main, volumes=volumes)).split()
    assert kind == "tmpfs"
    claims = json.loads(base64.urlsafe_b64decode(written.split(".")[1] + "=="))
    assert (claims["aud"], claims["exp"] - claims["iat"]) == (["vault"], 3600)
    assert refused == "refused"


def test_ac72_a_read_only_root_and_volume_refuse_writes(space: Space) -> None:
    main = shell(
        "touch /here 2>&1; touch /host/here 2>&1; true",
        securityContext={"readOnlyRootFilesystem": True},
        volumeMounts=[{"name": "host", "mountPath": "/host", "readOnly": True}],
    )
    volumes = [{"name": "host", "hostPath": {"path": "/run/read-only", "type": "DirectoryOrCreate"}}]
    said = space.run_to_the_end(pod("read-only", main, volumes=volumes))
    assert said.count("Read-only file system") == 2


def test_ac73_the_container_overrides_the_pods_user(space: Space) -> None:
    first = shell("id -u", name="first")
    second = shell("id -u", name="second", securityContext={"runAsUser": 2000})
    wanted = pod("users", first, second, securityContext={"runAsUser": 1000})
    space.apply(wanted | {"spec": wanted["spec"] | {"restartPolicy": "Never"}})
    space.wait_for_phase("users", "Succeeded")
    assert [space.logs("users", name) for name in ("first", "second")] == ["1000\n", "2000\n"]


def test_ac74_added_capabilities_are_effective(space: Space) -> None:
    seen = own_status(space, "capable", {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "CHOWN"]}})
    assert int(seen["CapEff"], 16) == 1 << 12 | 1 << 0


def test_ac75_without_escalation_setuid_is_inert(space: Space) -> None:
    context = {"runAsUser": 1000, "allowPrivilegeEscalation": False}
    image = "registry.k8s.io/e2e-test-images/nonewprivs:1.4"
    held = {"name": "main", "image": image, "securityContext": context}
    free = {"name": "main", "image": image, "securityContext": {"runAsUser": 1000}}
    assert space.run_to_the_end(pod("held", held)) == "Effective uid: 1000\n"
    assert space.run_to_the_end(pod("free", free)) == "Effective uid: 0\n"
    assert own_status(space, "status", context)["NoNewPrivs"] == "1"


def test_ac76_the_restricted_standard_has_its_effects(space: Space) -> None:
    context = {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    seen = own_status(space, "restricted", context)
    assert int(seen["CapEff"], 16) == 0
    assert int(seen["CapBnd"], 16) == 0
    assert (seen["Seccomp"], seen["NoNewPrivs"]) == ("2", "1")
    assert int(seen["Uid"].split()[0]) >= 1


def test_ac77_a_quota_refuses_the_next_pod(space: Space) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"pods": "1"}}}
    other = Space(space.cluster, "few-pods")
    other.create()
    try:
        other.apply(quota)
        until(lambda: other.get("resourcequota", "few")["status"].get("hard"), "the quota is counted", 20)
        other.apply(pod("first", shell()))
        refused = other.run("run", "second", "--image=x", check=False)
        assert refused.returncode != 0
        assert "exceeded quota" in refused.stderr
    finally:
        other.delete()


def test_ac77_a_pod_that_forks_for_ever_stays_within_its_limit(space: Space) -> None:
    """podPidsLimit of the kubelet becomes the pod's pids.max; the node goes on working."""
    space.apply(pod("steady", shell()))
    # what is forked lets go of the pipe: else tail waits for all of it to end
    forks = f"i=0; while [ $i -lt {2 * POD_PIDS} ]; do sleep 600 >/dev/null 2>&1 & i=$((i+1)); done; echo forked all"
    said = space.run_to_the_end(pod("forks", shell(f"sh -c '{forks}' 2>&1 | tail -n 1; exit 0")))
    assert "can't fork" in said
    space.wait_until_ready("steady")
    assert space.exec("steady", "echo", "here") == "here\n"
    space.remove("pod", "forks", "steady")


def test_ac78_runtime_state_lies_in_one_place(cluster: Cluster) -> None:
    """What an auditor watches: the directories are there and belong to root alone."""
    node = cluster.nodes[0]
    state = {"containerd": "/run/containerd", "ketch": "/run/ketch"}[node.runtime.name]
    mode, owner = node.machine.read("stat", "-c", "%a %U", state).split()
    assert owner == "root"
    assert int(mode, 8) & 0o022 == 0


def test_ac79_the_runtimes_own_program_cannot_be_overwritten(cluster: Cluster, space: Space) -> None:
    """CVE-2019-5736: a container that is entered tries to write what /proc/PID/exe of the entering process leads to."""
    script = (
        "cp /bin/sh /tmp/sh; while :; do for p in /proc/[0-9]*; do"
        " case $(readlink $p/exe) in */sh|*/busybox|*/[|'') ;; *) echo hit >> /tmp/hits;"
        " echo broken > $p/exe ;; esac; done 2> /dev/null; done"
    )
    node = cluster.nodes[0]
    program = node.runtime.command()[-3 if node.runtime.name == "containerd" else 0]
    before = node.machine.read("sha256sum", program, "/usr/bin/python3")
    space.apply(pod("hostile", shell(script), nodeName=node.name))
    space.wait_until_ready("hostile")
    for _ in range(10):
        space.exec("hostile", "true", check=False)
    assert node.machine.read("sha256sum", program, "/usr/bin/python3") == before
    space.remove("pod", "hostile")


def test_ac81_a_runtime_class_without_a_handler_is_refused_by_name(space: Space) -> None:
    name = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "absent"}, "handler": "absent"}
    space.apply(name, pod("strange", shell(IDLE), runtimeClassName="absent"))

    def messages() -> str:
        events = space.get("events", "--field-selector=involvedObject.name=strange")["items"]
        return " ".join(event["message"] for event in events if event["reason"] == "FailedCreatePodSandBox")

    assert "absent" in until(messages, "the sandbox is refused", 30, every=0.3)
    space.remove("pod", "strange")
    space.remove("runtimeclass", "absent")
