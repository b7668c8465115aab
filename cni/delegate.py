# SPDX-License-Identifier: Apache-2.0
"""Calling another plugin: in process if it is ours, as a program if it is not.

It is ours if the first match on CNI_PATH is our own program, or if there is no match and we have one of that name.
"""

import os
import sys

from runtime.linux import installation, json_text

from . import call as calls
from . import protocol, versions
from .errors import DECODING_FAILURE, INVALID_CONFIG, IO_FAILURE, PLUGIN, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .call import Understood
    from .execute import Outcome


def find(name: str, path: str) -> str | None:
    """The first executable of that name on a CNI_PATH."""
    for directory in path.split(":"):
        candidate = f"{directory}/{name}"
        if directory and os.access(candidate, os.X_OK) and not os.path.isdir(candidate):
            return candidate
    return None


def is_ours(program: str) -> bool:
    """Whether this file is the program that we are."""
    try:
        theirs = os.stat(program)
    except OSError:
        return False
    for name in (installation.command("ketch-cni"), sys.argv[0] if sys.argv else ""):
        try:
            ours = os.stat(name)
        except OSError:
            continue
        if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino):
            return True
    return False


def runs_in_process(name: str, path: str) -> bool:
    """Whether the plugin of that name that CNI_PATH leads to is ours."""
    if name not in protocol.PLUGINS:
        return False
    program = find(name, path)
    return program is None or is_ours(program)


def invoke(
    name: str,
    command: str,
    environ: "Mapping[str, str]",
    raw: "dict[str, Any]",
    *,
    in_process: bool,
    timeout_seconds: float | None = None,
    understood: "Understood | None" = None,
) -> "dict[str, Any] | None":
    """Run one verb of the plugin called name with this environment and configuration; the result of ADD.

    understood is where ours keep what follows from the configuration alone, for a caller that has many calls with it.
    """
    if not name or "/" in name:
        raise CniError(INVALID_CONFIG, f"invalid configuration: type: {name!r} is not the name of a plugin")
    environ = {**environ, "CNI_COMMAND": command}
    program = find(name, environ.get("CNI_PATH", ""))
    if name in protocol.PLUGINS and (program is None or is_ours(program)):
        calls.check_environment(command, environ)
        call = calls.of_config(command, environ, raw, in_process=in_process, understood=understood)
        return protocol.dispatch(name, call)
    if program is None:
        searched = environ.get("CNI_PATH", "") or "an empty CNI_PATH"
        raise CniError(IO_FAILURE, f"plugin {name!r} not found (looked in {searched}; is it installed?)")
    return _execute(program, command, environ, raw, timeout_seconds)


def _execute(
    program: str, command: str, environ: "Mapping[str, str]", raw: "dict[str, Any]", timeout_seconds: float | None
) -> "dict[str, Any] | None":
    from . import execute

    # Plugins look for nft, iptables and friends on PATH.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("CNI_")}
    outcome = execute.run([program], {**inherited, **environ}, json_text.dumps(raw).encode(), timeout_seconds)
    said = outcome.stderr.decode(errors="replace")
    if outcome.status != 0:
        raise _error_of(program, command, outcome, said)
    if said:
        sys.stderr.write(said)
    if command != "ADD":
        return None
    try:
        answer = json_text.loads(outcome.stdout)
    except json_text.JSONError as error:
        raise CniError(DECODING_FAILURE, f"{program} ADD answered no JSON: {error}", said.strip()) from None
    if not isinstance(answer, dict):
        raise CniError(DECODING_FAILURE, f"{program} ADD answered no JSON object", said.strip())
    answer.setdefault("cniVersion", str(raw.get("cniVersion") or versions.DEFAULT))
    return answer


def _error_of(program: str, command: str, outcome: "Outcome", said: str) -> CniError:
    """The error that a plugin printed, with its own code; or what can be said of one that printed none."""
    try:
        answer = json_text.loads(outcome.stdout)
        code = answer.get("code")
        if not isinstance(code, int) or code == 0:
            code = PLUGIN
        details = "; ".join(part for part in (str(answer.get("details") or ""), said.strip()) if part)
        return CniError(code, str(answer.get("msg") or f"{program} {command} failed"), details)
    except (json_text.JSONError, AttributeError):
        ended = (
            f"was killed by signal {-outcome.status}" if outcome.status < 0 else f"ended with status {outcome.status}"
        )
        words = (said or outcome.stdout.decode(errors="replace")).strip()
        return CniError(PLUGIN, f"{program} {command} {ended}", words[-2000:])
