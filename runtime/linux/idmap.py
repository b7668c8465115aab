# SPDX-License-Identifier: Apache-2.0
"""Id-mapped mounts: a mount seen with other owners, by way of a user namespace that exists only for that."""

import os

from runtime.linux import syscalls
from runtime.linux._core import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.linux.mounts import Tree

    # (inside, host, size)
    Range = tuple[int, int, int]


def lines(ranges: "Sequence[Range]") -> str:
    """The text of uid_map and gid_map."""
    return "".join(f"{inside} {host} {size}\n" for inside, host, size in ranges)


def user_namespace(uids: "Sequence[Range]", gids: "Sequence[Range]") -> int:
    """A descriptor of a user namespace with these mappings; nobody lives in it."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = syscalls.clone3(lib.CLONE_NEWUSER)
    if pid == 0:
        try:
            os.close(writing)
            os.read(reading, 1)
        finally:
            os._exit(0)
    try:
        os.close(reading)
        for file, ranges in (("uid_map", uids), ("gid_map", gids)):
            with open(f"/proc/{pid}/{file}", "w") as mapping:
                mapping.write(lines(ranges))
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writing)
        os.waitpid(pid, 0)


def apply(tree: "Tree", uids: "Sequence[Range]", gids: "Sequence[Range]", *, recursive: bool) -> None:
    """Map the owners of a detached tree."""
    namespace = user_namespace(uids, gids)
    try:
        tree.set_attributes(set_=lib.MOUNT_ATTR_IDMAP, userns=namespace, recursive=recursive)
    except syscalls.KernelError as error:
        if error.errno == 22:
            kind = syscalls.filesystem_type(tree.fd)
            reason = f"the file system (type {kind:#x}) does not support id-mapped mounts on this kernel"
            raise syscalls.KernelError(22, error.call, error.arguments, reason) from None
        raise
    finally:
        os.close(namespace)
