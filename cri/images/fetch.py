# SPDX-License-Identifier: Apache-2.0
"""One blob from a registry into the store: resumed, retried, verified."""

import time
from collections.abc import Callable

from cri.images.blobs import Blobs, Partial
from cri.images.cancel import Cancellation
from cri.images.errors import Corrupt, RegistryError, Unreachable
from cri.images.patience import Backoff
from cri.images.registry import Busy, RangeRefused, Repository, passes, read_all

_REPORT_SECONDS = 0.1
_PROGRESS_BYTES = 64 << 10  # an attempt that brought at least this was worth it: the count of tries starts anew

Report = Callable[[str, int, str], None]  # state, bytes, detail


def fetch(
    repository: Repository,
    blobs: Blobs,
    digest: str,
    size: int,
    *,
    report: Report,
    cancel: Cancellation,
    backoff: Backoff,
    started: Callable[[Partial], None] | None = None,
) -> bool:
    """Bring a blob into the store; False if it was there. `started` gets the partial blob, to follow it."""
    if blobs.has(digest, size):
        return False
    partial = blobs.partial(digest, size, cancel)
    if partial is None:
        return False
    try:
        if started is not None:
            started(partial)
        _until_complete(repository, partial, blobs.path(digest), report, cancel, backoff)
    except BaseException as error:
        partial.end(error)
        raise
    finally:
        partial.close()
    return True


def _until_complete(
    repository: Repository, partial: Partial, target: str, report: Report, cancel: Cancellation, backoff: Backoff
) -> None:
    attempt = 0
    damaged = False
    while True:
        before = partial.length
        try:
            _attempt(repository, partial, report, cancel)
            partial.finish(target)
            return
        except Corrupt as error:
            if damaged:
                raise
            damaged = True  # once more from the start, elsewhere if there is an elsewhere
            repository.distrust(partial.digest)
            report("retrying", partial.length, str(error))
        except RangeRefused:
            partial.restart()
            attempt += 1
            if attempt >= backoff.tries:
                raise
        except RegistryError as error:
            cancel.check(f"blob {partial.digest}")
            attempt = 1 if partial.length - before >= _PROGRESS_BYTES else attempt + 1
            if attempt >= backoff.tries or not passes(error):
                raise _told(error, partial) from error
            report("retrying", partial.length, str(error))
            asked = error.retry_seconds if isinstance(error, Busy) else 0.0
            if cancel.wait(backoff.delay(attempt - 1, asked)):
                raise cancel.error(f"blob {partial.digest}") from error


def _attempt(repository: Repository, partial: Partial, report: Report, cancel: Cancellation) -> None:
    """One transfer, from where the last one ended."""
    if 0 <= partial.size == partial.length:
        return
    reply, begin = repository.blob(partial.digest, partial.length)
    with reply:
        if begin == 0 and partial.length:
            partial.restart()
        last = 0.0
        for piece in read_all(reply):
            partial.append(piece)
            now = time.monotonic()
            if now - last >= _REPORT_SECONDS:
                last = now
                report("downloading", partial.length, "")
            cancel.check(f"blob {partial.digest}")
    cancel.check(f"blob {partial.digest}")
    if partial.length < partial.size:
        raise Unreachable(
            f"the transfer broke off after {partial.length} of {partial.size} bytes", hint="the registry went away?"
        )


def _told(error: RegistryError, partial: Partial) -> RegistryError:
    """The failure with the blob's name and what is worth knowing about the next try."""
    kept = f"; {partial.length} of {partial.size} bytes are kept for the next try" if partial.length else ""
    told = type(error).__new__(type(error))
    told.__dict__.update(error.__dict__)
    told.args = (f"blob {partial.digest}: {error}{kept}",)
    return told
