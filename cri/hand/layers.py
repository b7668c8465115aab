# SPDX-License-Identifier: Apache-2.0
"""diff and commit: what a container has written over its image, and an image of both."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import contextmanager

from cri.hand import look
from cri.hand.archives import changes_of
from cri.hand.errors import HandError
from cri.hand.grammar import Arguments
from cri.hand.images import find, store_of
from cri.hand.places import Places
from cri.hand.progress import Working
from cri.images.errors import ImageError
from cri.images.model import ImageConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def diff(arguments: Arguments, places: Places) -> int:
    """A, C or D and the path, as docker prints them."""
    seen = look.container(places, arguments.words[0])
    store = store_of(places)
    try:
        with Working(f"Comparing {seen.name} with its image", sys.stderr):
            found = store.changes(seen.id, seen.rootfs, _made(seen))
    except ImageError as e:
        raise HandError(str(e)) from None
    finally:
        store.close()
    for change in found:
        print(change.kind, change.path)
    return 0


def _made(seen: look.Seen) -> list[str]:
    """Where things are mounted that nobody asked for: /dev, /proc, /etc/hosts and the like."""
    config = look.read(f"{seen.places.state}/bundles/{seen.id}/config.json") or {}
    asked = {mount["container_path"] for mount in seen.request.get("mounts", [])}
    return [m["destination"] for m in config.get("mounts", []) if m["destination"] not in asked]


def commit(arguments: Arguments, places: Places) -> int:
    """The new image's id."""
    seen = look.container(places, arguments.words[0])
    name = arguments.words[1] if len(arguments.words) > 1 else ""
    store = store_of(places)
    try:
        base = store.config(find(store, str(seen.record["image_id"])).id)
        said = {"author": arguments.text("author"), "comment": arguments.text("message")}
        step = {"created_by": " ".join(seen.command), **said}
        config = _config(seen, base, changes_of(arguments.many("change")))
        with _standing_still(seen, wanted=arguments.on("pause")), Working(f"Writing {seen.name}", sys.stderr):
            image_id = store.commit(
                seen.id,
                seen.rootfs,
                name,
                config=config,
                made=_made(seen),
                step=step,
            )
        print(image_id)
    except ImageError as e:
        raise HandError(f"cannot make an image of {seen.name}: {e}") from None
    finally:
        store.close()
    return 0


def _config(seen: look.Seen, base: ImageConfig, changes: dict[str, Any]) -> Mapping[str, object]:
    """The image's configuration with what the container was made with, and then the changes."""
    request = seen.request
    old = base.raw.get("config")
    config: dict[str, object] = dict(old) if isinstance(old, dict) else {}
    said = [*base.env, *("=".join(pair) for pair in request.get("envs", [])), *changes.pop("Env", ())]
    config["Env"] = [f"{name}={value}" for name, value in dict(text.partition("=")[::2] for text in said).items()]
    if command := request.get("command"):
        config |= {"Entrypoint": command, "Cmd": request.get("args") or None}
    elif words := request.get("args"):
        config["Cmd"] = words
    for key, field in (("User", "run_as_username"), ("WorkingDir", "working_dir"), ("StopSignal", "stop_signal")):
        if value := request.get(field):
            config[key] = value
    if labels := request.get("labels"):
        config["Labels"] = {**base.labels, **labels}
    return config | changes


@contextmanager
def _standing_still(seen: look.Seen, *, wanted: bool) -> Iterator[None]:
    """Frozen while the block runs, so that the image is of one moment."""
    if not wanted or seen.state() != "running":
        yield
        return
    from cri.hand.room import Room

    with Room(seen.places) as room:
        group = room.context.cgroups.group(str(seen.record.get("cgroups_path", "")))
        group.freeze()
        try:
            yield
        finally:
            group.thaw()
