# SPDX-License-Identifier: Apache-2.0
"""create, run, start, kill, delete."""

from __future__ import annotations

import posix
import sys

from runtime import commands as meaning
from runtime.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli import Options
    from runtime.creation import Created, CreateRequest


def request_from(settings: Options, options: Options) -> CreateRequest:
    """The request that the options of create, run and explain mean."""
    from runtime import creation
    from runtime.plan.container import CreateOptions

    request = creation.CreateRequest(
        meaning.root(settings),
        options.arguments[0] if options.arguments else "",
        options.value("--bundle", "-b") or ".",
    )
    config = options.value("--config", "-f")
    if config:
        request.config_path = config if config.startswith("/") else f"{request.bundle}/{config}"
    request.console_socket = options.value("--console-socket")
    request.pid_file = options.value("--pid-file")
    request.pidfd_socket = options.value("--pidfd-socket")
    request.systemd_cgroup = meaning.systemd_cgroup(settings)
    request.use_cgroups = meaning.uses_cgroups(settings)
    request.options = CreateOptions(
        no_pivot=options.flag("--no-pivot"),
        no_new_keyring=options.flag("--no-new-keyring"),
        preserve_fds=(options.integer("--preserve-fds", high=1 << 20) or 0) + meaning.listen_fds(),
        rootless=meaning.rootless(settings),
    )
    return request


def create(settings: Options, options: Options) -> int:
    """create ID."""
    from runtime import create as making

    created = making.create(request_from(settings, options))
    show_warnings(settings, created)
    return 0


def show_warnings(settings: Options, created: Created) -> None:
    """What the user should know although it works; with --debug, all that was planned."""
    from runtime.cli import debug
    from runtime.plan import container

    if settings.given("--debug", "--log-level"):
        debug(settings, [f"{phase}: {sentence}" for phase, sentence in container.describe(created.plan)])
    tell_warnings(settings, created.warnings)


def tell_warnings(settings: Options, warnings: list[str]) -> None:
    """To the log, or to a terminal; otherwise stderr is the container's."""
    from runtime.cli import log_line

    for sentence in warnings:
        path = settings.value("--log")
        if path:
            log_line(path, sentence, as_json=settings.value("--log-format") == "json", level="warning")
        elif posix.isatty(2):
            sys.stderr.write(f"ketch-runtime: warning: {sentence}\n")


def run(settings: Options, options: Options) -> int:
    """run ID: create, start, and unless detached wait and delete."""
    from runtime import foreground

    return foreground.run(settings, options)


def start(settings: Options, options: Options) -> int:
    """start ID."""
    from runtime import lifecycle

    lifecycle.start(meaning.root(settings), options.arguments[0])
    return 0


def kill(settings: Options, options: Options) -> int:
    """kill ID [SIGNAL]."""
    from runtime import lifecycle

    text = options.arguments[1] if len(options.arguments) > 1 else "TERM"
    lifecycle.kill(
        meaning.root(settings), options.arguments[0], signal_number(text), everyone=options.flag("--all", "-a")
    )
    return 0


SIGNALS = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG "
    "XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
)


def signal_number(text: str) -> int:
    """9, KILL, SIGKILL and kill are the same; RTMIN+n and RTMAX-n too."""
    if text.isdigit():
        if not 1 <= int(text) <= 64:
            raise UsageError(f"signal {text} is not valid; expected 1 to 64 or a name such as TERM")
        return int(text)
    name = text.upper().removeprefix("SIG")
    numbers = {known: number for number, known in enumerate(SIGNALS.split(), 1)} | {"POLL": 29, "CLD": 17, "IOT": 6}
    if name in numbers:
        return numbers[name]
    for base, start_, sign in (("RTMIN", 34, 1), ("RTMAX", 64, -1)):
        rest = name.removeprefix(base).lstrip("+-")
        if name.startswith(base) and (rest.isdigit() or not rest):
            number = start_ + sign * int(rest or 0)
            if 34 <= number <= 64:
                return number
    raise UsageError(f"unknown signal {text!r}; expected 1 to 64 or a name such as TERM")


def delete(settings: Options, options: Options) -> int:
    """delete ID."""
    from runtime import lifecycle

    lifecycle.delete(meaning.root(settings), options.arguments[0], force=options.flag("--force", "-f"))
    return 0
