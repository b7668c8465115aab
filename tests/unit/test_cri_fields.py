# SPDX-License-Identifier: Apache-2.0
"""Every field of PodSandboxConfig and ContainerConfig is read, or stands in a list here with the reason why not."""

import ast
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from cri.engine import request
from cri.services import wire
from proto import cri_pb2 as pb

CRI = Path(__file__).parents[2] / "cri"
# What has no effect on Linux, or none by the interface's own words.
NOT_READ = {
    "PodSandboxConfig.windows": "of another system",
    "ContainerConfig.windows": "of another system",
    "LinuxSandboxSecurityContext.readonly_rootfs": "there is no sandbox container whose root could be read-only",
    "LinuxSandboxSecurityContext.supplemental_groups_policy": "a sandbox has no process; each container says its own",
    "ImageSpec.image_ref": "the runtime's own answer in a container's status",
}
# Fields of the engine's requests that only the interface's caller reads back, through status and list.
SHOWN_ONLY = {"image_annotations", "image_handler"}


class Recorder:
    """A message that notes which of its fields somebody looks at; answers as the message does."""

    def __init__(self, message: Any, seen: set[str]) -> None:
        self._message = message
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        message = self._message
        if name not in message.DESCRIPTOR.fields_by_name:
            return getattr(message, name)
        self._seen.add(f"{message.DESCRIPTOR.name}.{name}")
        return self._wrapped(getattr(message, name))

    def _wrapped(self, value: Any) -> Any:
        if hasattr(value, "DESCRIPTOR"):
            return Recorder(value, self._seen)
        if hasattr(value, "add"):  # repeated messages
            return [Recorder(each, self._seen) for each in value]
        return value

    def HasField(self, name: str) -> bool:
        self._seen.add(f"{self._message.DESCRIPTOR.name}.{name}")
        found: bool = self._message.HasField(name)
        return found


def filled(message: Any, depth: int = 0) -> Any:
    """Every message field present, every list with one entry; scalars stay as they are."""
    for field in message.DESCRIPTOR.fields:
        kind = field.message_type
        if kind is None or kind.GetOptions().map_entry or depth > 8:
            continue
        held = getattr(message, field.name)
        target = held.add() if field.is_repeated else held
        target.SetInParent()
        filled(target, depth + 1)
    return message


def all_fields(descriptor: Any, found: set[str]) -> set[str]:
    for field in descriptor.fields:
        name = f"{descriptor.name}.{field.name}"
        if name in found or name in NOT_READ:
            continue
        found.add(name)
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            all_fields(field.message_type, found)
    return found


@pytest.mark.parametrize("kind", [pb.PodSandboxConfig, pb.ContainerConfig])
def test_every_field_of_a_config_is_read_or_listed(kind: Any) -> None:
    seen: set[str] = set()
    config = Recorder(filled(kind()), seen)
    if kind is pb.PodSandboxConfig:
        wire.pod(config, "")
    else:
        wire.container(config)
    unread = all_fields(kind.DESCRIPTOR, set()) - seen
    assert not unread, f"nobody reads {sorted(unread)}; give each an effect, or refuse it, or say here why not"


def test_every_field_of_a_request_is_used_by_the_engine() -> None:
    """What the door has read must reach something: a plan, a call, an answer."""
    used: set[str] = set()
    for path in CRI.rglob("*.py"):
        if path.name in ("request.py", "wire.py") or "hand" in path.relative_to(CRI).parts:
            continue
        used |= {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    for kind in (request.PodRequest, request.ContainerRequest, request.MountRequest, request.Resources, request.Dns):
        unused = {field.name for field in dataclasses.fields(kind)} - used - SHOWN_ONLY
        assert not unused, f"{kind.__name__}: nobody uses {sorted(unused)}"


def test_nothing_is_excused_that_does_not_exist() -> None:
    for name in NOT_READ:
        kind, _, field = name.partition(".")
        assert field in pb.DESCRIPTOR.message_types_by_name[kind].fields_by_name, name
