# SPDX-License-Identifier: Apache-2.0
"""Where things lie under the store's root, and the locks that let several processes share it.

root/
  version            the layout's version
  lock               flock: shared while references are added, exclusive while a collection decides
  blobs/sha256/HEX   verified content: manifests, configs, compressed layers
  partial/sha256-HEX downloads under way or broken off; whoever writes holds the file's flock
  layers/ID/         fs (the tree) and layer.json; ID is d+digits for a layer that stands alone (named by its diff id)
                     and c+digits for one that leans on those beneath (named by its chain id)
  staging/           trees under way; whoever writes holds the flock of NAME.lock
  images/HEX.json    one record per image, images/generation counts their changes
  leases/NAME        what an operation under way relies on; alive as long as its flock is held
  rootfs/KEY/        a container's writable layer: record.json, upper, work
  trash/             on its way out
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from cri.images.cancel import Cancellation
from cri.images.errors import ImageError, StoreFailed
from runtime.linux import beneath, durable

VERSION = "1"
_FOLDERS = ("blobs/sha256", "partial", "layers", "staging", "images", "leases", "rootfs", "trash", "empty")
_POLL_SECONDS = 0.02


class Layout:
    """Paths of one store."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self.blobs = os.path.join(self.root, "blobs")
        self.partial = os.path.join(self.root, "partial")
        self.layers = os.path.join(self.root, "layers")
        self.staging = os.path.join(self.root, "staging")
        self.images = os.path.join(self.root, "images")
        self.leases = os.path.join(self.root, "leases")
        self.rootfs = os.path.join(self.root, "rootfs")
        self.trash = os.path.join(self.root, "trash")
        self.lock = os.path.join(self.root, "lock")

    def create(self) -> None:
        """Lay the folders out; a no-op where they are. 0700: image content is nobody's but root's to read."""
        with failures("cannot lay out the image store", self.root):
            os.makedirs(self.root, mode=0o711, exist_ok=True)
            version = durable.read(os.path.join(self.root, "version"))
            if version is None:
                for folder in _FOLDERS:
                    os.makedirs(os.path.join(self.root, folder), mode=0o711, exist_ok=True)
                durable.replace(os.path.join(self.root, "version"), VERSION.encode())
            elif version.decode().strip() != VERSION:
                raise StoreFailed(
                    f"{self.root} has layout {version.decode().strip()[:20]!r}, this program knows {VERSION}",
                    hint="use the version that wrote it, or another root",
                )

    @contextmanager
    def adding(self) -> Iterator[None]:
        """While references are added (a lease, a record): no collection decides meanwhile."""
        with durable.lock(self.lock, shared=True):
            yield

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """While a collection looks at all references and moves the rest to the trash."""
        with durable.lock(self.lock):
            yield

    def discard(self, path: str) -> None:
        """Take a file or tree out of sight in one step, then delete it; a crash leaves it in the trash."""
        target = os.path.join(self.trash, os.urandom(8).hex())
        try:
            os.rename(path, target)
        except FileNotFoundError:
            return
        delete(target)

    def empty_trash(self) -> None:
        for name in os.listdir(self.trash):
            delete(os.path.join(self.trash, name))


def delete(path: str) -> None:
    """rm -rf of something in the trash, which another process may be emptying too."""
    while True:
        try:
            beneath.remove_tree(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY) or not os.path.lexists(path):
                if os.path.lexists(path):
                    raise
                return


@contextmanager
def failures(doing: str, what: str) -> Iterator[None]:
    """Turn an OSError into one sentence with a hint."""
    try:
        yield
    except ImageError:
        raise
    except OSError as error:
        raise failed(doing, what, error) from error


def failed(doing: str, what: str, error: OSError) -> StoreFailed:
    hints = {
        errno.ENOSPC: "the disk is full: remove images or enlarge it",
        errno.EDQUOT: "the quota is used up",
        errno.EROFS: "it lies on a read-only file system",
        errno.EACCES: "the store belongs to root",
        errno.EPERM: "the store belongs to root",
    }
    return StoreFailed(f"{doing}: {what}: {error.strerror or error}", hint=hints.get(error.errno or 0, ""))


def wait_lock(path: str, cancel: Cancellation | None, doing: str) -> durable.Locked:
    """A flock that a cancelled caller stops waiting for. flock(2) itself can only be left by a signal."""
    while True:
        try:
            return durable.lock(path, wait=False)
        except BlockingIOError:
            if cancel is None:
                return durable.lock(path)
            if cancel.wait(_POLL_SECONDS):
                raise cancel.error(doing) from None
