# SPDX-License-Identifier: Apache-2.0
"""Hand a container's seccomp listener to the agent at listenerPath.

init                                         who said START                       agent
  │  loads the filter, gets listener N         │  connected before START           │
  │──── N, by shared memory ──────────────────►│  pidfd_getfd(init, N)             │
  │  waits without a system call               │──── state + listener ────────────►│  answers calls from now on
  │◄─── taken, by shared memory ───────────────│                                   │
  │  execve                                    │                                   │
"""

from __future__ import annotations

import os
import select

from runtime.errors import RuntimeFailure
from runtime.linux import fdpass, json_text, syscalls
from runtime.linux._core import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.inside.handshake import ParentEnd
    from runtime.spec.model import Seccomp


class Agent:
    """A connection to the agent, opened while a refusal can still stop the start."""

    __slots__ = ("profile", "socket")

    def __init__(self, profile: Seccomp) -> None:
        self.profile = profile
        try:
            self.socket = fdpass.connect(profile.listener_path)
        except OSError as error:
            where = "linux.seccomp.listenerPath"
            raise RuntimeFailure(
                f"{where}: cannot connect to {profile.listener_path}: {error.strerror} (does the agent run?)"
            ) from None

    def serve(self, channel: ParentEnd, mailbox_fd: int, pid: int, state: dict[str, object]) -> None:
        """Wait for the listener's number, take it, send it; returns when done or when the child has died or failed."""
        mailbox = lib.k_mailbox(mailbox_fd)
        if mailbox == ffi.NULL:
            raise RuntimeFailure("linux.seccomp: cannot map the mailbox")
        poller = select.poll()
        poller.register(channel.socket.fileno(), select.POLLIN)
        while mailbox[0] == 0:
            # No event tells of a write to memory; the child needs far less than a millisecond from here.
            if poller.poll(1):
                return  # a message or the end: the caller reads which
        pidfd = syscalls.pidfd_open(pid)
        try:
            listener = syscalls.pidfd_getfd(pidfd, mailbox[0] - 1)
        finally:
            os.close(pidfd)
        document = {
            "ociVersion": state["ociVersion"],
            "fds": ["seccompFd"],
            "pid": pid,
            "metadata": self.profile.listener_metadata,
            "state": state,
        }
        fdpass.send(self.socket, json_text.dumps(document).encode(), [listener])
        os.close(listener)
        self.socket.close()
        mailbox[1] = 1
