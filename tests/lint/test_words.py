# SPDX-License-Identifier: Apache-2.0
"""What every file must say (licence, purpose) and what none may (one machine's paths, what is left for later)."""

import ast
import re
from pathlib import Path

from tests.lint.sources import TOP, python, tracked, tree, written_by_hand

LICENCE = "SPDX-License-Identifier: Apache-2.0"


def test_every_source_file_names_its_licence_in_its_first_lines() -> None:
    sources = written_by_hand(".py", ".c", ".h", ".pyi", ".sh", ".proto", ".toml", ".yaml", ".yml", ".service")
    sources += [p for p in tracked() if p.suffix == "" and (TOP / p).read_bytes().startswith(b"#!")]
    assert [str(p) for p in sources if LICENCE not in "".join(head(p))] == []


def head(path: Path) -> list[str]:
    return (TOP / path).read_text().splitlines(keepends=True)[:3]


def test_every_module_says_what_it_is_for() -> None:
    silent = [p for p in python() if ast.get_docstring(tree(p)) is None and (TOP / p).stat().st_size > 200]
    assert [str(p) for p in silent if p.name != "__init__.py"] == []


def test_no_file_is_named_after_nothing() -> None:
    assert [str(p) for p in python() if p.stem in ("utils", "util", "helpers", "helper", "common", "misc")] == []


def test_nothing_is_left_for_later() -> None:
    assert found(r"\b(TODO|FIXME|XXX|HACK)\b") == []


def test_nothing_depends_on_one_machine() -> None:
    """Paths of a development machine, and hosts that stand in for the public package registries."""
    assert found(r"deb\.debian\.org|proxy\.golang\.org|pypi\.org|pythonhosted\.org") == []
    assert found(r"(?<![\w.])/work/(wt|main|shared)|(?<!\w)/root/[a-z.]*(pyenv|go/)|https?://10\.|/tmp/gr/") == []


def found(pattern: str) -> list[str]:
    own = Path(__file__).relative_to(TOP)
    lines = []
    for path in tracked():
        if path == own:
            continue
        try:
            text = (TOP / path).read_text()
        except UnicodeDecodeError:
            continue
        lines += [f"{path}:{n} {s.strip()[:80]}" for n, s in enumerate(text.splitlines(), 1) if re.search(pattern, s)]
    return lines


def test_no_test_mocks_the_kernel_or_ourselves() -> None:
    mocking = re.compile(r"\b(MagicMock|mocker|unittest\.mock)\b")
    tests = [p for p in python() if p.parts[0] == "tests" and p != Path(__file__).relative_to(TOP)]
    assert [str(p) for p in tests if mocking.search((TOP / p).read_text())] == []


def test_no_error_is_swallowed_whole() -> None:
    swallowing = []
    for path in python():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler) and all(isinstance(s, ast.Pass) for s in node.body):
                kind = ast.unparse(node.type) if node.type else ""
                if kind in ("", "Exception", "BaseException"):
                    swallowing.append(f"{path}:{node.lineno}")
    assert swallowing == []


def test_every_folder_tells_its_story() -> None:
    folders = {path.parent for path in python()} - {Path()} | {Path("cri/install")}
    wanted = [folder / name for folder in sorted(folders) for name in ("README.md", "DECISIONS.md")]
    assert [str(path) for path in wanted if not (TOP / path).exists()] == []
