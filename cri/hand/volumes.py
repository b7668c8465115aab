# SPDX-License-Identifier: Apache-2.0
"""Volumes: folders that outlive containers. ROOT/volumes/NAME/volume.json says what it is, _data holds the files."""

from __future__ import annotations

import json
import os
import time

from cri.hand import look, notes, options
from cri.hand.errors import HandError, need_root, suggestion
from cri.hand.grammar import Arguments
from cri.hand.places import Places
from cri.hand.tables import print_rows
from runtime.linux import beneath, durable, json_text

ANONYMOUS = "ketch.hand/anonymous"  # the label of a volume that nobody has named


def data_path(places: Places, name: str) -> str:
    """Where its files are."""
    return f"{places.volumes}/{name}/_data"


def read(places: Places, name: str) -> dict[str, object] | None:
    """Its description; None when there is no such volume."""
    return look.read(f"{places.volumes}/{name}/volume.json")


def ensure(places: Places, name: str, *, labels: dict[str, str] | None = None, anonymous: bool = False) -> bool:
    """Make it if it is not there; True when it was made. The description comes last: without it there is no volume."""
    if read(places, name) is not None:
        return False
    os.makedirs(data_path(places, name), mode=0o755, exist_ok=True)
    described = {
        "CreatedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "Driver": "local",
        "Labels": {**(labels or {}), **({ANONYMOUS: ""} if anonymous else {})} or None,
        "Mountpoint": data_path(places, name),
        "Name": name,
        "Options": None,
        "Scope": "local",
    }
    return durable.create_exclusive(f"{places.volumes}/{name}/volume.json", json.dumps(described).encode(), 0o644)


def all_of(places: Places) -> list[dict[str, object]]:
    """All descriptions, by name."""
    try:
        names = sorted(os.listdir(places.volumes))
    except FileNotFoundError:
        return []
    except PermissionError:
        raise HandError(f"{places.volumes} belongs to root", hint="sudo ketch ...") from None
    return [found for name in names if (found := read(places, name)) is not None]


def users(places: Places) -> dict[str, list[str]]:
    """Volume -> names of the containers that have it."""
    found: dict[str, list[str]] = {}
    for container in look.containers(places):
        for volume in json_text.loads(container.notes.get(notes.VOLUMES, "[]")):
            found.setdefault(volume, []).append(container.name)
    return found


def delete(places: Places, name: str) -> None:
    """Remove it and its files; a second time is a no-op."""
    if os.path.isdir(f"{places.volumes}/{name}"):
        durable.remove(f"{places.volumes}/{name}/volume.json")
        beneath.remove_tree(f"{places.volumes}/{name}")


def create(arguments: Arguments, places: Places) -> int:
    need_root()
    if arguments.text("driver") != "local":
        raise HandError(f"volume driver {arguments.text('driver')!r} is not known", hint="local is the only one")
    name = arguments.words[0] if arguments.words else os.urandom(32).hex()
    options.object_name("volume", name)
    ensure(places, name, labels=options.pairs("--label", arguments.many("label")), anonymous=not arguments.words)
    print(name)
    return 0


def ls(arguments: Arguments, places: Places) -> int:
    rows = [
        {"Driver": v["Driver"], "Name": v["Name"], "Mountpoint": v["Mountpoint"], "Scope": "local"}
        for v in all_of(places)
    ]
    wanted = [f.partition("=") for f in arguments.many("filter")]
    used = users(places) if any(key == "dangling" for key, _, _ in wanted) else {}
    for key, _, value in wanted:
        if key == "name":
            rows = [row for row in rows if value in str(row["Name"])]
        elif key == "dangling":
            rows = [row for row in rows if (str(row["Name"]) not in used) == (value in ("true", "1"))]
        else:
            raise HandError(f"volume ls --filter: {key!r} is not known", hint="name, dangling")
    if arguments.flag("quiet"):
        for row in rows:
            print(row["Name"])
    else:
        print_rows(rows, [("DRIVER", "Driver"), ("VOLUME NAME", "Name")], arguments.text("format"))
    return 0


def _named(places: Places, name: str) -> dict[str, object]:
    found = read(places, name) if "/" not in name else None
    if found is None:
        raise HandError(f"no such volume: {name}", hint=suggestion(name, [str(v["Name"]) for v in all_of(places)]))
    return found


def inspect(arguments: Arguments, places: Places) -> int:
    found = [_named(places, name) for name in arguments.words]
    form = arguments.text("format")
    if form and form != "json":
        from cri.hand.templates import fill_template

        for volume in found:
            print(fill_template(form, volume))
    else:
        print(json.dumps(found, indent=4))
    return 0


def remove(arguments: Arguments, places: Places) -> int:
    need_root()
    used = users(places)
    code = 0
    for name in arguments.words:
        if arguments.flag("force") and not any(volume["Name"] == name for volume in all_of(places)):
            continue
        _named(places, name)
        if name in used:
            raise HandError(
                f"volume {name} is in use by {', '.join(used[name])}", hint=f"ketch rm {' '.join(used[name])}"
            )
        delete(places, name)
        print(name)
    return code
