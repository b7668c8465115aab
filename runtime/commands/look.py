# SPDX-License-Identifier: Apache-2.0
"""state, list, ps, spec, features, explain, doctor: what only looks."""

from __future__ import annotations

import sys

from runtime import commands as meaning
from runtime.linux import json_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli import Options


def state(settings: Options, options: Options) -> int:
    """state ID."""
    from runtime import evidence, record

    facts = evidence.state(record.load(meaning.root(settings), options.arguments[0]), full=True)
    sys.stdout.write(json_text.dumps(facts, indent=2) + "\n")
    return 0


def list(settings: Options, options: Options) -> int:
    """list."""
    from runtime import listing

    return listing.show(
        meaning.root(settings), options.value("--format", "-f") or "table", quiet=options.flag("--quiet", "-q")
    )


def ps(settings: Options, options: Options) -> int:
    """ps ID."""
    from runtime import listing

    return listing.processes(
        meaning.root(settings), options.arguments[0], options.value("--format", "-f") or "table", options.arguments[1:]
    )


def spec(settings: Options, options: Options) -> int:  # noqa: ARG001
    """spec."""
    from runtime import template

    template.write(options.value("--bundle", "-b") or ".", options.value("-f"), rootless=options.flag("--rootless"))
    return 0


def features(settings: Options, options: Options) -> int:  # noqa: ARG001
    """features."""
    from runtime import features as facts

    sys.stdout.write(json_text.dumps(facts.report(), indent=2) + "\n")
    return 0


def explain(settings: Options, options: Options) -> int:
    """explain [ID]."""
    from runtime import explain as explanation
    from runtime.commands import life

    if not options.arguments:
        options.arguments.append("explained")
    return explanation.show(life.request_from(settings, options), options.value("--format") or "text")


def doctor(settings: Options, options: Options) -> int:  # noqa: ARG001
    """doctor."""
    if options.flag("--verify"):
        from runtime import installed_files

        return installed_files.show()
    from runtime import doctor as examination

    return examination.show(options.value("--format") or "text")
