# SPDX-License-Identifier: Apache-2.0
"""Runs critest against a CRI server in a machine of its own: python -m tests.conformance critest --runtime ketch."""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conformance import table
from tests.conformance.table import Result
from tests.e2e import cache, go_build, image_set, registry
from tests.e2e.images import digest_of
from tests.e2e.machine import PATIENCE, Machine, power_on
from tests.e2e.runtimes import RUNTIMES, Network, Runtime

HERE = Path(__file__).parent
REGISTRY = f"127.0.0.1:{registry.PORT}"
WEBSOCKET = ("--websocket-exec", "--websocket-attach", "--websocket-portforward")
# The image that one spec pulls by digest exists nowhere offline; the digest of ours is put in its place, same length.
_PULLED_BY_DIGEST = b"test-image-digest@"


def critest_with_our_digest(other: Path | None = None) -> Path:
    """critest, ours or another build of it, with that one constant replaced."""
    program = other or go_build.program("critest")
    manifest = image_set.digest_image(image_set.busybox_layer()).manifest()
    ours = digest_of(manifest)

    def make(folder: Path) -> None:
        data = program.read_bytes()
        found = data.find(_PULLED_BY_DIGEST + b"sha256:")
        if found < 0:
            raise LookupError(f"{program} pulls no image test-image-digest by digest any more")
        start = found + len(_PULLED_BY_DIGEST)
        published = data[start : start + len(ours)]
        patched = folder / "critest"
        patched.write_bytes(data.replace(published, ours.encode()))
        patched.chmod(0o755)

    return cache.made_once("critest-local", cache.key(str(program), ours), make) / "critest"


def read_report(path: Path) -> Iterator[Result]:
    """One result per spec of a ginkgo JSON report; specs that a filter left out are not results."""
    for suite in json.loads(path.read_text()):
        for spec in suite.get("SpecReports") or []:
            if spec.get("LeafNodeType") == "It":
                result = _result(spec)
                if result is not None:
                    yield result


def _result(spec: dict[str, Any]) -> Result | None:
    name = " ".join([*(spec.get("ContainerHierarchyTexts") or []), spec["LeafNodeText"]]).strip()
    said = (spec.get("Failure") or {}).get("Message") or ""
    state = spec["State"]
    if state == "pending" or (state == "skipped" and not said):
        return None
    outcome = state if state in ("passed", "skipped") else "failed"
    return Result(name, outcome, spec.get("RunTime", 0) / 1e9, said)


def with_ginkgo(program: Path) -> list[str]:
    """critest runs its specs side by side only with the ginkgo command on its PATH."""
    return ["env", f"PATH={go_build.program('ginkgo').parent}:{os.environ['PATH']}", str(program)]


def run(runtime: Runtime, folder: Path, flags: list[str], seconds: float, other: Path | None = None) -> list[Result]:
    """One run of the suite; logs and the report stay in folder."""
    storage, critest = registry.storage("critest"), critest_with_our_digest(other)
    program = with_ginkgo(critest) if any(flag.startswith("--parallel") for flag in flags) else [str(critest)]
    machine = power_on("critest", folder / "critest", is_under_systemd=runtime.is_under_systemd)
    try:
        _prepare(machine, runtime, storage)
        return _run_inside(machine, runtime, program, flags, seconds)
    finally:
        machine.power_off()


# The AppArmor specs load profiles through sudo and take each word on its stderr for an error; it has one to say where
# the machine's own name leads nowhere.
_KNOWN_BY_NAME = """
cp /etc/hosts /run/hosts
echo "127.0.1.1 $(hostname)" >> /run/hosts
mount --bind /run/hosts /etc/hosts
"""


def _prepare(machine: Machine, runtime: Runtime, storage: Path) -> None:
    machine.run("sh", "-euc", _KNOWN_BY_NAME)
    settings = machine.folder / "registry.yml"
    settings.write_text(registry.configuration(storage, REGISTRY))
    machine.start("registry", *registry.command(settings))
    runtime.start(machine, REGISTRY)
    runtime.add_network(machine, Network("10.88.0.0/16"))


def _run_inside(
    machine: Machine, runtime: Runtime, program: list[str], flags: list[str], seconds: float
) -> list[Result]:
    report = machine.folder / "report.json"
    settings = machine.folder / "crictl.yaml"
    settings.write_text("debug: false\n")
    command = [
        *program,
        f"--config={settings}",
        f"--runtime-endpoint={runtime.endpoint}",
        f"--image-endpoint={runtime.endpoint}",
        f"--runtime-service-timeout={60 * PATIENCE:.0f}s",
        "--ginkgo.no-color",
        "--ginkgo.v",
        f"--ginkgo.timeout={seconds:.0f}s",
        f"--ginkgo.json-report={report}",
        *flags,
    ]
    with open(machine.log_of("suite"), "wb") as log:
        subprocess.run(
            machine.inside_group("critest", *command), stdout=log, stderr=log, check=False, timeout=seconds + 60
        )
    if not report.exists():
        raise RuntimeError(f"critest wrote no report: {machine.log_of('suite').read_text()[-2000:]}")
    return list(read_report(report))


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="critest", description=__doc__)
    parser.add_argument("--runtime", choices=sorted(RUNTIMES), default="ketch")
    parser.add_argument("--focus", default="", help="a regular expression: only these specs")
    parser.add_argument("--seconds", type=float, default=900 * PATIENCE)
    parser.add_argument("--keep", type=Path, help="where logs and the report go (default: a new folder below /tmp)")
    parser.add_argument("--seeds", type=int, default=1, help="so many runs in a row, each in another random order")
    parser.add_argument("--program", type=Path, help="another critest, such as one of the main branch")
    parser.add_argument("--websocket", action="store_true", help="only the streaming specs, over WebSocket")
    parser.add_argument("--parallel", type=int, default=0, help="so many specs at once")
    parser.add_argument("flag", nargs="*", help="more flags for critest, after --")
    wanted = parser.parse_args(words)
    folder = wanted.keep or Path(tempfile.mkdtemp(prefix="ketch-critest-"))
    flags = list(wanted.flag)
    if wanted.websocket:
        flags += [*WEBSOCKET, "--ginkgo.focus=Streaming"]
    elif wanted.focus:
        flags.append(f"--ginkgo.focus={wanted.focus}")
    is_whole = not flags and not wanted.program
    if wanted.parallel:
        flags.append(f"--parallel={wanted.parallel}")
    expected = table.parse_expected((HERE / f"critest-{RUNTIMES[wanted.runtime].name}.expected").read_text())
    if wanted.program:
        expected["NRI"] = "comes later; the specs of the main branch need its socket"
    worst = 0
    for number in range(wanted.seeds):
        seed = [f"--ginkgo.seed={random.SystemRandom().randrange(1, 2**31)}"] if wanted.seeds > 1 else []
        place = folder / str(number) if wanted.seeds > 1 else folder
        place.mkdir(parents=True, exist_ok=True)
        results = run(RUNTIMES[wanted.runtime], place, [*flags, *seed], wanted.seconds, wanted.program)
        text, status = table.report(results, expected, is_whole_suite=is_whole)
        print(f"critest on {wanted.runtime} {' '.join(seed)}: {text}\nlogs: {place}/critest/logs", flush=True)
        worst = max(worst, status)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
