# SPDX-License-Identifier: Apache-2.0
"""`ketch-runtime`: the command line, with runc's commands and flags, read by a table (argparse costs 16 ms)."""

import gc
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

FLAG, VALUE, LIST = "flag", "value", "list"

GLOBAL = {
    "--root": VALUE,
    "--log": VALUE,
    "--log-format": VALUE,
    "--log-level": VALUE,
    "--debug": FLAG,
    "--systemd-cgroup": FLAG,
    "--cgroup-manager": VALUE,
    "--rootless": VALUE,
    "--criu": VALUE,
    "--help": FLAG,
    "-h": FLAG,
    "--version": FLAG,
    "-v": FLAG,
}
CREATE = {
    "--bundle": VALUE,
    "-b": VALUE,
    "--config": VALUE,
    "-f": VALUE,
    "--console-socket": VALUE,
    "--pidfd-socket": VALUE,
    "--pid-file": VALUE,
    "--no-pivot": FLAG,
    "--no-new-keyring": FLAG,
    "--no-subreaper": FLAG,
    "--preserve-fds": VALUE,
}
EXEC = {
    "--console-socket": VALUE,
    "--pidfd-socket": VALUE,
    "--cwd": VALUE,
    "--env": LIST,
    "-e": LIST,
    "--tty": FLAG,
    "-t": FLAG,
    "--user": VALUE,
    "-u": VALUE,
    "--additional-gids": LIST,
    "-g": LIST,
    "--process": VALUE,
    "-p": VALUE,
    "--detach": FLAG,
    "-d": FLAG,
    "--pid-file": VALUE,
    "--process-label": VALUE,
    "--apparmor": VALUE,
    "--no-new-privs": FLAG,
    "--cap": LIST,
    "-c": LIST,
    "--preserve-fds": VALUE,
    "--cgroup": LIST,
    "--ignore-paused": FLAG,
    "--no-subreaper": FLAG,
}
UPDATE = {
    "--resources": VALUE,
    "-r": VALUE,
    "--blkio-weight": VALUE,
    "--cpu-period": VALUE,
    "--cpu-quota": VALUE,
    "--cpu-burst": VALUE,
    "--cpu-share": VALUE,
    "--cpu-shares": VALUE,
    "--cpu-rt-period": VALUE,
    "--cpu-rt-runtime": VALUE,
    "--cpu-idle": VALUE,
    "--cpuset-cpus": VALUE,
    "--cpuset-mems": VALUE,
    "--kernel-memory": VALUE,
    "--kernel-memory-tcp": VALUE,
    "--memory": VALUE,
    "--memory-reservation": VALUE,
    "--memory-swap": VALUE,
    "--pids-limit": VALUE,
    "--l3-cache-schema": VALUE,
    "--mem-bw-schema": VALUE,
}


class Command:
    """One command: where its function is, its options, how many arguments it takes, and a line about it."""

    __slots__ = ("arguments", "function", "help", "least", "module", "most", "name", "options", "stop_at_argument")

    def __init__(
        self,
        name: str,
        module: str,
        options: dict[str, str],
        arguments: str,
        help_: str,
        *,
        least: int = 1,
        most: int = 1,
        stop_at_argument: int = 0,
    ) -> None:
        self.name = name
        self.module = module
        self.function = name.replace("-", "_")
        self.options = options
        self.arguments = arguments
        self.help = help_
        self.least = least
        self.most = most
        self.stop_at_argument = (
            stop_at_argument  # after so many arguments the rest is not ours to read (exec's command)
        )


ANY = 1 << 30
COMMANDS = {
    command.name: command
    for command in (
        Command("create", "life", CREATE, "ID", "make a container; its program waits for start"),
        Command(
            "run",
            "life",
            CREATE | {"--detach": FLAG, "-d": FLAG, "--keep": FLAG},
            "ID",
            "create, start, wait and delete",
        ),
        Command("start", "life", {}, "ID", "let a created container run its program"),
        Command("state", "look", {}, "ID", "print what a container is now, as JSON"),
        Command(
            "kill", "life", {"--all": FLAG, "-a": FLAG}, "ID [SIGNAL]", "send a signal (TERM) to a container", most=2
        ),
        Command(
            "delete", "life", {"--force": FLAG, "-f": FLAG}, "ID", "remove what a container left; -f kills it first"
        ),
        Command("exec", "joining", EXEC, "ID COMMAND...", "run a program in a container", most=ANY, stop_at_argument=2),
        Command(
            "list",
            "look",
            {"--format": VALUE, "-f": VALUE, "--quiet": FLAG, "-q": FLAG},
            "",
            "list containers",
            least=0,
            most=0,
        ),
        Command(
            "ps",
            "look",
            {"--format": VALUE, "-f": VALUE},
            "ID [PS-OPTION...]",
            "show its processes",
            most=ANY,
            stop_at_argument=1,
        ),
        Command("pause", "resources", {}, "ID", "stop every process of a container"),
        Command("resume", "resources", {}, "ID", "let them go on"),
        Command("update", "resources", UPDATE, "ID", "change limits of a running container"),
        Command("events", "resources", {"--interval": VALUE, "--stats": FLAG}, "ID", "print statistics and OOM kills"),
        Command(
            "spec",
            "look",
            {"--bundle": VALUE, "-b": VALUE, "--rootless": FLAG, "-f": VALUE},
            "",
            "write a config.json to start from",
            least=0,
            most=0,
        ),
        Command("features", "look", {}, "", "print what is supported, as JSON", least=0, most=0),
        Command(
            "explain",
            "look",
            CREATE | {"--format": VALUE},
            "[ID]",
            "print every step a bundle would get, without root or effect",
            least=0,
        ),
        Command(
            "doctor",
            "look",
            {"--format": VALUE, "--verify": FLAG},
            "",
            "print what this kernel offers and lacks; --verify compares every installed file with its sum",
            least=0,
            most=0,
        ),
        Command("checkpoint", "refused", {}, "ID", "not supported yet", least=0, most=ANY, stop_at_argument=1),
        Command("restore", "refused", {}, "ID", "not supported yet", least=0, most=ANY, stop_at_argument=1),
        Command("mounts", "refused", {}, "", "not supported yet", least=0, most=ANY, stop_at_argument=1),
    )
}


class Wrong(Exception):
    """The command line is wrong."""


class Options:
    """What was given: values by long or short name, and the arguments."""

    __slots__ = ("arguments", "command", "values")

    def __init__(self, command: str) -> None:
        self.command = command
        self.values: dict[str, list[str]] = {}
        self.arguments: list[str] = []

    def value(self, *names: str, default: str = "") -> str:
        """The last value given under any of these names."""
        for name in names:
            if name in self.values:
                return self.values[name][-1]
        return default

    def given(self, *names: str) -> bool:
        """Whether any of these was given."""
        return any(name in self.values for name in names)

    def flag(self, *names: str) -> bool:
        """A switch; =false switches it off."""
        for name in names:
            if name in self.values:
                text = self.values[name][-1].lower()
                if text not in ("true", "false", "1", "0", "t", "f"):
                    raise Wrong(f"{name}: expected true or false, got {text!r}")
                return text in ("true", "1", "t")
        return False

    def list(self, *names: str) -> "list[str]":
        """All values given under these names."""
        return [value for name in names for value in self.values.get(name, [])]

    def integer(self, *names: str, low: int = 0, high: int = 1 << 31) -> int | None:
        """A number, or None when not given."""
        if not self.given(*names):
            return None
        text = self.value(*names)
        try:
            number = int(text)
        except ValueError:
            raise Wrong(f"{names[0]}: expected a number, got {text!r}") from None
        if not low <= number <= high:
            raise Wrong(f"{names[0]}: expected a number from {low} to {high}, got {number}")
        return number


def read_options(words: "Sequence[str]", known: dict[str, str], into: Options, *, stop_at: int) -> int:
    """Read options and arguments in any order; gives the index of the first word that is not ours."""
    index = 0
    while index < len(words):
        word = words[index]
        if word == "--":
            into.arguments += words[index + 1 :]
            return len(words)
        if not word.startswith("-") or word == "-":
            if stop_at and len(into.arguments) + 1 >= stop_at:
                return index
            into.arguments.append(word)
            index += 1
            continue
        name, equals, value = word.partition("=")
        # Go's flag package takes -name for --name.
        if name not in known and not name.startswith("--") and "-" + name in known:
            name = "-" + name
        kind = known.get(name)
        if kind is None:
            raise Wrong(f"unknown option {name}" + _similar(name, known))
        index += 1
        if kind == FLAG:
            into.values.setdefault(name, []).append(value if equals else "true")
            continue
        if not equals:
            if index >= len(words):
                raise Wrong(f"option {name} needs a value")
            value = words[index]
            index += 1
        into.values.setdefault(name, []).append(value)
    return index


def _similar(name: str, known: "dict[str, str] | dict[str, Command]") -> str:
    """A hint for a slip of the pen."""
    close = [other for other in known if other.startswith(name) or name.startswith(other)]
    if not close:
        close = [other for other in known if len(other) > 3 and sorted(other) == sorted(name)]
    return f" (did you mean {' or '.join(close[:3])}?)" if close else ""


def main(argv: "list[str] | None" = None) -> int:
    """Run one command."""
    # A command lives for milliseconds: to look for garbage costs more than to leave it to the kernel.
    gc.disable()
    words = sys.argv[1:] if argv is None else argv
    settings = Options("")
    try:
        index = read_options(words, GLOBAL, settings, stop_at=1)
        if settings.flag("--version", "-v"):
            return _version()
        if index >= len(words) or settings.flag("--help", "-h"):
            return _help(sys.stdout if settings.given("--help", "-h") else sys.stderr)
        command = COMMANDS.get(words[index])
        if command is None:
            if words[index] == "help":
                return _help(sys.stdout)
            raise Wrong(f"unknown command {words[index]!r}" + _similar(words[index], COMMANDS) + "; see --help")
        options = Options(command.name)
        rest = words[index + 1 :]
        if any(word in ("--help", "-h") for word in rest[:1]):
            return _help_command(command)
        read_rest(command, rest, options)
        _check_settings(settings)
        module = _module(command.module)
        return int(getattr(module, command.function)(settings, options))
    except Wrong as error:
        return _fail(settings, str(error), 1)
    except BrokenPipeError:
        raise
    except Exception as error:
        return _fail(settings, _sentence(error), _status(error))


def read_rest(command: Command, words: "Sequence[str]", options: Options) -> None:
    """The options and arguments of a command."""
    index = read_options(words, command.options, options, stop_at=command.stop_at_argument)
    options.arguments += words[index:]
    count = len(options.arguments)
    if count < command.least:
        raise Wrong(
            f"{command.name} needs {command.arguments.split()[count]}; usage: {command.name} {command.arguments}"
        )
    if count > command.most:
        extra = options.arguments[command.most]
        raise Wrong(f"{command.name}: {extra!r} is one argument too many; usage: {command.name} {command.arguments}")


def _check_settings(settings: Options) -> None:
    log_format = settings.value("--log-format", default="text")
    if log_format not in ("text", "json"):
        raise Wrong(f"--log-format: expected text or json, got {log_format!r}")
    manager = settings.value("--cgroup-manager", default="cgroupfs")
    if manager not in ("cgroupfs", "systemd", "disabled"):
        raise Wrong(f"--cgroup-manager: expected cgroupfs, systemd or disabled, got {manager!r}")
    rootless = settings.value("--rootless", default="auto")
    if rootless not in ("true", "false", "auto"):
        raise Wrong(f"--rootless: expected true, false or auto, got {rootless!r}")


def _module(name: str) -> "ModuleType":
    full = f"runtime.commands.{name}"
    __import__(full)
    return sys.modules[full]


def _sentence(error: BaseException) -> str:
    from runtime.errors import RuntimeFailure

    if isinstance(error, RuntimeFailure):
        return str(error)
    if isinstance(error, OSError):
        return str(error)
    return f"internal error: {type(error).__name__}: {error} (KETCH_DEBUG=1 shows the traceback)"


def _status(error: BaseException) -> int:
    return int(getattr(error, "exit_status", 1))


def _fail(settings: Options, sentence: str, status: int) -> int:
    """One line to the user, and to the log that shims read."""
    from runtime.linux import tracebacks

    tracebacks.show_if_wanted()
    sentence = " ".join(sentence.split("\n"))
    path = settings.value("--log")
    as_json = settings.value("--log-format") == "json"
    log_line(path, sentence, as_json=as_json)
    if as_json and not path:
        return status
    sys.stderr.write(f"ketch-runtime: error: {sentence}\n")
    return status


def log_line(path: str, sentence: str, *, as_json: bool, level: str = "error") -> None:
    """One line of runc's log: containerd and podman look for the last one whose level is error."""
    if not path and not as_json:
        return
    from runtime.create_time import now
    from runtime.linux import json_text

    if as_json:
        line = json_text.dumps({"level": level, "msg": sentence, "time": now()})
    else:
        line = f'time="{now()}" level={level} msg={json_text.dumps(sentence)}'
    if not path:
        sys.stderr.write(line + "\n")
        return
    try:
        fd = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_CLOEXEC, 0o644)
        posix.write(fd, (line + "\n").encode(errors="replace"))
        posix.close(fd)
    except OSError as error:
        sys.stderr.write(f"ketch-runtime: --log {path}: {error.strerror}\n")


def debug(settings: Options, sentences: "Sequence[str]") -> None:
    """With --debug: what was planned, in the log, or where there is none on stderr."""
    if not (settings.flag("--debug") or settings.value("--log-level") == "debug"):
        return
    path, as_json = settings.value("--log"), settings.value("--log-format") == "json"
    for sentence in sentences:
        log_line(path, sentence, as_json=as_json, level="debug")
        if not path and not as_json:
            sys.stderr.write(f"ketch-runtime: debug: {sentence}\n")


def _version() -> int:
    from runtime.version import SPEC_VERSION, VERSION

    sys.stdout.write(f"ketch-runtime version {VERSION}\nspec: {SPEC_VERSION}\n")
    return 0


def _help(stream: "object") -> int:
    lines = [
        "Run containers from OCI bundles.",
        "",
        "usage: ketch-runtime [global options] COMMAND [options] [arguments]",
        "",
    ]
    lines += [f"  {command.name + ' ' + command.arguments:<28} {command.help}" for command in COMMANDS.values()]
    lines += [
        "",
        "global options:",
        "  --root DIR              where containers are recorded (/run/ketch-runtime)",
        "  --log FILE              write errors and warnings there too",
        "  --log-format FORMAT     text or json",
        "  --debug                 log every planned step too",
        "  --systemd-cgroup        have systemd make the cgroups; cgroupsPath is then SLICE:PREFIX:NAME",
        "  --cgroup-manager NAME   cgroupfs, systemd or disabled",
        "  --rootless VALUE        true, false or auto",
        "  --version               print the version",
        "",
        "ketch-runtime COMMAND --help shows the options of a command. KETCH_DEBUG=1 shows the traceback of an error.",
    ]
    text = "\n".join(lines) + "\n"
    stream.write(text)  # type: ignore[attr-defined]
    return 0 if stream is sys.stdout else 1


def _help_command(command: Command) -> int:
    sys.stdout.write(f"{command.help}\n\nusage: ketch-runtime {command.name} [options] {command.arguments}\n")
    if command.options:
        sys.stdout.write("\noptions:\n")
    for name, kind in command.options.items():
        sys.stdout.write(f"  {name}{'' if kind == FLAG else ' VALUE'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
