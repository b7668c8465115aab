# SPDX-License-Identifier: Apache-2.0
"""Starting and ending: the shortest command of each OCI runtime."""

from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import peers, stopwatch
from tests.bench.contest import Contender
from tests.bench.stopwatch import Cost

ROUNDS = 40


def contenders(work: Path) -> list[Contender]:
    return [
        Contender(name, once([program, "--version"]), ours=name == "ketch-runtime")
        for name, program in peers.oci_runtimes().items()
    ]


def once(command: list[str], step: str = "--version") -> Callable[[], Iterator[tuple[str, Cost]]]:
    """The work of a contender that is one short command."""

    def one() -> Iterator[tuple[str, Cost]]:
        yield step, stopwatch.run(command)

    return one
