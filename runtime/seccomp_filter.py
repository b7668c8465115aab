# SPDX-License-Identifier: Apache-2.0
"""A seccomp profile as a compiled filter, from the cache when the same profile was compiled before."""

from __future__ import annotations

from runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.inside.execute import Filter
    from runtime.spec.model import Seccomp


def compiled(profile: Seccomp, cache: str) -> Filter:
    """The filter of this profile."""
    raise RuntimeFailure(f"linux.seccomp: this build has no libseccomp ({profile.default_action}, {cache})")
