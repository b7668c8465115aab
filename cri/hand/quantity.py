# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' quantities: 100m, 512Mi, 1e3."""

from __future__ import annotations

from cri.hand.yaml_nodes import Node

_SUFFIXES = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "Ki": 2.0**10, "Mi": 2.0**20}
_SUFFIXES |= {"Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}


def quantity(node: Node) -> float:
    """500m, 64Mi, 1.5, 1e3."""
    text = node.any_text()
    digits = text.rstrip("mkMGTPi")
    try:
        return float(digits) * _SUFFIXES[text[len(digits) :]]
    except (ValueError, KeyError):
        raise node.wrong(f"{text!r} is not a quantity", hint="such as 500m, 64Mi or 2") from None
