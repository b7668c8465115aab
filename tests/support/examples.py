# SPDX-License-Identifier: Apache-2.0
"""Console sessions in the Markdown files, as something that can be run and compared."""

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Example:
    """One block: where it stands, and its commands with what each must print."""

    place: str
    commands: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return self.place

    def verify(self, shell: Sequence[str] = ("sh",), **environment: str) -> None:
        """Run the block as one shell session and compare after each command."""
        marker = "=== end of command ==="
        script = "".join(f"{command}\necho '{marker}' $?\n" for command, _ in self.commands)
        path = f"{TOP}/.venv/bin:{os.environ['PATH']}"
        done = subprocess.run(
            shell,
            input=script,
            cwd=TOP,
            env={**os.environ, "PATH": path, "LC_ALL": "C.UTF-8", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        outputs = re.split(rf"^{marker} \d+\n", done.stdout, flags=re.MULTILINE)
        for (command, expected), printed in zip(self.commands, outputs, strict=False):
            assert _matches(expected, printed), f"{self.place}: $ {command}\nexpected:\n{expected}\nprinted:\n{printed}"


def documented(*, root: bool) -> list[Example]:
    """The examples of all Markdown files, those for root or those for everybody."""
    found = []
    for path in sorted(TOP.rglob("*.md")):
        if not {".venv", "build", ".git", "node_modules"} & set(path.relative_to(TOP).parts):
            found += _examples(path, "console root" if root else "console")
    return found


def _examples(path: Path, kind: str) -> list[Example]:
    text = path.read_text()
    blocks = re.finditer(rf"^```{kind}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    found = []
    for block in blocks:
        line = text.count("\n", 0, block.start()) + 1
        parts = re.split(r"^\$ (.*)\n", block.group(1), flags=re.MULTILINE)
        commands = tuple(zip(parts[1::2], parts[2::2], strict=True))
        found.append(Example(f"{path.relative_to(TOP)}:{line}", commands))
    return found


def _matches(expected: str, printed: str) -> bool:
    pattern = re.escape(expected).replace(r"\.\.\.", "...")
    pattern = re.sub(r"^\.\.\.(\\)?\n", "(?:.*\n)*?", pattern, flags=re.MULTILINE)
    return re.fullmatch(pattern.replace("...", "[^\n]*"), printed) is not None
