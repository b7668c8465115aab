# SPDX-License-Identifier: Apache-2.0
"""Random interleavings of two writers of one durable file, system call by system call, with deaths in between.

    python -m tests.support.interleavings SEED COUNT DIRECTORY

Run as a small process of its own: it forks thousands of writers. After every call of a writer the file is read: it must
hold what the model says, which knows only the calls that make names appear and vanish.
"""

import os
import random
import signal
import sys
from collections.abc import Callable

from runtime.linux import durable
from tests.support import crash, kernel

SIZE = 12_000  # more than one page, so that a torn write would show


class Writer:
    """One process that is about to replace, create or remove the file, stopped before each of its system calls."""

    def __init__(self, path: str, verb: str, content: bytes) -> None:
        self.verb = verb
        self.content = content
        self.alive = True
        actions: dict[str, Callable[[], object]] = {
            "replace": lambda: durable.replace(path, content),
            "create": lambda: durable.create_exclusive(path, content),
            "remove": lambda: durable.remove(path),
        }
        self.pid = crash.start_held(actions[verb])
        self.number: int | None = None  # the call it is about to make

    def step(self) -> int | None:
        """Let it make the call it is stopped before; returns the number of that call."""
        made = self.number
        self.number = None
        while self.number is None:
            kernel.ptrace(kernel.PTRACE_SYSCALL, self.pid, 0, 0)
            _, status = os.waitpid(self.pid, crash.WALL)
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                self.alive = False
                return made
            self.number = kernel.system_call_entered(self.pid)
        return made

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, crash.WALL)
        self.alive = False


def model(now: bytes | None, writer: Writer, made: int | None) -> bytes | None:
    """What the file holds after a call: rename and link bring the writer's content, unlink takes the name away."""
    if made in RENAMES:
        return writer.content
    if made in LINKS:
        return writer.content if now is None else now
    if made in UNLINKS and writer.verb == "remove":
        return None
    return now


def one(chance: random.Random, directory: str, number: int) -> None:
    """One interleaving of two writers, each of which may die before any of its calls."""
    path = os.path.join(directory, "record")
    now = durable.read(path)
    contents = [b"%04d" % (2 * number + side) * (SIZE // 4) for side in (0, 1)]
    writers = [Writer(path, chance.choice(("replace", "replace", "create", "remove")), text) for text in contents]
    deaths = {writer.pid: chance.randrange(1, 30) for writer in writers}  # most calls number 10 to 14: some live
    while running := [writer for writer in writers if writer.alive]:
        writer = chance.choice(running)
        deaths[writer.pid] -= 1
        if deaths[writer.pid] == 0:
            writer.kill()
        else:
            now = model(now, writer, writer.step())
        found = durable.read(path)
        if found != now:
            verbs = " and ".join(w.verb for w in writers)
            raise AssertionError(f"interleaving {number}, {verbs}: expected {shown(now)}, found {shown(found)}")


def shown(content: bytes | None) -> str:
    return "no file" if content is None else f"{len(content)} bytes of {content[:4]!r}...{content[-4:]!r}"


def main() -> int:
    seed, count, directory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    chance = random.Random(seed)
    crashed = 0
    for number in range(count):
        one(chance, directory, number)
        crashed += any(name.endswith(".tmp") for name in os.listdir(directory))
        durable.sweep(directory)
        left = set(os.listdir(directory)) - {"record"}
        if left:
            raise AssertionError(f"interleaving {number}: sweep left {left}")
    print(f"{count} interleavings, {crashed} left a temporary file that sweep removed")
    return 0


RENAMES = crash.numbers(("rename", "renameat", "renameat2"))
LINKS = crash.numbers(("link", "linkat"))
UNLINKS = crash.numbers(("unlink", "unlinkat"))

if __name__ == "__main__":
    sys.exit(main())
