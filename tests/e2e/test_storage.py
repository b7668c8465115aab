# SPDX-License-Identifier: Apache-2.0
"""Volumes, claims, ConfigMaps and StatefulSets: acceptance cases AC58 to AC69."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from tests.e2e import provisioner
from tests.e2e.cluster import Cluster
from tests.e2e.machine import until
from tests.e2e.objects import IDLE, Object, pod, service, shell, shown_as, web
from tests.e2e.runtimes import PROJECT
from tests.e2e.space import Space

pytestmark = [pytest.mark.needs("root"), pytest.mark.own_namespaces, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def space(cluster: Cluster) -> Iterator[Space]:
    with Space(cluster, "storage") as made:
        program = str(PROJECT / "tests/e2e/provisioner.py")
        cluster.site.start("provisioner", "/usr/bin/python3", program, *cluster.kubectl_command())
        made.apply(storage_class("fast"), storage_class("flash", volumeBindingMode="WaitForFirstConsumer"))
        made.apply(storage_class("slow", annotations={"storageclass.kubernetes.io/is-default-class": "true"}))
        made.apply(storage_class("portworx-db-secure", parameters={"repl": "2", "secure": "true"}))
        yield made
    cluster.kubectl("delete", "storageclass", "fast", "flash", "slow", "portworx-db-secure", "--ignore-not-found")
    cluster.site.stop("provisioner")


def storage_class(name: str, annotations: dict[str, str] | None = None, **more: Any) -> Object:
    metadata = {"name": name, "annotations": annotations or {}}
    kind = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass"}
    return kind | {"metadata": metadata, "provisioner": provisioner.PROVISIONER} | more


def claim(name: str, size: str, **spec: Any) -> Object:
    wanted = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}} | spec
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": wanted}


def with_claim(name: str, of: str, script: str = IDLE) -> Object:
    main = shell(script, volumeMounts=[{"name": "data", "mountPath": "/data"}])
    return pod(name, main, volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": of}}])


def test_ac58_data_in_a_volume_outlives_the_pod(space: Space) -> None:
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "pv1"},
        "spec": {
            "storageClassName": "by-hand",
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": "/var/lib/pv1", "type": "DirectoryOrCreate"},
        },
    }
    space.apply(volume, claim("pvc1", "10Gi", storageClassName="by-hand"), with_claim("volpod", "pvc1"))
    space.wait_until_ready("volpod")
    space.exec("volpod", "sh", "-c", "echo kept > /data/file")
    space.remove("pod", "volpod")
    assert space.run_to_the_end(with_claim("volpod2", "pvc1", "cat /data/file")) == "kept\n"
    space.remove("pod", "volpod2")
    space.remove("pvc", "pvc1")
    until(lambda: space.get("pv", "pv1")["status"]["phase"] == "Released", "the volume is kept", 30)
    space.remove("pv", "pv1")


def test_ac59_classes_provide_at_once_or_for_the_first_consumer(space: Space) -> None:
    space.apply(claim("at-once", "1Gi", storageClassName="fast"), claim("by-default", "1Gi"))
    space.apply(claim("later", "1Gi", storageClassName="flash"))
    space.apply(claim("secured", "1Gi", storageClassName="portworx-db-secure"))
    for name in ("at-once", "by-default", "secured"):
        until(lambda: space.get("pvc", name)["status"]["phase"] == "Bound", f"{name} is bound", 30)  # noqa: B023
    assert space.get("pvc", "by-default")["spec"]["storageClassName"] == "slow"
    assert space.get("pvc", "later")["status"]["phase"] == "Pending"
    assert space.run_to_the_end(with_claim("consumer", "later", "echo here > /data/x; cat /data/x")) == "here\n"
    assert space.get("pvc", "later")["status"]["phase"] == "Bound"


def test_ac60_a_pod_with_a_claim_of_a_class_runs(space: Space) -> None:
    space.apply(claim("pv-ticket", "25Gi", storageClassName="fast"))
    assert space.run_to_the_end(with_claim("class-pod", "pv-ticket", "echo here > /data/x; cat /data/x")) == "here\n"
    status = space.get("pvc", "pv-ticket")["status"]
    assert (status["phase"], status["capacity"]) == ("Bound", {"storage": "25Gi"})


def test_ac61_config_maps_come_from_literals_and_files(space: Space) -> None:
    space.kubectl("create", "configmap", "multimap", "--from-literal=given=Mary", "--from-literal=family=Shelley")
    settings = space.cluster.folder / "test.conf"
    settings.write_text("colour=blue\n")
    space.kubectl("create", "configmap", "test-conf", f"--from-file={settings}")
    assert space.get("configmap", "multimap")["data"] == {"given": "Mary", "family": "Shelley"}
    assert space.get("configmap", "test-conf")["data"] == {"test.conf": "colour=blue\n"}


def from_map(variable: str, key: str) -> Object:
    return {"name": variable, "valueFrom": {"configMapKeyRef": {"name": "multimap", "key": key}}}


def test_ac62_an_exec_sees_the_environment(space: Space) -> None:
    environment = [from_map("FIRSTNAME", "given"), from_map("LASTNAME", "family")]
    space.apply(pod("envpod", shell(env=environment)))
    space.wait_until_ready("envpod")
    lines = space.exec("envpod", "env").splitlines()
    assert {"HOSTNAME=envpod", "FIRSTNAME=Mary", "LASTNAME=Shelley"} <= set(lines)


def test_ac63_a_command_uses_variables_and_its_log_stays(space: Space) -> None:
    main = shell("echo First name $(FIRSTNAME) last name $(LASTNAME)", name="args1")
    main["env"] = [from_map("FIRSTNAME", "given"), from_map("LASTNAME", "family")]
    assert space.run_to_the_end(pod("startup", main)) == "First name Mary last name Shelley\n"
    assert space.logs("startup", "args1") == "First name Mary last name Shelley\n"


def test_ac64_a_mounted_map_follows_its_updates(space: Space) -> None:
    main = shell(volumeMounts=[{"name": "map", "mountPath": "/etc/name"}])
    space.apply(pod("cmvol", main, volumes=[{"name": "map", "configMap": {"name": "multimap"}}]))
    space.wait_until_ready("cmvol")
    assert space.exec("cmvol", "cat", "/etc/name/given", "/etc/name/family") == "MaryShelley"
    space.kubectl("patch", "configmap", "multimap", "-p", '{"data":{"given":"Percy"}}')
    # the kubelet looks again once a minute, sooner when the pod changes
    space.kubectl("annotate", "pod", "cmvol", "look=again")
    until(lambda: space.exec("cmvol", "cat", "/etc/name/given") == "Percy", "the file follows", 120, every=0.5)


def stateful(name: str, replicas: int, **spec: Any) -> Object:
    main = web(80, volumeMounts=[{"name": "webroot", "mountPath": "/data"}])
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [main]}}
    body = {
        "serviceName": "dullahan",
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": template,
        "volumeClaimTemplates": [claim("webroot", "1Gi", storageClassName="flash")],
    }
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name}, "spec": body | spec}


def moments(pod: Object) -> tuple[str, str]:
    """When it was made and when it was Ready, to the second: such texts compare as the times do."""
    ready = next(each for each in pod["status"]["conditions"] if each["type"] == "Ready")
    return pod["metadata"]["creationTimestamp"], ready["lastTransitionTime"]


def test_ac65_a_stateful_set_starts_in_order(space: Space) -> None:
    space.apply(service("dullahan", {"app": "tkb-sts"}, 80, 80, clusterIP="None"), stateful("tkb-sts", 3))
    space.rollout("statefulset/tkb-sts")
    found = {each["metadata"]["name"]: each for each in space.get("pods", "-l", "app=tkb-sts")["items"]}
    assert sorted(found) == ["tkb-sts-0", "tkb-sts-1", "tkb-sts-2"]
    for (_, ready), (made, _) in pairwise(moments(found[name]) for name in sorted(found)):
        assert ready <= made
    for name in found:
        space.exec(name, "sh", "-c", f"echo data of {name} > /data/own")


def test_ac66_each_member_has_an_address_record(space: Space) -> None:
    space.apply(pod("jump-pod"))
    space.wait_until_ready("jump-pod")
    name = "dullahan.storage.svc.cluster.local"
    addresses = {space.address(f"tkb-sts-{number}") for number in range(3)}

    def resolved() -> bool:
        said = space.exec("jump-pod", "nslookup", name, check=False)
        return all(address in said for address in addresses)

    until(resolved, "three addresses behind the name", 30, every=0.5)
    service_records = space.exec("jump-pod", "nslookup", "-type=srv", name)
    assert all(f"tkb-sts-{number}.{name}" in service_records for number in range(3))
    for number in range(3):
        url = f"http://tkb-sts-{number}.{name}/hostname"
        assert space.exec("jump-pod", "wget", "-T", "3", "-qO-", url) == f"tkb-sts-{number}"


def test_ac67_a_member_comes_back_with_its_name_and_data(space: Space) -> None:
    space.kubectl("scale", "statefulset/tkb-sts", "--replicas=2")
    until(lambda: space.get("pod", "tkb-sts-2") is None, "the last member goes", 60, every=0.3)
    space.kubectl("scale", "statefulset/tkb-sts", "--replicas=3")
    space.rollout("statefulset/tkb-sts")
    assert space.exec("tkb-sts-2", "cat", "/data/own") == "data of tkb-sts-2\n"
    old, start = space.get("pod", "tkb-sts-0")["metadata"]["uid"], space.version()
    space.remove("pod", "tkb-sts-0")
    until(lambda: (space.get("pod", "tkb-sts-0") or {"metadata": {"uid": old}})["metadata"]["uid"] != old, "a new one")
    space.wait_until_ready("tkb-sts-0")
    words = dict.fromkeys(shown_as(each) for each in space.history("tkb-sts-0", start))
    assert list(words) == ["Terminating", "Pending", "ContainerCreating", "Running"]
    assert space.exec("tkb-sts-0", "cat", "/data/own") == "data of tkb-sts-0\n"


def test_ac68_an_update_takes_the_highest_member_first(space: Space) -> None:
    image = "registry.k8s.io/e2e-test-images/agnhost:2.64.0"
    space.kubectl("set", "image", "statefulset/tkb-sts", f"web={image}")
    seen: list[tuple[bool, ...]] = []

    def all_new() -> bool:
        found = {each["metadata"]["name"]: each for each in space.get("pods", "-l", "app=tkb-sts")["items"]}
        images = [each["spec"]["containers"][0]["image"] == image for _, each in sorted(found.items())]
        if len(images) == 3:
            seen.append(tuple(images))
        return images == [True, True, True]

    until(all_new, "all members are new", 120, every=0.2)
    assert all(now == tuple(sorted(now)) for now in seen)
    space.rollout("statefulset/tkb-sts")


def test_ac68_parallel_members_start_together_and_all_go(space: Space) -> None:
    space.apply(stateful("together", 3, podManagementPolicy="Parallel"))
    space.rollout("statefulset/together")
    made, ready = zip(*(moments(each) for each in space.get("pods", "-l", "app=together")["items"]), strict=True)
    assert max(made) <= min(ready)
    for name in ("together", "tkb-sts"):
        space.kubectl("scale", f"statefulset/{name}", "--replicas=0")
        label = f"app={name}"
        until(lambda: not space.get("pods", "-l", label)["items"], f"{name} is empty", 60, every=0.3)  # noqa: B023
        space.remove("statefulset", name)
    assert len(space.get("pvc")["items"]) >= 6


def test_ac69_a_headless_service_names_the_member_of_a_set(space: Space) -> None:
    space.apply(service("mongo-prod", {"app": "sts-mongo"}, 80, 80, clusterIP="None"))
    space.apply(stateful("sts-mongo", 1, serviceName="mongo-prod"))
    space.rollout("statefulset/sts-mongo")
    ask = ("wget", "-T", "3", "-qO-", "http://sts-mongo-0.mongo-prod/hostname")
    until(lambda: space.exec("jump-pod", *ask, check=False) == "sts-mongo-0", "the member's name leads to it", 30)
