# SPDX-License-Identifier: Apache-2.0
"""A user without privilege gets a user namespace even if his config asks for none, as from crun."""

from __future__ import annotations

import os

from runtime.spec import model

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def with_user_namespace(config: model.Config) -> model.Config:
    """The same config in a user namespace of its own: the user as root, and what /etc/subuid and /etc/subgid lend him
    from id 1 on."""
    uid, gid = os.geteuid(), os.getegid()
    linux = config.linux.changed(
        namespaces=(model.Namespace(kind="user", path=""), *config.linux.namespaces),
        uid_mappings=mappings(uid, _lent("/etc/subuid", uid)),
        gid_mappings=mappings(gid, _lent("/etc/subgid", uid)),
    )
    return config.changed(linux=linux)


def mappings(own: int, lent: Iterable[tuple[int, int]]) -> tuple[model.IDMapping, ...]:
    """His own id as 0, then the ranges (first, size) one after another."""
    found = [model.IDMapping(inside=0, host=own, size=1)]
    for first, size in lent:
        inside = found[-1].inside + found[-1].size
        found.append(model.IDMapping(inside=inside, host=first, size=size))
    return tuple(found)


def _lent(path: str, uid: int) -> list[tuple[int, int]]:
    """Lines of NAME:FIRST:SIZE, where a user is named or numbered."""
    try:
        with open(path) as table:
            lines = table.read().splitlines()
    except OSError:
        return []
    import pwd

    names = [str(uid)]
    try:
        names.append(pwd.getpwuid(uid).pw_name)
    except KeyError:
        pass
    fields = [line.split(":") for line in lines]
    return [
        (int(f[1]), int(f[2])) for f in fields if len(f) == 3 and f[0] in names and f[1].isdigit() and f[2].isdigit()
    ]
