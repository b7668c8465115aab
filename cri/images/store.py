# SPDX-License-Identifier: Apache-2.0
"""The image store as its users see it: pull, find, mount, remove, and the rest of an image's life."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from cri.images import manifest as manifests
from cri.images import overlay, platforms
from cri.images.blobs import Blobs
from cri.images.cancel import Cancellation
from cri.images.catalogue import Catalogue, Record
from cri.images.errors import ImageError, InUse, NotFound, Unsupported
from cri.images.layers import Layers
from cri.images.layout import Layout, failures
from cri.images.leases import Lease
from cri.images.model import (
    Collected,
    Credentials,
    Damage,
    Event,
    FsUsage,
    IdMapping,
    Image,
    ImageConfig,
    Platform,
)
from cri.images.parts import Parts, Wires
from cri.images.patience import Backoff, Patience
from cri.images.reference import parse
from cri.images.rootfs import Request, Rootfs, RootfsFolder
from cri.images.trees import build
from runtime.linux.quick_dataclasses import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cri.images.changes import Change
    from cri.images.unpack import Limits

__all__ = ["ImageStore", "Progress", "Rootfs"]

Progress = Callable[[Event], None]
_MOST_CONFIGS = 64  # of images from which containers were made lately, read and verified


class ImageStore:
    """Images under one root directory; may be used by several threads and several processes at once."""

    def __init__(
        self,
        root: str,
        *,
        certs_d: Sequence[str] = (),
        auth_files: Sequence[str] | None = None,
        platform: Platform | None = None,
        limits: Limits | None = None,
        patience: Patience | None = None,
        backoff: Backoff | None = None,
        metacopy: bool = True,
        native: bool | None = None,
    ) -> None:
        """Open (and on first use lay out) the store at `root`.

        `certs_d` are directories in containerd's layout (`HOST/hosts.toml`), the first that knows a host wins.
        `auth_files` replaces the default search (REGISTRY_AUTH_FILE, auth.json, ~/.docker/config.json).
        `native` copies instead of mounting overlays; None decides by what the file system can.
        `limits` bound what a layer may unpack to; `patience` and `backoff` how registries are waited for.
        """
        layout = Layout(root)
        layout.create()
        overlaid = overlay.usable(layout.root, layout.staging) if native is None else not native
        self._parts = Parts(
            layout,
            Blobs(layout),
            Layers(layout, limits),
            Catalogue(layout),
            Wires(patience),
            platforms.normal(platform or platforms.host()),
            tuple(certs_d),
            None if auth_files is None else tuple(auth_files),
            overlaid,
            backoff or Backoff(),
        )
        self._rootfs = RootfsFolder(layout, metacopy=metacopy and overlay.metacopy_here(), overlaid=overlaid)
        self._settling = threading.Lock()
        self._configs: dict[str, tuple[tuple[int, ...], ImageConfig]] = {}

    # -- registry ------------------------------------------------------------------------------------------------
    def pull(
        self,
        reference: str,
        *,
        credentials: Credentials | None = None,
        platform: Platform | None = None,
        progress: Progress | None = None,
        cancel: Cancellation | None = None,
        pinned: bool = False,
        unpack: bool = True,
    ) -> str:
        """Fetch an image and unpack it; returns the image id (`sha256:...` of its config)."""
        from cri.images.pull import Pull

        pull = Pull(
            self._parts,
            parse(reference),
            credentials=credentials,
            platform=platform,
            progress=progress,
            cancel=cancel,
            pinned=pinned,
            unpack_layers=unpack,
        )
        image_id = pull.run()
        self._settle_soon()
        return image_id

    def log_in(self, registry: str, credentials: Credentials) -> None:
        """Ask a registry whether it knows an account; raises Unauthorized if it does not. Nothing is kept."""
        self._parts.repository(parse(f"{registry}/any/thing"), credentials, None).greet()

    def push(
        self,
        image: str,
        reference: str = "",
        *,
        credentials: Credentials | None = None,
        progress: Progress | None = None,
        cancel: Cancellation | None = None,
    ) -> str:
        """Send an image to the registry of `reference` (default: the name itself); returns the manifest's digest."""
        from cri.images.push import push

        return push(
            self._parts,
            self._need(image),
            parse(reference or image).with_default_tag(),
            credentials=credentials,
            progress=progress,
            cancel=cancel,
        )

    # -- what is here --------------------------------------------------------------------------------------------
    def list(self) -> tuple[Image, ...]:
        """All images, newest first."""
        return self._parts.catalogue.images()

    def find(self, name: str) -> Image | None:
        """By name (short or full), `name@digest`, id with or without `sha256:`, or an unambiguous id prefix."""
        record = self._parts.catalogue.find(name)
        return record.image() if record is not None else None

    def config(self, image: str) -> ImageConfig:
        """The configuration of an image; raises NotFound."""
        record = self._need(image)
        if record.artifact:
            raise Unsupported(f"{image} is an artifact, not a container image")
        identity = self._parts.blobs.identity(record.id)
        known = self._configs.get(record.id)
        if known is None or known[0] != identity:
            read = manifests.config(self._parts.blobs.read(record.id, manifests.MAX_CONFIG), image)
            if len(self._configs) >= _MOST_CONFIGS:
                self._configs.clear()
            known = self._configs[record.id] = identity, read
        return known[1]

    def history(self, image: str) -> tuple[Mapping[str, object], ...]:
        """The image's history, newest first, each step with its layer's digest and size where it made one."""
        record, config = self._need(image), self.config(image)
        layers = iter(record.manifest.layers)
        steps: list[Mapping[str, object]] = []
        for step in config.history:
            layer = None if step.get("empty_layer") else next(layers, None)
            extra = {"digest": layer.digest, "size": layer.size} if layer is not None else {}
            steps.append({**step, **extra})
        return tuple(reversed(steps))

    def fs_info(self) -> FsUsage:
        """What the store takes on disk: blobs, trees and partial downloads."""
        from cri.images import collect as collecting

        return collecting.usage(self._parts)

    def events(self) -> Iterator[Event]:
        """Follow what happens to the store from now on, in this process; ends when the store is closed."""
        return self._parts.bus.listen()

    # -- names and removal ---------------------------------------------------------------------------------------
    def tag(self, image: str, name: str) -> None:
        """Give an image another name; a name moves if it was another's."""
        reference = parse(name)
        if reference.digest:
            raise ImageError(f"{name!r} cannot be given", hint="a digest is not ours to choose")
        record = self._need(image)
        from cri.images import local

        local.name_image(self._parts, record, name, record.manifest.digest)
        self._parts.bus.tell("tagged", record.id, str(reference.with_default_tag()))

    def untag(self, name: str) -> str:
        """Take one name away; the image goes with its last name. Returns the id."""
        reference = parse(name)
        gone = reference.at(reference.digest) if reference.digest else reference.with_default_tag().tagged
        with self._parts.layout.adding(), self._parts.catalogue.changing() as change:
            for record in list(change.records.values()):
                if gone in record.tags or gone in record.digests:
                    tags = {tag: target for tag, target in record.tags.items() if tag != gone}
                    digests = tuple(d for d in record.digests if d != gone)
                    last = not tags and (bool(record.tags) or not digests)
                    if last:
                        change.drop(record.id)
                    else:
                        change.put(replace(record, tags=tags, digests=digests))
                    break
            else:
                raise NotFound(f"no image is called {name!r}", hint="`list` shows what is here")
        self._parts.bus.tell("removed" if last else "untagged", record.id, gone)
        if last:
            self.collect()
        return record.id

    def remove(self, image: str, *, force: bool = True) -> bool:
        """Remove an image with all its names; False (no error) if there is none. Running containers keep their files.

        With `force=False` an image that a container stands on is refused with InUse.
        """
        record = self._parts.catalogue.find(image)
        if record is None:
            return False
        if not force:
            users = [key for key in self._rootfs.all_keys() if self._rootfs.image_of(key) == record.id]
            if users:
                raise InUse(f"{image} is used by {', '.join(users[:3])}", hint="remove the containers first, or force")
        with self._parts.layout.adding(), self._parts.catalogue.changing() as change:
            gone = change.drop(record.id) is not None
        if gone:
            self._parts.bus.tell("removed", record.id, image)
            self.collect()
        return gone

    def pin(self, image: str, *, pinned: bool = True) -> None:
        """Keep an image from garbage collection (the kubelet's too: it is told)."""
        record = self._need(image)
        with self._parts.layout.adding(), self._parts.catalogue.changing() as change:
            if record.id in change.records:
                change.put(replace(change.records[record.id], pinned=pinned))

    # -- for containers ------------------------------------------------------------------------------------------
    def prepare_rootfs(
        self,
        image: str,
        key: str,
        *,
        uid_mappings: Sequence[IdMapping] = (),
        gid_mappings: Sequence[IdMapping] = (),
        read_only: bool = False,
    ) -> Rootfs:
        """Lay out a writable layer over an image under the caller's key (the container id); idempotent per key.

        The record of the key keeps the layers alive until `release(key)`, also when the image is removed.
        `read_only` makes a view without a writable layer: only for roots into which nothing is ever mounted.
        """
        request = Request(
            key,
            self._need(image).id,
            read_only=read_only,
            uid_mappings=tuple(uid_mappings),
            gid_mappings=tuple(gid_mappings),
        )
        return self._prepare(request)

    def prepare_volume(
        self,
        image: str,
        key: str,
        *,
        sub_path: str = "",
        uid_mappings: Sequence[IdMapping] = (),
        gid_mappings: Sequence[IdMapping] = (),
    ) -> Rootfs:
        """A read-only view of an image (or of one directory or file in it) as a volume; NotFound for a bad sub_path."""
        request = Request(
            key,
            self._need(image).id,
            volume=True,
            sub_path=sub_path.strip("/") if sub_path != "/" else "",
            uid_mappings=tuple(uid_mappings),
            gid_mappings=tuple(gid_mappings),
        )
        if sub_path.startswith("/") or ".." in sub_path.split("/"):
            raise NotFound(f"sub_path {sub_path!r} leads out of the image", hint="a relative path without '..'")
        known = self._rootfs.get(key)
        rootfs = self._prepare(request)
        try:
            self._rootfs.check_sub_path(rootfs)
        except ImageError:
            if known is None:
                self._rootfs.release(key)
            raise
        return rootfs

    def _prepare(self, request: Request) -> Rootfs:
        known = self._rootfs.get(request.key)
        if known is not None and known.image_id == request.image_id:
            return known
        record = self._need(request.image_id)
        if record.artifact:
            raise Unsupported(f"{request.image_id} is an artifact, not a container image")
        refs = record.manifest.layers
        with self._parts.layout.adding():  # until the record names them no collection can decide about them
            trees = [tree for tree in self._parts.trees(refs) if tree is not None] if self._parts.overlay else []
            if refs and len(trees) == len(refs):
                return self._rootfs.prepare(request, trees)
        with Lease(self._parts.layout) as lease:
            return self._rootfs.prepare(request, build(self._parts, refs, lease, None))

    def rootfs(self, key: str) -> Rootfs | None:
        """What `prepare_rootfs` or `prepare_volume` made under this key."""
        return self._rootfs.get(key)

    def rootfs_keys(self) -> tuple[str, ...]:
        """Every key under which something is prepared: what recovery compares with its containers."""
        return tuple(self._rootfs.all_keys())

    def release(self, key: str) -> None:
        """Delete the writable layer of a key (its mounts must be gone); a no-op if there is none."""
        self._rootfs.release(key)

    def rootfs_usage(self, key: str) -> FsUsage:
        """Bytes and inodes of a container's writable layer, for container stats."""
        total, inodes = self._rootfs.usage(key)
        from cri.images import collect as collecting

        return collecting.stamped(self._parts.layout.root, total, inodes)

    def changes(self, key: str, mounted: str, made: Sequence[str] = ()) -> tuple[Change, ...]:
        """What was written over the image of a key, whose root is mounted there. `made`: paths to mount things at."""
        from cri.images import changes

        with failures("cannot compare with the image", mounted):
            return tuple(changes.find(self._need_rootfs(key), mounted, made))

    def commit(
        self,
        key: str,
        mounted: str,
        name: str,
        *,
        config: Mapping[str, object],
        step: Mapping[str, str],
        made: Sequence[str] = (),
    ) -> str:
        """Make an image of the image of a key and of what was written over it; returns its id. `step` goes into its
        history: author, comment, created_by."""
        from cri.images.commit import commit

        rootfs = self._need_rootfs(key)
        found = self.changes(key, mounted, made)
        record = self._need(rootfs.image_id)
        return commit(self._parts, record, rootfs, mounted, found, name, config=config, step=step)

    def _need_rootfs(self, key: str) -> Rootfs:
        rootfs = self._rootfs.get(key)
        if rootfs is None:
            raise NotFound(f"{key} stands on no image here")
        return rootfs

    # -- archives and local images -------------------------------------------------------------------------------
    def import_(self, path: str, *, name: str = "", progress: Progress | None = None) -> tuple[str, ...]:
        """Take images from an OCI layout (directory or tar) or a `docker save` archive; returns the ids."""
        from cri.images import archive

        ids = archive.take(self._parts, path, name=name, progress=progress)
        self._settle_soon()
        return ids

    def export(self, images: Sequence[str], path: str, *, form: str = "oci-archive") -> None:
        """Write images as `oci` (layout directory), `oci-archive` or `docker-archive`."""
        from cri.images import archive

        archive.give(self._parts, [(self._need(image), image) for image in images], path, form=form)

    def build_from_directory(self, directory: str, name: str, *, config: Mapping[str, object] | None = None) -> str:
        """Make a one-layer image of a directory tree, reproducibly; returns its id."""
        from cri.images import local

        return local.from_directory(self._parts, directory, name, config)

    def build_busybox(self, name: str = "ketch.local/busybox:latest", *, busybox: str = "/bin/busybox") -> str:
        """Make an image of the host's static busybox, reproducibly and without a network; returns its id."""
        from cri.images import local

        return local.from_busybox(self._parts, name, busybox)

    # -- care ----------------------------------------------------------------------------------------------------
    def collect(self, *, unused_images: bool = False) -> Collected:
        """Delete what nothing refers to; safe beside pulls and containers. `unused_images`: also nameless ones."""
        from cri.images import collect as collecting

        return collecting.collect(self._parts, self._rootfs, unused_images=unused_images)

    def verify(
        self, *, repair: bool = True, progress: Progress | None = None, cancel: Cancellation | None = None
    ) -> tuple[Damage, ...]:
        """Check every blob and layer against its digest; fetch or unpack again what is damaged."""
        from cri.images import verify as verifying

        return verifying.verify(self._parts, repair=repair, progress=progress, cancel=cancel)

    def settle(self) -> None:
        """Bring unpacked layers to disk now; `pull` does it in the background."""
        with self._settling, failures("cannot bring the layers to disk", self._parts.layout.root):
            self._parts.layers.settle()

    def _settle_soon(self) -> None:
        threading.Thread(target=self._settle_quietly, name="settle", daemon=True).start()

    def _settle_quietly(self) -> None:
        try:
            self.settle()
        except ImageError as error:
            # Unsettled layers are unpacked again after a power cut: nothing is lost by a failure here.
            self._parts.bus.tell("damaged", os.path.join(self._parts.layout.root, "layers"), detail=str(error))

    def close(self) -> None:
        """End subscriptions and pooled connections."""
        self._parts.bus.close()
        self._parts.wires.close()

    def _need(self, image: str) -> Record:
        record = self._parts.catalogue.find(image)
        if record is None:
            raise NotFound(f"no image {image!r} here", hint="pull it first")
        return record
