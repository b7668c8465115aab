# SPDX-License-Identifier: Apache-2.0
"""why: one sentence on why a container is not running, and the evidence it rests on.

a start that failed  ──► the runtime's own sentence, read for its true cause (causes.py)
an end               ──► exit file: code, signal, memory; then what the program itself printed last
a pod                ──► its network, its init containers
"""

from __future__ import annotations

import os
import time

from cri.hand import causes, look, notes
from cri.hand.errors import HandError
from cri.hand.grammar import Arguments
from cri.hand.places import Places
from cri.hand.tables import age, size


class Answer:
    """The sentence, what to try, and the evidence by name."""

    __slots__ = ("cause", "evidence", "hint", "sentence")

    def __init__(self, cause: str, sentence: str, hint: str = "") -> None:
        self.cause = cause
        self.sentence = sentence
        self.hint = hint
        self.evidence: list[tuple[str, str]] = []


def why(arguments: Arguments, places: Places) -> int:
    """Print it."""
    seen = _meant(places, arguments.words[0])
    answer = answer_for(places, seen)
    if arguments.text("format") == "json":
        from json import dumps

        shown = {"container": seen.name, "cause": answer.cause, "sentence": answer.sentence, "hint": answer.hint}
        print(dumps({**shown, "evidence": dict(answer.evidence)}, indent=2))
        return 0
    print(f"{seen.name}: {answer.sentence}")
    if answer.hint:
        print(f"  try: {answer.hint}")
    width = max((len(name) for name, _ in answer.evidence), default=0)
    for name, value in answer.evidence:
        first, *rest = value.split("\n")
        print(f"  {name:<{width}}  {first}")
        for line in rest:
            print(f"  {'':<{width}}  {line}")
    return 0


def _meant(places: Places, word: str) -> look.Seen:
    """A container, or of a pod the one that is in trouble."""
    try:
        return look.container(places, word)
    except HandError as e:
        missing = e
    from cri.hand import pods

    try:
        pod = look.pod(places, word)
    except HandError:
        raise missing from None
    members = pods.members(places, pod)
    if not members:
        raise HandError(f"pod {pod.name} has no containers") from None
    troubled = [
        c for c in members if c.state() not in ("running",) and not (c.notes.get(notes.INIT) and c.exit_code() == 0)
    ]
    return next((c for c in troubled if c.failure or c.exit_code()), (troubled or members)[0])


def answer_for(places: Places, seen: look.Seen) -> Answer:
    """The cause from the facts: the first that applies."""
    state = seen.state()
    if state == "running":
        answer = Answer("running", f"it is running, as process {seen.pid} of this machine")
    elif state == "paused":
        answer = Answer("paused", "it is frozen: all its processes stand still", f"ketch unpause {seen.name}")
    elif seen.failure:
        answer = _failed_start(places, seen)
    elif state == "created":
        answer = Answer("created", "it was made and never started", f"ketch start {seen.name}")
    elif state == "unknown":
        answer = Answer("unknown", "it has ended, and nobody saw how: the process that kept it was killed with it")
    else:
        answer = _ended(seen)
    _common_evidence(seen, answer)
    return answer


def _failed_start(places: Places, seen: look.Seen) -> Answer:
    sentence = seen.failure.replace(f"cannot start container {seen.id}: ", "")
    facts = causes.Facts(
        sentence=sentence,
        argv=seen.command,
        rootfs=seen.rootfs,
        working_dir=str(
            (look.read(f"{places.state}/bundles/{seen.id}/config.json") or {}).get("process", {}).get("cwd", "")
        ),
    )
    cause, said, hint = causes.of_start(facts)
    answer = Answer(cause, said, hint)
    answer.evidence.append(("runtime", sentence))
    return answer


def _ended(seen: look.Seen) -> Answer:
    found = seen.exit() or {}
    code, signal = found.get("exit_code"), found.get("signal")
    limit = int(seen.request.get("resources", {}).get("memory_limit_bytes", 0))
    tail = last_lines(seen, 5)
    if found.get("oom"):
        answer = _out_of_memory(seen, found, limit)
    elif code is None:
        answer = Answer("unknown", "it has ended, and nobody saw its exit code")
    else:
        cause, said, hint = causes.of_exit(
            causes.Exit(code, signal, seen.command, tail, seconds=_ran(seen, found), tty=bool(seen.request.get("tty")))
        )
        answer = Answer(cause, said, hint)
    finished = float(found.get("finished_at", 0)) / look.SECOND
    ended = f"exit code {code}" + (f", killed by signal {signal} ({causes.signal_name(signal)})" if signal else "")
    answer.evidence.append(("end", f"{ended}, {age(time.time() - finished)} ago, after {_ran(seen, found):.1f} s"))
    if tail:
        answer.evidence.append(("printed", "\n".join(tail)))
    return answer


def _out_of_memory(seen: look.Seen, found: dict[str, object], limit: int) -> Answer:
    detail = str(found.get("oom_detail", ""))
    bound = f" of {size(limit, binary=True)}" if limit else ""
    program = seen.command[0] if seen.command else "its program"
    sentence = f"the kernel killed it: it wanted more memory than its limit{bound} allows"
    if not limit:
        sentence = f"the kernel killed {program}: a cgroup around it, or the machine, ran out of memory"
    double = size(limit * 2, binary=True).replace("iB", "").replace("B", "").lower() if limit else ""
    answer = Answer(
        "oom", sentence, f"a larger limit: --memory {double}, or a program that needs less" if limit else ""
    )
    if detail:
        answer.evidence.append(("memory", detail))
    path = str(seen.record.get("cgroups_path", ""))
    answer.evidence.append(("cgroup", f"{path}, limit {size(limit, binary=True) if limit else 'none'}"))
    answer.evidence.append(("victim", " ".join(seen.command)))
    return answer


def _ran(seen: look.Seen, found: dict[str, object]) -> float:
    finished = int(str(found.get("finished_at", 0)))
    return max(0.0, (finished - seen.started_at) / look.SECOND)


def last_lines(seen: look.Seen, count: int) -> list[str]:
    """What it printed last, from its log."""
    from cri.hand import logs

    path = str(seen.record.get("log_path", ""))
    if not path or not os.path.exists(path):
        return []
    with open(path, "rb") as file:
        file.seek(logs.backwards(path, count))
        lines = [logs.parse(raw) for raw in file.read(1 << 20).split(b"\n")]
    return [line.text.decode(errors="replace").rstrip("\r")[:200] for line in lines if line is not None and line.text][
        -count:
    ]


def _common_evidence(seen: look.Seen, answer: Answer) -> None:
    answer.evidence.append(("command", " ".join(seen.command) or "(none)"))
    answer.evidence.append(("image", seen.image))
