# SPDX-License-Identifier: Apache-2.0
"""The image store as its users see it: pull, find, mount, remove, and the rest of an image's life."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cri.images.cancel import Cancellation
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

Progress = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Rootfs:
    """What to mount for one container (or one image volume).

    An overlay of `lowerdirs` (uppermost first, as overlayfs wants them) with `upperdir` and `workdir`; without an
    upperdir it is read-only. Where overlay is impossible `copied` is the path of a complete copy to bind instead.
    `sub_path` narrows a volume to a part of the image, already checked to exist beneath it.
    """

    key: str
    image_id: str
    lowerdirs: tuple[str, ...]
    upperdir: str = ""
    workdir: str = ""
    options: tuple[str, ...] = ()
    copied: str = ""
    sub_path: str = ""
    read_only: bool = False
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()

    def mount(self, target: str) -> None:
        """Mount it at an existing directory of the caller's mount namespace."""
        raise NotImplementedError

    def unmount(self, target: str) -> None:
        """Take that mount down; a no-op if there is none."""
        raise NotImplementedError


class ImageStore:
    """Images under one root directory; may be used by several threads and several processes at once."""

    def __init__(
        self,
        root: str,
        *,
        certs_d: Sequence[str] = (),
        auth_files: Sequence[str] | None = None,
        platform: Platform | None = None,
    ) -> None:
        """Open (and on first use lay out) the store at `root`.

        `certs_d` are directories in containerd's layout (`HOST/hosts.toml`), the first that knows a host wins.
        `auth_files` replaces the default search (REGISTRY_AUTH_FILE, auth.json, ~/.docker/config.json).
        """
        raise NotImplementedError

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
        raise NotImplementedError

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
        raise NotImplementedError

    # -- what is here --------------------------------------------------------------------------------------------
    def list(self) -> tuple[Image, ...]:
        """All images, newest first."""
        raise NotImplementedError

    def find(self, name: str) -> Image | None:
        """By name (short or full), `name@digest`, id with or without `sha256:`, or an unambiguous id prefix."""
        raise NotImplementedError

    def config(self, image: str) -> ImageConfig:
        """The configuration of an image; raises NotFound."""
        raise NotImplementedError

    def history(self, image: str) -> tuple[Mapping[str, object], ...]:
        """The image's history, newest first, each step with its layer's digest and size where it made one."""
        raise NotImplementedError

    def fs_info(self) -> FsUsage:
        """What the store takes on disk (blobs, layers, writable layers apart from containers' own data)."""
        raise NotImplementedError

    def events(self) -> Iterator[Event]:
        """Follow what happens to the store from now on, in this process; ends when the store is closed."""
        raise NotImplementedError

    # -- names and removal ---------------------------------------------------------------------------------------
    def tag(self, image: str, name: str) -> None:
        """Give an image another name; a name moves if it was another's."""
        raise NotImplementedError

    def untag(self, name: str) -> str:
        """Take one name away; the image goes with its last name unless a container uses it. Returns the id."""
        raise NotImplementedError

    def remove(self, image: str, *, force: bool = True) -> bool:
        """Remove an image with all its names; False (no error) if there is none. Running containers keep their files.

        With `force=False` an image that a container stands on is refused with InUse.
        """
        raise NotImplementedError

    def pin(self, image: str, *, pinned: bool = True) -> None:
        """Keep an image from garbage collection (the kubelet's too: it is told)."""
        raise NotImplementedError

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
        """
        raise NotImplementedError

    def rootfs(self, key: str) -> Rootfs | None:
        """What `prepare_rootfs` or `prepare_volume` made under this key."""
        raise NotImplementedError

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
        raise NotImplementedError

    def release(self, key: str) -> None:
        """Delete the writable layer of a key (its mounts must be gone); a no-op if there is none."""
        raise NotImplementedError

    def rootfs_usage(self, key: str) -> FsUsage:
        """Bytes and inodes of a container's writable layer, for container stats."""
        raise NotImplementedError

    # -- archives and local images -------------------------------------------------------------------------------
    def import_(self, path: str, *, name: str = "", progress: Progress | None = None) -> tuple[str, ...]:
        """Take images from an OCI layout (directory or tar) or a `docker save` archive; returns the ids."""
        raise NotImplementedError

    def export(self, images: Sequence[str], path: str, *, form: str = "oci-archive") -> None:
        """Write images as `oci` (layout directory), `oci-archive` or `docker-archive`."""
        raise NotImplementedError

    def build_from_directory(self, directory: str, name: str, *, config: Mapping[str, object] | None = None) -> str:
        """Make a one-layer image of a directory tree, reproducibly; returns its id."""
        raise NotImplementedError

    def build_busybox(self, name: str = "ketch.local/busybox:latest", *, busybox: str = "/bin/busybox") -> str:
        """Make an image of the host's static busybox, reproducibly and without a network; returns its id."""
        raise NotImplementedError

    # -- care ----------------------------------------------------------------------------------------------------
    def collect(self, *, unused_images: bool = False) -> Collected:
        """Delete what nothing refers to; safe beside pulls and containers. `unused_images`: also nameless ones."""
        raise NotImplementedError

    def verify(
        self, *, repair: bool = True, progress: Progress | None = None, cancel: Cancellation | None = None
    ) -> tuple[Damage, ...]:
        """Check every blob and layer against its digest; fetch or unpack again what is damaged."""
        raise NotImplementedError

    def close(self) -> None:
        """End subscriptions and pooled connections."""
        raise NotImplementedError
