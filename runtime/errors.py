# SPDX-License-Identifier: Apache-2.0
"""The errors that a command answers with one line.

RuntimeFailure
 ├─ UsageError          the command line is wrong
 ├─ NoSuchContainer     no record of this id under the root directory
 ├─ WrongState          the container exists, but this cannot be done to it now
 └─ CreateFailed        the container could not be made; everything made for it is taken down again
"""


class RuntimeFailure(Exception):
    """Something asked of the runtime did not happen; str() is one sentence for the user."""


class UsageError(RuntimeFailure):
    """The command line is wrong; nothing was touched."""


class NoSuchContainer(RuntimeFailure):
    """No record of this id."""

    def __init__(self, container_id: str) -> None:
        super().__init__(f"container {container_id!r} does not exist")


class WrongState(RuntimeFailure):
    """The container exists, but this cannot be done to it now."""


class CreateFailed(RuntimeFailure):
    """The container could not be made."""
