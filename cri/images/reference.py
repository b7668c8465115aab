# SPDX-License-Identifier: Apache-2.0
"""Image names: what people type, made full as docker and containerd do it."""

import re

from cri.images import digest as digests
from cri.images.errors import BadReference
from runtime.linux.quick_dataclasses import dataclass, replace

DEFAULT_HOST = "docker.io"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_HOST = re.compile(
    r"(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
    r"(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*|\[[0-9a-fA-F:.]+\])(?::[0-9]+)?\Z"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class Reference:
    """A full image name; with neither tag nor digest it names a repository."""

    host: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        return f"{self.host}/{self.path}"

    @property
    def tagged(self) -> str:
        """`host/path:tag`, empty without a tag."""
        return f"{self.repository}:{self.tag}" if self.tag else ""

    def at(self, digest: str) -> str:
        """`host/path@digest`."""
        return f"{self.repository}@{digest}"

    def with_default_tag(self) -> "Reference":
        return self if self.tag or self.digest else replace(self, tag="latest")

    def __str__(self) -> str:
        return self.repository + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def familiar(self) -> str:
        """As people write it: without the default registry and its `library/`."""
        text = str(self)
        for prefix in (f"{DEFAULT_HOST}/library/", f"{DEFAULT_HOST}/"):
            if text.startswith(prefix):
                return text.removeprefix(prefix)
        return text


def parse(text: str) -> Reference:
    """`busybox`, `ghcr.io/a/b:1`, `localhost:5000/x@sha256:...`, ... as a full name, no tag added."""
    name, _, digest = text.partition("@")
    if digest:
        digests.split(digest)
    elif text.endswith("@"):
        raise _bad(text, "the digest after @ is missing")
    host, path = _split_host(name)
    path, colon, tag = path.partition(":")
    if colon and not _TAG.match(tag):
        raise _bad(text, f"{tag[:40]!r} is not a tag")
    if host == DEFAULT_HOST and "/" not in path:
        path = f"library/{path}"
    if not _HOST.match(host):
        raise _bad(text, f"{host[:80]!r} is not a registry")
    if not _PATH.match(path):
        lower = "names are lowercase" if path != path.lower() else "letters, digits and . _ - between them"
        raise _bad(text, lower)
    if len(path) > _MAX_NAME:
        raise _bad(text, f"longer than {_MAX_NAME} characters")
    return Reference(host, path, tag, digest)


def _split_host(name: str) -> tuple[str, str]:
    """The registry in front, if the first component looks like one; else docker.io."""
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or any(c in first for c in ".:[") or first != first.lower()):
        return (DEFAULT_HOST if first == "index.docker.io" else first), rest
    return DEFAULT_HOST, name


def _bad(text: str, why: str) -> BadReference:
    return BadReference(f"{text[:300]!r} is not an image name", hint=why)
