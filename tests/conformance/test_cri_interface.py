# SPDX-License-Identifier: Apache-2.0
"""The CRI interface definition in proto/ against k8s.io/cri-api, field by field."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from proto import cri_pb2
from tests.e2e import go_build

MODULE = "k8s.io/cri-api@v0.37.2"


def upstream(folder: Path) -> Any:
    """The descriptor of the module's api.proto, compiled here."""
    (folder / "go.mod").write_text("module facts\n\ngo 1.24\n")
    try:
        go = go_build.find_go()
    except go_build.BuildFailed as refused:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(refused))
    subprocess.run([go, "mod", "download", MODULE], cwd=folder, check=True, capture_output=True, timeout=100)
    cache = subprocess.run([go, "env", "GOMODCACHE"], cwd=folder, check=True, capture_output=True, text=True)
    api = Path(cache.stdout.strip()) / MODULE / "pkg/apis/runtime/v1"
    out = folder / "api.bin"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{api}", f"--descriptor_set_out={out}", "api.proto"],
        check=True,
        timeout=60,
    )
    return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0]


def facts(file: Any) -> dict[str, str]:
    """One line per message field, enum value and method, keyed by its full name."""
    found: dict[str, str] = {"package": file.package}
    for message in file.message_type:
        found[message.name] = "message"
        for nested in [*message.nested_type, *message.enum_type]:
            for field in getattr(nested, "field", ()):
                field.ClearField("json_name")
            found[f"{message.name}.{nested.name}"] = str(nested)
        for field in message.field:
            field.ClearField("json_name")  # protoc writes the derived name only where it is asked to
            found[f"{message.name}.{field.name}"] = str(field)
    for enum in file.enum_type:
        found.update({f"{enum.name}.{value.name}": str(value.number) for value in enum.value})
    for service in file.service:
        for method in service.method:
            shape = (method.input_type, method.client_streaming, method.output_type, method.server_streaming)
            found[f"{service.name}.{method.name}"] = str(shape)
    return found


def test_every_message_field_enum_and_method_is_that_of_the_go_module(tmp_path: Path) -> None:
    ours = descriptor_pb2.FileDescriptorProto()
    cri_pb2.DESCRIPTOR.CopyToProto(ours)
    assert facts(ours) == facts(upstream(tmp_path))


def test_there_are_43_methods() -> None:
    assert sum(len(service.methods) for service in cri_pb2.DESCRIPTOR.services_by_name.values()) == 43
