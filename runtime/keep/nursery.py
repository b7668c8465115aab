# SPDX-License-Identifier: Apache-2.0
"""The process that keepers are forked from: it does nothing else, so they share its memory for as long as they live.

The spawner itself plans containers; whatever it touches between the births of two keepers they would not share.
"""

import os

from runtime.keep import birth, keeper, seed, wire


class Nursery:
    """The spawner's end. Keepers become the spawner's own children."""

    def __init__(self, state_dir: str) -> None:
        self._channel, theirs = wire.pair()
        keep = [theirs.fileno()] + ([seed.fd] if seed.fd >= 0 else [])
        self.pid = birth.fork("ketch-nursery", keep, lambda: _serve(state_dir, theirs))
        theirs.close()

    def keeper(self, name: str, channel: int, listener: int) -> int:
        """Give birth to a keeper; its pid. OSError when the nursery is gone."""
        self._channel.send({"name": name}, [channel, listener])
        answer = self._channel.receive(10.0)
        if answer is None:
            raise OSError("the keepers' nursery does not answer")
        if "error" in answer:
            raise OSError(answer["error"])
        return int(answer["pid"])

    def close(self) -> None:
        """It ends with its channel."""
        self._channel.close()


def _serve(state_dir: str, channel: wire.Connection) -> int:
    while (request := channel.receive(None)) is not None:
        try:
            channel.send({"pid": _bear(state_dir, request["name"], *request["fds"])})
        except OSError as why:
            channel.send({"error": str(why)})
        for fd in request["fds"]:
            os.close(fd)
    return 0


def _bear(state_dir: str, name: str, channel: int, listener: int) -> int:
    def body() -> int:
        return keeper.Keeper(state_dir, name, wire.listening(listener), wire.adopted(channel)).run()

    return birth.fork("ketch-keeper", [channel, listener, seed.fd], body, sibling=True)
