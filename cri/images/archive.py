# SPDX-License-Identifier: Apache-2.0
"""Images in files."""
# ruff: noqa: ARG001

from collections.abc import Sequence

from cri.images.catalogue import Record
from cri.images.errors import Unsupported
from cri.images.parts import Parts, Progress


def take(parts: Parts, path: str, *, name: str, progress: Progress | None) -> tuple[str, ...]:
    raise Unsupported(f"{path}: not yet")


def give(parts: Parts, images: Sequence[tuple[Record, str]], path: str, *, form: str) -> None:
    raise Unsupported(f"{path}: not yet")
