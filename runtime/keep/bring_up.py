# SPDX-License-Identifier: Apache-2.0
"""Start a spawner by exec, in the one way there is, and wait until it answers."""

import os

from runtime.keep import places, wire
from runtime.linux import durable, installation


def bring_up(state_dir: str) -> None:
    """Make sure a spawner listens in `state_dir`; of several callers at once one starts it."""
    os.makedirs(state_dir, mode=0o711, exist_ok=True)
    with durable.lock(places.spawner_lock(state_dir)):
        connection = wire.connect(places.spawner_socket(state_dir))
        if connection is not None:
            connection.close()
            return
        _execute(state_dir)


def _execute(state_dir: str) -> None:
    """posix_spawn, not fork: the caller may be a process of many threads that has loaded gRPC."""
    ready, told = os.pipe2(os.O_CLOEXEC)
    log = os.open(places.spawner_log(state_dir), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    program = installation.command("ketch-spawner")
    try:
        child = os.posix_spawn(
            program,
            [program, state_dir, "--ready-fd=3"],
            {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LC_ALL": "C.UTF-8"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
                (os.POSIX_SPAWN_DUP2, told, 3),
            ],
            setsid=True,
        )
        os.close(told)
        told = -1
        os.waitpid(child, 0)  # it forks the spawner and ends
        if os.read(ready, 1) != b"+":
            raise OSError(f"{program} did not start; {places.spawner_log(state_dir)} may say why")
    finally:
        os.close(ready)
        os.close(log)
        if told >= 0:
            os.close(told)
