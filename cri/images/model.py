# SPDX-License-Identifier: Apache-2.0
"""The nouns of the image store as frozen types: what callers see of it."""

from collections.abc import Mapping

from runtime.linux.quick_dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, in Go's words: linux/amd64, linux/arm/v7."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A pointer to content: its media type, digest and exact size."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    urls: tuple[str, ...] = ()
    artifact_type: str = ""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the caller knows about a registry account; all empty means anonymous.

    `auth` is base64 of `username:password` (docker's form). `identity_token` is an OAuth2 refresh token,
    `registry_token` a bearer token that is sent as it is. `server_address` limits the credentials to one host.
    """

    username: str = ""
    password: str = ""
    auth: str = ""
    identity_token: str = ""
    registry_token: str = ""
    server_address: str = ""


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The part of an image's configuration that a container is made from."""

    platform: Platform
    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    stop_signal: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()
    created: str = ""
    author: str = ""
    diff_ids: tuple[str, ...] = ()
    history: tuple[Mapping[str, object], ...] = ()
    healthcheck: Mapping[str, object] | None = None
    raw: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Image:
    """One image as the CRI and people see it: everything that shares one config digest.

    `tags` are full names with a tag (`docker.io/library/busybox:1.36`), `digests` full names with a digest;
    both sorted. `size` is what a registry would transfer (compressed layers, config, manifest), as
    containerd counts it; `unpacked_size` what the layers take on disk. `user` is config.User unparsed.
    """

    id: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    size: int
    unpacked_size: int
    platform: Platform
    user: str
    pinned: bool
    created_at: float
    labels: Mapping[str, str] = field(default_factory=dict)
    manifest: str = ""

    @property
    def uid(self) -> int | None:
        """The numeric user of config.User; the CRI wants the uid or the user name, never the group."""
        name = self.user.partition(":")[0]
        return int(name) if name.isascii() and name.isdigit() else None

    @property
    def username(self) -> str:
        """The user name of config.User, empty where it is numeric or absent."""
        return "" if self.uid is not None else self.user.partition(":")[0]


@dataclass(frozen=True, slots=True)
class FsUsage:
    """What the store takes of its file system, for ImageFsInfo."""

    mountpoint: str
    used_bytes: int
    inodes_used: int
    timestamp_ns: int


@dataclass(frozen=True, slots=True)
class IdMapping:
    """One line of a uid_map or gid_map."""

    container_id: int
    host_id: int
    size: int


@dataclass(frozen=True, slots=True)
class Event:
    """One step of progress, or one change of the store.

    `state` for progress: resolving, waiting, downloading, downloaded, unpacking, exists, done, retrying, pushing,
    pushed, mounted, failed. For subscribers of the store: pulled, tagged, untagged, removed, imported, created,
    repaired, collected, damaged.
    `subject` is a blob's digest or an image's name or id; `done`/`total` are bytes (total 0: unknown).
    """

    state: str
    subject: str
    image: str = ""
    done: int = 0
    total: int = 0
    detail: str = ""
    time: float = 0.0


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that `verify` found, and whether it could be mended."""

    image: str
    subject: str
    what: str
    repaired: bool


@dataclass(frozen=True, slots=True)
class Collected:
    """What a garbage collection removed."""

    blobs: int = 0
    layers: int = 0
    partial: int = 0
    rootfs: int = 0
    bytes: int = 0
