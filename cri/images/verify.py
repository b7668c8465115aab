# SPDX-License-Identifier: Apache-2.0
"""Check."""
# ruff: noqa: ARG001

from cri.images.cancel import Cancellation
from cri.images.errors import Unsupported
from cri.images.model import Damage
from cri.images.parts import Parts, Progress


def verify(parts: Parts, *, repair: bool, progress: Progress | None, cancel: Cancellation | None) -> tuple[Damage, ...]:
    raise Unsupported("not yet")
