# SPDX-License-Identifier: Apache-2.0
"""The one place through which every call passes: counted, timed, logged, its errors turned into status codes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from cri.engine import errors, patience, phases
from cri.engine.codec import BadRecord
from cri.images import errors as image_errors
from cri.oci.facts import Refused
from cri.rpc.status import Code, Failed
from cri.streaming.tokens import TooManyTokens
from runtime.keep import client as keep
from runtime.linux.quick_dataclasses import dataclass, field

log = logging.getLogger(__name__)

# The first entry that an error is an instance of decides.
CODES: tuple[tuple[type[BaseException], Code], ...] = (
    (errors.BadRequest, Code.INVALID_ARGUMENT),
    (Refused, Code.INVALID_ARGUMENT),
    (errors.NotFound, Code.NOT_FOUND),
    (errors.AlreadyExists, Code.ALREADY_EXISTS),
    (errors.WrongState, Code.FAILED_PRECONDITION),
    (errors.Unsupported, Code.UNIMPLEMENTED),
    (errors.TimedOut, Code.DEADLINE_EXCEEDED),
    (errors.Cancelled, Code.CANCELLED),
    (errors.Exhausted, Code.RESOURCE_EXHAUSTED),
    (TooManyTokens, Code.RESOURCE_EXHAUSTED),
    (image_errors.BadReference, Code.INVALID_ARGUMENT),
    (image_errors.NotFound, Code.NOT_FOUND),
    (image_errors.InUse, Code.FAILED_PRECONDITION),
    (image_errors.DeadlineExceeded, Code.DEADLINE_EXCEEDED),
    (image_errors.Cancelled, Code.CANCELLED),
    (image_errors.Missing, Code.NOT_FOUND),
    (image_errors.Unauthorized, Code.PERMISSION_DENIED),
    (image_errors.RateLimited, Code.RESOURCE_EXHAUSTED),
    (image_errors.Unreachable, Code.UNAVAILABLE),
    (keep.NoSuchContainer, Code.NOT_FOUND),
    (keep.Refused, Code.FAILED_PRECONDITION),
    (keep.SpawnerGone, Code.UNAVAILABLE),
)
# Read every second by a kubelet; a line each would bury the rest.
_QUIET = """
Version Status RuntimeConfig ListPodSandbox PodSandboxStatus ListContainers ContainerStatus ListImages
ImageStatus ImageFsInfo ListContainerStats ContainerStats ListPodSandboxStats PodSandboxStats
ListPodSandboxMetrics ExecSync ListMetricDescriptors GetContainerEvents
"""
QUIET = frozenset(_QUIET.split())


def code_of(error: BaseException) -> Code:
    """The status code of an error; UNKNOWN, as containerd answers, with the error's own words for the rest."""
    for kind, code in CODES:
        if isinstance(error, kind):
            return code
    return Code.UNKNOWN


def expected(error: BaseException) -> bool:
    """Whether the error is an answer, or a mistake of ours that wants its traceback in the log."""
    known = (errors.EngineError, image_errors.ImageError, keep.KeepError, Refused, BadRecord, TooManyTokens, OSError)
    return isinstance(error, known)


# Upper bounds of the histogram, in seconds; what took longer is counted in the total only.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Caller:
    """The other end of a call."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def seconds_left(self) -> float | None:
        left: float | None = self._context.time_remaining()
        return left

    def is_gone(self) -> bool:
        return not self._context.is_active()

    def when_gone(self, act: Callable[[], None]) -> None:
        if not self._context.add_callback(act):
            act()


@dataclass(slots=True)
class Call:
    """One that runs now."""

    method: str
    started: float
    thread: int
    warned: bool = False


@dataclass(slots=True)
class Totals:
    """Of one method since the start."""

    codes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    within: list[int] = field(default_factory=lambda: [0] * len(BOUNDS))
    # name -> how often, how long
    phases: dict[str, tuple[int, float]] = field(default_factory=dict)

    def add(self, code: str, seconds: float, taken: list[tuple[str, float]]) -> None:
        self.codes[code] = self.codes.get(code, 0) + 1
        self.seconds += seconds
        for index, bound in enumerate(BOUNDS):
            if seconds <= bound:
                self.within[index] += 1
                break
        for name, spent in taken:
            count, total = self.phases.get(name, (0, 0.0))
            self.phases[name] = (count + 1, total + spent)


class Boundary:
    """Wraps each method of the services."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0
        self.running: dict[int, Call] = {}
        self.totals: dict[str, Totals] = {}

    def is_free(self, seconds: float) -> bool:
        """Whether its lock can be had in that time: a daemon that cannot even count its calls is stuck."""
        if self._lock.acquire(timeout=seconds):
            self._lock.release()
            return True
        return False

    def calls(self) -> list[Call]:
        """Those that run now, the oldest first."""
        with self._lock:
            return sorted(self.running.values(), key=lambda call: call.started)

    def counted(self) -> dict[str, Totals]:
        """A copy that no call changes any more."""
        with self._lock:
            return {
                name: Totals(dict(t.codes), t.seconds, list(t.within), dict(t.phases))
                for name, t in self.totals.items()
            }

    def unary(self, method: str, function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def answer(request: Any, context: Any) -> Any:
            number = self._begin(method, context)
            code = Code.OK
            try:
                patience.check()  # it may have waited for its turn longer than its caller
                return function(request, context)
            except Exception as error:
                code = self._fail(method, error)
                raise Failed(code, sentence(error)) from error
            finally:
                self._end(number, method, code)

        return answer

    def stream(self, method: str, function: Callable[[Any, Any], Iterator[Any]]) -> Callable[[Any, Any], Iterator[Any]]:
        def answer(request: Any, context: Any) -> Iterator[Any]:
            number = self._begin(method, context)
            code = Code.OK
            try:
                yield from function(request, context)
            except Exception as error:
                code = self._fail(method, error)
                raise Failed(code, sentence(error)) from error
            finally:
                self._end(number, method, code)

        return answer

    def _begin(self, method: str, context: Any) -> int:
        phases.begin()
        patience.begin(Caller(context))
        with self._lock:
            self._next += 1
            self.running[self._next] = Call(method, time.perf_counter(), threading.get_ident())
            return self._next

    def _fail(self, method: str, error: Exception) -> Code:
        code = code_of(error)
        if expected(error):
            traced = isinstance(error, OSError) or log.isEnabledFor(logging.DEBUG)
            # That something is not there is an answer: a kubelet asks once more after it has removed a thing.
            level = logging.DEBUG if method in QUIET and code is Code.NOT_FOUND else logging.WARNING
            log.log(level, "%s: %s: %s", method, code.name, sentence(error), exc_info=error if traced else None)
        else:
            log.error("%s: a mistake of ours", method, exc_info=error)
        return code

    def _end(self, number: int, method: str, code: Code) -> None:
        taken = phases.taken()
        with self._lock:
            call = self.running.pop(number)
            seconds = time.perf_counter() - call.started
            self.totals.setdefault(method, Totals()).add(code.name, seconds, taken)
        patience.begin(None)
        level = logging.DEBUG if method in QUIET else logging.INFO
        if log.isEnabledFor(level):
            where = " ".join(f"{name}={spent * 1000:.1f}" for name, spent in taken)
            log.log(level, "%s %s %.1f ms%s", method, code.name, seconds * 1000, f" ({where})" if where else "")


def sentence(error: BaseException) -> str:
    """One line, and never nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 2000 else f"{text[:2000]} …"
