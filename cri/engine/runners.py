# SPDX-License-Identifier: Apache-2.0
"""What a runtime keeps about a container goes with it: our own record, or that of the OCI command of a handler."""

from __future__ import annotations

from cri.engine.context import Context
from cri.engine.errors import Failed
from cri.engine.records import ContainerRecord
from runtime import lifecycle
from runtime.errors import RuntimeFailure

DELETE_SECONDS = 60.0


def delete(context: Context, record: ContainerRecord) -> None:
    """Processes, cgroup and the runtime's record; a no-op for what was never started."""
    if record.handler:
        delete_foreign(record)
    else:
        delete_native(context, record)
    if record.cgroups_path:
        context.cgroups.remove(record.cgroups_path)


def delete_native(context: Context, record: ContainerRecord) -> None:
    """Also a half-made or damaged record goes."""
    try:
        lifecycle.delete(f"{context.config.paths.state}/runtime", record.id, force=True)
    except RuntimeFailure as e:
        raise Failed(str(e)) from e


def delete_foreign(record: ContainerRecord) -> None:
    """delete --force of an unknown container is no error for runc and crun; others say so in their own words."""
    import subprocess

    command = [*record.handler, "delete", "--force", record.id]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DELETE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Failed(f"container {record.id}: {record.handler[0]} delete: {e}") from e
    said = done.stderr.strip().splitlines()
    if done.returncode and not any("not exist" in line or "not found" in line for line in said):
        raise Failed(f"container {record.id}: {record.handler[0]} delete: {said[-1] if said else done.returncode}")
