# SPDX-License-Identifier: Apache-2.0
"""explain: every step that a bundle would get, in order, without root and without effect."""

from __future__ import annotations

import sys

from runtime import creation
from runtime.errors import UsageError
from runtime.linux import cgroup, json_text
from runtime.plan import container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.creation import CreateRequest


def show(request: CreateRequest, form: str) -> int:
    """Print the plan."""
    if form not in ("text", "json"):
        raise UsageError(f"--format: expected text or json, got {form!r}")
    _, config = creation.read_config(request.config_path)
    plan = creation.plan_for(request, config, cgroup.layout())
    lines = container.describe(plan)
    if form == "json":
        document = {
            "id": plan.id,
            "bundle": plan.bundle,
            "steps": [{"phase": phase, "step": sentence} for phase, sentence in lines],
            "warnings": list(plan.warnings),
        }
        sys.stdout.write(json_text.dumps(document, indent=2) + "\n")
        return 0
    width = max(len(phase) for phase, _ in lines)
    for phase, sentence in lines:
        sys.stdout.write(f"{phase:<{width}}  {sentence}\n")
    for warning in plan.warnings:
        sys.stdout.write(f"{'warning':<{width}}  {warning}\n")
    return 0
