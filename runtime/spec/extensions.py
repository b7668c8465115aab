# SPDX-License-Identifier: Apache-2.0
"""crun's annotations as a frozen type: those that others rely on; the rest of its own are refused by name."""

from __future__ import annotations

from runtime.spec import model
from runtime.spec.reader import SpecError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

CONTEXT_TYPES = ("context", "fscontext", "defcontext", "rootcontext")
MOST_INSTRUCTIONS = 4096  # BPF_MAXINSNS
# To ignore them would run something else than what was asked for, and less confined.
REFUSED = {
    "run.oci.handler": "there are no other handlers than the kernel here",
    "run.oci.seccomp.plugins": "no code of others is loaded; use run.oci.seccomp.receiver",
}


def read(annotations: Mapping[str, str]) -> model.Extensions:
    """What the annotations of a config ask for."""
    for name, why in REFUSED.items():
        if name in annotations:
            raise SpecError(f"annotations.{name}", f"{shown(annotations[name])} is not supported: {why}")
    context = annotations.get("run.oci.mount_context_type", CONTEXT_TYPES[0])
    if context not in CONTEXT_TYPES:
        expected = ", ".join(CONTEXT_TYPES)
        raise SpecError("annotations.run.oci.mount_context_type", f"expected one of {expected}, got {shown(context)}")
    return model.Extensions(
        keep_original_groups="run.oci.keep_original_groups" in annotations,
        hooks_stdout=annotations.get("run.oci.hooks.stdout", ""),
        hooks_stderr=annotations.get("run.oci.hooks.stderr", ""),
        pidfd_receiver=_absolute(annotations, "run.oci.pidfd_receiver"),
        seccomp_receiver=_absolute(annotations, "run.oci.seccomp.receiver"),
        seccomp_fail_unknown="run.oci.seccomp_fail_unknown_syscall" in annotations,
        seccomp_program=_program(annotations),
        mount_context_type=context,
        systemd_v1_at=_absolute(annotations, "run.oci.systemd.force_cgroup_v1"),
    )


def _absolute(annotations: Mapping[str, str], name: str) -> str:
    path = annotations.get(name, "")
    if path and not path.startswith("/"):
        raise SpecError(f"annotations.{name}", f"expected an absolute path, got {shown(path)}")
    return path


def _program(annotations: Mapping[str, str]) -> bytes:
    """A filter that somebody else has compiled."""
    name = "run.oci.seccomp_bpf_data"
    if name not in annotations:
        return b""
    import binascii

    try:
        program = binascii.a2b_base64(annotations[name].encode(), strict_mode=True)
    except ValueError:
        program = b""
    if not program or len(program) % 8 or len(program) > 8 * MOST_INSTRUCTIONS:
        expected = f"1 to {MOST_INSTRUCTIONS} instructions of 8 bytes in base64"
        raise SpecError(f"annotations.{name}", f"expected {expected}, got {shown(annotations[name])}")
    return program
