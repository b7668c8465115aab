# SPDX-License-Identifier: Apache-2.0
"""ConfigMaps and Secrets of a file: names and bytes."""

from __future__ import annotations

import binascii
from base64 import b64decode

from cri.hand.yaml_nodes import Node


def name_of(node: Node) -> str:
    metadata = node.fields().get("metadata")
    name = metadata.fields().get("name") if metadata is not None else None
    if name is None:
        raise node.wrong("metadata.name is missing")
    return name.text()


def config_map(node: Node) -> tuple[str, dict[str, bytes]]:
    fields = node.known("apiVersion", "kind", "metadata", "data", "binaryData", "immutable")
    data = {name: value.encode() for name, value in fields["data"].strings().items()} if "data" in fields else {}
    for name, entry in fields["binaryData"].fields().items() if "binaryData" in fields else ():
        data[name] = _decoded(entry)
    return name_of(node), data


def secret(node: Node) -> tuple[str, dict[str, bytes]]:
    fields = node.known("apiVersion", "kind", "metadata", "data", "stringData", "type", "immutable")
    data = {name: _decoded(entry) for name, entry in fields["data"].fields().items()} if "data" in fields else {}
    if "stringData" in fields:
        data |= {name: value.encode() for name, value in fields["stringData"].strings().items()}
    return name_of(node), data


def _decoded(node: Node) -> bytes:
    try:
        return b64decode(node.text(), validate=True)
    except binascii.Error:
        raise node.wrong("not base64", hint="plain text belongs into stringData") from None
