# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a storage provisioner: gives each claim of its classes a folder on a node."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

PROVISIONER = "ketch.test/folders"
_SELECTED_NODE = "volume.kubernetes.io/selected-node"


def volume_for(claim: dict[str, Any], storage_class: dict[str, Any], any_node: str) -> dict[str, Any] | None:
    """The volume that this claim gets; None while it must wait for its first consumer (pure)."""
    metadata, spec = claim["metadata"], claim["spec"]
    node = metadata.get("annotations", {}).get(_SELECTED_NODE)
    if node is None and storage_class.get("volumeBindingMode") == "WaitForFirstConsumer":
        return None
    name = f"pvc-{metadata['uid']}"
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node or any_node]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
        "spec": {
            "storageClassName": storage_class["metadata"]["name"],
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": storage_class.get("reclaimPolicy", "Delete"),
            "hostPath": {"path": f"/var/lib/claims/{name}", "type": "DirectoryOrCreate"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        },
    }


class Kubectl:
    """kubectl with its options, as a list of words."""

    def __init__(self, command: list[str]) -> None:
        self._command = command

    def items(self, *words: str) -> list[dict[str, Any]]:
        done = subprocess.run([*self._command, "get", *words, "-o", "json"], capture_output=True, check=False)
        found: list[dict[str, Any]] = json.loads(done.stdout)["items"] if done.returncode == 0 else []
        return found

    def run(self, *words: str, given: str = "") -> None:
        subprocess.run([*self._command, *words], input=given.encode(), capture_output=True, check=False)


def one_turn(kubectl: Kubectl) -> None:
    """Give every waiting claim its volume, and forget the volumes whose claims are gone."""
    classes = {each["metadata"]["name"]: each for each in kubectl.items("storageclasses")}
    ours = {name for name, each in classes.items() if each["provisioner"] == PROVISIONER}
    waiting = [
        claim
        for claim in kubectl.items("persistentvolumeclaims", "--all-namespaces")
        if claim["status"].get("phase") == "Pending" and claim["spec"].get("storageClassName") in ours
    ]
    any_node = kubectl.items("nodes")[0]["metadata"]["name"] if waiting else ""
    for claim in waiting:
        volume = volume_for(claim, classes[claim["spec"]["storageClassName"]], any_node)
        if volume is not None:
            kubectl.run("create", "-f", "-", given=json.dumps(volume))
    for volume in kubectl.items("persistentvolumes"):
        by = volume["metadata"].get("annotations", {}).get("pv.kubernetes.io/provisioned-by")
        is_over = volume["status"].get("phase") == "Released"
        if by == PROVISIONER and is_over and volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete":
            kubectl.run("delete", "persistentvolume", volume["metadata"]["name"], "--wait=false")


def main(command: list[str]) -> None:
    kubectl = Kubectl(command)
    while True:
        one_turn(kubectl)
        time.sleep(0.3)  # the interval between two looks at the API, not a wait for anything


if __name__ == "__main__":
    main(sys.argv[1:])
