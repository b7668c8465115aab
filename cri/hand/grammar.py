# SPDX-License-Identifier: Apache-2.0
"""The parser: options and commands as data, from which help, completion and man pages are made as well.

Own and small, because argparse costs 16 ms to import and does not know docker's rule that for `run` and `exec` all
words after the first argument belong to the container.
"""

from __future__ import annotations

from cri.hand.errors import USAGE, HandError, UsageError, suggestion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


# Other spellings that docker takes without showing them.
SPELLINGS = {"net": "network", "dns-opt": "dns-option", "timeout": "time"}


class Option:
    """One option. `value` is what its value is called; empty for a flag. `many` collects repeated ones in a list."""

    __slots__ = ("complete", "default", "help", "long", "many", "short", "value")

    def __init__(
        self,
        names: str,
        help: str,
        *,
        value: str = "",
        many: bool = False,
        default: str = "",
        complete: str = "",
    ) -> None:
        parts = names.split()
        self.long = parts[-1].removeprefix("--")
        self.short = parts[0].removeprefix("-") if len(parts) > 1 else ""
        self.help = help
        self.value = value
        self.many = many
        self.default = default
        self.complete = complete

    def spelled(self) -> str:
        """As help and man page print it: `-e, --env NAME=VALUE`."""
        short = f"-{self.short}, " if self.short else "    "
        return f"{short}--{self.long}" + (f" {self.value}" if self.value else "")


class Command:
    """One command: its words, its options, its arguments, and the function that does it.

    `arguments` is written as in the usage line: `IMAGE [COMMAND [ARG...]]`; the parser counts its upper-case words.
    `rest` marks commands where everything after the first `rest` arguments is handed on as it is.
    """

    __slots__ = ("arguments", "complete", "detail", "does", "examples", "options", "rest", "summary", "words")

    def __init__(
        self,
        words: str,
        summary: str,
        *,
        does: str,
        arguments: str = "",
        options: Sequence[Option] = (),
        rest: int = -1,
        complete: str = "",
        detail: str = "",
        examples: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.words = words
        self.summary = summary
        self.does = does
        self.arguments = arguments
        self.options = tuple(options)
        self.rest = rest
        self.complete = complete
        self.detail = detail
        self.examples = tuple(examples)

    def limits(self) -> tuple[int, int]:
        """How many arguments it takes: at least, at most (-1: any number)."""
        needed, allowed, depth = 0, 0, 0
        for word in self.arguments.replace("[", " [ ").replace("]", " ] ").split():
            if word == "[":
                depth += 1
            elif word == "]":
                depth -= 1
            else:
                allowed = -1 if word.endswith("...") or allowed < 0 else allowed + 1
                needed += depth == 0
        return needed, allowed


class Arguments:
    """What was on the command line: typed access, every name checked against the definition."""

    __slots__ = ("_command", "_values", "words")

    def __init__(self, command: Command, values: dict[str, list[str]], words: list[str]) -> None:
        self._command = command
        self._values = values
        self.words = words

    @property
    def command(self) -> Command:
        return self._command

    def flag(self, name: str) -> bool:
        """Whether a flag was given."""
        values = self._values.get(name)
        return values is not None and values[-1] == "true"

    def on(self, name: str) -> bool:
        """Whether a flag holds that is on by default."""
        return self.text(name) == "true"

    def text(self, name: str) -> str:
        """The value of an option, the last one given, or its default."""
        values = self._values.get(name)
        return values[-1] if values else self._option(name).default

    def many(self, name: str) -> list[str]:
        """All values of a repeatable option."""
        return self._values.get(name, [])

    def given(self, name: str) -> bool:
        """Whether the option is on the command line at all."""
        return name in self._values

    def number(self, name: str) -> int:
        """A whole number; raises UsageError naming the option."""
        text = self.text(name)
        try:
            return int(text) if text else 0
        except ValueError:
            raise UsageError(f"--{name}: expected a whole number, got {text!r}", code=USAGE) from None

    def _option(self, name: str) -> Option:
        return next(option for option in self._command.options if option.long == name)


class WantsHelp(Exception):
    """--help was given; args[0] is the command, or None for the list of all."""


def find_command(words: list[str], commands: Sequence[Command]) -> tuple[Command, list[str]]:
    """The command that begins the words, longest first: `network create` before `network`; and what is left."""
    table = {command.words: command for command in commands}
    for count in (2, 1):
        command = table.get(" ".join(words[:count]))
        if command is not None and len(words) >= count:
            return command, words[count:]
    raise _unknown_command(words, table)


def _unknown_command(words: list[str], table: dict[str, Command]) -> HandError:
    groups = {name.split()[0] for name in table if " " in name}
    if words[0] in groups:
        inside = sorted(name.split()[1] for name in table if name.startswith(f"{words[0]} "))
        if len(words) < 2 or words[1].startswith("-"):
            return UsageError(f"{words[0]}: one of {', '.join(inside)} must follow", code=USAGE)
        hint = suggestion(words[1], inside) or f"known: {', '.join(inside)}"
        return UsageError(f"unknown command {words[0]} {words[1]!r}", hint=hint, code=USAGE)
    known = sorted({name.split()[0] for name in table})
    return UsageError(
        f"unknown command {words[0]!r}", hint=suggestion(words[0], known) or "ketch --help lists them", code=USAGE
    )


def parse(command: Command, words: list[str]) -> Arguments:
    """Options and arguments in any order, but for `rest` commands options only before the arguments."""
    parser = _Parser(command)
    parser.read(words)
    needed, allowed = command.limits()
    if len(parser.words) < needed:
        missing = [w for w in command.arguments.split() if w[0] != "["][len(parser.words) : needed]
        raise UsageError(
            f"{command.words}: {' and '.join(missing)} missing",
            hint=f"usage: ketch {command.words} {command.arguments}",
            code=USAGE,
        )
    if 0 <= allowed < len(parser.words):
        raise UsageError(
            f"{command.words}: unexpected argument {parser.words[allowed]!r}",
            hint=f"usage: ketch {command.words} {command.arguments}".rstrip(),
            code=USAGE,
        )
    return Arguments(command, parser.values, parser.words)


class _Parser:
    """The state of one parse."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.long = {option.long: option for option in command.options}
        self.short = {option.short: option for option in command.options if option.short}
        self.values: dict[str, list[str]] = {}
        self.words: list[str] = []

    def read(self, words: list[str]) -> None:
        at = 0
        while at < len(words):
            word = words[at]
            at += 1
            if word == "--":
                self.words += words[at:]
                return
            if word.startswith("--"):
                at = self.read_long(word, words, at)
            elif word.startswith("-") and word != "-":
                at = self.read_short(word, words, at)
            else:
                self.words.append(word)
                if len(self.words) == self.command.rest:
                    self.words += words[at:]
                    return

    def read_long(self, word: str, words: list[str], at: int) -> int:
        name, equals, value = word[2:].partition("=")
        if name == "help":
            raise WantsHelp(self.command)
        option = self.long.get(name) or self.long.get(SPELLINGS.get(name, ""))
        if option is None:
            raise self.unknown(f"--{name}", [f"--{known}" for known in self.long])
        if not option.value:
            return self.take_flag(option, value if equals else "true", at)
        if not equals:
            value, at = self.next_value(f"--{name}", option, words, at)
        self.take(option, value)
        return at

    def read_short(self, word: str, words: list[str], at: int) -> int:
        """`-it` is two flags; `-p80:80`, `-p=80:80` and `-p 80:80` are one value."""
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter == "h" and "h" not in self.short:
                raise WantsHelp(self.command)
            option = self.short.get(letter)
            if option is None:
                raise self.unknown(f"-{letter}", [f"-{known}" for known in self.short])
            if not option.value:
                if letters.startswith("="):
                    return self.take_flag(option, letters[1:], at)
                self.take_flag(option, "true", at)
                continue
            if letters:
                self.take(option, letters.removeprefix("="))
                return at
            value, at = self.next_value(f"-{letter}", option, words, at)
            self.take(option, value)
        return at

    def next_value(self, spelled: str, option: Option, words: list[str], at: int) -> tuple[str, int]:
        if at >= len(words):
            raise UsageError(f"{spelled}: a value is missing: {option.value}", code=USAGE)
        return words[at], at + 1

    def take_flag(self, option: Option, value: str, at: int) -> int:
        truth = {"true": "true", "1": "true", "t": "true", "false": "false", "0": "false", "f": "false"}
        if value.lower() not in truth:
            raise UsageError(f"--{option.long}: expected true or false, got {value!r}", code=USAGE)
        self.values[option.long] = [truth[value.lower()]]
        return at

    def take(self, option: Option, value: str) -> None:
        if option.many:
            self.values.setdefault(option.long, []).append(value)
        else:
            self.values[option.long] = [value]

    def unknown(self, spelled: str, known: list[str]) -> UsageError:
        hint = suggestion(spelled, known) or f"ketch {self.command.words} --help lists them"
        return UsageError(f"{self.command.words}: unknown option {spelled}", hint=hint, code=USAGE)
