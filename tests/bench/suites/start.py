# SPDX-License-Identifier: Apache-2.0
"""Starting and ending: the shortest command of each program, beside a Python that does nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import peers, stopwatch
from tests.bench.contest import Contender
from tests.bench.stopwatch import Cost

ROUNDS = 40


def contenders(work: Path) -> list[Contender]:
    commands = {"python3 -I -S -c pass": ["/usr/bin/python3", "-I", "-S", "-c", "pass"]}
    commands |= {name: [program, "--version"] for name, program in peers.oci_runtimes().items()}
    ours = {"ketch-runtime"}
    return [Contender(name, _once(command), ours=name in ours) for name, command in commands.items()]


def _once(command: list[str]) -> Callable[[], Iterator[tuple[str, Cost]]]:
    def one() -> Iterator[tuple[str, Cost]]:
        yield "--version", stopwatch.run(command)

    return one
