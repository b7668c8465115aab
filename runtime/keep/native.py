# SPDX-License-Identifier: Apache-2.0
"""A container made by our own runtime: the plan and the init of `ketch-runtime`, without a new interpreter."""

from typing import Any

from runtime import create, creation, joining, remove
from runtime.errors import RuntimeFailure
from runtime.keep import seed
from runtime.linux import cgroup, fdpass, program
from runtime.linux._core import lib


def warm_up() -> None:
    """In the spawner: load what create and join load late, and look once at what stays as it is."""
    import _blake2  # noqa: F401 (hashlib's part that names a cached filter)

    import runtime.inside.console
    import runtime.net_devices
    import runtime.seccomp_filter  # noqa: F401

    try:
        program.opened()
    except OSError:
        pass  # every start and exec goes the long way, then
    cgroup.remember_layout()
    for name in dir(lib):  # cffi makes each when it is first asked for; every child would make its own
        getattr(lib, name)


def create_request(request: dict[str, Any], state_dir: str) -> creation.CreateRequest:
    """What every container of a keeper has in common, however it is made."""
    asked = creation.CreateRequest(request["runtime_root"] or state_dir + "/runtime", request["id"], request["bundle"])
    asked.seed = seed.fd
    asked.shares_cgroup = True
    asked.systemd_cgroup = request["systemd_cgroup"]
    return asked


class Maker:
    """create, start, and on failure the one teardown, of one container. The init becomes our parent's child."""

    def __init__(self, request: dict[str, Any], state_dir: str) -> None:
        self._request = request
        self._state_dir = state_dir
        self._created: creation.Created | None = None
        self._terminal: list[int] = []

    def create(self, stdio: list[int]) -> int:
        """The pid of the init, which waits for start."""
        asked = create_request(self._request, self._state_dir)
        asked.hold = False
        asked.sibling = True
        if self._request["tty"]:
            ours, theirs = fdpass.pair()
            asked.console_fd = theirs.fileno()
            try:
                self._created = create.create(asked)
                theirs.close()
                _, self._terminal = fdpass.receive(ours)
            finally:
                ours.close()
                theirs.close()
            if len(self._terminal) != 1:
                raise RuntimeFailure("a terminal was asked for, but config.json has no process.terminal")
        else:
            asked.stdio = (stdio[0], stdio[1], stdio[2])
            self._created = create.create(asked)
        return self._created.record.pid

    def start(self) -> None:
        """Let the program run; returns after its execve."""
        assert self._created is not None
        create.release(self._created)

    def descriptors(self) -> list[int]:
        """The terminal's master, if the container has one."""
        return self._terminal

    def undo(self) -> list[str]:
        """Take down what create has made; answers what went wrong."""
        if self._created is None:
            return []  # create cleans up behind itself
        try:
            remove.remove(self._created.record, run_hooks=True)
        except OSError as why:
            return [f"taking it down again failed: {why}"]
        return []


def remember(record: dict[str, Any], state_dir: str) -> None:
    """Read in the spawner what its children need to join this container."""
    joining.remember(record["runtime_root"] or state_dir + "/runtime", record["id"])


class Joiner:
    """exec of one process into a container of ours."""

    def __init__(self, record: dict[str, Any], request: dict[str, Any], state_dir: str) -> None:
        self.terminal = -1
        root = record["runtime_root"] or state_dir + "/runtime"
        process = {**request["process"], "terminal": bool(request["tty"])}
        self._asked = joining.JoinRequest(root, record["id"], process)
        self._asked.here = True
        self._asked.subreaper = request["timeout_seconds"] is not None

    def join(self, stdio: list[int]) -> int:
        """The pid of the program, our child; its execve has succeeded."""
        try:
            if not stdio:
                return self._with_terminal()
            self._asked.stdio = (stdio[0], stdio[1], stdio[2])
            return joining.join(self._asked).pid
        except RuntimeFailure as why:
            raise ValueError(str(why)) from None

    def _with_terminal(self) -> int:
        ours, theirs = fdpass.pair()
        self._asked.console_fd = theirs.fileno()
        try:
            pid = joining.join(self._asked).pid
            theirs.close()
            _, fds = fdpass.receive(ours)
        finally:
            ours.close()
            theirs.close()
        self.terminal = fds[0]
        return pid
