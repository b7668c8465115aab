# SPDX-License-Identifier: Apache-2.0
"""An image of an image and of what a container has written over it: the same layers and one more."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from cri.images import changes, local
from cri.images import manifest as manifests
from cri.images.catalogue import LayerRef, Record
from cri.images.leases import Lease
from cri.images.model import Descriptor
from cri.images.parts import Parts
from cri.images.rootfs import Rootfs
from runtime.linux.quick_dataclasses import replace

_OF_A_BUILDER = ("container", "container_config", "docker_version", "id", "parent", "throwaway")


def commit(
    parts: Parts,
    base: Record,
    rootfs: Rootfs,
    mounted: str,
    found: Sequence[changes.Change],
    name: str,
    *,
    config: Mapping[str, object],
    step: Mapping[str, str],
) -> str:
    """Returns the new image's id. `config` is what containers of it are made from, `step` what its history says."""
    below = tuple(_oci(ref) for ref in base.manifest.layers)
    with Lease(parts.layout) as lease:
        lease.add(base.id, *(ref.digest for ref in below))
        layer = local.write_layer(parts, lease, lambda write: changes.pack(rootfs, mounted, found, write))
        old = manifests.config(parts.blobs.read(base.id, manifests.MAX_CONFIG), base.id)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        document: dict[str, object] = {key: value for key, value in old.raw.items() if key not in _OF_A_BUILDER}
        document |= {"created": now, "author": step["author"], "config": dict(config)}
        document["rootfs"] = {"type": "layers", "diff_ids": [*old.diff_ids, layer.diff_id]}
        said = {key: value for key, value in step.items() if value}
        document["history"] = [*old.history, {"created": now, **said}]
        return local.record_image(parts, lease, (*below, layer), name, document)


def _oci(ref: LayerRef) -> LayerRef:
    """The same blob by OCI's name for what it is: a manifest with both names is refused by some registries."""
    kind = manifests.compression(Descriptor(ref.media_type, ref.digest, ref.size))
    return replace(ref, media_type=f"{manifests.OCI_LAYER}+{kind}" if kind else manifests.OCI_LAYER)
