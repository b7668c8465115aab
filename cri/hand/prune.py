# SPDX-License-Identifier: Apache-2.0
"""container, image, volume, network and system prune: what nobody uses goes, once a person has agreed."""

from __future__ import annotations

import sys

from cri.hand import images, look, networks, removal, tables, volumes
from cri.hand.errors import need_root
from cri.hand.grammar import Arguments
from cri.hand.places import Places
from cri.hand.room import Room


def agreed(arguments: Arguments, *what: str) -> bool:
    """Whether it may go: --force, or a y after docker's question."""
    if arguments.flag("force"):
        return True
    print("WARNING! This will remove" + (f" {what[0]}." if len(what) == 1 else ":"))
    for line in what if len(what) > 1 else ():
        print(f"  - {line}")
    print("\nAre you sure you want to continue? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _print(title: str, names: list[str]) -> None:
    if names:
        print("\n".join([f"Deleted {title}:", *names, ""]))


def _reclaimed(count: int) -> None:
    print(f"Total reclaimed space: {tables.size(count)}")


def containers(arguments: Arguments, places: Places) -> int:
    need_root()
    if agreed(arguments, "all stopped containers"):
        _reclaimed(_containers(places))
    return 0


def _containers(places: Places) -> int:
    freed, gone = 0, []
    with Room(places) as room:
        for seen in look.containers(places):
            if seen.state() in ("running", "paused") or (seen.pod is not None and not seen.pod.is_for_one):
                continue
            freed += room.context.images.rootfs_usage(seen.id).used_bytes
            removal.remove(room, seen, with_volumes=False)
            gone.append(seen.id)
    _print("Containers", gone)
    return freed


def image(arguments: Arguments, places: Places) -> int:
    need_root()
    every = arguments.flag("all")
    what = "all images without at least one container associated to them" if every else "all dangling images"
    if agreed(arguments, what):
        _reclaimed(_images(places, every=every))
    return 0


def _images(places: Places, *, every: bool) -> int:
    used = {str(c.record.get("image_id", "")) for c in look.containers(places, all_owners=True)}
    freed, gone = 0, []
    store = images.store_of(places)
    try:
        for one in store.list():
            if one.id not in used and not one.pinned and (every or not one.tags):
                store.remove(one.id)
                gone += [*(f"untagged: {tag}" for tag in one.tags), f"deleted: {one.id}"]
                freed += one.size
        store.collect()
    finally:
        store.close()
    _print("Images", gone)
    return freed


def volume(arguments: Arguments, places: Places) -> int:
    need_root()
    every = arguments.flag("all")
    what = "all volumes" if every else "anonymous local volumes"
    if agreed(arguments, f"{what} not used by at least one container"):
        _volumes(places, every=every)
    return 0


def _volumes(places: Places, *, every: bool) -> None:
    used = volumes.users(places)
    gone = []
    for one in volumes.all_of(places):
        name, labels = str(one["Name"]), one["Labels"]
        if name not in used and (every or (isinstance(labels, dict) and volumes.ANONYMOUS in labels)):
            volumes.delete(places, name)
            gone.append(name)
    _print("Volumes", gone)


def network(arguments: Arguments, places: Places) -> int:
    need_root()
    if agreed(arguments, "all custom networks not used by at least one container"):
        _networks(places)
    return 0


def _networks(places: Places) -> None:
    gone = [n for n in networks.custom(places) if n not in networks.BUILT_IN and not networks.users(places, n)]
    for name in gone:
        networks.delete(places, name)
    _print("Networks", gone)


def system(arguments: Arguments, places: Places) -> int:
    need_root()
    every = arguments.flag("all")
    what = ["all stopped containers", "all networks not used by at least one container"]
    what += ["all anonymous volumes not used by at least one container"] if arguments.flag("volumes") else []
    what += ["all images without at least one container associated to them" if every else "all dangling images"]
    if agreed(arguments, *what):
        freed = _containers(places)
        _networks(places)
        if arguments.flag("volumes"):
            _volumes(places, every=False)
        _reclaimed(freed + _images(places, every=every))
    return 0
