# SPDX-License-Identifier: Apache-2.0
"""Our short dataclasses against the standard library's: the same classes made by both behave the same."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from runtime.linux import quick_dataclasses as quick


def _classes(module: Any) -> tuple[type, type]:
    @module.dataclass(frozen=True, slots=True)
    class Point:
        x: int
        y: int = 2
        names: dict[str, int] = module.field(default_factory=dict)
        secret: str = module.field(default="s", repr=False)

    @module.dataclass(slots=True)
    class Box:
        held: Any
        total: int = module.field(init=False, default=0)

        def __post_init__(self) -> None:
            self.total = len(self.held)

    return Point, Box


PAIRS = list(zip(_classes(dataclasses), _classes(quick), strict=True))


@pytest.mark.parametrize(
    "act",
    [
        lambda p, _: p(1),
        lambda p, _: p(1, 3, {"a": 1}),
        lambda p, _: p(x=1, y=5),
        lambda p, _: p(1) == p(1, 2),
        lambda p, b: p(1) == b([1]),
        lambda p, _: p(1) != p(2),
        lambda p, _: p(),
        lambda p, _: p(1, x=1),
        lambda p, _: p(1, z=1),
        lambda p, _: p(1, 2, {}, "s", "more"),
        lambda p, _: setattr(p(1), "x", 3),
        lambda p, _: hash(p(1)),
        lambda _, b: hash(b([1])),
        lambda _, b: b([1, 2]).total,
        lambda _, b: b([1], total=5),
        lambda _, b: setattr(b([1]), "held", 4),
        lambda p, _: p(1).names is p(1).names,
        lambda p, _: p.__match_args__,
        lambda p, _: p.__slots__,
    ],
)
def test_it_behaves_as_the_standard_library_s(act: Callable[[type, type], object]) -> None:
    outcomes = []
    for made in (tuple(theirs for theirs, _ in PAIRS), tuple(ours for _, ours in PAIRS)):
        try:
            outcomes.append(repr(act(*made)))
        except (TypeError, AttributeError) as error:
            outcomes.append("TypeError" if isinstance(error, TypeError) else "AttributeError")
    assert outcomes[0] == outcomes[1]


def test_copies_dictionaries_and_fields_are_the_same() -> None:
    found = []
    for module in (dataclasses, quick):
        (point, box) = _classes(module)
        one = point(1, names={"a": 2})
        changed = module.replace(one, y=7)
        found.append(
            (
                repr(changed),
                module.asdict(box([one, changed])),
                [field.name for field in module.fields(point)],
                module.is_dataclass(point),
                module.is_dataclass(one),
                module.is_dataclass(3),
            )
        )
    assert found[0] == found[1]


def test_the_standard_library_s_functions_work_on_our_classes_too() -> None:
    point: Any = _classes(quick)[0]
    one = dataclasses.replace(point(1), y=7)
    assert (one.y, dataclasses.is_dataclass(one)) == (7, True)
    assert dataclasses.asdict(one) == quick.asdict(one)
    assert [field.name for field in dataclasses.fields(point)] == ["x", "y", "names", "secret"]
