# SPDX-License-Identifier: Apache-2.0
"""events: what happens to containers. Nobody announces it, so the records are looked at ten times a second."""

from __future__ import annotations

import time

from cri.hand import look
from cri.hand.errors import HandError
from cri.hand.grammar import Arguments
from cri.hand.places import Places
from cri.hand.templates import fill_template

INTERVAL_SECONDS = 0.1


def events(arguments: Arguments, places: Places) -> int:
    """Until Ctrl-C."""
    wanted = [f.partition("=") for f in arguments.many("filter")]
    for key, _, _ in wanted:
        if key not in ("container", "event"):
            raise HandError(f"events --filter: {key!r} is not known", hint="container, event")
    before = _facts(places)
    while True:
        time.sleep(INTERVAL_SECONDS)
        after = _facts(places)
        for action, seen in changes(before, after):
            fits = all(
                value == action if key == "event" else value in (seen.name, seen.id[:12]) for key, _, value in wanted
            )
            if fits:
                _print(arguments.text("format"), action, seen)
        before = after


Facts = dict[str, tuple[str, look.Seen]]


def _facts(places: Places) -> Facts:
    return {seen.id: (seen.state(), seen) for seen in look.containers(places)}


def changes(before: Facts, after: Facts) -> list[tuple[str, look.Seen]]:
    """(action, container) in the order in which they must have happened."""
    found: list[tuple[str, look.Seen]] = []
    for identity, (state, seen) in after.items():
        was = before.get(identity, ("", seen))[0]
        if not was:
            found.append(("create", seen))
            was = "created"
        if state == was:
            continue
        if state == "paused":
            found.append(("pause", seen))
        elif was == "paused" and state == "running":
            found.append(("unpause", seen))
        elif state == "running":
            found.append(("start", seen))
        elif state in ("exited", "unknown"):
            found += [("start", seen)] if was == "created" else []
            found += [("oom", seen)] if (seen.exit() or {}).get("oom") else []
            found.append(("die", seen))
    found += [("destroy", seen) for identity, (_, seen) in before.items() if identity not in after]
    return found


def _print(form: str, action: str, seen: look.Seen) -> None:
    attributes = {"image": seen.image, "name": seen.name}
    if action == "die":
        attributes["exitCode"] = str(seen.exit_code())
    now = time.time()
    if form:
        known = {
            "Type": "container",
            "Action": action,
            "Status": action,
            "ID": seen.id,
            "From": seen.image,
            "Actor": {"ID": seen.id, "Attributes": attributes},
            "time": int(now),
            "Time": int(now),
        }
        if form == "json":
            from json import dumps

            print(dumps(known), flush=True)
        else:
            print(fill_template(form, known), flush=True)
        return
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e9):09d}Z"
    told = ", ".join(f"{key}={value}" for key, value in sorted(attributes.items()))
    print(f"{stamp} container {action} {seen.id} ({told})", flush=True)
