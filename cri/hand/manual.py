# SPDX-License-Identifier: Apache-2.0
"""Help, man pages and completion scripts, all made from the table of commands."""

from __future__ import annotations

import os
import sys
from textwrap import fill, wrap

from cri.hand import commands
from cri.hand.errors import USAGE, UsageError
from cri.hand.grammar import Arguments, Command, Option, find_command
from cri.hand.places import Places


def help_text(command: Command | None) -> str:
    """What --help prints: of one command, or of all."""
    return overview() if command is None else _of_command(command)


def width() -> int:
    """Of the terminal, between 60 and 120."""
    try:
        return max(60, min(120, os.get_terminal_size(1).columns))
    except OSError:
        return 100


def overview() -> str:
    """All commands, by group."""
    lines = ["Usage: ketch [--state DIR] [--root DIR] COMMAND ...", "", "Containers and pods by hand, explained.", ""]
    for title, group in commands.GROUPS:
        lines.append(f"{title}:")
        lines += [f"  {command.words:<16} {command.summary}" for command in group]
        lines.append("")
    lines.append("ketch COMMAND --help says more of each.")
    return "\n".join(lines)


def _of_command(command: Command) -> str:
    options = " [OPTION...]" if command.options else ""
    lines = [f"Usage: ketch {command.words}{options} {command.arguments}".rstrip(), "", command.summary + "."]
    if command.detail:
        lines += ["", fill(command.detail, width())]
    if command.options:
        lines += ["", "Options:", *_option_lines(command.options)]
    if command.examples:
        lines += ["", "Examples:"]
        for line, meaning in command.examples:
            lines += [f"  {line}", f"      {meaning}"]
    return "\n".join(lines)


def _option_lines(options: tuple[Option, ...]) -> list[str]:
    column = min(38, 4 + max(len(option.spelled()) for option in options))
    lines = []
    for option in options:
        text = option.help + (" (may be repeated)" if option.many else "")
        text += f" (default {option.default})" if option.default else ""
        spelled = f"  {option.spelled()}"
        wrapped = wrap(text, max(20, width() - column)) or [""]
        if len(spelled) >= column:
            lines.append(spelled)
            spelled = ""
        lines.append(f"{spelled:<{column}}{wrapped[0]}")
        lines += [" " * column + line for line in wrapped[1:]]
    return lines


# man pages


def _roff(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in text.split("\n"))


def man_page(command: Command) -> str:
    """One page in section 1."""
    name = "ketch-" + command.words.replace(" ", "-")
    lines = [
        f'.TH "{name.upper()}" "1" "" "Ketch" "Ketch"',
        ".SH NAME",
        _roff(f"{name} - {command.summary[0].lower()}{command.summary[1:]}"),
        ".SH SYNOPSIS",
        f".B ketch {_roff(command.words)}",
        _roff(("[OPTION...] " if command.options else "") + command.arguments),
    ]
    if command.detail:
        lines += [".SH DESCRIPTION", _roff(command.detail)]
    if command.options:
        lines.append(".SH OPTIONS")
        for option in command.options:
            lines += [".TP", f"\\fB{_roff(option.spelled().strip())}\\fR", _roff(option.help)]
    if command.examples:
        lines.append(".SH EXAMPLES")
        for line, meaning in command.examples:
            lines += [".TP", f"\\fB{_roff(line)}\\fR", _roff(meaning)]
    return "\n".join([*lines, ".SH SEE ALSO", ".BR ketch (1)", ""])


def main_page() -> str:
    """ketch(1): the list of all."""
    lines = ['.TH "KETCH" "1" "" "Ketch" "Ketch"', ".SH NAME", "ketch \\- containers and pods by hand, explained"]
    lines += [".SH SYNOPSIS", ".B ketch", "COMMAND ..."]
    for title, group in commands.GROUPS:
        lines.append(f".SH {title.upper()}")
        for command in group:
            lines += [".TP", f".BR ketch\\-{_roff(command.words.replace(' ', '-'))} (1)", _roff(command.summary)]
    return "\n".join([*lines, ""])


def man(arguments: Arguments, _places: Places) -> int:
    """Print one page, or write all."""
    folder = arguments.text("output")
    if folder:
        pages = {"ketch": main_page()}
        pages |= {"ketch-" + command.words.replace(" ", "-"): man_page(command) for command in commands.ALL}
        os.makedirs(folder, exist_ok=True)
        for name, text in pages.items():
            with open(f"{folder}/{name}.1", "w") as file:
                file.write(text)
        return 0
    text = man_page(find_command(arguments.words, commands.ALL)[0]) if arguments.words else main_page()
    sys.stdout.write(text)
    return 0


# completion


def completion(arguments: Arguments, _places: Places) -> int:
    """Print the script for a shell."""
    shell = arguments.words[0]
    scripts = {"bash": bash, "zsh": zsh, "fish": fish}
    if shell not in scripts:
        raise UsageError(f"no completion for {shell!r}", hint="known: bash, zsh, fish", code=USAGE)
    sys.stdout.write(scripts[shell]())
    return 0


_LISTS = {
    "container": "ketch ps -a --format '{{.Names}}' 2>/dev/null",
    "running": "ketch ps --format '{{.Names}}' 2>/dev/null",
    "image": "ketch images --format '{{.Repository}}:{{.Tag}}' 2>/dev/null",
    "volume": "ketch volume ls -q 2>/dev/null",
    "network": "ketch network ls --format '{{.Name}}' 2>/dev/null",
    "pod": "ketch pod ls --format '{{.Name}}' 2>/dev/null",
    "shell": "printf '%s\\n' bash zsh fish",
}


def _options_of(command: Command) -> str:
    return " ".join([*(f"--{o.long}" for o in command.options), *(f"-{o.short}" for o in command.options if o.short)])


def bash() -> str:
    """A function and its registration."""
    groups = sorted({c.words.split()[0] for c in commands.ALL if " " in c.words})
    first = " ".join(sorted({c.words.split()[0] for c in commands.ALL}))
    cases = []
    for command in commands.ALL:
        listing = _LISTS.get(command.complete, "")
        cases.append(f'    "{command.words}") options="{_options_of(command)} --help"; list="{listing}";;')
    inside = []
    for group in groups:
        words = " ".join(c.words.split()[1] for c in commands.ALL if c.words.startswith(f"{group} "))
        inside.append(f'    {group}) COMPREPLY=($(compgen -W "{words}" -- "$word")); return;;')
    return f"""# bash completion for ketch
_ketch() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" options="" list="" command="${{COMP_WORDS[1]}}"
  if [ "$COMP_CWORD" -eq 1 ]; then COMPREPLY=($(compgen -W "{first} help" -- "$word")); return; fi
  if [ "$COMP_CWORD" -eq 2 ]; then case "$command" in
{chr(10).join(inside)}
  esac; fi
  case "$command" in {"|".join(groups)}) command="$command ${{COMP_WORDS[2]}}";; esac
  case "$command" in
{chr(10).join(cases)}
  esac
  if [[ "$word" == -* ]]; then COMPREPLY=($(compgen -W "$options" -- "$word"))
  elif [ -n "$list" ]; then COMPREPLY=($(compgen -W "$(eval "$list")" -- "$word"))
  else COMPREPLY=($(compgen -f -- "$word")); fi
}}
complete -o default -F _ketch ketch
"""


def _quote(text: str) -> str:
    return text.replace("'", "'\\''").replace("[", "(").replace("]", ")").replace(":", " -")


def zsh() -> str:
    """Descriptions from the table, lists from ketch itself."""
    firsts: dict[str, str] = {}
    for command in commands.ALL:
        word, _, rest = command.words.partition(" ")
        firsts.setdefault(word, f"manage {word}s" if rest else command.summary)
    lines = ["#compdef ketch", "_ketch() {", "  local -a words_", "  if (( CURRENT == 2 )); then", "    words_=("]
    lines += [f"      '{word}:{_quote(summary)}'" for word, summary in firsts.items()]
    lines += ["    )", "    _describe command words_; return", "  fi", '  local command="$words[2]"']
    groups = sorted({c.words.split()[0] for c in commands.ALL if " " in c.words})
    for group in groups:
        inside = [c for c in commands.ALL if c.words.startswith(f"{group} ")]
        described = " ".join(f"'{c.words.split()[1]}:{_quote(c.summary)}'" for c in inside)
        lines.append(f'  if [[ "$command" == {group} ]]; then')
        lines.append(f"    if (( CURRENT == 3 )); then words_=({described}); _describe command words_; return; fi")
        lines += ['    command="$command $words[3]"', "  fi"]
    lines.append('  case "$command" in')
    for command in commands.ALL:
        options = " ".join(f"'--{o.long}:{_quote(o.help)}'" for o in command.options)
        lines.append(f"    '{command.words}')")
        lines.append(f'      if [[ "$PREFIX" == -* ]]; then words_=({options}); _describe option words_')
        listing = _LISTS.get(command.complete)
        lines.append(
            f'      else words_=(${{(f)"$({listing})"}}); compadd -a words_; fi;;'
            if listing
            else "      else _files; fi;;"
        )
    return "\n".join(
        [*lines, "  esac", "}", 'if [ "$funcstack[1]" = _ketch ]; then _ketch "$@"; else compdef _ketch ketch; fi', ""]
    )


def fish() -> str:
    """One line per command and option."""

    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    lines = ["# fish completion for ketch", "complete -c ketch -f"]
    for command in commands.ALL:
        words = command.words.split()
        if len(words) == 1:
            lines.append(f"complete -c ketch -n __fish_use_subcommand -a {words[0]} -d {quoted(command.summary)}")
            seen = f"__fish_seen_subcommand_from {words[0]}"
        else:
            group = f"__fish_seen_subcommand_from {words[0]}"
            lines.append(f"complete -c ketch -n __fish_use_subcommand -a {words[0]}")
            lines.append(f"complete -c ketch -n {quoted(group)} -a {words[1]} -d {quoted(command.summary)}")
            seen = f"{group}; and __fish_seen_subcommand_from {words[1]}"
        for option in command.options:
            short = f" -s {option.short}" if option.short else ""
            needs = " -r" if option.value else ""
            lines.append(f"complete -c ketch -n {quoted(seen)} -l {option.long}{short}{needs} -d {quoted(option.help)}")
        if command.complete:
            lines.append(f"complete -c ketch -n {quoted(seen)} -a {quoted('(' + _LISTS[command.complete] + ')')}")
    return "\n".join([*lines, ""])
