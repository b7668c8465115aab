# SPDX-License-Identifier: Apache-2.0
"""The command `ketch`: finds the command, parses its words, calls the function that does it, prints what went wrong."""

from __future__ import annotations

import os
import sys

from cri.hand import commands, grammar
from cri.hand.errors import HandError
from runtime.linux import tracebacks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cri.hand.places import Places

GLOBAL = (
    grammar.Option("--config", "the configuration file", value="FILE", default=""),
    grammar.Option("--state", "where live objects are kept", value="DIR"),
    grammar.Option("--root", "where images and volumes are kept", value="DIR"),
    grammar.Option("-D --debug", "show the traceback of an error"),
    grammar.Option("-v --version", "print the version"),
)
_TOP = grammar.Command("", "", does="", arguments="[COMMAND...]", options=GLOBAL, rest=1)


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    try:
        top = grammar.parse(_TOP, words)
        if top.flag("debug"):
            tracebacks.demand()
        return _flushed(_run(top))
    except grammar.WantsHelp as e:
        return _help(None if e.args[0] is _TOP else e.args[0])
    except HandError as e:
        return _complain(str(e), e.code)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone, as `ketch ps | head -1` does. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except Exception as e:
        return _complain(_sentence(e), 125 if _failed_in_run(words) else 1)


def _flushed(code: int) -> int:
    """What was printed has arrived, or the command has failed."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as e:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python tries it once more at the exit
        raise HandError(f"cannot write to our output: {e.strerror}") from None
    return code


def _run(top: grammar.Arguments) -> int:
    if top.flag("version"):
        from runtime.version import VERSION

        print(f"ketch version {VERSION}")
        return 0
    if not top.words or top.words[0] == "help":
        return _help_of(top.words[1:])
    from cri.hand.places import Places

    places = Places(top.text("config"), state=top.text("state"), root=top.text("root"))
    command, rest = grammar.find_command(_without_alias(top.words), commands.ALL)
    return function_of(command)(grammar.parse(command, rest), places)


def function_of(command: grammar.Command) -> Callable[[grammar.Arguments, Places], int]:
    """Import the module of a command, and of this command only."""
    module, _, name = command.does.partition(":")
    __import__(module)  # importlib itself would be half a millisecond
    function: Callable[[grammar.Arguments, Places], int] = getattr(sys.modules[module], name)
    return function


def _without_alias(words: list[str]) -> list[str]:
    for count in (2, 1):
        meant = commands.ALIASES.get(" ".join(words[:count]))
        if meant is not None and len(words) >= count:
            return [*meant.split(), *words[count:]]
    return words


def _help_of(words: list[str]) -> int:
    if not words:
        return _help(None)
    command, _ = grammar.find_command(_without_alias(words), commands.ALL)
    return _help(command)


def _help(command: grammar.Command | None) -> int:
    from cri.hand import manual

    print(manual.help_text(command))
    return 0


def _complain(sentence: str, code: int) -> int:
    sys.stdout.flush()
    tracebacks.show_if_wanted()
    print(f"ketch: {sentence}", file=sys.stderr)
    return code


def _sentence(error: Exception) -> str:
    """One line, whatever it was; errors of our own layers are one already."""
    if type(error).__module__ == "builtins" and isinstance(error, OSError) and error.strerror:
        if error.filename is None and isinstance(error, FileNotFoundError):  # as getcwd(2) fails
            return "the folder we are in has been removed (cd to one that is there)"
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    text = str(error).strip() or type(error).__name__
    return " ".join(text.split())


def _failed_in_run(words: list[str]) -> bool:
    return any(word in ("run", "create", "start", "exec") for word in words[:3])


if __name__ == "__main__":
    sys.exit(main())
