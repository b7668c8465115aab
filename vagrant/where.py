# SPDX-License-Identifier: Apache-2.0
"""Which test ran where: what the machine skips must have run in another part of CI or in the committed run of all.

python -m vagrant.where table MACHINE.xml [PART.xml...]   prints the table; status 1 if a test ran nowhere
python -m vagrant.where record VM.xml [COMMIT]            puts a run of the VM into vagrant/vm-test-all.txt
"""

from __future__ import annotations

import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RECORD = Path(__file__).parent / "vm-test-all.txt"
_WORDS = ("passed", "failed", "skipped")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one test, and what it said when it was skipped."""

    word: str
    said: str = ""


def read_junit(path: Path) -> dict[str, Outcome]:
    """Outcomes by `tests/folder/test_file.py::name`; an error in the set-up or the leak check counts as failed."""
    found: dict[str, Outcome] = {}
    for case in ET.parse(path).iter("testcase"):  # noqa: S314 - pytest wrote it, in this run
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        outcome = _outcome(case)
        if name not in found or outcome.word == "failed":
            found[name] = outcome
    return found


def _outcome(case: ET.Element) -> Outcome:
    if case.find("failure") is not None or case.find("error") is not None:
        return Outcome("failed")
    skipped = case.find("skipped")
    return Outcome("passed") if skipped is None else Outcome("skipped", skipped.get("message") or "")


def read_record(text: str) -> dict[str, Outcome]:
    """A line for each file, below it a line for each test: its name, before it the outcome unless that is passed."""
    found: dict[str, Outcome] = {}
    file = ""
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if not line.startswith(" "):
            file = line.strip()
            continue
        word, _, rest = line.strip().partition(" ")
        is_named = word in _WORDS and rest
        found[f"{file}::{rest if is_named else line.strip()}"] = Outcome(word if is_named else "passed")
    return found


def write_record(outcomes: Mapping[str, Outcome], commit: str) -> str:
    counts = Counter(outcome.word for outcome in outcomes.values())
    lines = [
        "# What became of each test in the VM (Debian 12, cgroup v2, systemd, AppArmor). Written by",
        f"# `python -m vagrant.where record`; newest run: {time.strftime('%Y-%m-%d')}, commit {commit or 'unnamed'}.",
        f"# {', '.join(f'{counts[word]} {word}' for word in _WORDS)}. A name without a word before it has passed.",
    ]
    former = ""
    for name, outcome in sorted(outcomes.items()):
        file, _, test = name.partition("::")
        if file != former:
            lines.append(file)
            former = file
        lines.append(f"  {test}" if outcome.word == "passed" else f"  {outcome.word} {test}")
    return "\n".join(lines) + "\n"


def table(
    machine: Mapping[str, Outcome], part: Mapping[str, Outcome], everything: Mapping[str, Outcome]
) -> tuple[str, int]:
    """What the machine skipped, and where it ran instead; the status is 1 if a test ran nowhere."""
    rows, nowhere = [], 0
    for name, outcome in sorted(machine.items()):
        if outcome.word != "skipped":
            continue
        here, newest = (where.get(name, Outcome("-")).word for where in (part, everything))
        ran = "passed" in (here, newest)
        nowhere += not ran
        rows.append(f"{here:8} {newest:8} {'' if ran else 'NOWHERE '}{name}: {outcome.said[:60]}")
    counts = {"machine": machine, "CI's other parts": part, "newest vm-test-all": everything}
    ran_in = "\n".join(f"{where}: {_counts(outcomes)}" for where, outcomes in counts.items())
    head = f"skipped on the machine: {len(rows)}, of which {nowhere} ran nowhere\nparts    all      test: what it needs"
    return "\n".join([ran_in, head, *rows]), 1 if nowhere else 0


def _counts(outcomes: Mapping[str, Outcome]) -> str:
    counts = Counter(outcome.word for outcome in outcomes.values())
    return ", ".join(f"{counts[word]} {word}" for word in _WORDS)


def record(run: Path, commit: str) -> None:
    """Later runs replace what they ran; tests that are gone are forgotten."""
    former = read_record(RECORD.read_text()) if RECORD.exists() else {}
    merged = {**former, **read_junit(run)}
    kept = {name: outcome for name, outcome in merged.items() if _is_there(*name.split("::", 1))}
    RECORD.write_text(write_record(kept, commit))


def _is_there(file: str, test: str) -> bool:
    path = Path(__file__).parent.parent / file
    return path.exists() and f"def {test.partition('[')[0]}(" in path.read_text()


def main(words: list[str]) -> int:
    if words[:1] == ["record"] and len(words) in (2, 3):
        record(Path(words[1]), words[2] if len(words) == 3 else "")
        return 0
    if words[:1] != ["table"] or len(words) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    everything = read_record(RECORD.read_text()) if RECORD.exists() else {}
    parts: dict[str, Outcome] = {}
    for report in words[2:]:
        parts |= {name: outcome for name, outcome in read_junit(Path(report)).items() if outcome.word != "skipped"}
    text, status = table(read_junit(Path(words[1])), parts, everything)
    print(text)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
