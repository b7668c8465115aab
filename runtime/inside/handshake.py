# SPDX-License-Identifier: Apache-2.0
"""What parent and init tell each other, typed.

parent                                     init
  │  clone, born in the namespaces          │
  │  write uid_map, gid_map                 │
  │──────────── MAPPED ────────────────────►│  become root in the user namespace
  │◄─────────── NAMESPACES ─────────────────│  namespaces are entered, nothing is mounted
  │  prestart, createRuntime, netDevices    │
  │──────────── HOOKS_DONE ────────────────►│  mounts, devices, createContainer, pivot_root, masks
  │◄─────────── WARNING text ───────────────│  any time
  │◄─────────── CREATED ────────────────────│  waits, holding nothing of the host
  │──────────── START ─────────────────────►│  or a connection on the start socket; startContainer, confinement
      │◄─────────── MAILBOX fd ─────────────────│  for a seccomp listener only: see seccomp_agent
  │◄─────────── end of file ────────────────│  execve closed the socket: the program runs
  │◄─────────── FAILED sentence ────────────│  any time; then it exits
"""

from runtime.linux import fdpass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.linux.fdpass import Socket

MAPPED = b"m"
NAMESPACES = b"n"
HOOKS_DONE = b"h"
WARNING = b"w"
CREATED = b"c"
START = b"s"
FAILED = b"f"
MAILBOX = b"l"


class InitFailed(Exception):
    """The init could not do its part; the message is its own sentence."""


class Died(Exception):
    """The init is gone without a word."""


class ChildEnd:
    """The init's end."""

    __slots__ = ("socket",)

    def __init__(self, socket: "Socket") -> None:
        self.socket = socket

    def say(self, kind: bytes, text: str = "") -> None:
        """Send one message; a parent that is gone is not our concern until we need its answer."""
        try:
            self.socket.send(kind + text.encode(errors="surrogateescape"))
        except OSError:
            pass

    def warn(self, sentence: str) -> None:
        """Something that the user should know."""
        self.say(WARNING, sentence)

    def send_mailbox(self, fd: int) -> None:
        """Hand over the shared memory of a seccomp listener."""
        fdpass.send(self.socket, MAILBOX, [fd])

    def expect(self, kind: bytes) -> None:
        """Wait for one message of the parent."""
        message = self.socket.recv(65536)
        if message[:1] != kind:
            # The parent died or changed its mind; without it there is no container.
            raise SystemExit(1)


class ParentEnd:
    """The parent's end."""

    __slots__ = ("socket", "warnings")

    def __init__(self, socket: "Socket") -> None:
        self.socket = socket
        self.warnings: list[str] = []

    def say(self, kind: bytes) -> None:
        """Send one message."""
        try:
            self.socket.send(kind)
        except OSError:
            pass  # the reason is in the message that the next receive finds

    def receive_mailbox(self) -> int:
        """The shared memory of a seccomp listener; whatever else comes first is handled as always."""
        while True:
            message, fds = fdpass.receive(self.socket)
            if message == MAILBOX and fds:
                return fds[0]
            kind, text = message[:1], message[1:].decode(errors="surrogateescape")
            if kind == WARNING:
                self.warnings.append(text)
            elif kind == FAILED:
                raise InitFailed(text)
            else:
                raise Died("the init process died while it was being started")

    def expect(self, *kinds: bytes) -> bytes:
        """The next message of one of these kinds; b"" for the end of file if that is among them."""
        while True:
            try:
                message = self.socket.recv(65536)
            except ConnectionResetError:
                message = b""
            kind, text = message[:1], message[1:].decode(errors="surrogateescape")
            if kind == WARNING:
                self.warnings.append(text)
            elif kind == FAILED:
                raise InitFailed(text)
            elif kind in kinds:
                return kind
            elif not kind:
                raise Died("the init process died while it was being set up")

    def close(self) -> None:
        """Let go."""
        self.socket.close()


def pair() -> "tuple[ParentEnd, ChildEnd]":
    """Both ends; each side closes the other's."""
    one, other = fdpass.pair()
    return ParentEnd(one), ChildEnd(other)
