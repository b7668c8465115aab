# SPDX-License-Identifier: Apache-2.0
"""A push: every blob that the registry lacks, then the manifest that names them.

A blob that the registry has in another repository is mounted there instead of sent. A chunk that breaks off goes on
from where the registry says it stopped.
"""

import time
from collections.abc import Sequence

from cri.images.cancel import Cancellation
from cri.images.catalogue import ManifestRef, Record
from cri.images.crew import Crew
from cri.images.errors import ImageError, NotFound, RegistryError, Unreachable
from cri.images.leases import Lease
from cri.images.manifest import MAX_MANIFEST
from cri.images.model import Credentials, Event
from cri.images.parts import Parts, Progress
from cri.images.reference import Reference, parse

CHUNK = 8 << 20
UPLOADS = 3


def push(
    parts: Parts,
    record: Record,
    reference: Reference,
    *,
    credentials: Credentials | None,
    progress: Progress | None,
    cancel: Cancellation | None,
) -> str:
    """Send an image under a name; returns the digest that the registry knows it by."""
    return Push(parts, record, reference, credentials, progress, cancel).run()


class _Upload:
    """One blob on its way: where it goes and how much of it the registry has."""

    __slots__ = ("digest", "refused", "sent", "size", "url")

    def __init__(self, digest: str, size: int, url: str) -> None:
        self.digest = digest
        self.size = size
        self.url = url
        self.sent = 0
        self.refused = 0  # how often it was another part than the registry had


class Push:
    """One push."""

    def __init__(
        self,
        parts: Parts,
        record: Record,
        reference: Reference,
        credentials: Credentials | None,
        progress: Progress | None,
        cancel: Cancellation | None,
    ) -> None:
        self._parts = parts
        self._record = record
        self._reference = reference
        self._progress = progress
        self._lease = Lease(parts.layout)
        self._crew = Crew(f"push {reference.path}", cancel, self._lease.close)
        with self._crew.unless_it_fails():
            self._repository = parts.repository(reference, credentials, self._crew.stop, self._notice)

    def run(self) -> str:
        """Send everything; like a pull the caller may leave at any time."""
        manifest = self._record.manifest
        try:
            self._crew.start(lambda: self._all(manifest), "main")
            self._crew.wait(f"pushing {self._reference}")
        finally:
            self._crew.close()
        return manifest.digest

    def _all(self, manifest: ManifestRef) -> None:
        self._lease.add(*self._record.blobs())
        blobs = {layer.digest: layer.size for layer in manifest.layers} | {self._config_digest(): manifest.config_size}
        missing = [digest for digest, size in blobs.items() if not self._parts.blobs.has(digest, size)]
        if missing:
            raise NotFound(f"blob {missing[0]} is not in the store", hint="`verify` fetches it again")
        crew = Crew(f"uploads of {self._reference.path}", self._crew.stop, lambda: None)
        todo = list(blobs.items())
        try:
            for number in range(min(UPLOADS, len(todo))):
                crew.start(lambda n=number: self._blobs(todo[n::UPLOADS], crew), f"upload {number}")  # type: ignore[misc]
            crew.wait(f"pushing {self._reference}")
        finally:
            crew.close()
        data = self._parts.blobs.read(manifest.digest, MAX_MANIFEST)
        if self._reference.digest and self._reference.digest != manifest.digest:
            raise ImageError(f"the image's digest is {manifest.digest}, not {self._reference.digest}")
        target = self._reference.digest or self._reference.tag
        self._repository.retry(lambda: self._repository.put_manifest(target, data, manifest.media_type))
        self._tell("done", manifest.digest)

    def _config_digest(self) -> str:
        if not self._record.artifact:
            return self._record.id
        from cri.images import manifest as manifests

        data = self._parts.blobs.read(self._record.manifest.digest, MAX_MANIFEST)
        parsed = manifests.parse(data, self._record.manifest.media_type, self._record.id)
        if not isinstance(parsed, manifests.Manifest):
            raise ImageError(f"{self._record.id} is not a manifest")
        return parsed.config.digest

    def _blobs(self, todo: Sequence[tuple[str, int]], crew: Crew) -> None:
        for digest, size in todo:
            crew.stop.check(f"pushing {self._reference}")
            self._one(digest, size)

    def _one(self, digest: str, size: int) -> None:
        if self._repository.retry(lambda: self._repository.has_blob(digest)):
            self._tell("exists", digest, size, size)
            return
        url = ""
        source = self._elsewhere(digest)
        if source is not None:
            try:
                mounted, url = self._repository.mount(digest, source)
            except RegistryError:
                mounted = False  # not every registry, and not every account, can
            if mounted:
                self._tell("mounted", digest, size, size)
                return
        self._upload(digest, size, url)
        self._tell("pushed", digest, size, size)

    def _elsewhere(self, digest: str) -> Reference | None:
        """Another repository of the same registry from which an image with this blob came."""
        for record in self._parts.catalogue.records().values():
            if digest in record.blobs():
                for name in (*record.tags, *record.digests):
                    found = parse(name)
                    if found.host == self._reference.host and found.path != self._reference.path:
                        return found
        return None

    def _upload(self, digest: str, size: int, url: str) -> None:
        """As long as every series of tries brings something, there is another one."""
        upload = _Upload(digest, size, url)
        while True:
            before = upload.sent
            try:
                self._repository.retry(lambda: self._attempt(upload))
                return
            except Unreachable:
                if upload.sent - before < CHUNK:
                    raise

    def _attempt(self, upload: "_Upload") -> None:
        """Go on behind what the registry has."""
        try:
            if upload.url:
                upload.sent, upload.url = self._repository.upload_status(upload.url)
            else:
                upload.sent, upload.url = 0, self._repository.start_upload()
            self._chunks(upload)
        except RegistryError as error:
            if not upload.url or error.status not in (404, 416):
                raise
            # Forgotten: a new one. More of it is there than it said, because the connection that broke was still being
            # written out: ask again, and begin anew if that does not help.
            upload.refused += 1
            if error.status == 404 or upload.refused > 1:
                upload.url, upload.refused = "", 0
            raise Unreachable(f"the upload of blob {upload.digest} was forgotten: {error}") from error

    def _chunks(self, upload: "_Upload") -> None:
        while upload.sent < upload.size:
            data = self._piece(upload.digest, upload.sent, min(CHUNK, upload.size - upload.sent))
            upload.url = self._repository.append_upload(upload.url, upload.sent, data)
            upload.sent += len(data)
            self._tell("pushing", upload.digest, upload.sent, upload.size)
        self._repository.finish_upload(upload.url, upload.digest)

    def _piece(self, digest: str, offset: int, size: int) -> bytes:
        data = bytearray()
        for piece in self._parts.blobs.pieces(digest, offset):
            data += piece[: size - len(data)]
            if len(data) == size:
                break
        return bytes(data)

    def _tell(self, state: str, subject: str, done: int = 0, total: int = 0, detail: str = "") -> None:
        if self._progress is not None:
            self._progress(Event(state, subject, str(self._reference), done, total, detail, time.time()))

    def _notice(self, error: RegistryError) -> None:
        self._tell("retrying", str(self._reference), detail=str(error))
