# SPDX-License-Identifier: Apache-2.0
"""exec."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal imports enum, 3 ms
import os

from runtime import commands as meaning
from runtime import joining
from runtime.cli import Wrong, debug
from runtime.errors import RuntimeFailure
from runtime.inside import join as joiner
from runtime.linux import durable, json_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.cli import Options


def exec(settings: Options, options: Options) -> int:
    """exec ID COMMAND...; whatever keeps the command from running is 255, as with runc: 1 is what a command says."""
    try:
        return _exec(settings, options)
    except (Wrong, RuntimeFailure, OSError) as error:
        raise joining.ExecFailure(str(error)) from error


def _exec(settings: Options, options: Options) -> int:
    from runtime import record

    root = meaning.root(settings)
    entry = record.load(root, options.arguments[0])
    request = joining.JoinRequest(root, entry.id, _with_sockets(_process(entry, options)))
    request.console_socket = options.value("--console-socket")
    request.preserve_fds = (options.integer("--preserve-fds", high=1 << 20) or 0) + meaning.listen_fds()
    request.ignore_paused = options.flag("--ignore-paused")
    request.cgroup_path = _sub_groups(options)
    detach = options.flag("--detach", "-d")
    terminal = None
    if isinstance(request.process, dict) and request.process.get("terminal") is True and not request.console_socket:
        from runtime import own_terminal

        if detach:
            raise RuntimeFailure("a terminal with --detach needs --console-socket to hand it over")
        terminal, request.console_fd = own_terminal.make_offer()
    told = settings.given("--debug", "--log-level")
    special = request.console_socket or request.preserve_fds or request.ignore_paused or request.cgroup_path
    request.plain = not (told or special or terminal)
    joined = joining.join(request)
    if joined.plan is not None:
        debug(settings, ["joining process: " + sentence for sentence in joiner.describe(joined.plan)])
    try:
        _publish(options, joined.pid)
    except RuntimeFailure:
        os.kill(joined.pid, signal.SIGKILL)
        os.waitpid(joined.pid, 0)
        raise
    if joined.warnings:
        from runtime.commands import life

        life.tell_warnings(settings, joined.warnings)
    if detach:
        return 0
    if terminal is not None:
        from runtime import own_terminal

        return own_terminal.attend(terminal, joined.pid)
    from runtime import attending

    return attending.wait_passing_signals(joined.pid)


def _with_sockets(process: Any) -> Any:
    """With the variables that tell of systemd's sockets."""
    if not meaning.listen_fds() or not isinstance(process, dict) or not isinstance(process.get("env") or [], list):
        return process
    from runtime import activation

    return process | {"env": [*(process.get("env") or []), *activation.variables()]}


def _publish(options: Options, pid: int) -> None:
    path = options.value("--pid-file")
    if path:
        try:
            durable.replace(path, str(pid).encode(), 0o644, durable=False)
        except OSError as error:
            raise RuntimeFailure(f"--pid-file {path}: cannot write: {error.strerror}") from None
    if options.value("--pidfd-socket"):
        from runtime import create

        create.send_pidfd(options.value("--pidfd-socket"), pid)


def _sub_groups(options: Options) -> dict[str, str]:
    found = {}
    for text in options.list("--cgroup"):
        names, colon, path = text.rpartition(":")
        for name in names.split(",") if colon else [""]:
            found[name] = path
    return found


def _process(entry: Any, options: Options) -> Any:
    """The process object: from a file, or the container's own with what the options change."""
    path = options.value("--process", "-p")
    if path:
        data = durable.read(path)
        if data is None:
            raise RuntimeFailure(f"--process {path}: does not exist")
        try:
            process = json_text.loads(data)
        except json_text.JSONError as error:
            raise RuntimeFailure(f"--process {path}: not JSON: {error}") from None
        if options.given("--tty", "-t") and isinstance(process, dict):
            process["terminal"] = options.flag("--tty", "-t")
        return process
    if len(options.arguments) < 2:
        raise Wrong("exec needs a COMMAND, or --process; usage: exec [options] ID COMMAND...")
    process = json_text.loads(entry.config_bytes()).get("process") or {}
    return _changed(process, options)


def _changed(process: dict[str, Any], options: Options) -> dict[str, Any]:
    process["args"] = options.arguments[1:]
    process["terminal"] = options.flag("--tty", "-t")
    process.setdefault("cwd", "/")
    if options.given("--cwd"):
        process["cwd"] = options.value("--cwd")
    process["env"] = [*(process.get("env") or []), *options.list("--env", "-e")]
    if options.given("--apparmor"):
        process["apparmorProfile"] = options.value("--apparmor")
    if options.given("--process-label"):
        process["selinuxLabel"] = options.value("--process-label")
    if options.given("--no-new-privs"):
        process["noNewPrivileges"] = options.flag("--no-new-privs")
    process.pop("consoleSize", None)
    _change_user(process, options)
    _add_capabilities(process, options.list("--cap", "-c"))
    return process


def _change_user(process: dict[str, Any], options: Options) -> None:
    """UID[:GID], numbers only and strictly: a name that is taken for 0 would run as root."""
    user = dict(process.get("user") or {})
    text = options.value("--user", "-u")
    if text:
        words = text.split(":")
        if len(words) > 2 or not all(word.isascii() and word.isdigit() for word in words):
            raise Wrong(f"--user: expected UID or UID:GID as numbers, got {text!r}")
        user["uid"] = int(words[0])
        if len(words) == 2:
            user["gid"] = int(words[1])
    extra = options.list("--additional-gids", "-g")
    for word in extra:
        if not word.isascii() or not word.isdigit():
            raise Wrong(f"--additional-gids: expected a number, got {word!r}")
    if extra:
        user["additionalGids"] = [*(user.get("additionalGids") or []), *map(int, extra)]
    process["user"] = user


def _add_capabilities(process: dict[str, Any], names: list[str]) -> None:
    if not names:
        return
    sets = dict(process.get("capabilities") or {})
    for kind in ("bounding", "effective", "permitted"):
        sets[kind] = [*(sets.get(kind) or []), *names]
    process["capabilities"] = sets
