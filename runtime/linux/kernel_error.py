# SPDX-License-Identifier: Apache-2.0
"""The one error of failed system calls; apart from the calls, because they cost 2 ms to import and it nothing."""

import errno
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Argument = str | bytes | int | None

# What a call that the kernel lacks needs; looked at only when it failed with ENOSYS or EINVAL.
BROUGHT_BY = {
    "open_tree": "5.2",
    "move_mount": "5.2",
    "fsopen": "5.2",
    "fsconfig": "5.2",
    "fsmount": "5.2",
    "fspick": "5.2",
    "pidfd_open": "5.3",
    "pidfd_send_signal": "5.1",
    "clone3": "5.3",
    "openat2": "5.6",
    "pidfd_getfd": "5.6",
    "close_range": "5.9",
    "mount_setattr": "5.12",
    "statmount": "6.8",
    "listmount": "6.8",
}


_kinds: "dict[type[OSError], type[KernelError]]" = {}


class KernelError(OSError):
    """A system call failed: `.call` and `.arguments` say which one, `.errno` why.

    As with OSError itself, one whose errno has a class (FileNotFoundError, ...) is of that class, too.
    """

    def __new__(
        cls,
        number: int,
        call: str,
        arguments: "tuple[Argument, ...]" = (),  # noqa: ARG004 (as __init__)
        reason: str | None = None,
    ) -> "KernelError":
        kind = type(OSError(number, call))
        if kind is not OSError and not issubclass(cls, kind):
            if kind not in _kinds:
                _kinds[kind] = type(cls.__name__, (cls, kind), {"__module__": cls.__module__})
            cls = _kinds[kind]
        return super().__new__(cls, number, reason or posix.strerror(number))

    def __init__(
        self, number: int, call: str, arguments: "tuple[Argument, ...]" = (), reason: str | None = None
    ) -> None:
        super().__init__(number, reason or posix.strerror(number))
        self.call = call
        self.arguments = arguments
        self.reason = reason or posix.strerror(number)

    def __str__(self) -> str:
        shown = ", ".join(_shown(argument) for argument in self.arguments if argument is not None)
        return f"{self.call}({shown}): {self.reason}"

    def __reduce__(self) -> "tuple[Any, ...]":
        return (KernelError, (self.errno, self.call, self.arguments, self.reason))


def _shown(argument: "Argument") -> str:
    if isinstance(argument, bytes):
        argument = argument.decode(errors="surrogateescape")
    return repr(argument) if isinstance(argument, str) else str(argument)


def fail(number: int, call: str, *arguments: "Argument") -> "NoReturn":
    """Raise the KernelError of -errno `number`; ENOSYS names the kernel that brings the call."""
    number = -number
    reason = None
    if number == errno.ENOSYS and call in BROUGHT_BY:
        reason = f"this kernel lacks {call} (Linux {BROUGHT_BY[call]} brings it)"
    raise KernelError(number, call, arguments, reason)
