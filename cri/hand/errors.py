# SPDX-License-Identifier: Apache-2.0
"""How a command of a person fails: one sentence, a hint, and an exit code that scripts written for docker expect."""

import os

FAILED, USAGE, REFUSED, CANNOT_EXECUTE, NOT_FOUND = 1, 125, 125, 126, 127


class HandError(Exception):
    """What was wanted, of what, why it cannot be; hint says what to try."""

    def __init__(self, message: str, *, hint: str = "", code: int = FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        return f"{self.args[0]} ({self.hint})" if self.hint else str(self.args[0])


class UsageError(HandError):
    """The command line itself cannot be understood; nothing was looked at."""


def suggestion(word: str, known: list[str]) -> str:
    """`did you mean X?`, or nothing when no known word is near."""
    from difflib import get_close_matches  # 3 ms, needed only here

    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""


def need_root() -> None:
    """Namespaces and mounts are root's."""
    if os.geteuid() != 0:
        raise HandError("this needs root", hint="sudo ketch ...", code=125)
