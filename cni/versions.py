# SPDX-License-Identifier: Apache-2.0
"""Versions of the specification: which there are, and which can do what."""

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
CURRENT = SUPPORTED[-1]
DEFAULT = "0.1.0"  # what a configuration without cniVersion means

_FIRST_OF = {"bandwidth": (0, 3, 0), "firewall": (0, 4, 0)}  # the reference's answer to VERSION too
_FIRST_WITH = {"CHECK": (0, 4, 0), "GC": (1, 1, 0), "STATUS": (1, 1, 0)}


def parse(version: str) -> tuple[int, int, int]:
    """Three numbers; ValueError for anything else."""
    parts = version.split(".")
    if len(parts) > 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(f"{version!r} is not a version")
    numbers = [int(part) for part in parts] + [0, 0]
    return numbers[0], numbers[1], numbers[2]


_PARSED = {version: parse(version) for version in SUPPORTED}  # an ADD asks a dozen times


def at_least(version: str, other: str) -> bool:
    return (_PARSED.get(version) or parse(version)) >= (_PARSED.get(other) or parse(other))


def of_plugin(name: str) -> tuple[str, ...]:
    """The versions that a plugin serves: those that were made before its kind of result could be said are missing."""
    first = _FIRST_OF.get(name)
    return tuple(version for version in SUPPORTED if parse(version) >= first) if first else SUPPORTED


def has_verb(version: str, command: str) -> bool:
    return parse(version) >= _FIRST_WITH.get(command, (0, 1, 0))
