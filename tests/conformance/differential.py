# SPDX-License-Identifier: Apache-2.0
"""The same generated configs through ketch-runtime and its peers; what the containers report must be the same."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance import generated
from tests.conformance.runtime_tools import runtime_path
from tests.e2e.machine import power_on
from tests.e2e.runtimes import PROJECT
from tests.support.rootfs import make_rootfs

HERE = Path(__file__).parent
Report = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Difference:
    """One line that one side has and the other has not."""

    number: int
    peer: str
    section: str
    line: str
    is_ours: bool

    @property
    def text(self) -> str:
        return f"{self.peer} {self.section} {'+' if self.is_ours else '-'} {self.line}"


# --- inside the machine ---


def run_one(runtime: str, number: int, work: Path) -> Report:
    """What the container of this number says when this runtime runs it."""
    bundle = work / "bundle"
    config = generated.config(number)
    for mount in config["mounts"]:
        mount["source"] = {"SHARED": str(work / "shared"), "FILE": str(work / "one")}.get(
            mount["source"], mount["source"]
        )
    mapped = any(space["type"] == "user" for space in config["linux"]["namespaces"])
    config["root"]["path"] = "mapped" if mapped else "rootfs"
    config["linux"]["cgroupsPath"] = f"/differential-{number}"
    (bundle / "config.json").write_text(json.dumps(config))
    command = [runtime, "--root", str(work / "state"), "run", "--bundle", str(bundle), f"c{number}"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return {"end": ["did not end"]}
    report = sections(done.stdout)
    report["end"] = ["ok" if done.returncode == 0 else "failed"]
    if done.returncode and not report.get("status"):
        report["error"] = [done.stderr.strip()[-300:]]
    return report


def sections(said: str) -> Report:
    """The report by sections, each normalised."""
    found: Report = {}
    current: list[str] = []
    for line in said.splitlines():
        if line.startswith("== "):
            current = found.setdefault(line[3:], [])
        else:
            current.append(line)
    if "mounts" in found:
        found["mounts"] = sorted(_mount(line) for line in found["mounts"])
    if "dev" in found:
        found["dev"].sort()
    for name in found:
        found[name] = [re.sub(r"/differential-\S*", "/differential", line) for line in found[name]]
    return found


def _mount(line: str) -> str:
    """Without the numbers that no two containers share; who is a peer of whom is only that there is one."""
    before, _, after = line.partition(" - ")
    fields = before.split(" ")
    root, point, options = fields[3], fields[4], ",".join(sorted(fields[5].split(",")))
    tags = " ".join(sorted(tag.partition(":")[0] for tag in fields[6:]))
    kind, source, superblock = after.split(" ")[:3]
    kept = ",".join(sorted(o for o in superblock.split(",") if not o.startswith(("lowerdir", "upperdir", "workdir"))))
    if point == "/" or kind in ("ext4", "overlay"):
        root = "..."
    return f"{point} {root} {options} {tags} {kind} {source if source.startswith('/') is False else '/...'} {kept}"


def work_inside(runtimes: dict[str, str], numbers: range, folder: Path) -> None:
    """Run everything; one JSON line for each config, on stdout."""
    work = make_work(folder)
    for number in numbers:
        reports = {name: run_one(runtime, number, work) for name, runtime in runtimes.items()}
        print(json.dumps({"number": number, "reports": reports}), flush=True)


def make_work(folder: Path) -> Path:
    """The root file systems, one of them for a user namespace, and what is bound into them."""
    work = folder / "work"
    work.mkdir()
    for name in ("rootfs", "mapped"):
        root = make_rootfs(work / "bundle" / name)
        (root / "etc").mkdir(exist_ok=True)
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
        (root / "tmp").mkdir(exist_ok=True)
    subprocess.run(["chown", "-R", "100000:100000", work / "bundle/mapped"], check=True)
    for path in (work, work / "bundle"):
        path.chmod(0o755)
    (work / "shared").mkdir()
    (work / "shared/file").write_text("shared\n")
    (work / "one").write_text("one\n")
    return work


# --- outside ---


def differences(number: int, reports: dict[str, Report]) -> Iterator[Difference]:
    """Ours against each peer's, line by line in every section; namespaces are compared by who shares which."""
    ours = reports["ketch"]
    for peer, theirs in reports.items():
        if peer == "ketch":
            continue
        for section in sorted({*ours, *theirs} - {"namespaces"}):
            mine, others = Counter(ours.get(section, [])), Counter(theirs.get(section, []))
            for line in (mine - others).elements():
                yield Difference(number, peer, section, line, is_ours=True)
            for line in (others - mine).elements():
                yield Difference(number, peer, section, line, is_ours=False)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a kind of difference is as it should be."""

    pattern: str
    text: str

    def holds_for(self, difference: Difference) -> bool:
        return re.search(self.pattern, difference.text) is not None


def reasons() -> list[Reason]:
    """Lines of `pattern || reason` of the file beside this one."""
    found = []
    for line in (HERE / "differential.expected").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            pattern, _, text = line.partition("||")
            found.append(Reason(pattern.strip(), text.strip()))
    return found


def judge(lines: list[str], known: list[Reason]) -> tuple[str, int]:
    """A table of the reasons with how often each was met, what has none, and the exit status."""
    met: Counter[str] = Counter()
    unknown: dict[str, list[int]] = {}
    same = 0
    for line in lines:
        entry: dict[str, Any] = json.loads(line)
        found = list(differences(entry["number"], entry["reports"]))
        same += not found
        for difference in found:
            reason = next((reason for reason in known if reason.holds_for(difference)), None)
            if reason is None:
                unknown.setdefault(difference.text, []).append(difference.number)
            else:
                met[reason.text] += 1
    said = [f"{len(lines)} configs, {same} without any difference"]
    said += [f"  {count:5} lines: {text}" for text, count in met.most_common()]
    for text, numbers in sorted(unknown.items(), key=lambda item: -len(item[1])):
        said.append(f"  UNEXPLAINED in {len(numbers)} (such as {numbers[:3]}): {text[:300]}")
    return "\n".join(said), int(bool(unknown) or not lines)


def run(names: list[str], numbers: range, folder: Path) -> list[str]:
    """One line of JSON for each config."""
    runtimes = {name: runtime_path(name) for name in names}
    machine = power_on("differential", folder / "machine")
    try:
        hide = "f=/sys/fs/cgroup/unified/cgroup.controllers; [ ! -e $f ] || { : > $1/none; mount --bind $1/none $f; }"
        machine.run("sh", "-c", hide, "sh", str(folder))
        command = [sys.executable, "-m", "tests.conformance.differential", "--inside", json.dumps(runtimes)]
        command += ["--first", str(numbers.start), "--count", str(len(numbers)), "--keep", str(folder)]
        log = machine.log_of("differential")
        with open(log, "wb") as errors:
            done = subprocess.run(
                machine.inside_group("differential", "env", "-C", str(PROJECT), *command),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                check=False,
            )
        if done.returncode:
            raise SystemExit(f"differential: the part inside ended with {done.returncode}: {log}")
        return done.stdout.splitlines()
    finally:
        machine.power_off()


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="differential", description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="how many configs")
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    parser.add_argument("--peer", action="append", help="runc, crun or a path; may be repeated")
    parser.add_argument("--keep", type=Path, help="where the reports go (default: a new folder below /var/tmp)")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    wanted = parser.parse_args(words)
    numbers = range(wanted.first, wanted.first + wanted.count)
    if wanted.inside:
        work_inside(json.loads(wanted.inside), numbers, wanted.keep)
        return 0
    folder = wanted.keep or Path(tempfile.mkdtemp(prefix="ketch-differential-", dir="/var/tmp"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    peers = wanted.peer or ["runc", *(["crun"] if shutil.which("crun") else [])]
    lines = run(["ketch", *peers], numbers, folder)
    (folder / "reports").write_text("\n".join(lines))
    text, status = judge(lines, reasons())
    print(f"differential with {', '.join(peers)}: {text}\nreports: {folder}/reports")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
