# SPDX-License-Identifier: Apache-2.0
"""What other runtimes have and we refuse by name for now."""

from __future__ import annotations

from runtime.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli import Options


def checkpoint(settings: Options, options: Options) -> int:  # noqa: ARG001
    """checkpoint."""
    raise UsageError("checkpoint is not supported yet; nothing was changed (runc and crun have it, by way of CRIU)")


def restore(settings: Options, options: Options) -> int:  # noqa: ARG001
    """restore."""
    raise UsageError("restore is not supported yet; nothing was changed (runc and crun have it, by way of CRIU)")


def mounts(settings: Options, options: Options) -> int:  # noqa: ARG001
    """mounts."""
    raise UsageError("mounts add and remove are not supported yet; nothing was changed (crun has them)")
