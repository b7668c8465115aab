# SPDX-License-Identifier: Apache-2.0
"""The volumes of a manifest: folders, files of configMaps and secrets, claims."""

from __future__ import annotations

from cri.hand.options import object_name
from cri.hand.pod_plan import Context, Directories, File, Volume
from cri.hand.quantity import quantity
from cri.hand.yaml_nodes import Node


# volumes
def read_volume(node: Node, context: Context) -> Volume:
    fields = node.fields()
    if "name" not in fields:
        raise node.wrong("name is missing")
    name = fields["name"].text()
    kinds = [key for key in fields if key != "name"]
    if len(kinds) > 1:
        raise node.wrong(f"{' and '.join(kinds)} exclude each other")
    kind = kinds[0] if kinds else "emptyDir"
    source = fields.get(kind)
    make = {
        "emptyDir": _empty_dir,
        "hostPath": _host_path,
        "configMap": _config_map_volume,
        "secret": _secret_volume,
        "persistentVolumeClaim": _claim,
        "projected": _projected,
    }.get(kind)
    if make is None:
        hint = "emptyDir, hostPath, configMap, secret, persistentVolumeClaim and projected are"
        raise fields[kind].wrong("this kind of volume is not offered by hand", hint=hint)
    return make(name, source, context) if source is not None else Volume(name, "empty")


def _empty_dir(name: str, node: Node, _: Context) -> Volume:
    fields = node.known("medium", "sizeLimit")
    limit = quantity(fields["sizeLimit"]) if "sizeLimit" in fields else 0
    memory = "medium" in fields and fields["medium"].text() == "Memory"
    return Volume(name, "memory" if memory else "empty", size_limit=int(limit))


def _host_path(name: str, node: Node, _: Context) -> Volume:
    fields = node.known("path", "type")
    if "path" not in fields or not fields["path"].text().startswith("/"):
        raise node.wrong("path must be absolute")
    return Volume(
        name, "host", host_path=fields["path"].text(), host_type=fields["type"].text() if "type" in fields else ""
    )


def _claim(name: str, node: Node, _: Context) -> Volume:
    """A claim is a volume of that name, made if it is not there."""
    fields = node.known("claimName", "readOnly")
    return Volume(name, "claim", claim=object_name("claimName", fields["claimName"].text()))


def _config_map_volume(name: str, node: Node, context: Context) -> Volume:
    return Volume(name, "files", files=_files(node, context.config_maps, "name", "ConfigMap"))


def _secret_volume(name: str, node: Node, context: Context) -> Volume:
    return Volume(name, "files", files=_files(node, context.secrets, "secretName", "Secret"))


def _projected(name: str, node: Node, context: Context) -> Volume:
    fields = node.known("sources", "defaultMode")
    files: list[File] = []
    for source in fields["sources"].items():
        for kind, inner in source.fields().items():
            if kind == "configMap":
                files += _files(inner, context.config_maps, "name", "ConfigMap")
            elif kind == "secret":
                files += _files(inner, context.secrets, "name", "Secret")
            else:
                context.told.append(f"projected {kind}")
    return Volume(name, "files", files=tuple(files))


def _files(node: Node, known: dict[str, dict[str, bytes]], name_key: str, kind: str) -> tuple[File, ...]:
    fields = node.known(name_key, "items", "defaultMode", "optional")
    mode = fields["defaultMode"].number() if "defaultMode" in fields else 0o644
    name = fields[name_key].text()
    if name not in known:
        if "optional" in fields and fields["optional"].truth():
            return ()
        raise fields[name_key].wrong(f"there is no {kind} {name} in this file", hint="add it behind a line of ---")
    if "items" not in fields:
        return tuple(File(key, data, mode) for key, data in sorted(known[name].items()))
    files = []
    for entry in fields["items"].items():
        said = entry.known("key", "path", "mode")
        key = said["key"].text()
        if key not in known[name]:
            raise said["key"].wrong(f"{kind} {name} has no {key!r}", hint=f"it has {', '.join(sorted(known[name]))}")
        path = said["path"].text()
        if path.startswith("/") or ".." in path.split("/"):
            raise said["path"].wrong("must stay inside the volume")
        files.append(File(path, known[name][key], said["mode"].number() if "mode" in said else mode))
    return tuple(files)


def source_of(volume: Volume, places: Directories) -> str:
    """Where a volume's files are on this machine."""
    if volume.kind == "host":
        return volume.host_path
    if volume.kind == "claim":
        return f"{places.claims}/{volume.claim}/_data"
    return f"{places.secrets if volume.kind in ('files', 'memory') else places.volumes}/{volume.name}"
