# SPDX-License-Identifier: Apache-2.0
"""Images for people: pull and push with a bar per layer, lists in docker's columns, archives."""

from __future__ import annotations

import os
import sys
import threading
import time

from cri.hand.errors import REFUSED, HandError, UsageError, need_root, suggestion
from cri.hand.grammar import Arguments
from cri.hand.places import Places
from cri.hand.progress import Bars
from cri.hand.room import config_of, open_store
from cri.hand.tables import age, print_rows, size
from cri.images.cancel import Cancellation
from cri.images.errors import BadReference, ImageError, InUse
from cri.images.model import Image, Platform
from cri.images.reference import parse
from cri.images.store import ImageStore


def store_of(places: Places) -> ImageStore:
    """The store, for commands that need no engine."""
    need_root()
    os.makedirs(places.root, mode=0o711, exist_ok=True)
    return open_store(config_of(places))


def short_id(image_id: str) -> str:
    """12 hex digits."""
    return image_id.removeprefix("sha256:")[:12]


def need(store: ImageStore, name: str, when: str, platform: str = "") -> Image:
    """The image, pulled if it is not here (or always)."""
    try:
        found = None if when == "always" else store.find(name)
    except BadReference as e:
        raise HandError(str(e), code=REFUSED) from None
    if found is not None:
        return found
    if when == "never":
        raise HandError(f"no such image here: {name}", hint=f"ketch pull {name}", code=REFUSED)
    if when == "missing":
        print(f"Unable to find image '{name}' locally", file=sys.stderr)
    try:
        image_id = fetch(store, name, platform, out=sys.stderr)
    except ImageError as e:
        near = suggestion(name, [tag.rpartition("/")[2] for image in store.list() for tag in image.tags])
        raise HandError(f"cannot pull {name}: {e}", hint=near, code=REFUSED) from None
    found = store.find(image_id)
    if found is None:
        raise HandError(f"image {name} was removed just now", code=REFUSED)
    return found


def fetch(store: ImageStore, name: str, platform: str, *, out: object = sys.stdout, quiet: bool = False) -> str:
    """Pull with a bar per layer; Ctrl-C takes it back."""
    wanted = parse_platform(platform) if platform else None
    bars = Bars(out) if not quiet else None
    cancel = Cancellation()
    result: list[str] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(store.pull(name, platform=wanted, progress=bars.show if bars else None, cancel=cancel))
        except BaseException as e:
            failure.append(e)

    # In a thread, so that Ctrl-C reaches us while the pull waits for the network.
    thread = threading.Thread(target=work, name="pull")
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        cancel.cancel()
        thread.join()
        raise
    finally:
        if bars:
            bars.finish()
    if failure:
        raise failure[0]
    return result[0]


def parse_platform(text: str) -> Platform:
    """linux/arm64[/v8]."""
    parts = text.split("/")
    if len(parts) == 1:
        parts = ["linux", *parts]
    if len(parts) > 3 or not all(parts):
        raise UsageError(f"--platform: {text!r} is not OS/ARCHITECTURE[/VARIANT]", code=REFUSED)
    return Platform(*parts)


def pull(arguments: Arguments, places: Places) -> int:
    name = arguments.words[0]
    store = store_of(places)
    try:
        quiet = arguments.flag("quiet")
        before = store.find(name)
        image_id = fetch(store, name, arguments.text("platform"), quiet=quiet)
        image = store.find(image_id)
        if image is None or quiet:
            print(image_id)
            return 0
        digest = next((d.rpartition("@")[2] for d in image.digests), "")
        if digest:
            print(f"Digest: {digest}")
        known = before is not None and before.id == image_id
        print(f"Status: {'Image is up to date' if known else 'Downloaded newer image'} for {name}")
        print(next(iter(image.tags), image.id))
    except ImageError as e:
        raise HandError(f"cannot pull {name}: {e}") from None
    finally:
        store.close()
    return 0


def push(arguments: Arguments, places: Places) -> int:
    name = arguments.words[0]
    store = store_of(places)
    bars = Bars(sys.stdout) if not arguments.flag("quiet") else None
    try:
        digest = store.push(name, progress=bars.show if bars else None)
    except ImageError as e:
        raise HandError(f"cannot push {name}: {e}") from None
    finally:
        if bars:
            bars.finish()
        store.close()
    print(f"{parse(name).with_default_tag().tag}: digest: {digest}" if bars else digest)
    return 0


def images(arguments: Arguments, places: Places) -> int:
    store = store_of(places)
    now = time.time()
    rows: list[dict[str, object]] = []
    wanted = [text.partition("=") for text in arguments.many("filter")]
    nameless = arguments.flag("all") or any(key == "dangling" for key, _, _ in wanted)
    for image in store.list():
        if all(_keeps(store, image, key, value) for key, _, value in wanted if key != "reference"):
            rows += _rows_of(image, now, arguments, bare=nameless)
    store.close()
    for key, _, value in wanted:
        rows = [row for row in rows if key != "reference" or _matches(row, value)]
    if arguments.words:
        rows = [row for row in rows if _matches(row, arguments.words[0])]
    if arguments.flag("quiet"):
        for image_id in dict.fromkeys(str(row["ID"]) for row in rows):
            print(image_id)
        return 0
    columns = [("REPOSITORY", "Repository"), ("TAG", "Tag")]
    columns += [("DIGEST", "Digest")] if arguments.flag("digests") else []
    columns += [("IMAGE ID", "ID"), ("CREATED", "CreatedSince"), ("SIZE", "Size")]
    print_rows(rows, columns, arguments.text("format"))
    return 0


def _keeps(store: ImageStore, image: Image, key: str, value: str) -> bool:
    if key == "dangling":
        return (not image.tags) == (value in ("true", "1"))
    if key == "label":
        name, equals, wanted = value.partition("=")
        labels = dict(store.config(image.id).labels)
        return name in labels and (not equals or labels[name] == wanted)
    raise HandError(f"images --filter: {key!r} is not known", hint="dangling, reference, label")


def _matches(row: dict[str, object], wanted: str) -> bool:
    """REPOSITORY[:TAG], short or full, * and ? as in a shell."""
    from fnmatch import fnmatchcase

    repository, tag = wanted, ""
    if ":" in wanted.rpartition("/")[2]:  # before a slash it is a registry's port
        repository, _, tag = wanted.rpartition(":")
    names = (repository, f"docker.io/library/{repository}", f"docker.io/{repository}")
    return any(fnmatchcase(str(row["Repository"]), name) for name in names) and fnmatchcase(str(row["Tag"]), tag or "*")


def familiar(name: str) -> str:
    """docker.io/library/alpine is alpine to people."""
    return name.removeprefix("docker.io/library/").removeprefix("docker.io/")


def _rows_of(image: Image, now: float, arguments: Arguments, *, bare: bool) -> list[dict[str, object]]:
    names = [tag.rpartition(":") for tag in image.tags] or (
        [("<none>", "", "<none>")] if bare or not image.tags else []
    )
    shown = image.id if arguments.flag("no-trunc") else short_id(image.id)
    digest = next((d.rpartition("@")[2] for d in image.digests), "<none>")
    return [
        {
            "Repository": familiar(repository),
            "Tag": tag,
            "Digest": digest,
            "ID": shown,
            "CreatedSince": f"{age(now - image.created_at)} ago" if image.created_at > 0 else "N/A",
            "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime(max(0, image.created_at))),
            "Size": size(image.unpacked_size or image.size),
        }
        for repository, _, tag in names
    ]


def find(store: ImageStore, name: str) -> Image:
    try:
        image = store.find(name)
    except ImageError as e:
        raise HandError(str(e)) from None
    if image is None:
        known = [familiar(tag) for i in store.list() for tag in (*i.tags, *(t.rpartition(":")[0] for t in i.tags))]
        raise HandError(f"no such image: {name}", hint=suggestion(name, known) or f"ketch pull {name}")
    return image


def remove(arguments: Arguments, places: Places) -> int:
    from cri.hand import look

    store = store_of(places)
    used: dict[str, list[str]] = {}
    for container in look.containers(places):
        used.setdefault(str(container.record.get("image_id", "")), []).append(container.name)
    try:
        for name in arguments.words:
            image = find(store, name)
            by_id = image.id.removeprefix("sha256:").startswith(name.removeprefix("sha256:"))
            last = len(image.tags) <= 1 or by_id
            if last and image.id in used and not arguments.flag("force"):
                who = " ".join(used[image.id])
                raise HandError(f"image {name} is in use by {who}", hint=f"ketch rm -f {who}, or rmi -f")
            if last:
                for tag in image.tags:
                    print(f"Untagged: {familiar(tag)}")
                store.remove(image.id, force=arguments.flag("force"))
                print(f"Deleted: {image.id}")
            else:
                store.untag(name)
                print(f"Untagged: {name}")
    except InUse as e:
        raise HandError(str(e)) from None
    finally:
        store.close()
    return 0


def tag(arguments: Arguments, places: Places) -> int:
    store = store_of(places)
    try:
        store.tag(find(store, arguments.words[0]).id, arguments.words[1])
    except ImageError as e:
        raise HandError(str(e)) from None
    finally:
        store.close()
    return 0


def history(arguments: Arguments, places: Places) -> int:
    store = store_of(places)
    image = find(store, arguments.words[0])
    rows: list[dict[str, object]] = []
    for index, step in enumerate(store.history(image.id)):
        made = str(step.get("created_by", ""))
        rows.append(
            {
                "ID": short_id(image.id) if index == 0 else "<missing>",
                "CreatedSince": str(step.get("created", "")),
                "CreatedBy": made if arguments.flag("no-trunc") or len(made) <= 45 else made[:44] + "…",
                "Size": size(float(str(step.get("size", 0) or 0))),
                "Comment": str(step.get("comment", "")),
            }
        )
    store.close()
    if arguments.flag("quiet"):
        for row in rows:
            print(row["ID"])
        return 0
    columns = [
        ("IMAGE", "ID"),
        ("CREATED", "CreatedSince"),
        ("CREATED BY", "CreatedBy"),
        ("SIZE", "Size"),
        ("COMMENT", "Comment"),
    ]
    print_rows(rows, columns, arguments.text("format"))
    return 0
