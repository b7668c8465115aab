# SPDX-License-Identifier: Apache-2.0
"""Runs Kubernetes' own suites on a node of the rig: python -m tests.conformance kubernetes --suite node."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.conformance import table
from tests.conformance.critest import read_report
from tests.conformance.table import Result
from tests.e2e import cluster as clusters
from tests.e2e import go_build, image_set
from tests.e2e.cluster import Cluster
from tests.e2e.control_plane import SERVER
from tests.e2e.node import Node
from tests.e2e.runtimes import RUNTIMES

HERE = Path(__file__).parent
# These want the machine for themselves, take away what others need, take long, or are known to fail now and then.
_APART = "(Serial || Disruptive || Slow || Flaky)"
WHICH = {"all": "", "quick": f" && !{_APART}", "apart": f" && {_APART}"}


@dataclass(frozen=True, slots=True)
class Suite:
    """One test program and which of its specs are meant."""

    program: str
    label: str
    text: str  # in the spec's name
    part: str  # a regular expression: what `--part` runs

    def filters(self, focus: str, which: str) -> list[str]:
        chosen = focus or self.text
        return [f"--label-filter={self.label}{WHICH[which]}", *([f"--focus={chosen}"] if chosen else [])]


# a minute and a half with four at once, one or more of each kind of thing that a kubelet asks of a runtime
_PART = (
    "Security Context|Mount recursive|Sysctls|Hostname of Pod|Ephemeral Containers|InitContainer"
    "|Container Lifecycle Hook|Container Runtime blackbox|RuntimeClass|Kubelet when scheduling"
    "|Deleted pods handling|Lifecycle sleep action"
)
SUITES = {
    "node": Suite("e2e_node.test", "NodeConformance", "", _PART),
    "cluster": Suite("e2e.test", "Conformance", r"\[sig-node\]", _PART),
}


def flags_of(suite: str, cluster: Cluster, node: Node, folder: Path) -> list[str]:
    """What the program itself must know about the cluster."""
    common = [f"--report-dir={folder}", "--dns-domain=cluster.local"]
    if suite == "cluster":
        return [
            "--provider=skeleton",
            f"--kubeconfig={cluster.pki.kubeconfig(SERVER, 'admin')}",
            f"--kubectl-path={go_build.program('kubectl')}",
            *common,
        ]
    return [
        "--start-services=false",
        "--prepull-images=false",
        f"--node-name={node.name}",
        f"--host={SERVER}",
        f"--bearer-token={cluster.pki.token('admin')}",
        f"--container-runtime-endpoint={node.runtime.endpoint}",
        f"--image-service-endpoint={node.runtime.endpoint}",
        f"--config-dir={folder}",
        *common,
    ]


def run(suite: str, cluster: Cluster, folder: Path, ginkgo: list[str], *, at_once: int, seconds: float) -> list[Result]:
    """One run on the cluster's first node; its log and report stay in folder."""
    node, report = cluster.nodes[0], folder / f"{suite}.json"
    command = [
        str(go_build.program("ginkgo")),
        f"--procs={at_once}",
        "--no-color",
        f"--timeout={seconds:.0f}s",
        f"--json-report={report.name}",
        f"--output-dir={folder}",
        *ginkgo,
        str(go_build.program(SUITES[suite].program)),
        "--",
        *flags_of(suite, cluster, node, folder),
    ]
    # in a group of its own, as every service of the machine
    with open(folder / f"{suite}.log", "wb") as log:
        launch = node.machine.inside_group("suite", "env", "-C", str(folder), *command)
        subprocess.run(launch, stdout=log, stderr=log, check=False, timeout=seconds + 120)
    if not report.exists():
        raise RuntimeError(f"{suite} wrote no report: {(folder / f'{suite}.log').read_text()[-2000:]}")
    return list(read_report(report))


def verdict(results: list[Result], passing: set[str], reasons: dict[str, str]) -> tuple[str, int]:
    """What to print, and 1 if a spec that passes on the oracle does not pass here, or another without a reason."""
    counts: dict[str, int] = {}
    lines, status = [], 0
    for result in sorted(results, key=lambda each: each.name):
        counts[result.outcome] = counts.get(result.outcome, 0) + 1
        if result.outcome == "passed":
            continue
        owed, reason = result.name in passing, table.reason_for(result, reasons)
        word = "OWED" if owed else reason or "WITHOUT A REASON"
        said = " ".join(result.said.split())[:300]
        lines.append(f"  {result.outcome:8} {result.name}\n           {word}: {said}")
        status |= owed or reason is None
    summary = ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items()))
    return "\n".join([f"{len(results)} run: {summary or 'nothing'}", *lines]), status if results else 1


def passing_on_the_oracle(suite: str) -> set[str]:
    path = HERE / f"kubernetes-{suite}.passing"
    lines = path.read_text().splitlines() if path.exists() else []
    return {line for line in lines if line and not line.startswith("#")}


def record(suite: str, results: list[Result]) -> None:
    """Keep the names of what passed on containerd: from now on it is owed."""
    names = sorted(passing_on_the_oracle(suite) | {each.name for each in results if each.outcome == "passed"})
    head = f"# specs of {SUITES[suite].program} that pass on containerd here\n"
    (HERE / f"kubernetes-{suite}.passing").write_text(head + "".join(f"{name}\n" for name in names))


def _run_one(suite: str, cluster: Cluster, folder: Path, wanted: argparse.Namespace) -> int:
    chosen = SUITES[suite]
    focus, which = (chosen.part, "quick") if wanted.part else (wanted.focus, wanted.which)
    ginkgo = chosen.filters(focus, which)
    if wanted.skip:
        ginkgo.append(f"--skip={wanted.skip}")
    results = run(suite, cluster, folder, ginkgo, at_once=wanted.procs, seconds=wanted.seconds)
    reasons = HERE / f"kubernetes-{wanted.runtime}.expected"
    expected = table.parse_expected(reasons.read_text()) if reasons.exists() else {}
    if wanted.record:
        record(suite, results)
    text, status = verdict(results, passing_on_the_oracle(suite), expected)
    times = {each.name: [each.outcome, round(each.seconds, 1)] for each in results}
    (folder / f"{suite}-times.json").write_text(json.dumps(times, indent=1))
    print(f"{suite} on {wanted.runtime}: {text}\nlog and report: {folder}", flush=True)
    return status


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="kubernetes", description=__doc__)
    parser.add_argument("--suite", choices=[*SUITES, "all"], default="all")
    parser.add_argument("--runtime", choices=sorted(RUNTIMES), default=os.environ.get("KETCH_RUNTIME", "ketch"))
    parser.add_argument("--focus", default="", help="a regular expression: only these specs")
    parser.add_argument("--skip", default="", help="a regular expression: without these specs")
    parser.add_argument("--part", action="store_true", help="only the part that continuous integration runs")
    parser.add_argument(
        "--which", choices=WHICH, default="all", help="apart: Serial, Disruptive, Slow or Flaky; quick: all others"
    )
    parser.add_argument("--procs", type=int, default=4, help="specs at once")
    parser.add_argument("--seconds", type=float, default=5400)
    parser.add_argument(
        "--record", action="store_true", help="add what passes to the list of what is owed (containerd)"
    )
    parser.add_argument("--keep", type=Path, help="where logs and reports go (default: a new folder below /tmp)")
    wanted = parser.parse_args(words)
    if wanted.record and wanted.runtime != "containerd":
        parser.error("--record keeps what the oracle passes (try: --runtime containerd)")
    suites = list(SUITES) if wanted.suite == "all" else [wanted.suite]
    go_build.programs("ginkgo", *(SUITES[suite].program for suite in suites))
    folder = wanted.keep or Path(tempfile.mkdtemp(prefix="ketch-kubernetes-"))
    folder.mkdir(parents=True, exist_ok=True)
    home = folder / "cluster"
    cluster = clusters.up(home, clusters.choose(wanted.runtime, 1), proxy="nftables", images=image_set.FOR_SUITES)
    try:
        return max(_run_one(suite, cluster, folder, wanted) for suite in suites)
    finally:
        clusters.down(home, keep_logs=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
