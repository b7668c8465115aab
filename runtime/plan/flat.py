# SPDX-License-Identifier: Apache-2.0
"""Steps of a plan as plain system calls, for a child without an interpreter: what is not ordinary is NotFlat.

The steps themselves stay the truth: whoever meets NotFlat, or a child that reports a failure, does the same work over
again with them, and they find the words.
"""

from __future__ import annotations

import _struct as struct  # struct is Python around it, one more file to find
import errno
import posix

from runtime.linux import capabilities, paths, syscalls
from runtime.linux._core import lib
from runtime.plan import confine, identity
from runtime.spec.parse import RLIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runtime.linux.program import Builder, Slot
    from runtime.linux.steps import Step
    from runtime.spec.model import Process

CAP_SYS_RESOURCE = 1 << 24
_CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
OWN_OOM_SCORE = "/proc/self/oom_score_adj"


class NotFlat(Exception):
    """This needs more than a list of system calls."""


def oom_score(builder: Builder, score: int) -> None:
    """Written while the host's /proc is in sight; children inherit it. To lower it may be refused."""
    builder.write_file(OWN_OOM_SCORE, str(score).encode(), bear=(errno.EACCES, errno.EPERM))


def oom_scores(builder: Builder, steps: Iterable[Step]) -> None:
    """The scores among these steps."""
    for step in steps:
        if isinstance(step, identity.OOMScore):
            oom_score(builder, step.score)


def limit(builder: Builder, number: int, soft: int, hard: int) -> None:
    """One resource limit."""
    builder.call(lib.SYS_prlimit64, 0, number, struct.pack("=QQ", soft, hard), 0)


def limits(builder: Builder, steps: Iterable[Step], may_raise: bool) -> None:  # noqa: FBT001
    """Resource limits; above our own hard ones only with CAP_SYS_RESOURCE, as SetRlimit finds out by trying."""
    for step in steps:
        if isinstance(step, identity.OOMScore):
            continue
        if not isinstance(step, identity.SetRlimit):
            raise NotFlat(step.describe())
        number, soft, hard = RLIMITS[step.limit.kind], step.limit.soft, step.limit.hard
        if not may_raise:
            hard = min(hard, syscalls.getrlimit(number)[1])
            soft = min(soft, hard)
        limit(builder, number, soft, hard)


def confinement(builder: Builder, steps: Sequence[Step], process: Process, proc: Slot | None) -> None:
    """In the plan's order; at the end the working directory once more, as the user itself. `proc`: a procfs that is
    surely one, without it one is made where a label needs it."""
    for step in steps:
        if isinstance(step, confine.Label):
            _label(builder, step, proc)
        elif isinstance(step, confine.NoNewPrivileges):
            builder.call(lib.SYS_prctl, lib.PR_SET_NO_NEW_PRIVS, 1)
        elif isinstance(step, confine.WorkingDirectory):
            entered = builder.call(lib.SYS_chdir, step.path, bear=(errno.EACCES,))
            builder.call(lib.ACT_INSIDE)
            builder.skip_to_here(entered)
        elif isinstance(step, confine.Groups):
            if not step.keep:
                builder.call(lib.SYS_setgroups, len(step.additional), _words(step.additional))
            builder.call(lib.SYS_setresgid, step.gid, step.gid, step.gid)
        elif isinstance(step, confine.Confine):
            _confine(builder, step)
        elif isinstance(step, confine.Umask):
            builder.call(lib.SYS_umask, step.mask)
        else:
            raise NotFlat(step.describe())
    _working_directory(builder, process.cwd)
    if process.cpu_affinity_final:
        raise NotFlat("affinity")


def _working_directory(builder: Builder, path: str) -> None:
    """As init.confine: entered as root already, it need not be open to the user."""
    refused = builder.call(lib.SYS_chdir, path, bear=(errno.EACCES,))
    builder.call(lib.ACT_INSIDE)
    entered = builder.always()
    builder.skip_to_here(refused)
    builder.call(lib.ACT_INSIDE, paths.normal(path))
    builder.skip_to_here(entered)


def _label(builder: Builder, step: confine.Label, proc: Slot | None) -> None:
    """As labels.set_on_exec."""
    call = builder.call
    if proc is None:
        proc, context = builder.slot(), builder.slot()
        call(lib.SYS_fsopen, "proc", lib.FSOPEN_CLOEXEC, into=context)
        call(lib.SYS_fsconfig, context, lib.FSCONFIG_CMD_CREATE, 0, 0, 0)
        call(lib.SYS_fsmount, context, lib.FSMOUNT_CLOEXEC, 0, into=proc)
        builder.close(context)
    file = builder.slot()
    data = struct.pack("=QQQ", posix.O_WRONLY | posix.O_CLOEXEC, 0, lib.RESOLVE_BENEATH | lib.RESOLVE_NO_XDEV)
    if step.kind == "AppArmor":
        text = f"exec {step.label}".encode()
        own = "self/attr/apparmor/exec"
        missing = call(lib.SYS_openat2, proc, own, data, len(data), into=file, bear=(errno.ENOENT,))
        opened = builder.always()
        builder.skip_to_here(missing)
        call(lib.SYS_openat2, proc, "self/attr/exec", data, len(data), into=file)
        builder.skip_to_here(opened)
    else:
        text = step.label.encode()
        call(lib.SYS_openat2, proc, "self/attr/exec", data, len(data), into=file)
    call(lib.SYS_write, file, text, len(text))
    builder.close(file)


def _words(numbers: Sequence[int]) -> bytes:
    return struct.pack(f"={len(numbers)}I", *numbers)


def _confine(builder: Builder, step: confine.Confine) -> None:
    """As Confine.apply, whose comments tell why in this order."""
    sets = step.sets
    for number in range(_last_capability() + 1):
        if not sets.bounding >> number & 1:
            builder.call(lib.SYS_prctl, lib.PR_CAPBSET_DROP, number)
    builder.call(lib.SYS_prctl, lib.PR_SET_KEEPCAPS, 1)
    builder.call(lib.SYS_setresuid, step.uid, step.uid, step.uid)
    spare = confine.CAP_SYS_ADMIN if step.keep_for_seccomp else 0
    masks = (sets.effective | spare, sets.permitted | spare, sets.inheritable)
    words = [mask >> shift & 0xFFFFFFFF for shift in (0, 32) for mask in masks]
    builder.call(lib.SYS_capset, struct.pack("=Ii", _CAPABILITY_VERSION, 0), _words(words))
    builder.call(lib.SYS_prctl, lib.PR_CAP_AMBIENT, lib.PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(64):
        if sets.ambient >> number & 1:
            builder.call(lib.SYS_prctl, lib.PR_CAP_AMBIENT, lib.PR_CAP_AMBIENT_RAISE, number)


_last: list[int] = []


def _last_capability() -> int:
    if not _last:
        _last.append(capabilities.last_known())
    return _last[0]


def home(builder: Builder, process: Process) -> None:
    """HOME when nobody has set it."""
    if any(entry.startswith("HOME=") and entry != "HOME=" for entry in process.env):
        return
    if "HOME=" in process.env:
        raise NotFlat("an empty HOME is to be replaced")
    uid = str(process.uid)
    builder.call(lib.ACT_HOME, uid, len(uid), "/root" if process.uid == 0 else "/")


def candidates(process: Process, default_path: str) -> list[str]:
    """Where the program may be, in the order of its own PATH."""
    name = process.args[0]
    if "/" in name:
        return [name]
    search = next((entry[5:] for entry in process.env if entry.startswith("PATH=")), "") or default_path
    return [f"{directory or '.'}/{name}" for directory in search.split(":")]


def own_stdio(builder: Builder, uid: int) -> None:
    """Pipes of ours become the user's."""
    if uid:
        builder.call(lib.ACT_OWN_STDIO, uid, posix.makedev(1, 3))


def last_steps(builder: Builder, preserve_fds: int = 0) -> None:
    """Find the program, leave no descriptor, execute; signals are reset and the filter is loaded in the same call."""
    builder.call(lib.SYS_close_range, 3 + preserve_fds, 0xFFFFFFFF, lib.CLOSE_RANGE_CLOEXEC)
    builder.call(lib.ACT_FIND)
    builder.call(lib.ACT_EXECUTE)
