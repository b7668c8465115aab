# SPDX-License-Identifier: Apache-2.0
"""What the steps of a plan act on: netlink outside and inside, nftables, and the links that earlier steps made."""

import errno
import os

from runtime.linux import steps
from runtime.linux.netlink import Netlink
from runtime.linux.netlink_objects import Link
from runtime.linux.nft import Nft

from ..errors import IO_FAILURE, UNSUPPORTED_KERNEL, CniError
from . import closing
from .sandbox import Sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType


class Wiring:
    """The context of a plan's steps. Sockets are opened when the first step needs them."""

    __slots__ = ("_host", "_nft", "in_process", "links", "sandbox", "somebody_closes")

    def __init__(self, sandbox: Sandbox | None = None, *, in_process: bool = False) -> None:
        self.sandbox = sandbox
        self.in_process = in_process
        self.somebody_closes = False  # a child has our descriptors and ends after us
        self.links: dict[str, Link] = {}
        self._host: Netlink | None = None
        self._nft: Nft | None = None

    @property
    def host(self) -> Netlink:
        if self._host is None:
            self._host = Netlink()
        return self._host

    @property
    def nft(self) -> Nft:
        if self._nft is None:
            self._nft = Nft()
        return self._nft

    @property
    def inside(self) -> Sandbox:
        if self.sandbox is None:
            raise CniError(IO_FAILURE, "this step needs the container's network namespace, which is gone")
        return self.sandbox

    def __enter__(self) -> "Wiring":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", at: "TracebackType | None"
    ) -> None:
        if self._host is not None:
            self._host.close()
        if self._nft is not None:
            self._close_nft(self._nft)

    def _close_nft(self, nft: Nft) -> None:
        """Without waiting for what the kernel frees after a removal. See Nft.removed."""
        if self.in_process:
            closing.close(nft)
            return
        if nft.removed and not self.somebody_closes:
            ended, alive = os.pipe2(os.O_CLOEXEC)  # the other end is ours until we are gone
            if os.fork() == 0:
                os.close(alive)
                for fd in (0, 1, 2):  # a caller reads until the end of our stdout
                    os.close(fd)
                os.read(ended, 1)
                os._exit(0)
        nft.close()


def carry_out(plan: "Iterable[steps.Step]", wiring: Wiring) -> None:
    """Apply a plan; what fails is said in the words of its step."""
    try:
        steps.run(plan, wiring)
    except steps.StepFailed as failure:
        cause = failure.cause
        if isinstance(cause, OSError) and cause.errno == errno.EOPNOTSUPP:
            raise CniError(UNSUPPORTED_KERNEL, f"{failure}: this kernel lacks what it needs") from failure
        raise CniError(IO_FAILURE, str(failure)) from failure


def random_mac() -> str:
    """A unicast address of nobody's vendor. Given rather than left to the kernel, no udev rule changes it later."""
    return "02:" + os.urandom(5).hex(":")
