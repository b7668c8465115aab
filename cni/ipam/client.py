# SPDX-License-Identifier: Apache-2.0
"""How an interface plugin calls its IPAM plugin: the same environment and the whole configuration."""

from .. import delegate, protocol
from ..call import Call
from ..call import of_config as call_of_config
from ..errors import NOT_AVAILABLE, CniError
from ..results import Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def plugin_of(call: Call) -> str:
    """The ipam.type of a configuration; nothing for layer two only."""
    return call.fields.object("ipam").text("type")


def add(call: Call) -> Result | None:
    """Addresses for this attachment; None without an ipam section. What a failed ADD may have left is taken back."""
    name = plugin_of(call)
    if not name:
        return None
    try:
        answer = _invoke(call, "ADD")
    except CniError:
        # Ours leaves nothing behind, and must not be told to free what the attachment had before this ADD.
        if not _is_ours(call, name):
            try:
                _invoke(call, "DEL")
            except CniError:
                pass  # the failed ADD is what the caller must hear of
        raise
    return Result.from_json(answer, "the IPAM plugin's result")


def delete(call: Call) -> None:
    if plugin_of(call):
        _invoke(call, "DEL")


def check(call: Call) -> None:
    if plugin_of(call):
        _invoke(call, "CHECK")


def gc(call: Call) -> None:
    if plugin_of(call):
        _invoke(call, "GC")


def status(call: Call) -> None:
    """The delegate's own word; a delegate that cannot be run means that no ADD can be served."""
    if not plugin_of(call):
        return
    try:
        _invoke(call, "STATUS")
    except CniError as error:
        if error.code in (NOT_AVAILABLE, NOT_AVAILABLE + 1):
            raise
        raise CniError(NOT_AVAILABLE, f"IPAM plugin: {error.message}", error.details) from error


def explain(call: Call) -> list[str]:
    """What the IPAM plugin would do."""
    name = plugin_of(call)
    if not name:
        return ["assign no address (layer two only)"]
    module = protocol.plugin(name) if _is_ours(call, name) else None
    if module is None:
        return [f"ask the IPAM plugin {name} for addresses"]
    words: list[str] = module.explain(_as(call, "ADD"))
    return words


def preview(call: Call) -> Result | None:
    """What the IPAM plugin would probably answer, with nothing reserved; None if only it could tell."""
    name = plugin_of(call)
    module = protocol.plugin(name) if name and _is_ours(call, name) else None
    if module is None:
        return None
    result: Result = module.preview(_as(call, "ADD"))
    return result


def _is_ours(call: Call, name: str) -> bool:
    return delegate.runs_in_process(name, call.path)


def _as(call: Call, command: str) -> Call:
    return call_of_config(command, call.environ, call.raw, in_process=call.in_process)


def _invoke(call: Call, command: str) -> "dict[str, Any] | None":
    name = plugin_of(call)
    if command == call.command and _is_ours(call, name):
        return protocol.dispatch(name, call)  # the same environment and configuration: checked already
    return delegate.invoke(name, command, call.environ, call.raw, in_process=call.in_process)
