# SPDX-License-Identifier: Apache-2.0
"""make bench SUITE=name JSON=file: the comparison with the peers that are installed, in namespaces of its own."""

import argparse
import importlib
import json
import os
import pkgutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from tests.bench import contest, suites, table
from tests.support import isolation


def main() -> int:
    arguments = _arguments()
    if not arguments.suite:
        for name in _names():
            print(f"{name:10} {(_suite(name).__doc__ or '').strip().splitlines()[0]}")
        return 0
    unknown = [name for name in arguments.suite if name not in _names()]
    if unknown:
        print(f"bench: no suite {unknown[0]!r} (suites: {', '.join(_names())})", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("bench: makes namespaces and cgroups (try: sudo make bench SUITE=...)", file=sys.stderr)
        return 1
    for name in arguments.suite:
        if hasattr(_suite(name), "run"):
            status: int = _suite(name).run(arguments)
            return status
    return isolation.in_a_private_world("ketch-bench", lambda: _run(arguments))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--suite", nargs="*", default=[], help="which; without it the names are listed")
    parser.add_argument("--json", type=Path, help="keep the table and all samples in this file")
    parser.add_argument("--mode", choices=("cold", "hot"), action="append", help="only this one (default: both)")
    parser.add_argument("--rounds", type=int, help="samples per contender and mode (default: what the suite says)")
    parser.add_argument("--quiet-seconds", type=float, default=60, help="how long to wait for a quiet machine")
    return parser.parse_args()


def _names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(suites.__path__))


def _suite(name: str) -> ModuleType:
    return importlib.import_module(f"tests.bench.suites.{name}")


def _run(arguments: argparse.Namespace) -> int:
    found: list[dict[str, object]] = []
    refused: dict[str, str] = {}
    samples: list[dict[str, object]] = []
    _show_debians_crun_no_hybrid()
    for name in arguments.suite:
        suite = _suite(name)
        with tempfile.TemporaryDirectory(prefix="ketch-bench-", suffix="-work") as work:
            contenders = suite.contenders(Path(work))
            for mode in arguments.mode or ("cold", "hot"):
                busy = contest.wait_for_quiet(arguments.quiet_seconds)
                if busy > 0.15:
                    print(f"bench: the machine is {busy:.0%} busy; take ratios, not times", file=sys.stderr)
                result = contest.hold(name, contenders, rounds=arguments.rounds or suite.ROUNDS, mode=mode)
                found += table.rows(result)
                refused |= result.refused
                samples += [
                    {"suite": name, "mode": mode, "step": step, "who": who, "ms": [c.wall_ms for c in costs]}
                    for (step, who), costs in result.samples.items()
                ]
    print(table.text(found))
    for who, why in refused.items():
        print(f"not in the table: {who}: {why}", file=sys.stderr)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": found, "refused": refused, "samples": samples}, indent=1) + "\n")
    return 0


def _show_debians_crun_no_hybrid() -> None:
    """Debian's crun 1.8.1 refuses a hybrid machine by looking at this file; all contenders see it empty."""
    hybrid = "/sys/fs/cgroup/unified/cgroup.controllers"
    if os.path.exists(hybrid):
        from tests.support import kernel

        with tempfile.NamedTemporaryFile() as empty:
            kernel.mount(empty.name, hybrid, "", kernel.MS_BIND)


if __name__ == "__main__":
    sys.exit(main())
