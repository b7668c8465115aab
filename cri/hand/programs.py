# SPDX-License-Identifier: Apache-2.0
"""The program that a container was to run, as a file of its image: found as execvp(3) would, its mode, its loader."""

from __future__ import annotations

import os
import stat

from runtime.linux import beneath
from runtime.linux.quick_dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Program:
    """A file of the container: its mode and its first bytes."""

    mode: int
    head: bytes


def find_program(rootfs: str, program: str, working_dir: str, path: str) -> Program | None:
    """What execvp(3) would find inside, links followed beneath the root only."""
    program = program.rstrip("\r")
    if "/" in program:
        places = [program if program.startswith("/") else f"{working_dir}/{program}"]
    else:
        folders = (path or "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").split(":")
        places = [f"{folder}/{program}" for folder in folders]
    try:
        root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        for place in places:
            found = _read(root, place)
            if found is not None:
                return found
    finally:
        os.close(root)
    return None


def _read(root: int, place: str) -> Program | None:
    try:
        fd = beneath.open_in_root(root, place, os.O_PATH)
    except OSError:
        return None
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            return Program(mode, b"")
        with open(f"/proc/self/fd/{fd}", "rb") as file:
            return Program(mode, file.read(8192))
    except OSError:
        return Program(mode, b"")
    finally:
        os.close(fd)


def interpreter_of(head: bytes) -> str:
    """What the kernel loads to run a file: of a script its first line says it, of a program its PT_INTERP."""
    if head.startswith(b"#!"):
        words = head[2:].split(b"\n", 1)[0].strip(b" \t").split()
        carriage = head[2:].split(b"\n", 1)[0].endswith(b"\r")
        if not words:
            return ""
        word = words[0].decode(errors="replace")
        return f"{word.rstrip(chr(13))}\r" if carriage and len(words) == 1 else word
    if head.startswith(b"\x7fELF\x02\x01"):
        offset, size, count = (int.from_bytes(head[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58)))
        for index in range(count):
            entry = head[offset + index * size : offset + (index + 1) * size]
            if len(entry) >= 40 and int.from_bytes(entry[:4], "little") == 3:  # PT_INTERP
                start, length = int.from_bytes(entry[8:16], "little"), int.from_bytes(entry[32:40], "little")
                return head[start : start + length].rstrip(b"\0").decode(errors="replace")
    return ""
