# SPDX-License-Identifier: Apache-2.0
"""save, load, import and image local: images from files and to files."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from cri.hand.errors import HandError, UsageError
from cri.hand.grammar import Arguments
from cri.hand.images import familiar, find, store_of
from cri.hand.places import Places
from cri.hand.progress import Working
from cri.images.errors import ImageError
from cri.images.store import ImageStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def save(arguments: Arguments, places: Places) -> int:
    target = arguments.text("output")
    if not target and sys.stdout.isatty():
        raise UsageError("save: an archive on a terminal helps nobody", hint="-o FILE, or redirect the output")
    store = store_of(places)
    try:
        for name in arguments.words:
            find(store, name)
        from tempfile import TemporaryDirectory

        with TemporaryDirectory(prefix="ketch-save-") as folder:
            path = target or f"{folder}/archive.tar"
            with Working(f"Saving {' '.join(arguments.words)}", sys.stderr):
                store.export(arguments.words, path, form="docker-archive")
            if not target:
                _pour(path)
    except ImageError as e:
        raise HandError(str(e)) from None
    finally:
        store.close()
    return 0


def _pour(path: str) -> None:
    sys.stdout.flush()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            view = memoryview(chunk)
            while view:
                view = view[os.write(1, view) :]


def load(arguments: Arguments, places: Places) -> int:
    source = arguments.text("input")
    if not source and sys.stdin.isatty():
        raise UsageError("load: no archive on stdin", hint="-i FILE, or redirect the input")
    store = store_of(places)
    try:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory(prefix="ketch-load-") as folder:
            if not source:
                source = f"{folder}/archive.tar"
                with open(source, "wb") as file:
                    while chunk := sys.stdin.buffer.read(1 << 20):
                        file.write(chunk)
            with Working(f"Loading {source}", sys.stderr):
                loaded = store.import_(source)
            for image_id in loaded:
                image = store.find(image_id)
                names = image.tags if image else ()
                for name in names or (image_id,):
                    print(f"Loaded image: {familiar(name)}")
    except (ImageError, OSError) as e:
        raise HandError(f"cannot load {source}: {e}") from None
    finally:
        store.close()
    return 0


def import_(arguments: Arguments, places: Places) -> int:
    """A folder, or a tar archive of a root file system, as an image of one layer."""
    source = arguments.words[0]
    name = arguments.words[1] if len(arguments.words) > 1 else f"imported-{os.urandom(4).hex()}"
    config = changes_of(arguments.many("change"))
    store = store_of(places)
    try:
        with Working(f"Reading {source}", sys.stderr):
            image_id = _image_of(store, source, name, config)
        print(image_id)
    except (ImageError, OSError) as e:
        raise HandError(f"cannot import {source}: {e}") from None
    finally:
        store.close()
    return 0


def _image_of(store: ImageStore, source: str, name: str, config: Mapping[str, object]) -> str:
    if os.path.isdir(source):
        return store.build_from_directory(source, name, config=config)
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="ketch-import-") as folder:
        _untar_into(folder, source)
        return store.build_from_directory(folder, name, config=config)


def _untar_into(folder: str, source: str) -> None:
    from cri.hand import untar

    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if source == "-":
            untar.into(fd, sys.stdin.buffer, keep_owners=True)
        else:
            with open(source, "rb") as file:
                untar.into(fd, file, keep_owners=True)
    finally:
        os.close(fd)


def changes_of(texts: list[str]) -> dict[str, Any]:
    """--change as keys of an image's configuration."""
    import json

    config: dict[str, object] = {}
    for text in texts:
        word, _, rest = text.strip().partition(" ")
        value = rest.strip()
        key = {"CMD": "Cmd", "ENTRYPOINT": "Entrypoint", "USER": "User", "WORKDIR": "WorkingDir", "ENV": "Env"}.get(
            word.upper()
        )
        if key is None or not value:
            raise UsageError(
                f"--change: {text!r} is not known", hint="CMD, ENTRYPOINT, ENV, USER or WORKDIR and a value"
            )
        if key in ("Cmd", "Entrypoint"):
            config[key] = json.loads(value) if value.startswith("[") else ["/bin/sh", "-c", value]
        elif key == "Env":
            have = config.setdefault("Env", [])
            assert isinstance(have, list)
            have.append(value if "=" in value.split(" ")[0] else value.replace(" ", "=", 1))
        else:
            config[key] = value
    return config


def local(arguments: Arguments, places: Places) -> int:
    """busybox of this machine, when there is no network to pull anything from."""
    store = store_of(places)
    try:
        name = arguments.words[0] if arguments.words else "busybox"
        print(store.build_busybox(name if ":" in name.rpartition("/")[2] else f"{name}:latest"))
    except (ImageError, OSError) as e:
        raise HandError(f"cannot make an image of busybox: {e}", hint="apt install busybox-static") from None
    finally:
        store.close()
    return 0
