# SPDX-License-Identifier: Apache-2.0
"""The one place through which every call passes: counted, timed, logged, its errors turned into status codes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from cri.engine import errors, phases
from cri.engine.codec import BadRecord
from cri.images import errors as image_errors
from cri.oci.facts import Refused
from runtime.keep import client as keep

log = logging.getLogger(__name__)
Code = grpc.StatusCode

# The first entry that an error is an instance of decides.
CODES: tuple[tuple[type[BaseException], grpc.StatusCode], ...] = (
    (errors.BadRequest, Code.INVALID_ARGUMENT),
    (Refused, Code.INVALID_ARGUMENT),
    (errors.NotFound, Code.NOT_FOUND),
    (errors.AlreadyExists, Code.ALREADY_EXISTS),
    (errors.WrongState, Code.FAILED_PRECONDITION),
    (errors.Unsupported, Code.UNIMPLEMENTED),
    (errors.TimedOut, Code.DEADLINE_EXCEEDED),
    (errors.Cancelled, Code.CANCELLED),
    (errors.Exhausted, Code.RESOURCE_EXHAUSTED),
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


def code_of(error: BaseException) -> grpc.StatusCode:
    """The status code of an error; UNKNOWN, as containerd answers, with the error's own words for the rest."""
    for kind, code in CODES:
        if isinstance(error, kind):
            return code
    return Code.UNKNOWN


def expected(error: BaseException) -> bool:
    """Whether the error is an answer, or a mistake of ours that wants its traceback in the log."""
    known = (errors.EngineError, image_errors.ImageError, keep.KeepError, Refused, BadRecord, OSError)
    return isinstance(error, known)


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

    calls: int = 0
    failed: int = 0
    seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)


class Boundary:
    """Wraps each method of the services."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0
        self.running: dict[int, Call] = {}
        self.totals: dict[str, Totals] = {}

    def unary(self, method: str, function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def answer(request: Any, context: Any) -> Any:
            number = self._begin(method)
            code = Code.OK
            try:
                return function(request, context)
            except Exception as error:
                code = self._fail(method, error)
                context.abort(code, sentence(error))
            finally:
                self._end(number, method, code)

        return answer

    def stream(self, method: str, function: Callable[[Any, Any], Iterator[Any]]) -> Callable[[Any, Any], Iterator[Any]]:
        def answer(request: Any, context: Any) -> Iterator[Any]:
            number = self._begin(method)
            code = Code.OK
            try:
                yield from function(request, context)
            except Exception as error:
                code = self._fail(method, error)
                context.abort(code, sentence(error))
            finally:
                self._end(number, method, code)

        return answer

    def _begin(self, method: str) -> int:
        phases.begin()
        with self._lock:
            self._next += 1
            self.running[self._next] = Call(method, time.perf_counter(), threading.get_ident())
            return self._next

    def _fail(self, method: str, error: Exception) -> grpc.StatusCode:
        code = code_of(error)
        if expected(error):
            traced = isinstance(error, OSError) or log.isEnabledFor(logging.DEBUG)
            log.warning("%s: %s: %s", method, code.name, sentence(error), exc_info=error if traced else None)
        else:
            log.error("%s: a mistake of ours", method, exc_info=error)
        return code

    def _end(self, number: int, method: str, code: grpc.StatusCode) -> None:
        taken = phases.taken()
        with self._lock:
            call = self.running.pop(number)
            seconds = time.perf_counter() - call.started
            totals = self.totals.setdefault(method, Totals())
            totals.calls += 1
            totals.failed += code != Code.OK
            totals.seconds += seconds
            for name, spent in taken:
                totals.phases[name] = totals.phases.get(name, 0.0) + spent
        level = logging.DEBUG if method in QUIET else logging.INFO
        if log.isEnabledFor(level):
            where = " ".join(f"{name}={spent * 1000:.1f}" for name, spent in taken)
            log.log(level, "%s %s %.1f ms%s", method, code.name, seconds * 1000, f" ({where})" if where else "")


def sentence(error: BaseException) -> str:
    """One line, and never nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 2000 else f"{text[:2000]} …"
