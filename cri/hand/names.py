# SPDX-License-Identifier: Apache-2.0
"""Names of containers and pods: taken by one file each, so two commands at once cannot take the same."""

from __future__ import annotations

import os

from cri.hand import look
from cri.hand.errors import REFUSED, HandError
from runtime.linux import durable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cri.hand.places import Places

_LEFT = [
    "amber",
    "bold",
    "brisk",
    "calm",
    "clever",
    "crisp",
    "deft",
    "eager",
    "fair",
    "fleet",
    "fond",
    "gentle",
    "glad",
    "happy",
    "hardy",
    "keen",
    "kind",
    "lively",
    "lucid",
    "mellow",
    "merry",
    "neat",
    "nimble",
    "noble",
    "patient",
    "plucky",
    "proud",
    "quick",
    "quiet",
    "ready",
    "sharp",
    "snug",
    "solid",
    "spry",
    "steady",
    "sunny",
    "swift",
    "tidy",
    "warm",
    "wise",
]
_RIGHT = [
    "anchor",
    "bilge",
    "boom",
    "bosun",
    "bow",
    "buoy",
    "cabin",
    "capstan",
    "cleat",
    "compass",
    "cutter",
    "deck",
    "dinghy",
    "fender",
    "galley",
    "halyard",
    "helm",
    "hull",
    "jib",
    "keel",
    "ketch",
    "ladder",
    "lantern",
    "mast",
    "mizzen",
    "oar",
    "pennant",
    "pilot",
    "port",
    "reef",
    "rigging",
    "rudder",
    "sail",
    "sextant",
    "sheet",
    "spar",
    "stern",
    "tiller",
]


def _file(places: Places, name: str) -> str:
    return f"{places.hand}/names/{name.replace('/', '%')}"


def take(places: Places, name: str, identity: str) -> None:
    """Raise HandError naming the holder when it is taken. A name whose container is gone is free."""
    os.makedirs(f"{places.hand}/names", mode=0o711, exist_ok=True)
    while not durable.create_exclusive(_file(places, name), identity.encode(), durable=False):
        holder = holder_of(places, name)
        if holder and _is_there(places, holder):
            raise HandError(
                f"the name {name!r} is taken by {holder[:12]}",
                hint=f"another name, or ketch rm -f {name}",
                code=REFUSED,
            )
        release(places, name, holder)


def holder_of(places: Places, name: str) -> str:
    """The id that has the name, or nothing."""
    data = durable.read(_file(places, name))
    return data.decode() if data else ""


def _is_there(places: Places, identity: str) -> bool:
    if any(os.path.isdir(f"{places.state}/{kind}/{identity}") for kind in ("bundles", "pods")):
        return True
    # Taken a moment ago by a command that has not written its record yet? Its lock tells.
    return look.is_locked(f"{places.hand}/making/{identity}")


def release(places: Places, name: str, identity: str) -> None:
    """Give it back, if it is still this one's."""
    if holder_of(places, name) == identity:
        durable.remove(_file(places, name), durable=False)


def release_all(places: Places, identity: str) -> None:
    """Whatever names it has."""
    folder = f"{places.hand}/names"
    for file in os.listdir(folder) if os.path.isdir(folder) else ():
        if durable.read(f"{folder}/{file}") == identity.encode():
            durable.remove(f"{folder}/{file}", durable=False)


def invent(places: Places) -> str:
    """Two words that nobody has."""
    while True:
        random = int.from_bytes(os.urandom(4), "big")
        name = f"{_LEFT[random % len(_LEFT)]}_{_RIGHT[random // len(_LEFT) % len(_RIGHT)]}"
        if not os.path.exists(_file(places, name)):
            return name
