# SPDX-License-Identifier: Apache-2.0
"""Completion as a person meets it: the scripts that `ketch completion` prints, in the shells that they are for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import unpacked
from tests.support.hand import Terminal
from tests.support.instruments import command
from tests.support.needs import needs

LIBRARIES = unpacked.TOOLS / "usr/lib/x86_64-linux-gnu"
SHARED = unpacked.TOOLS / "usr/share"

# what is on the line -> what completion must offer or fill in
LINES = [
    ("ketch vers", "version"),
    ("ketch run --read-o", "--read-only"),
    ("ketch network cre", "create"),
    ("ketch volume ins", "inspect"),
    ("ketch pod app", "apply"),
    ("ketch logs --foll", "--follow"),
    ("ketch completion fi", "fish"),
]


def _script(shell: str, folder: Path) -> Path:
    done = subprocess.run([command("ketch"), "completion", shell], capture_output=True, text=True, check=True)
    (folder / f"ketch.{shell}").write_text(done.stdout)
    return folder / f"ketch.{shell}"


def _environment(folder: Path, **more: str) -> dict[str, str]:
    search = f"{Path(command('ketch')).parent}:{os.environ['PATH']}"
    ours = {"KETCH_STATE": f"{folder}/state", "KETCH_ROOT": f"{folder}/root"}  # completion asks ketch for names
    return {**os.environ, **ours, "HOME": str(folder), "PATH": search, "TERM": "xterm", "LC_ALL": "C", **more}


@pytest.mark.parametrize(("line", "word"), LINES)
def test_bash_completes(line: str, word: str, tmp_path: Path) -> None:
    words = " ".join(line.split())
    asked = f"source {_script('bash', tmp_path)}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); _ketch"
    shell = ["bash", "--norc", "-c", f'{asked}; printf "%s\\n" "${{COMPREPLY[@]}}"']
    done = subprocess.run(shell, capture_output=True, text=True, check=True, env=_environment(tmp_path))
    assert word in done.stdout.split(), done


@needs("fish")
@pytest.mark.parametrize(("line", "word"), LINES)
def test_fish_completes(line: str, word: str, tmp_path: Path) -> None:
    fish = unpacked.program("fish")
    assert fish is not None
    functions = f"set fish_function_path $fish_function_path {SHARED}/fish/functions"
    asked = f"{functions}; source {_script('fish', tmp_path)}; complete -C '{line}'"
    environment = _environment(tmp_path, LD_LIBRARY_PATH=str(LIBRARIES), XDG_CONFIG_HOME=str(tmp_path))
    done = subprocess.run(
        [fish, "--no-config", "-c", asked], capture_output=True, text=True, env=environment, check=False
    )
    assert word in [offered.partition("\t")[0] for offered in done.stdout.splitlines()], done


@needs("zsh")
def test_zsh_completes_on_a_terminal(tmp_path: Path) -> None:
    zsh = unpacked.program("zsh")
    assert zsh is not None
    terminal = Terminal([zsh, "-f", "-i"], _environment(tmp_path, PS1="zsh> "), 120, 40)
    terminal.expect("zsh> ")
    if str(unpacked.TOOLS) in zsh:
        folders = " ".join(str(path) for path in (SHARED / "zsh/functions").rglob("*") if path.is_dir())
        terminal.type(f"module_path=({next(LIBRARIES.glob('zsh/*'))}); fpath=({folders})\r")
        terminal.expect("zsh> ")
    terminal.type(f"autoload -Uz compinit; compinit -u -D; source {_script('zsh', tmp_path)}; echo rea''dy\r")
    terminal.expect("ready")
    terminal.expect("zsh> ")
    for line, word in LINES:
        terminal.type(f"{line}\t")
        terminal.expect(word)
        terminal.type("\x15")  # Ctrl-U: the next line begins anew
    terminal.type("exit\r")
    terminal.end()
