# SPDX-License-Identifier: Apache-2.0
"""What most root tests begin with: `box`, a runtime and its bundle; `ketch`, the command with an image of busybox."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import Runtime
from tests.support.hand import Ketch


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Runtime]:
    runtime = Runtime(tmp_path)
    yield runtime
    for name in runtime.ok("list", "-q").split():
        runtime.remove(name)
    assert not any(path.name != ".cache" for path in runtime.root.glob("*"))


@pytest.fixture
def ketch(tmp_path: Path) -> Iterator[Ketch]:
    hand = Ketch(tmp_path)
    hand("image", "local")
    yield hand
    hand.close()
