# SPDX-License-Identifier: Apache-2.0
"""A list of system calls for a process that interprets no Python (act.c): built here, run there, or not at all."""

import _struct as struct  # struct is Python around it, one more file to find
import errno
import posix

from runtime.linux import installation, mounts, paths, syscalls
from runtime.linux._core import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_STEP = struct.Struct("=ihhII6q")
_SKIP, _SKIP_AT = struct.Struct("=h"), 6  # where it is in a step
_HEAD = struct.Struct("=8I")
_NUMBER, _SLOT, _ADDRESS = range(3)
_NOWHERE = -1
_UNUSED = [(0,) * (6 - count) for count in range(7)]
_MOST_SLOTS = lib.ACT_SLOTS


class Slot:
    """A place for a descriptor that is known only when the program runs."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


class Builder:
    """Collects steps. An argument is a number, a slot, or bytes and text whose address is meant."""

    def __init__(self) -> None:
        self._steps = bytearray()
        self._count = 0
        self._data = bytearray(8)  # no address is 0
        self._places: dict[bytes | str, int] = {}
        self._slots = 0

    def slot(self) -> Slot:
        """A new one; the first ones are given their values by the caller of the program, in this order."""
        self._slots += 1
        if self._slots > _MOST_SLOTS:
            raise ValueError("a program has too many descriptors")
        return Slot(self._slots - 1)

    def call(
        self, number: int, *arguments: "int | Slot | bytes | str", into: Slot | None = None, bear: "Sequence[int]" = ()
    ) -> int:
        """One system call. `into` takes its result; the errnos in `bear` do not end the program. Gives its index.

        A container has some 500 of them, so what is done here is done in few steps.
        """
        kinds = shift = borne = 0
        values: list[int] = []
        for argument in arguments:
            if isinstance(argument, int):
                values.append(argument)
            elif isinstance(argument, Slot):
                values.append(argument.number)
                kinds |= _SLOT << shift
            else:
                values.append(self._places.get(argument) or self._place(argument))
                kinds |= _ADDRESS << shift
            shift += 4
        for refusal in bear:
            borne = borne << 8 | refusal
        result = _NOWHERE if into is None else into.number
        self._steps += _STEP.pack(number, result, 0, kinds, borne, *values, *_UNUSED[len(values)])
        self._count += 1
        return self._count - 1

    def skip_to_here(self, index: int) -> None:
        """What that step leaves out when one of its errnos is borne: everything since."""
        _SKIP.pack_into(self._steps, index * _STEP.size + _SKIP_AT, self._count - 1 - index)

    def always(self) -> int:
        """Leave out what comes until skip_to_here."""
        return self.call(lib.ACT_SKIP, bear=(errno.EPERM,))

    def close(self, *slots: Slot) -> None:
        """Close descriptors."""
        for slot in slots:
            self.call(lib.SYS_close, slot)

    def write_file(self, path: str, text: bytes, *, bear: "Sequence[int]" = ()) -> None:
        """Write a control file of the host."""
        file = self.slot()
        opened = self.call(
            lib.SYS_openat, syscalls.AT_FDCWD, path, posix.O_WRONLY | posix.O_CLOEXEC, into=file, bear=bear
        )
        self.call(lib.SYS_write, file, text, len(text), bear=bear)
        self.close(file)
        self.skip_to_here(opened)

    def _place(self, data: bytes | str) -> int:
        self._data += bytes(-len(self._data) % 8)  # structures are aligned
        place = self._places[data] = len(self._data)
        self._data += paths.encode(data) + b"\0"
        return place

    def finish(
        self,
        report: Slot,
        argv: "Sequence[str]",
        environ: "Sequence[str]",
        candidates: "Sequence[str]",
        filter_: "tuple[bytes, int]",
    ) -> bytes:
        """The program as bytes, in the layout of act.h."""
        steps = bytes(self._steps)
        code, flags = filter_
        texts = [paths.encode(text) for strings in (argv, environ, candidates) for text in strings]
        counts = len(argv), len(environ), len(candidates)
        data = bytes(self._data) + bytes(-len(self._data) % 8)
        head = _HEAD.pack(len(steps), len(data), len(code), flags, report.number, *counts)
        return b"".join((head, steps, data, code, *(text + b"\0" for text in texts)))


def opened() -> int:
    """act.c's program: a read-only clone of its mount, as whoever looks at /proc/PID/exe of a new container finds this.

    Opened once and early: an upgrade may put another into its place, which knows another layout.
    """
    global _opened
    if _opened < 0:
        with mounts.clone(installation.ACT, recursive=False) as tree:
            tree.set_attributes(set_=lib.MOUNT_ATTR_RDONLY)
            _opened, tree.fd = tree.fd, -1
    return _opened


_opened = -1


def in_memory(text: bytes) -> int:
    """A program where other processes can map it: a memfd."""
    memory = posix.memfd_create("ketch-program", posix.MFD_CLOEXEC)
    posix.write(memory, text)
    return memory


WORD = bytes((lib.ACT_WORD,))


class Told:
    """A program for a process that was begun before it is there, and waits for its words."""

    __slots__ = ("_word", "memory", "ready")

    def __init__(self) -> None:
        self.memory = in_memory(b"")
        self.ready, self._word = posix.pipe2(posix.O_CLOEXEC)

    def tell(self, text: bytes) -> None:
        """This is the program."""
        posix.write(self.memory, text)
        self.go_on()

    def go_on(self) -> None:
        """The next word it waits for."""
        posix.write(self._word, WORD)

    def close(self) -> None:
        """Who still waits for a word ends."""
        for fd in (self.memory, self.ready, self._word):
            posix.close(fd)


class Birth:
    """A process that runs a program with these descriptors, until the birth of its child, which becomes ours."""

    __slots__ = ("_born", "_pid")

    def __init__(self, act: int, memory: int, given: "Sequence[int]", ready: int = 0) -> None:
        self._born, end = posix.pipe2(posix.O_CLOEXEC)
        descriptors = [end, memory, ready, *given]
        self._pid = lib.k_act(act, descriptors, len(descriptors))
        posix.close(end)
        if self._pid < 0:
            self.close()
            syscalls.fail(self._pid, "clone")

    def born(self) -> int:
        """Wait for the child; its pid."""
        said = posix.read(self._born, 4)
        self.close()
        try:
            posix.waitpid(self._pid, 0)
        except ChildProcessError:
            pass  # the loop of a keeper was quicker
        if not said:
            syscalls.fail(-errno.ECHILD, "clone3")
        return int.from_bytes(said, "little")

    def close(self) -> None:
        """Its birth is not waited for."""
        posix.close(self._born)


def run(act: int, memory: int, given: "Sequence[int]") -> int:
    """Run a program with these descriptors; the pid that it gives birth to, a child of ours."""
    return Birth(act, memory, given).born()


EXECUTED = b"+"  # what a program whose execve has succeeded has reported, and nothing after it
_FAILED = struct.Struct("=ii")


def failure(report: bytes) -> str:
    """What a report that is not EXECUTED says, for a debugger: the words are found by doing it the long way."""
    report = report.removeprefix(EXECUTED)
    if len(report) < _FAILED.size:
        return "died"
    step, number = _FAILED.unpack(report[: _FAILED.size])
    return f"step {step}: {posix.strerror(number)}"
