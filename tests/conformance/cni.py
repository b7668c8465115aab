# SPDX-License-Identifier: Apache-2.0
"""Runs the CNI conformance script against a folder of plugins: python -m tests.conformance cni [--plugins FOLDER]."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.conformance import table
from tests.conformance.table import Result
from tests.e2e import go_build
from tests.e2e.runtimes import PROJECT

HERE = Path(__file__).parent
# The script is the project owner's and lies beside the project, not in it.
SCRIPT = os.environ.get("KETCH_CNI_SPEC") or str(PROJECT.parent / "shared/conformance/cni-spec.py")


def folder_of(name: str) -> str:
    """ketch: this tree's links; go: the pinned module's plugins; anything else is a folder."""
    if name == "ketch":
        return str(PROJECT / "build/cni/bin")
    return str(go_build.program("cni-plugins")) if name == "go" else name


def read_results(path: Path) -> list[Result]:
    """The script's JSON: one object per check."""
    said: Any = json.loads(path.read_text())
    checks = said["results"] if isinstance(said, dict) else said
    outcomes = {"pass": "passed", "ok": "passed", "fail": "failed", "skip": "skipped"}
    return [
        Result(each["id"], outcomes.get(str(each["s"]).lower(), "failed"), each["t"], str(each.get("m") or ""))
        for each in checks
    ]


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="cni", description=__doc__)
    parser.add_argument("--plugins", default="ketch", help="ketch, go, or a folder")
    parser.add_argument("--only", default="", help="a regular expression: only these checks")
    wanted = parser.parse_args(words)
    if not Path(SCRIPT).exists():
        print(f"cni: no script at {SCRIPT}; name it with KETCH_CNI_SPEC", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="ketch-cni-") as folder:
        report = Path(folder) / "report.json"
        command = ["/usr/bin/python3", SCRIPT, "--cni-path", folder_of(wanted.plugins), "--json", str(report)]
        command += ["--only", wanted.only] if wanted.only else []
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        results = read_results(report)
    expected_file = HERE / f"cni-{wanted.plugins}.expected"
    expected = table.parse_expected(expected_file.read_text()) if expected_file.exists() else {}
    text, status = table.report(results, expected, is_whole_suite=not wanted.only)
    print(f"CNI checks against {wanted.plugins}: {text}")
    return status
