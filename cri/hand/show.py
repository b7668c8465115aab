# SPDX-License-Identifier: Apache-2.0
"""ps, inspect, top, port: what there is, in docker's columns and shapes."""

from __future__ import annotations

import os
import sys
import time

from cri.hand import look, notes
from cri.hand.errors import HandError, need_root
from cri.hand.tables import age, print_rows
from runtime.linux import json_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cri.hand.grammar import Arguments
    from cri.hand.places import Places


def status(seen: look.Seen, now: float) -> str:
    """Up 5 minutes, Exited (0) 3 minutes ago, Created: docker's words."""
    state = seen.state()
    if state in ("running", "paused"):
        up = f"Up {age(now - seen.started_at / look.SECOND)}"
        return f"{up} (Paused)" if state == "paused" else up
    if state == "exited":
        found = seen.exit() or {}
        code = found.get("exit_code")
        ago = age(now - float(found.get("finished_at", 0)) / look.SECOND)
        return f"Exited ({'unknown' if code is None else code}) {ago} ago"
    if state == "unknown":
        return "Exited (unknown)"
    return "Created" if state == "created" else "Removal In Progress"


def ports_text(seen: look.Seen) -> str:
    """0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 443/tcp."""
    if seen.pod is None or seen.state() not in ("running", "paused"):
        return ""
    published = seen.pod.request.get("port_mappings", [])
    parts = []
    inside = set()
    for mapping in published:
        where = f"{mapping['container_port']}/{str(mapping['protocol']).lower()}"
        inside.add(where)
        parts += [f"{address}:{mapping['host_port']}->{where}" for address in _addresses(mapping)]
    exposed = json_text.loads(seen.notes.get(notes.EXPOSED, "[]"))
    parts += [
        port if "/" in port else f"{port}/tcp" for port in exposed if port not in inside and f"{port}/tcp" not in inside
    ]
    return ", ".join(parts)


def _addresses(mapping: dict[str, object]) -> list[str]:
    """Where a port is published: one address, or all of both kinds."""
    one = str(mapping.get("host_ip", ""))
    return [one] if one else ["0.0.0.0", "[::]"]  # noqa: S104 - shown, not bound


def row_of(seen: look.Seen, now: float, *, truncate: bool) -> dict[str, object]:
    """What a template of ps can name."""
    command = " ".join(seen.command)
    if truncate and len(command) > 20:
        command = command[:19] + "…"
    image = seen.image
    if image.startswith("sha256:") and truncate:
        image = image[7:19]
    return {
        "ID": seen.id[:12] if truncate else seen.id,
        "Image": image,
        "Command": f'"{command}"',
        "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime(seen.created_at / look.SECOND)),
        "RunningFor": f"{age(now - seen.created_at / look.SECOND)} ago",
        "Status": status(seen, now),
        "State": seen.state(),
        "Ports": ports_text(seen),
        "Names": seen.name,
        "Labels": ",".join(f"{k}={v}" for k, v in seen.request.get("labels", {}).items()),
        "Networks": seen.pod.notes.get(notes.NETWORK, "") if seen.pod else "",
        "Mounts": ",".join(json_text.loads(seen.notes.get(notes.VOLUMES, "[]"))),
        "Owner": seen.owner,
        "LocalVolumes": str(len(json_text.loads(seen.notes.get(notes.VOLUMES, "[]")))),
    }


def _keeps(seen: look.Seen, key: str, value: str) -> bool:
    if key == "name":
        return _named(seen.name, value)
    if key == "id":
        return seen.id.startswith(value)
    if key == "status":
        return seen.state() == value or (value == "dead" and seen.state() == "unknown")
    if key == "label":
        name, equals, wanted = value.partition("=")
        labels = seen.request.get("labels", {})
        return name in labels and (not equals or labels[name] == wanted)
    if key == "ancestor":
        image = str(seen.record.get("image_id", "")).removeprefix("sha256:")
        return _tagged(seen.image) == _tagged(value) or (len(value) >= 6 and image.startswith(value))
    if key == "exited":
        return seen.state() == "exited" and str(seen.exit_code()) == value
    if key == "network":
        return seen.pod is not None and seen.pod.notes.get(notes.NETWORK) == value
    if key == "volume":
        return value in json_text.loads(seen.notes.get(notes.VOLUMES, "[]"))
    known = "name, id, status, label, ancestor, exited, network, volume, before, since"
    raise HandError(f"ps --filter: {key!r} is not known", hint=known)


def _named(name: str, pattern: str) -> bool:
    """A part of the name, or what docker's filter is as well: a regular expression."""
    if pattern in name:
        return True
    import re

    try:
        return re.search(pattern.replace("^/", "^"), name) is not None
    except re.error as e:
        raise HandError(f"ps --filter: name={pattern!r}: {e}") from None


def _tagged(image: str) -> str:
    return image if ":" in image.rpartition("/")[2] else f"{image}:latest"


def ps(arguments: Arguments, places: Places) -> int:
    """The table."""
    seen = look.containers(places, all_owners=arguments.flag("all-owners"))
    wanted = [f.partition("=") for f in arguments.many("filter")]
    for name in {key for key, _, _ in wanted}:  # one of the values of each key
        values = [value for key, _, value in wanted if key == name]
        if name in ("before", "since"):
            moments = [look.container(places, value).created_at for value in values]
            first, last = (0, max(moments)) if name == "before" else (min(moments), sys.maxsize)
            seen = [one for one in seen if first < one.created_at < last]
            continue
        seen = [one for one in seen if any(_keeps(one, name, value) for value in values)]
    latest = 1 if arguments.flag("latest") else arguments.number("last")
    if latest:
        seen = seen[:latest]
    elif not arguments.flag("all") and not any(key in ("status", "exited") for key, _, _ in wanted):
        seen = [one for one in seen if one.state() in ("running", "paused")]
    if arguments.flag("quiet"):
        for one in seen:
            print(one.id if arguments.flag("no-trunc") else one.id[:12])
        return 0
    now = time.time()
    rows = [row_of(one, now, truncate=not arguments.flag("no-trunc")) for one in seen]
    columns = [("CONTAINER ID", "ID"), ("IMAGE", "Image"), ("COMMAND", "Command"), ("CREATED", "RunningFor")]
    columns += [("STATUS", "Status"), ("PORTS", "Ports"), ("NAMES", "Names")]
    if arguments.flag("all-owners"):
        columns.append(("OWNER", "Owner"))
    if arguments.flag("size"):
        for one, row in zip(seen, rows, strict=True):
            row["Size"] = _written(places, one)
        columns.append(("SIZE", "Size"))
    print_rows(rows, columns, arguments.text("format"))
    return 0


def _written(places: Places, seen: look.Seen) -> str:
    from cri.hand.images import store_of
    from cri.hand.tables import size

    store = store_of(places)
    try:
        return size(store.rootfs_usage(seen.id).used_bytes)
    except Exception:  # a container that is being removed has no layer any more
        return "-"
    finally:
        store.close()


# inspect


def _time(nanoseconds: int) -> str:
    if nanoseconds <= 0:
        return "0001-01-01T00:00:00Z"
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(nanoseconds // look.SECOND))
    return f"{whole}.{nanoseconds % look.SECOND:09d}Z"


def describe(places: Places, seen: look.Seen) -> dict[str, object]:
    """Everything, in docker's shape."""
    config = look.read(f"{places.state}/bundles/{seen.id}/config.json") or {}
    process = config.get("process", {})
    command = seen.command or process.get("args", [])
    request = seen.request
    pod = seen.pod
    return {
        "Id": seen.id,
        "Created": _time(seen.created_at),
        "Path": command[0] if command else "",
        "Args": command[1:],
        "State": _state(seen),
        "Image": seen.record.get("image_id", ""),
        "ImageName": seen.image,
        "Name": f"/{seen.name}",
        "Driver": "overlay",
        "Platform": "linux",
        "LogPath": seen.record.get("log_path", ""),
        "HostnamePath": f"{places.state}/pods/{pod.id}/hostname" if pod else "",
        "HostsPath": f"{places.state}/pods/{pod.id}/hosts" if pod else "",
        "ResolvConfPath": f"{places.state}/pods/{pod.id}/resolv.conf" if pod else "",
        "HostConfig": _host_config(seen),
        "Mounts": [_mount(places, mount) for mount in request.get("mounts", [])],
        "Config": {
            "Hostname": pod.record.get("hostname", "") if pod else "",
            "User": request.get("run_as_username", ""),
            "AttachStdin": bool(request.get("stdin", False)),
            "Tty": bool(request.get("tty", False)),
            "OpenStdin": bool(request.get("stdin", False)),
            "StdinOnce": bool(request.get("stdin_once", False)),
            "Env": process.get("env", []),
            "Cmd": command,
            "Image": seen.image,
            "WorkingDir": process.get("cwd", ""),
            "Entrypoint": request.get("command") or None,
            "Labels": request.get("labels", {}),
            "StopSignal": seen.record.get("stop_signal", "SIGTERM"),
        },
        "NetworkSettings": _network_settings(places, seen),
        "Ketch": {
            "Owner": seen.owner,
            "Pod": pod.id if pod else "",
            "Cgroup": seen.record.get("cgroups_path", ""),
            "Bundle": f"{places.state}/bundles/{seen.id}",
        },
    }


def _state(seen: look.Seen) -> dict[str, object]:
    state = seen.state()
    found = seen.exit() or {}
    code = seen.exit_code()
    return {
        "Status": {"unknown": "dead"}.get(state, state),
        "Running": state in ("running", "paused"),
        "Paused": state == "paused",
        "Restarting": False,
        "OOMKilled": bool(found.get("oom", False)),
        "Dead": state == "unknown",
        "Pid": seen.pid if state in ("running", "paused") else 0,
        "ExitCode": 0 if code is None and state != "unknown" else code,
        "Error": seen.failure,
        "StartedAt": _time(seen.started_at),
        "FinishedAt": _time(int(found.get("finished_at", 0))),
    }


def _host_config(seen: look.Seen) -> dict[str, object]:
    request = seen.request
    limits = request.get("resources", {})
    pod = seen.pod
    bindings: dict[str, list[dict[str, str]]] = {}
    for mapping in pod.request.get("port_mappings", []) if pod else []:
        key = f"{mapping['container_port']}/{str(mapping['protocol']).lower()}"
        line = {"HostIp": mapping.get("host_ip", ""), "HostPort": str(mapping["host_port"])}
        bindings.setdefault(key, []).append(line)
    period, quota = limits.get("cpu_period", 0), limits.get("cpu_quota", 0)
    return {
        "Binds": [f"{m['host_path']}:{m['container_path']}" for m in request.get("mounts", []) if m.get("host_path")],
        "NetworkMode": pod.notes.get(notes.NETWORK, "default") if pod else "",
        "PortBindings": bindings,
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": bool(seen.notes.get(notes.AUTO_REMOVE)),
        "CapAdd": request.get("add_capabilities") or None,
        "CapDrop": request.get("drop_capabilities") or None,
        "Privileged": bool(request.get("privileged", False)),
        "ReadonlyRootfs": bool(request.get("readonly_rootfs", False)),
        "Memory": limits.get("memory_limit_bytes", 0),
        "MemorySwap": limits.get("memory_swap_limit_bytes", 0),
        "NanoCpus": quota * 1_000_000_000 // period if period else 0,
        "CpuShares": limits.get("cpu_shares", 0),
        "CpusetCpus": limits.get("cpuset_cpus", ""),
        "PidsLimit": limits.get("pids_limit", 0) or None,
        "BlkioWeight": limits.get("blkio_weight", 0),
        "ShmSize": 67108864,
    }


def _mount(places: Places, mount: dict[str, object]) -> dict[str, object]:
    source = str(mount.get("host_path", ""))
    volume = source.startswith(f"{places.volumes}/")
    shown: dict[str, object] = {"Type": "volume" if volume else str(mount.get("kind", "bind"))}
    if volume:
        shown["Name"] = source.removeprefix(f"{places.volumes}/").partition("/")[0]
        shown["Driver"] = "local"
    return {
        **shown,
        "Source": source,
        "Destination": mount["container_path"],
        "Mode": "",
        "RW": not mount.get("readonly", False),
        "Propagation": {"private": "rprivate", "host-to-container": "rslave", "bidirectional": "rshared"}.get(
            str(mount.get("propagation", "private")), ""
        ),
    }


def _network_settings(places: Places, seen: look.Seen) -> dict[str, object]:
    from cri.hand import networks, subnets

    pod = seen.pod
    if pod is None:
        return {}
    name = pod.notes.get(notes.NETWORK, str(pod.record.get("network", "")))
    v4 = next((ip for ip in pod.ips if ":" not in ip), "")
    v6 = next((ip for ip in pod.ips if ":" in ip), "")
    described = networks.read(places, name) if name not in ("host", "none", "") else None
    subnet, gateway = subnets.with_gateways(described)[0] if described and v4 else (None, "")
    result = pod.record.get("network_result", {})
    mac = next((i.get("mac", "") for i in result.get("interfaces", []) if i.get("sandbox")), "")
    ports: dict[str, object] = {}
    for mapping in pod.request.get("port_mappings", []) if seen.state() in ("running", "paused") else []:
        key = f"{mapping['container_port']}/{str(mapping['protocol']).lower()}"
        host = mapping.get("host_ip") or "0.0.0.0"  # noqa: S104 - shown, not bound
        ports[key] = [{"HostIp": host, "HostPort": str(mapping["host_port"])}]
    here = {
        "IPAddress": v4,
        "IPPrefixLen": subnet.prefixlen if subnet and v4 else 0,
        "Gateway": gateway,
        "GlobalIPv6Address": v6,
        "MacAddress": mac,
    }
    member = {**here, "NetworkID": networks.identity(name), "Aliases": [seen.name, seen.id[:12]]}
    return {
        **here,
        "SandboxKey": pod.record.get("netns", ""),
        "Ports": ports,
        "Networks": {name: member} if name else {},
    }


def inspect(arguments: Arguments, places: Places) -> int:
    """Containers first, then images, volumes, networks, pods: whatever has the name."""
    need_root()
    found = [_anything(places, word) for word in arguments.words]
    form = arguments.text("format")
    if form and form != "json":
        from cri.hand.templates import fill_template

        for one in found:
            print(fill_template(form, one))
    else:
        from json import dumps

        print(dumps(found, indent=4))
    return 0


def _anything(places: Places, word: str) -> dict[str, object]:
    from cri.hand import networks, volumes

    try:
        return describe(places, look.container(places, word))
    except HandError as e:
        missing = e
    image = _image(places, word)
    if image is not None:
        return image
    volume = volumes.read(places, word) if "/" not in word else None
    if volume is not None:
        return volume
    if word in (*networks.BUILT_IN, *networks.custom(places)):
        return networks.describe(places, word)
    from cri.hand import pods

    try:
        return pods.describe(places, look.pod(places, word))
    except HandError:
        raise HandError(f"no such container, image, volume, network or pod: {word}", hint=missing.hint) from None


def _image(places: Places, word: str) -> dict[str, object] | None:
    from cri.hand.images import familiar, store_of
    from cri.images.errors import ImageError

    if os.geteuid() != 0:
        return None
    store = store_of(places)
    try:
        image = store.find(word)
        if image is None:
            return None
        config = store.config(image.id)
        return {
            "Id": image.id,
            "RepoTags": [familiar(tag) for tag in image.tags],
            "RepoDigests": [familiar(digest) for digest in image.digests],
            "Created": config.created,
            "Author": config.author,
            "Architecture": image.platform.architecture,
            "Os": image.platform.os,
            "Size": image.unpacked_size,
            "Config": {
                "User": config.user,
                "ExposedPorts": {port: {} for port in config.exposed_ports},
                "Env": list(config.env),
                "Entrypoint": list(config.entrypoint) or None,
                "Cmd": list(config.cmd) or None,
                "Volumes": {path: {} for path in config.volumes},
                "WorkingDir": config.working_dir,
                "Labels": dict(config.labels),
                "StopSignal": config.stop_signal,
            },
            "RootFS": {"Type": "layers", "Layers": list(config.diff_ids)},
        }
    except ImageError:
        return None
    finally:
        store.close()


# port


def port(arguments: Arguments, places: Places) -> int:
    """80/tcp -> 0.0.0.0:8080."""
    seen = look.container(places, arguments.words[0])
    published = seen.pod.request.get("port_mappings", []) if seen.pod else []
    wanted = arguments.words[1] if len(arguments.words) > 1 else ""
    if wanted and "/" not in wanted:
        wanted += "/tcp"
    printed = False
    for mapping in published:
        inside = f"{mapping['container_port']}/{str(mapping['protocol']).lower()}"
        for address in _addresses(mapping):
            if wanted and wanted != inside:
                continue
            outside = f"{address}:{mapping['host_port']}"
            print(outside if wanted else f"{inside} -> {outside}")
            printed = True
    if wanted and not printed:
        raise HandError(f"no public port {wanted!r} published for {seen.name}")
    return 0
