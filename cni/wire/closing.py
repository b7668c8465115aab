# SPDX-License-Identifier: Apache-2.0
"""When the sockets of nftables of a process that goes on are closed: beside it, and after the last plugin of a chain.

A close waits 5-10 ms for an RCU grace period if anything was removed shortly before, through whichever socket, and
holds the lock that every change of nftables takes: the next plugin's removal would wait for the last one's socket.
"""

import _thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from runtime.linux.nft import Nft


class _Chain(_thread._local):
    """Of each thread: what the plugins of its chain have left to be closed; None outside of a chain."""

    left: "list[Nft] | None" = None


_chain = _Chain()
_closing: "list[list[Nft]]" = []  # in threads of this process


class AfterTheChain:
    """Around the plugins of a chain."""

    __slots__ = ("_outer",)

    def __enter__(self) -> None:
        self._outer = _chain.left
        _chain.left = []

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", at: "TracebackType | None"
    ) -> None:
        left, _chain.left = _chain.left, self._outer
        _let_go(left or [])


def close(nft: "Nft") -> None:
    """Soon, and without a wait for it."""
    if _chain.left is None:
        _let_go([nft])
    else:
        _chain.left.append(nft)


def _let_go(left: "list[Nft]") -> None:
    if left and (_closing or any(nft.removed for nft in left)):
        _closing.append(left)
        _thread.start_new_thread(_close_beside, (left,))
        return
    for nft in left:
        nft.close()


def _close_beside(left: "list[Nft]") -> None:
    for nft in left:
        nft.close()
    _closing.remove(left)
