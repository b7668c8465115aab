# SPDX-License-Identifier: Apache-2.0
"""The one teardown: works from the record, may run twice, forgets last. Serves rollback, delete and recovery alike."""

from __future__ import annotations

import posix

from runtime import record
from runtime.linux import cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.record import Record


def killed_for_memory(entry: Record) -> str:
    """What the kernel killed in the container's group for want of memory, as a sentence; empty if it did not."""
    directory = entry.cgroup_paths.get(cgroup.UNIFIED if entry.cgroup_v2 else "memory", "")
    if not directory:
        return ""
    from runtime.keep import oom

    count = oom.kills(directory)
    return oom.describe(directory, count) if count else ""


def kill_everything(entry: Record) -> None:
    """SIGKILL every process of the container and wait until they are gone."""
    if entry.cgroup_paths:
        group = cgroup.Group(entry.cgroup_paths, v2=entry.cgroup_v2)
        if group.exists():
            group.kill_and_wait()
    _kill_init(entry)


def _kill_init(entry: Record) -> None:
    """The init may stand outside the cgroups: without any, or caught before it entered."""
    if not entry.pid:
        return
    from runtime.linux import processes

    pidfd = processes.open_pidfd(entry.pid, entry.start_time)
    if pidfd is None:
        return
    import select
    from _signal import pidfd_send_signal  # type: ignore[import-not-found]  # as in processes

    try:
        pidfd_send_signal(pidfd, 9)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        poller.poll(10_000)
    except ProcessLookupError:
        pass
    finally:
        posix.close(pidfd)


def remove(entry: Record, *, run_hooks: bool) -> None:
    """Leave nothing of the container: processes, groups, hooks run, record; each line is a no-op once done."""
    kill_everything(entry)
    if entry.systemd_unit:
        from runtime.linux import systemd

        systemd.end(entry.systemd_unit)
    if entry.cgroup_paths:
        cgroup.Group(entry.cgroup_paths, v2=entry.cgroup_v2).remove()
        cgroup.remove_if_empty(list(reversed(entry.cgroup_made)))
    if entry.host_mounts:
        from runtime.linux import mounts

        mounts.detach_all_beneath(entry.rootfs)
    if run_hooks:
        _poststop(entry)
    record.forget(entry.directory)


def _poststop(entry: Record) -> None:
    """A poststop hook that fails is a warning: the container is gone all the same."""
    try:
        data = entry.config_bytes()
    except Exception:
        return
    if b'"poststop"' not in data:
        return
    import sys

    from runtime import hooks
    from runtime.linux import json_text
    from runtime.spec import parse

    state = json_text.dumps(record.spec_state(entry, 0, "stopped"))
    config = parse.config(json_text.loads(data))
    for hook in config.hooks.poststop:
        try:
            with hooks.Output(config.extensions) as output:
                hooks.run(hook, state, output)
        except (hooks.HookFailed, OSError) as error:
            sys.stderr.write(f"ketch-runtime: warning: {error}\n")
