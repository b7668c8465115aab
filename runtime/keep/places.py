# SPDX-License-Identifier: Apache-2.0
"""Where in the state directory each thing of the keepers lies.

state directory/
  spawner.sock  spawner.lock  spawner.log
  spawner-PID.sock           an older spawner that stays until its last keeper is gone
  keepers/NAME.sock
  containers/ID/kept         what a new keeper needs to adopt the container
  containers/ID/stdout       the FIFOs between container and keeper
  containers/ID/stderr
  containers/ID/exit         how it ended; there last
"""

from __future__ import annotations

import errno
import json
import os

from runtime.linux import durable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def spawner_socket(state_dir: str) -> str:
    return state_dir + "/spawner.sock"


def spawner_lock(state_dir: str) -> str:
    return state_dir + "/spawner.lock"


def spawner_log(state_dir: str) -> str:
    return state_dir + "/spawner.log"


def keepers_dir(state_dir: str) -> str:
    return state_dir + "/keepers"


def keeper_socket(state_dir: str, name: str) -> str:
    return f"{state_dir}/keepers/{name}.sock"


def containers_dir(state_dir: str) -> str:
    return state_dir + "/containers"


def container_dir(state_dir: str, identity: str) -> str:
    return f"{state_dir}/containers/{identity}"


def kept_file(state_dir: str, identity: str) -> str:
    return f"{state_dir}/containers/{identity}/kept"


def exit_file(state_dir: str, identity: str) -> str:
    return f"{state_dir}/containers/{identity}/exit"


def fifo(state_dir: str, identity: str, stream: str) -> str:
    return f"{state_dir}/containers/{identity}/{stream}"


def read_json(path: str) -> dict[str, Any] | None:
    """The object in a file that is replaced atomically; None when there is no such file."""
    text = durable.read(path)
    if text is None:
        return None
    found: dict[str, Any] = json.loads(text)
    return found


def write_json(path: str, value: dict[str, Any], mode: int = 0o600) -> None:
    """Replace the file atomically. Not flushed to a disk: the state directory does not survive a boot anyway."""
    durable.replace(path, json.dumps(value).encode() + b"\n", mode, durable=False)


def write_exit(state_dir: str, identity: str, result: dict[str, Any]) -> None:
    """How it ended, once and for all. On a full disk it is added to `kept`, in the block that this file has already;
    then both names are of one file. What nobody else has seen must not be lost for want of a few bytes."""
    path = exit_file(state_dir, identity)
    try:
        write_json(path, result)
    except OSError as error:
        kept = kept_file(state_dir, identity)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or (record := read_json(kept)) is None:
            raise
        text = json.dumps({**record, **result}).encode()
        fd = os.open(kept, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, text, 0)
        finally:
            os.close(fd)
        os.link(kept, path)


def remove_container(state_dir: str, identity: str) -> None:
    """Everything in a container's directory, the record last; a second time is a no-op."""
    directory = container_dir(state_dir, identity)
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    for name in sorted(names, key=lambda name: name == "kept"):
        os.unlink(f"{directory}/{name}")
    os.rmdir(directory)


def check_id(identity: object) -> str:
    """An id is a file name here: letters, digits and _+-. only, and neither . nor .. nor hidden."""
    plain = isinstance(identity, str) and 0 < len(identity) <= 255 and identity.isascii()
    if not plain or not all(c.isalnum() or c in "_+-." for c in str(identity)) or str(identity).startswith("."):
        raise ValueError(f"{identity!r} is not a container id (letters, digits, _ + - . only)")
    return str(identity)
