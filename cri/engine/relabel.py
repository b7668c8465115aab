# SPDX-License-Identifier: Apache-2.0
"""Giving a volume's files the SELinux label of the container that asked for it (`selinux_relabel`)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from cri.engine.errors import BadRequest, Failed

ATTRIBUTE = "security.selinux"
# A node whose own files carry a container's label does not boot any more.
_NODE = "bin boot dev etc home lib lib64 opt proc root run sbin srv sys tmp usr var"
NEVER = frozenset(["/", *(f"/{name}" for name in _NODE.split())])
# The filesystem was mounted with one label for all (context=), cannot hold labels, or does not want this one.
_CANNOT = (errno.ENOTSUP, errno.EOPNOTSUPP)


def relabel(path: str, label: str) -> None:
    """The tree and everything in it. A filesystem that holds no labels is left as it is, as chcon would find it."""
    if path in NEVER:
        raise BadRequest(f"config.mounts: selinux_relabel of {path}: a folder of the node itself")
    data = label.encode() + b"\0"
    try:
        os.setxattr(path, ATTRIBUTE, data, follow_symlinks=False)
    except OSError as e:
        if e.errno in _CANNOT:
            return
        raise Failed(f"config.mounts: selinux_relabel of {path} to {label}: {e.strerror}") from e
    for folder, folders, files in os.walk(path, followlinks=False):
        for name in (*folders, *files):
            _one(os.path.join(folder, name), data)


def mark(paths: Iterable[str], label: str) -> None:
    """Files of our own, one by one."""
    for path in paths:
        _one(path, label.encode() + b"\0")


def _one(path: str, data: bytes) -> None:
    try:
        os.setxattr(path, ATTRIBUTE, data, follow_symlinks=False)
    except FileNotFoundError:
        return  # gone meanwhile: another container may work in this volume
    except OSError as e:
        if e.errno not in _CANNOT:
            raise Failed(f"config.mounts: selinux_relabel of {path}: {e.strerror}") from e
