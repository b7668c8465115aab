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

import json
import os
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
    try:
        with open(path, "rb") as file:
            found: dict[str, Any] = json.loads(file.read())
    except FileNotFoundError:
        return None
    return found


def write_json(path: str, value: dict[str, Any], mode: int = 0o600) -> None:
    """Replace the file atomically. Not flushed to a disk: the state directory does not survive a boot anyway."""
    new = f"{path}.new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        os.write(fd, json.dumps(value).encode() + b"\n")
    finally:
        os.close(fd)
    os.rename(new, path)
