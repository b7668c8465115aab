# SPDX-License-Identifier: Apache-2.0
"""A tar stream into a folder, by descriptor: no member gets out of it, whatever names and links the archive holds."""

from __future__ import annotations

import os
import tarfile
from typing import IO

from cri.hand.errors import HandError
from runtime.linux import beneath


def into(folder: int, stream: IO[bytes], *, keep_owners: bool) -> None:
    """Unpack; paths are resolved beneath the folder, links included. Raises HandError for what is no archive."""
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                _one(folder, archive, member, keep_owners=keep_owners)
    except tarfile.TarError as e:
        raise HandError(f"not a tar archive: {e}") from None


def _one(folder: int, archive: tarfile.TarFile, member: tarfile.TarInfo, *, keep_owners: bool) -> None:
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise HandError(f"the archive holds {member.name!r}, which leaves its folder")
    if not parts:
        return
    name = parts[-1]
    parent = beneath.make_directories(folder, "/".join(parts[:-1]) or ".")
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    os.close(parent)
    try:
        if member.isdir():
            _make_folder(here, name, member.mode)
        else:
            _replace(here, name)
            _make(here, name, archive, member, folder)
        if keep_owners:
            os.chown(name, member.uid, member.gid, dir_fd=here, follow_symlinks=False)
    finally:
        os.close(here)


def _make_folder(here: int, name: str, mode: int) -> None:
    try:
        os.mkdir(name, mode & 0o7777, dir_fd=here)
    except FileExistsError:
        return


def _replace(here: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=here)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        raise HandError(f"cannot replace the folder {name} by a file") from None


def _make(here: int, name: str, archive: tarfile.TarFile, member: tarfile.TarInfo, folder: int) -> None:
    if member.issym():
        os.symlink(member.linkname, name, dir_fd=here)
    elif member.islnk():
        source = beneath.open_in_root(folder, member.linkname, os.O_PATH)
        try:
            os.link(f"/proc/self/fd/{source}", name, dst_dir_fd=here, follow_symlinks=True)
        finally:
            os.close(source)
    elif member.isfifo():
        os.mkfifo(name, member.mode & 0o7777, dir_fd=here)
    elif member.isfile():
        data = archive.extractfile(member)
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=here)
        with os.fdopen(fd, "wb") as file:
            while data is not None and (chunk := data.read(1 << 20)):
                file.write(chunk)
            os.fchmod(file.fileno(), member.mode & 0o7777)
    # devices are left out: whoever may make them inside does not need an archive for it
