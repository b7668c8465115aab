# SPDX-License-Identifier: Apache-2.0
"""A container made by our own runtime: the plan and the init of `ketch-runtime`, without a new interpreter."""

from typing import Any


class Maker:
    """create and start of one container."""

    def __init__(self, request: dict[str, Any], state_dir: str) -> None:
        self._request = request
        self._state_dir = state_dir

    def create(self, stdio: list[int]) -> int:
        """The pid of the init, which waits for start."""
        raise NotImplementedError

    def start(self) -> None:
        """Let the program run."""
        raise NotImplementedError

    def descriptors(self) -> list[int]:
        """The terminal's master, if the container has one."""
        return []

    def undo(self) -> list[str]:
        """Take down what create has made; answers what went wrong."""
        return []


class Joiner:
    """exec of one process into a container of ours."""

    def __init__(self, record: dict[str, Any], request: dict[str, Any], state_dir: str) -> None:
        self.terminal = -1
        self._record = record
        self._request = request
        self._state_dir = state_dir

    def join(self, stdio: list[int]) -> int:
        """The pid of the program, our child."""
        raise NotImplementedError
