# SPDX-License-Identifier: Apache-2.0
"""Everything that can go wrong with an image, as one tree.

ImageError                 what happened, to what, and what to try
├── BadReference           the name cannot be an image name
├── NotFound               no such image, blob or path here
├── InUse                  a container still stands on it
├── Cancelled              the caller went away
│   └── DeadlineExceeded   the caller's time is over
├── Unsupported            understood, and refused (foreign layers, unknown media types)
├── Corrupt                bytes that are not what their digest says
├── HostileLayer           an archive that tries to leave its layer, or to blow it up
├── StoreFailed            the disk said no (full, read-only, ...)
└── RegistryError          the registry said no, or nothing
    ├── Unauthorized       401/403
    ├── Missing            404
    ├── RateLimited        429
    └── Unreachable        no connection, broken or stalled transfer
"""


class ImageError(Exception):
    """An image operation failed; the message is one sentence, `hint` says what to try."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.hint = hint


class BadReference(ImageError, ValueError):
    """The text cannot name an image."""


class NotFound(ImageError, LookupError):
    """Nothing of that name is in the store."""


class InUse(ImageError):
    """A container still stands on the image."""


class Cancelled(ImageError):
    """The caller took the operation back; what was downloaded stays for the next try."""


class DeadlineExceeded(Cancelled):
    """The caller's deadline has passed; what was downloaded stays for the next try."""


class Unsupported(ImageError):
    """Well-formed, but something that this store refuses on purpose."""


class Corrupt(ImageError):
    """Bytes differ from what their digest or size says."""


class HostileLayer(ImageError):
    """An archive tries to leave its layer or exceeds a limit."""


class StoreFailed(ImageError):
    """The file system under the store refused."""


class RegistryError(ImageError):
    """The registry answered with an error or with nonsense."""

    def __init__(self, message: str, *, hint: str = "", status: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class Unauthorized(RegistryError):
    """The registry wants other credentials."""


class Missing(RegistryError):
    """The registry has no such repository, tag or blob."""


class RateLimited(RegistryError):
    """The registry asks us to come back later."""


class Unreachable(RegistryError):
    """No answer: no connection, a broken or a stalled transfer."""
