# SPDX-License-Identifier: Apache-2.0
"""How the spawner and the keepers fork: the child has a name, its own descriptors only, and never returns."""

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable

from runtime.linux import syscalls
from runtime.linux._core import lib


def fork(name: str, keep: Iterable[int], body: Callable[[], int | None], *, sibling: bool = False) -> int:
    """Run body in a child that holds no descriptors but stdio and those in keep; answer its pid.

    The others are closed although they close on exec: a child that lives on would hold back the end of file of every
    connection that its parent closes later. With `sibling` it is a child of our parent.
    """
    pid = syscalls.clone3(lib.CLONE_PARENT) if sibling else os.fork()
    if pid:
        return pid
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        close_all_but(keep)
        rename(name)
        gc.freeze()
        code = body() or 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor above stderr that is not in keep."""
    first = 3
    for fd in sorted(set(keep)):
        if fd < first:
            continue
        if fd > first:
            syscalls.close_range(first, fd - 1)
        first = fd + 1
    syscalls.close_range(first)


def rename(name: str) -> None:
    """The name in ps; at most 15 bytes."""
    with open("/proc/self/comm", "wb") as comm:
        comm.write(name.encode()[:15])
