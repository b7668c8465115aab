# SPDX-License-Identifier: Apache-2.0
"""`ketch-runtime --version` beside a Python that does nothing: at most 1.25 times its wall time."""

from pathlib import Path

from tests.bench import peers
from tests.bench.contest import Contender
from tests.bench.suites.start import once

ROUNDS = 100


def contenders(work: Path) -> list[Contender]:
    version = [str(peers.OURS / "ketch-runtime"), "--version"]
    return [
        Contender("/usr/bin/python3 -I -S -c pass", once(["/usr/bin/python3", "-I", "-S", "-c", "pass"])),
        Contender("ketch-runtime --version", once(version), ours=True),
    ]
