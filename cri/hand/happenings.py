# SPDX-License-Identifier: Apache-2.0
"""events: what happens to containers. Nobody announces it, so the records are looked at ten times a second."""

from __future__ import annotations

import time

from cri.hand import look, options
from cri.hand.errors import HandError
from cri.hand.grammar import Arguments
from cri.hand.places import Places
from cri.hand.templates import fill_template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL_SECONDS = 0.1


def events(arguments: Arguments, places: Places) -> int:
    """Until Ctrl-C, or the time that --until names."""
    began = time.time()
    until = options.since("--until", arguments.text("until"), began) if arguments.given("until") else None
    wanted = [f.partition("=") for f in arguments.many("filter")]
    for key, _, _ in wanted:
        if key not in _FILTERS:
            raise HandError(f"events --filter: {key!r} is not known", hint=", ".join(_FILTERS))

    def show(action: str, seen: look.Seen, moment: float) -> None:
        values = {key: [value for other, _, value in wanted if other == key] for key, _, _ in wanted}
        if all(any(_FILTERS[key](action, seen, value) for value in some) for key, some in values.items()):
            _print(arguments.text("format"), action, seen, moment)

    before = _facts(places)
    if arguments.given("since"):
        for moment, action, seen in past(before, options.since("--since", arguments.text("since"), began)):
            if until is None or moment <= until:
                show(action, seen, moment)
    while until is None or time.time() < until:
        time.sleep(INTERVAL_SECONDS)
        after = _facts(places)
        for action, seen in changes(before, after):
            show(action, seen, time.time())
        before = after
    return 0


_FILTERS: dict[str, Callable[[str, look.Seen, str], bool]] = {
    "container": lambda _, seen, value: seen.name == value or seen.id.startswith(value),
    "event": lambda action, _, value: action == value,
    "image": lambda _action, seen, value: seen.image in (value, f"{value}:latest"),
    "type": lambda _action, _seen, value: value == "container",
    "label": lambda _, seen, value: (
        value in (f"{k}={v}" for k, v in seen.request.get("labels", {}).items())
        or value in seen.request.get("labels", {})
    ),
}


Facts = dict[str, tuple[str, look.Seen]]


def _facts(places: Places) -> Facts:
    return {seen.id: (seen.state(), seen) for seen in look.containers(places)}


def past(facts: Facts, since: float) -> list[tuple[float, str, look.Seen]]:
    """What the containers that are still there have gone through: their records keep the times."""
    found = []
    for _, seen in facts.values():
        ended = int((seen.exit() or {}).get("finished_at", 0))
        # A quick program's end is seen before its start is written down.
        started = min(seen.started_at, ended) if ended else seen.started_at
        times = (("create", seen.created_at), ("start", started), ("die", ended))
        found += [(moment / look.SECOND, action, seen) for action, moment in times if moment > since * look.SECOND]
    return sorted(found, key=lambda line: line[0])


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


def _print(form: str, action: str, seen: look.Seen, now: float) -> None:
    attributes = {"image": seen.image, "name": seen.name}
    if action == "die":
        attributes["exitCode"] = str(seen.exit_code())
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
