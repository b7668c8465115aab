# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ARG002 - every RPC has the same two arguments
"""The image service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cri.engine import patience
from cri.engine.engine import Engine
from cri.images import errors
from cri.images.cancel import Cancellation
from cri.images.model import Credentials, FsUsage, Image
from cri.services import wire
from proto import cri_pb2 as pb

BATCH = 500


class ImageService:
    """Images by name, digest or id."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._images = engine.images

    def PullImage(self, request: Any, context: Any) -> Any:
        name = wire.required(request.image.image, "image.image")
        waiting = patience.caller()
        cancel = Cancellation(waiting.seconds_left() if waiting is not None else None)
        context.add_callback(cancel.cancel)
        try:
            identity = self._images.pull(name, credentials=credentials(request), cancel=cancel)
        finally:
            cancel.close()
        return pb.PullImageResponse(image_ref=identity)

    def ImageStatus(self, request: Any, context: Any) -> Any:
        image = self._find(wire.required(request.image.image, "image.image"))
        response = pb.ImageStatusResponse()
        if image is not None:
            response.image.CopyFrom(self._message(image))
            if request.verbose:
                response.info["info"] = json.dumps({"imageSpec": dict(self._images.config(image.id).raw)})
        return response

    def _find(self, name: str) -> Image | None:
        try:
            found: Image | None = self._images.find(name)
        except errors.NotFound:
            return None
        return found

    def ListImages(self, request: Any, context: Any) -> Any:
        return pb.ListImagesResponse(images=self._listed(request.filter))

    def StreamImages(self, request: Any, context: Any) -> Iterator[Any]:
        items = self._listed(request.filter)
        for first in range(0, len(items), BATCH):
            yield pb.StreamImagesResponse(images=items[first : first + BATCH])

    def _listed(self, wanted: Any) -> list[Any]:
        if wanted.image.image:
            image = self._find(wanted.image.image)
            return [self._message(image)] if image is not None else []
        return [self._message(image) for image in self._images.list()]

    def RemoveImage(self, request: Any, context: Any) -> Any:
        self._images.remove(wire.required(request.image.image, "image.image"))
        return pb.RemoveImageResponse()

    def ImageFsInfo(self, request: Any, context: Any) -> Any:
        usage = filesystem(self._images.fs_info())
        return pb.ImageFsInfoResponse(image_filesystems=[usage], container_filesystems=[usage])

    def _message(self, image: Image) -> Any:
        pinned = set(self._engine.config.images.pinned)
        message = pb.Image(
            id=image.id,
            repo_tags=image.tags,
            repo_digests=image.digests,
            size=image.size,
            username=image.username,
            pinned=image.pinned or bool(pinned & {image.id, *image.tags}),
            spec=pb.ImageSpec(image=image.id),
        )
        if image.uid is not None:
            message.uid.value = image.uid
        return message


def filesystem(usage: FsUsage) -> Any:
    return pb.FilesystemUsage(
        timestamp=usage.timestamp_ns,
        fs_id=pb.FilesystemIdentifier(mountpoint=usage.mountpoint),
        used_bytes=pb.UInt64Value(value=usage.used_bytes),
        inodes_used=pb.UInt64Value(value=usage.inodes_used),
    )


def credentials(request: Any) -> Credentials | None:
    if not request.HasField("auth"):
        return None
    auth = request.auth
    return Credentials(
        username=auth.username,
        password=auth.password,
        auth=auth.auth,
        identity_token=auth.identity_token,
        registry_token=auth.registry_token,
        server_address=auth.server_address,
    )
