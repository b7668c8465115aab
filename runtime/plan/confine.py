# SPDX-License-Identifier: Apache-2.0
"""Confinement in its one right order: label, user, capabilities, then the seccomp filter in the call that executes."""

from __future__ import annotations

import posix

from runtime.linux import capabilities, paths, syscalls
from runtime.linux._core import lib
from runtime.linux.frozen import Frozen
from runtime.linux.steps import Step
from runtime.spec.reader import SpecError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.plan.context import Context
    from runtime.spec.model import Capabilities, IDMapping, Process

CAP_SYS_ADMIN = 1 << 21


class CapabilitySets(Frozen):
    """The five sets as masks."""

    bounding: int
    effective: int
    inheritable: int
    permitted: int
    ambient: int


def capability_sets(asked: Capabilities | None, available: int) -> tuple[CapabilitySets, list[str]]:
    """The sets as masks, limited to what this host can give; with warnings about what it cannot."""
    if asked is None:
        return CapabilitySets(bounding=0, effective=0, inheritable=0, permitted=0, ambient=0), []
    warnings: list[str] = []
    masks: dict[str, int] = {}
    missing: dict[str, str] = {}
    for kind in CapabilitySets.__slots__:  # type: ignore[attr-defined]
        mask = 0
        for index, name in enumerate(getattr(asked, kind)):
            number = capabilities.NUMBERS.get(name)
            if number is None:
                missing[name] = f"process.capabilities.{kind}[{index}]: {shown(name)} is not known and ignored"
            elif not available >> number & 1:
                missing[name] = (
                    f"process.capabilities.{kind}[{index}]: {name} is not ours to give on this host; left out"
                )
            else:
                mask |= 1 << number
        masks[kind] = mask
    warnings += missing.values()
    if masks["inheritable"] & ~masks["bounding"]:
        # the kernel's own rule, and its refusal would come as late as start
        names = capabilities.names_of(masks["inheritable"] & ~masks["bounding"])
        why = f"{', '.join(names)} is inheritable but not in the bounding set: operation not permitted"
        raise SpecError("process.capabilities.inheritable", why)
    masks["ambient"] &= masks["inheritable"] & masks["permitted"]
    if masks["effective"] & ~masks["permitted"]:
        names = capabilities.names_of(masks["effective"] & ~masks["permitted"])
        raise SpecError("process.capabilities.effective", f"{', '.join(names)} is effective but not permitted")
    return CapabilitySets(**masks), warnings


class Label(Step):
    """The AppArmor profile or SELinux label that execve changes to."""

    __slots__ = ("kind", "label")

    def __init__(self, kind: str, label: str) -> None:
        self.kind = kind
        self.label = label

    def describe(self) -> str:
        return f"confine by {self.kind} as {self.label}"

    def load(self) -> None:
        import runtime.linux.labels  # noqa: F401

    def apply(self, context: Context) -> None:
        from runtime.linux import labels

        labels.set_on_exec(self.kind, self.label, context.open_proc())


class Groups(Step):
    """Group and supplementary groups."""

    __slots__ = ("additional", "gid", "keep")

    def __init__(self, gid: int, additional: tuple[int, ...], *, keep: bool) -> None:
        self.gid = gid
        self.additional = additional
        self.keep = keep

    def describe(self) -> str:
        extra = "the caller's" if self.keep else list(self.additional) or "no other"
        return f"become group {self.gid}, with {extra} groups"

    def apply(self, context: Context) -> None:
        if not self.keep:
            try:
                posix.setgroups(list(self.additional))
            except PermissionError:
                # "deny" in /proc/self/setgroups: a user namespace made without privilege may drop no group.
                if self.additional or not context.userns:
                    raise
        posix.setresgid(self.gid, self.gid, self.gid)


class Confine(Step):
    """User and capabilities: keep what is needed across the change of user, then shrink to what was asked."""

    __slots__ = ("keep_for_seccomp", "sets", "uid")

    def __init__(self, uid: int, sets: CapabilitySets, *, keep_for_seccomp: bool) -> None:
        self.uid = uid
        self.sets = sets
        self.keep_for_seccomp = keep_for_seccomp

    def describe(self) -> str:
        names = [name.removeprefix("CAP_").lower() for name in capabilities.names_of(self.sets.effective)]
        return f"become user {self.uid} with capabilities {', '.join(names) or 'none'}"

    def apply(self, context: Context) -> None:  # noqa: ARG002
        sets = self.sets
        # Dropping from the bounding set needs CAP_SETPCAP, so it comes first; the bounding set is what execve of a root
        # process is given.
        capabilities.limit_bounding(sets.bounding)
        syscalls.prctl(lib.PR_SET_KEEPCAPS, 1)
        posix.setresuid(self.uid, self.uid, self.uid)
        # Without no_new_privs, loading a filter needs CAP_SYS_ADMIN; execve drops it, being neither in the bounding nor
        # in the ambient set.
        spare = CAP_SYS_ADMIN if self.keep_for_seccomp else 0
        syscalls.capset(sets.effective | spare, sets.permitted | spare, sets.inheritable)
        capabilities.set_ambient(sets.ambient)


class NoNewPrivileges(Step):
    """execve gives nothing that the process does not have: no setuid, no file capabilities."""

    __slots__ = ()

    def describe(self) -> str:
        return "set no_new_privs"

    def apply(self, context: Context) -> None:  # noqa: ARG002
        syscalls.prctl(lib.PR_SET_NO_NEW_PRIVS, 1)


class WorkingDirectory(Step):
    """chdir, made if missing, and proof that it lies inside the root."""

    __slots__ = ("path", "uid")

    def __init__(self, path: str, uid: int) -> None:
        self.path = path
        self.uid = uid

    def describe(self) -> str:
        return f"work in {self.path}"

    def apply(self, context: Context) -> None:  # noqa: ARG002
        try:
            posix.chdir(self.path)
        except FileNotFoundError:
            paths.make_directories(self.path, 0o755)
            posix.chdir(self.path)
        except PermissionError:
            # A directory that only the container's user may enter (NFS with root_squash): tried again as that user.
            return
        verify_working_directory()


def verify_working_directory() -> None:
    """A descriptor of the host leaked to us could make cwd lie outside the root: getcwd cannot name it then."""
    try:
        here = posix.getcwd()
    except FileNotFoundError:
        here = "(unreachable)"
    if not here.startswith("/"):
        raise ValueError("the working directory lies outside the container's root file system")


class Umask(Step):
    """The file mode creation mask."""

    __slots__ = ("mask",)

    def __init__(self, mask: int) -> None:
        self.mask = mask

    def describe(self) -> str:
        return f"set umask {self.mask:04o}"

    def apply(self, context: Context) -> None:  # noqa: ARG002
        posix.umask(self.mask)


def plan_confinement(
    process: Process,
    sets: CapabilitySets,
    *,
    seccomp: bool,
    keep_groups: bool,
    mappings: tuple[tuple[IDMapping, ...], tuple[IDMapping, ...]],
) -> list[Step]:
    """What happens after `start` and before execve, in the one order in which each step still may."""
    check_ids(process, mappings)
    steps: list[Step] = []
    if process.apparmor_profile:
        steps.append(Label("AppArmor", process.apparmor_profile))
    if process.selinux_label:
        steps.append(Label("SELinux", process.selinux_label))
    if process.no_new_privileges:
        steps.append(NoNewPrivileges())
    steps.append(WorkingDirectory(process.cwd, process.uid))
    steps.append(Groups(process.gid, process.additional_gids, keep=keep_groups))
    steps.append(Confine(process.uid, sets, keep_for_seccomp=seccomp and not process.no_new_privileges))
    if process.umask is not None:
        steps.append(Umask(process.umask))
    return steps


def check_ids(process: Process, mappings: tuple[tuple[IDMapping, ...], tuple[IDMapping, ...]]) -> None:
    """In a user namespace only mapped ids exist."""
    for kind, value, ranges in (("uid", process.uid, mappings[0]), ("gid", process.gid, mappings[1])):
        if ranges and not any(m.inside <= value < m.inside + m.size for m in ranges):
            raise SpecError(f"process.user.{kind}", f"{value} is not mapped in linux.{kind}Mappings")
