# SPDX-License-Identifier: Apache-2.0
"""The one error that a caller of a plugin sees: a code of the specification, a message, details."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
INVALID_CONFIG = 7
INVALID_NETNS = 8
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50  # STATUS: ADD cannot be served
NOT_AVAILABLE_LIMITED = 51  # STATUS: nor do existing attachments work fully
PLUGIN = 100  # from here on a plugin's own
MISMATCH = 101  # CHECK: something is not as ADD left it
FULL = 102  # no address left
CONFLICT = 103  # somebody else has it
UNSUPPORTED_KERNEL = 104
INTERNAL = 999


class CniError(Exception):
    """What goes to stdout when a plugin fails; message is one line: what, where, why, what to try."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return f"{self.message} ({self.details})" if self.details else self.message

    def to_json(self, version: str) -> "dict[str, Any]":
        answer: dict[str, Any] = {"cniVersion": version, "code": self.code, "msg": self.message}
        if self.details:
            answer["details"] = self.details
        return answer


def bad_config(key: str, value: object, why: str) -> CniError:
    """A field that cannot be: its key, its value, and what would do."""
    return CniError(INVALID_CONFIG, f"invalid configuration: {key}: {shown(value)}: {why}")


def unsupported(key: str, value: object, allowed: str) -> CniError:
    """A field whose value we know to be none of ours."""
    return CniError(UNSUPPORTED_FIELD, f"unsupported value in the configuration: {key}: {shown(value)} (use {allowed})")


def shown(value: object) -> str:
    """A value as its writer wrote it."""
    from runtime.linux import json_text

    try:
        words = json_text.dumps(value)
    except TypeError:
        words = str(value)
    return words if len(words) <= 200 else words[:200] + "..."
