# SPDX-License-Identifier: Apache-2.0
"""A plan as a list of steps: each says what it would do, and does it; the loop that applies them."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


class Step:
    """One small effect. Subclasses are frozen: `__slots__`, set once in `__init__`."""

    __slots__ = ()

    def describe(self) -> str:
        """What apply() does, as one line for people."""
        raise NotImplementedError

    def load(self) -> None:
        """Import what apply() needs late: after this nothing can be imported any more."""

    def apply(self, context: "Any") -> None:
        """Do it. The context is what earlier steps left behind (descriptors, mostly)."""
        raise NotImplementedError


class StepFailed(Exception):
    """A step could not be applied: what it was, why, and perhaps what to try."""

    def __init__(self, step: Step, cause: BaseException) -> None:
        super().__init__(f"cannot {step.describe()}: {cause}")
        self.step = step
        self.cause = cause


def run(steps: "Iterable[Step]", context: "Any") -> None:
    """Apply the steps in order; the first that fails ends it with StepFailed."""
    for step in steps:
        try:
            step.apply(context)
        except (OSError, ValueError) as cause:
            raise StepFailed(step, cause) from cause
