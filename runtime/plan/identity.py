# SPDX-License-Identifier: Apache-2.0
"""Who and where the process is, as steps: names, sysctls, limits, scheduling, user, working directory."""

from __future__ import annotations

import errno
import posix

from runtime.linux import syscalls
from runtime.linux._core import lib
from runtime.linux.steps import Step
from runtime.spec.parse import RLIMITS, cpu_numbers
from runtime.spec.reader import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from runtime.plan.context import Context
    from runtime.spec.model import Config, IOPriority, MemoryPolicy, Process, Rlimit, Scheduler

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KEYRING_LABEL = "/proc/thread-self/attr/keycreate"


class HostName(Step):
    """The host name of the UTS namespace."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def describe(self) -> str:
        return f"set the host name to {self.name}"

    def apply(self, context: Context) -> None:  # noqa: ARG002
        syscalls.sethostname(self.name)


class DomainName(Step):
    """The NIS domain name of the UTS namespace."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def describe(self) -> str:
        return f"set the domain name to {self.name}"

    def apply(self, context: Context) -> None:  # noqa: ARG002
        syscalls.setdomainname(self.name)


class Sysctl(Step):
    """One kernel parameter of a namespace, written through our own procfs."""

    __slots__ = ("key", "value")

    def __init__(self, key: str, value: str) -> None:
        self.key = key
        self.value = value

    def describe(self) -> str:
        return f"set sysctl {self.key} = {self.value}"

    def apply(self, context: Context) -> None:
        context.write_proc("sys/" + sysctl_path(self.key), self.value)


def sysctl_path(key: str) -> str:
    """net.ipv4.conf.eth0/1.x becomes net/ipv4/conf/eth0.1/x: as in sysctl(8), a slash stands for a dot in a name."""
    first = min((key.index(char) for char in "./" if char in key), default=0)
    if key[first : first + 1] == "/":
        return key
    return key.replace(".", "\0").replace("/", ".").replace("\0", "/")


IPC_SYSCTLS = (
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
)


def check_sysctl(config: Config, key: str) -> None:
    """Only what a namespace of the container owns may be set; the rest would change the host."""
    where = f"linux.sysctl.{key}"
    plain = sysctl_path(key).replace("/", ".")
    if ".." in plain or not plain:
        raise SpecError(where, "not the name of a kernel parameter")
    if plain in IPC_SYSCTLS or plain.startswith("fs.mqueue."):
        _need(config, "ipc", where)
    elif plain.startswith("net."):
        _need(config, "net", where)
    elif plain in ("kernel.domainname", "kernel.hostname"):
        _need(config, "uts", where)
        if plain == "kernel.hostname":
            raise SpecError(where, "use hostname for that")
    elif plain.startswith("user.") and config.namespace("user"):
        pass
    else:
        raise SpecError(where, "not a parameter of a namespace: setting it would change the host")


def _need(config: Config, kind: str, where: str) -> None:
    namespace = config.namespace(kind)
    names = {"net": "network"}
    if namespace is None:
        raise SpecError(where, f"needs a {names.get(kind, kind)} namespace of the container's own in linux.namespaces")
    if namespace.path:
        try:
            same = posix.stat(namespace.path).st_ino == posix.stat(f"/proc/self/ns/{kind}").st_ino
        except OSError:
            return
        if same:
            raise SpecError(
                where,
                f"{namespace.path} is the host's {names.get(kind, kind)} namespace: setting it would change the host",
            )


class SetRlimit(Step):
    """One resource limit; above our own hard limit it needs CAP_SYS_RESOURCE, which not every host gives its root."""

    __slots__ = ("limit",)

    def __init__(self, limit: Rlimit) -> None:
        self.limit = limit

    def describe(self) -> str:
        return f"limit {self.limit.kind} to {self.limit.soft} (hard {self.limit.hard})"

    def apply(self, context: Context) -> None:
        number = RLIMITS[self.limit.kind]
        try:
            syscalls.setrlimit(number, self.limit.soft, self.limit.hard)
        except syscalls.KernelError as error:
            if error.errno != errno.EPERM:
                raise
            ceiling = syscalls.getrlimit(number)[1]
            hard = min(self.limit.hard, ceiling)
            syscalls.setrlimit(number, min(self.limit.soft, hard), hard)
            context.warn(
                f"process.rlimits: {self.limit.kind} is limited to {hard} instead of {self.limit.hard}: "
                "to raise a hard limit needs CAP_SYS_RESOURCE, which this host does not give"
            )


class SetScheduler(Step):
    """Scheduling policy."""

    __slots__ = ("scheduler",)
    POLICIES = {  # noqa: RUF012
        "SCHED_OTHER": 0,
        "SCHED_FIFO": 1,
        "SCHED_RR": 2,
        "SCHED_BATCH": 3,
        "SCHED_ISO": 4,
        "SCHED_IDLE": 5,
        "SCHED_DEADLINE": 6,
    }
    FLAGS = {  # noqa: RUF012
        "SCHED_FLAG_RESET_ON_FORK": 1,
        "SCHED_FLAG_RECLAIM": 2,
        "SCHED_FLAG_DL_OVERRUN": 4,
        "SCHED_FLAG_KEEP_POLICY": 8,
        "SCHED_FLAG_KEEP_PARAMS": 16,
        "SCHED_FLAG_UTIL_CLAMP_MIN": 32,
        "SCHED_FLAG_UTIL_CLAMP_MAX": 64,
    }

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        for flag in scheduler.flags:
            if flag not in self.FLAGS:
                raise SpecError(
                    "process.scheduler.flags", f"unknown flag {flag!r}; expected one of {', '.join(self.FLAGS)}"
                )

    def describe(self) -> str:
        return f"schedule as {self.scheduler.policy}, nice {self.scheduler.nice}, priority {self.scheduler.priority}"

    def apply(self, context: Context) -> None:  # noqa: ARG002
        s = self.scheduler
        flags = sum(self.FLAGS[flag] for flag in s.flags)
        syscalls.sched_setattr(
            self.POLICIES[s.policy],
            flags=flags,
            nice=s.nice,
            priority=s.priority,
            runtime=s.runtime,
            deadline=s.deadline,
            period=s.period,
        )


class SetIOPriority(Step):
    """I/O class and priority."""

    __slots__ = ("priority",)
    CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}  # noqa: RUF012

    def __init__(self, priority: IOPriority) -> None:
        self.priority = priority

    def describe(self) -> str:
        return f"set I/O priority {self.priority.klass} {self.priority.priority}"

    def apply(self, context: Context) -> None:  # noqa: ARG002
        syscalls.ioprio_set(self.CLASSES[self.priority.klass] << 13 | self.priority.priority)


class SetMemoryPolicy(Step):
    """NUMA memory policy."""

    __slots__ = ("policy",)

    def __init__(self, policy: MemoryPolicy) -> None:
        self.policy = policy

    def describe(self) -> str:
        return f"set memory policy {self.policy.mode} on nodes {list(self.policy.nodes)}"

    def apply(self, context: Context) -> None:  # noqa: ARG002
        mode = getattr(lib, self.policy.mode)
        for flag in self.policy.flags:
            mode |= getattr(lib, flag)
        syscalls.set_mempolicy(mode, self.policy.nodes)


class SetPersonality(Step):
    """Execution domain."""

    __slots__ = ("domain",)

    def __init__(self, domain: str) -> None:
        self.domain = domain

    def describe(self) -> str:
        return f"set personality {self.domain}"

    def apply(self, context: Context) -> None:  # noqa: ARG002
        syscalls.personality(8 if self.domain == "LINUX32" else 0)


class SetAffinity(Step):
    """The CPUs on which the process may run."""

    __slots__ = ("cpus",)

    def __init__(self, cpus: str) -> None:
        self.cpus = cpus

    def describe(self) -> str:
        mask = sum(1 << number for number in cpu_numbers(self.cpus))
        return f"run on CPUs {self.cpus} (affinity: {mask:#x})"

    def apply(self, context: Context) -> None:  # noqa: ARG002
        posix.sched_setaffinity(0, cpu_numbers(self.cpus))


class OOMScore(Step):
    """How readily the OOM killer takes the process; to lower it needs CAP_SYS_RESOURCE."""

    __slots__ = ("score",)

    def __init__(self, score: int) -> None:
        self.score = score

    def describe(self) -> str:
        return f"set oom_score_adj to {self.score}"

    def apply(self, context: Context) -> None:
        path = f"{posix.getpid()}/oom_score_adj"
        try:
            context.write_proc(path, str(self.score))
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM):
                raise
            if own_oom_score() == self.score:
                return
            context.warn(
                f"process.oomScoreAdj: cannot be lowered to {self.score}: "
                "that needs CAP_SYS_RESOURCE, which this host does not give"
            )


OWN_OOM_SCORE = "/proc/self/oom_score_adj"


def own_oom_score() -> int:
    """What we have, and our children will."""
    with open(OWN_OOM_SCORE) as file:
        return int(file.read())


def take_oom_score(steps: Iterable[Step]) -> None:
    """For a process whose children live in a user namespace: their file belongs to the host's root, and what they
    inherit is already theirs. What is refused here is told by the step."""
    for step in steps:
        if isinstance(step, OOMScore):
            try:
                with open(OWN_OOM_SCORE, "w") as file:
                    file.write(str(step.score))
            except PermissionError:
                return


def plan_names(config: Config) -> list[Step]:
    """Host name, domain name and sysctls."""
    steps: list[Step] = []
    for name, field in ((config.hostname, "hostname"), (config.domainname, "domainname")):
        if name and config.namespace("uts") is None:
            raise SpecError(field, "needs a uts namespace of the container's own in linux.namespaces")
        if len(name.encode()) > 64:
            raise SpecError(field, "at most 64 bytes")
    steps += [HostName(config.hostname)] if config.hostname else []
    steps += [DomainName(config.domainname)] if config.domainname else []
    for key, value in config.linux.sysctl.items():
        check_sysctl(config, key)
        steps.append(Sysctl(key, value))
    return steps


def plan_process(process: Process) -> list[Step]:
    """Limits and scheduling of the process itself."""
    steps: list[Step] = []
    if process.oom_score_adj is not None:
        steps.append(OOMScore(process.oom_score_adj))
    steps += [SetRlimit(limit) for limit in process.rlimits]
    if process.scheduler is not None:
        steps.append(SetScheduler(process.scheduler))
    if process.io_priority is not None:
        steps.append(SetIOPriority(process.io_priority))
    return steps
