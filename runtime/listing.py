# SPDX-License-Identifier: Apache-2.0
"""Tables of containers, and of the processes of one."""

from __future__ import annotations

import sys

from runtime import evidence, record
from runtime.errors import NoSuchContainer, RuntimeFailure, UsageError
from runtime.linux import json_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def show(root: str, form: str, *, quiet: bool) -> int:
    """Print every container under root. One with a damaged record is told on stderr and stops nothing."""
    if form not in ("table", "json"):
        raise UsageError(f"--format: expected table or json, got {form!r}")
    found = []
    for container_id in record.ids(root):
        try:
            found.append(evidence.state(record.load(root, container_id), full=True))
        except NoSuchContainer:
            continue
        except RuntimeFailure as error:
            sys.stderr.write(f"ketch-runtime: warning: {error}\n")
    if quiet:
        sys.stdout.write("".join(f"{facts['id']}\n" for facts in found))
    elif form == "json":
        sys.stdout.write(json_text.dumps(found) + "\n")
    else:
        rows = [[str(facts[key]) for key in ("id", "pid", "status", "bundle", "created", "owner")] for facts in found]
        print_table(["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"], rows)
    return 0


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        line = "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")


def processes(root: str, container_id: str, form: str, options: Sequence[str]) -> int:
    """Print the processes of a container: their pids as JSON, or what ps(1) says about them."""
    if form not in ("table", "json"):
        raise UsageError(f"--format: expected table or json, got {form!r}")
    entry = record.load(root, container_id)
    pids = [] if evidence.status(entry) == evidence.STOPPED else pids_of(entry)
    if form == "json":
        sys.stdout.write(json_text.dumps(pids) + "\n")
        return 0
    _ps(pids, list(options) or ["-ef"])
    return 0


def pids_of(entry: record.Record) -> list[int]:
    """Every process in the container's cgroups and those beneath."""
    from runtime.linux import cgroup

    if not entry.cgroup_paths:
        return [entry.pid]
    return cgroup.Group(entry.cgroup_paths, v2=entry.cgroup_v2).processes()


def _ps(pids: list[int], options: list[str]) -> None:
    import subprocess

    try:
        text = subprocess.run(["ps", *options], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise RuntimeFailure("ps is not installed (package procps); --format json needs none") from None
    except subprocess.CalledProcessError as error:
        raise RuntimeFailure(f"ps {' '.join(options)}: {error.stderr.strip()}") from None
    head, *lines = text.splitlines()
    column = head.split().index("PID") if "PID" in head.split() else -1
    if column < 0:
        raise RuntimeFailure(f"ps {' '.join(options)} prints no PID column, by which we choose")
    wanted = {str(pid) for pid in pids}
    sys.stdout.write("\n".join([head, *(line for line in lines if line.split()[column] in wanted)]) + "\n")
