# SPDX-License-Identifier: Apache-2.0
"""Garbage collection: what no image, no container and no operation under way refers to goes to the trash.

Who adds a reference holds the store's lock shared while doing so; deciding what is garbage holds it alone. So between
looking and moving nothing can become needed; deleting, the slow part, happens after the lock.
"""

import os
import stat
import time
from collections.abc import Iterable, Iterator

from cri.images.catalogue import Record
from cri.images.digest import chain_ids
from cri.images.layers import alone_name, chained_name, flat_name
from cri.images.layout import delete, failures
from cri.images.leases import living
from cri.images.model import Collected, FsUsage
from cri.images.parts import Parts
from cri.images.rootfs import RootfsFolder, disk_usage
from runtime.linux import durable

PARTIAL_SECONDS = 24 * 3600.0  # how long a broken download may wait for its next try


def layer_names(record: Record) -> set[str]:
    """Every name that a tree of this image may have."""
    names: set[str] = set()
    for manifest in record.manifests:
        diff_ids = tuple(layer.diff_id for layer in manifest.layers if layer.diff_id)
        names.update(alone_name(diff_id) for diff_id in diff_ids)
        chain = chain_ids(diff_ids)
        names.update(chained_name(chain_id) for chain_id in chain)
        names.update(flat_name(chain_id) for chain_id in chain[-1:])
    return names


def collect(
    parts: Parts, rootfs: RootfsFolder, *, unused_images: bool = False, partial_seconds: float = PARTIAL_SECONDS
) -> Collected:
    """Delete garbage; safe beside pulls, containers and another process's collection."""
    layout = parts.layout
    with failures("cannot collect garbage in", layout.root):
        if unused_images:
            _drop_unused(parts, rootfs)
        moved: list[tuple[str, str]] = []
        with layout.deciding():
            blobs, trees = _needed(parts, rootfs)
            unknown = [parts.blobs.path(digest) for digest, _ in parts.blobs.all() if digest not in blobs]
            unused = [os.path.join(layout.layers, name) for name in parts.layers.names() if name not in trees]
            moved += _aside(parts, "blob", unknown)
            moved += _aside(parts, "layer", unused)
            moved += _aside(parts, "rootfs", _half_made(rootfs))
            moved += _aside(parts, "partial", _old_partials(layout.partial, partial_seconds))
            moved += _aside(parts, "staging", _dead_staging(parts))
        done = _delete(moved)
        layout.empty_trash()
    if moved:
        parts.bus.tell("collected", layout.root, detail=f"{len(moved)} things, {done.bytes} bytes")
    return done


def _needed(parts: Parts, rootfs: RootfsFolder) -> tuple[set[str], set[str]]:
    leased = living(parts.layout)
    blobs, trees = set(leased), set(leased)
    for record in parts.catalogue.records().values():
        blobs.update(record.blobs())
        trees |= layer_names(record)
    for key in rootfs.all_keys():
        trees.update(rootfs.layers_of(key))
    return blobs, trees


def _drop_unused(parts: Parts, rootfs: RootfsFolder) -> None:
    """Images without a tag that nobody pinned and no container stands on."""
    used = {rootfs.image_of(key) for key in rootfs.all_keys()}
    with parts.catalogue.changing() as change:
        for record in list(change.records.values()):
            if not record.tags and not record.pinned and record.id not in used:
                change.drop(record.id)
                parts.bus.tell("removed", record.id)


def _aside(parts: Parts, kind: str, paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Move them to the trash; where they are now, with their kind."""
    for path in paths:
        target = os.path.join(parts.layout.trash, os.urandom(8).hex())
        try:
            os.rename(path, target)
        except FileNotFoundError:
            continue  # who releases a root file system, or ends a download, does not wait for our lock
        yield kind, target


def _half_made(rootfs: RootfsFolder) -> list[str]:
    """Folders whose record was never written. Only while deciding: a prepare holds the lock shared."""
    paths = [rootfs.folder(key) for key in rootfs.all_keys()]
    return [path for path in paths if not os.path.exists(os.path.join(path, "record.json"))]


def _old_partials(folder: str, seconds: float) -> list[str]:
    old = []
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        try:
            if time.time() - os.stat(path).st_mtime < seconds:
                continue
            durable.lock(path, wait=False, create=False).close()
        except (BlockingIOError, FileNotFoundError):
            continue
        old.append(path)
    return old


def _dead_staging(parts: Parts) -> Iterator[str]:
    """Trees whose unpacker died: its lock is free. Each is moved while we hold it: the next one uses the same name."""
    folder = parts.layout.staging
    for name in os.listdir(folder):
        base = os.path.join(folder, name.removesuffix(".lock"))
        try:
            with durable.lock(f"{base}.lock", wait=False):
                if os.path.lexists(base):
                    yield base
                os.unlink(f"{base}.lock")
        except (BlockingIOError, FileNotFoundError):
            continue


def _delete(moved: list[tuple[str, str]]) -> Collected:
    counts = {"blob": 0, "layer": 0, "partial": 0, "staging": 0, "rootfs": 0}
    freed = 0
    for kind, path in moved:
        counts[kind] += 1
        try:
            seen = os.lstat(path)
            freed += disk_usage(path)[0] if stat.S_ISDIR(seen.st_mode) else seen.st_blocks * 512
        except FileNotFoundError:
            pass  # another collection empties the trash too
        delete(path)
    return Collected(counts["blob"], counts["layer"], counts["partial"] + counts["staging"], counts["rootfs"], freed)


def usage(parts: Parts) -> FsUsage:
    """What the store takes, from the sizes that were noted when things were made: walking trees would take seconds."""
    total = inodes = 0
    for _, size in parts.blobs.all():
        total += size + -size % 4096
        inodes += 1
    for layer in parts.layers.all():
        total += layer.bytes
        inodes += layer.entries + 3
    for name in os.listdir(parts.layout.partial):
        try:
            total += os.stat(os.path.join(parts.layout.partial, name)).st_blocks * 512
        except FileNotFoundError:
            continue  # it has just become a blob
        inodes += 1
    return stamped(parts.layout.root, total, inodes)


def stamped(path: str, total: int, inodes: int) -> FsUsage:
    return FsUsage(path, total, inodes, time.time_ns())
