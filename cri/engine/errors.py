# SPDX-License-Identifier: Apache-2.0
"""How an engine call fails: each kind says what the caller can do; the CRI door turns it into a status code.

EngineError
 ├─ BadRequest      a field is missing or cannot be; the message names it
 ├─ NotFound        no such pod, container or image
 ├─ AlreadyExists   the name is taken, and by whom
 ├─ WrongState      the object exists, but not in a state in which this can be done
 ├─ Unsupported     understood, and not offered (here)
 ├─ TimedOut        a deadline or a timeout of the request has passed
 ├─ Cancelled       the caller went away
 ├─ Exhausted       no more addresses, calls, disk
 └─ Failed          the kernel, a plugin or a runtime refused; the message carries its words
"""


class EngineError(Exception):
    """An engine call did not happen; str() is one sentence."""


class BadRequest(EngineError):
    """A field of the request is wrong; nothing was changed."""


class NotFound(EngineError):
    """No such object."""


class AlreadyExists(EngineError):
    """The name is taken."""


class WrongState(EngineError):
    """Not in this state of the object."""


class Unsupported(EngineError):
    """Not offered here."""


class TimedOut(EngineError):
    """The time for it is over."""


class Cancelled(EngineError):
    """The caller took it back."""


class Exhausted(EngineError):
    """Something has run out."""


class Failed(EngineError):
    """What we stand on refused."""
