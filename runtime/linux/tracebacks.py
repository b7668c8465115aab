# SPDX-License-Identifier: Apache-2.0
"""KETCH_DEBUG=1: the traceback in front of the one line that an error is otherwise told in."""

import os
import sys

_demanded = False


def demand() -> None:
    """As if KETCH_DEBUG were set, for this process alone: what --debug means."""
    global _demanded
    _demanded = True


def wanted() -> bool:
    """Whether the user asks for tracebacks."""
    return _demanded or os.environ.get("KETCH_DEBUG", "0") not in ("", "0")


def show_if_wanted() -> None:
    """For whoever is about to say an error in one line: from where it came, on stderr. The exit status stays."""
    if not wanted():
        return
    import traceback  # 6 ms, only here

    if sys.exc_info()[0] is None:
        sys.stderr.write("Traceback (most recent call last):\n")
        traceback.print_stack(sys._getframe(1))
    else:
        traceback.print_exc()
