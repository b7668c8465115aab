# SPDX-License-Identifier: Apache-2.0
"""AppArmor and SELinux: whether they are on, and the label that the next execve changes to."""

import errno
import os

from runtime.linux import syscalls
from runtime.linux._core import lib


def enabled() -> list[str]:
    """The names of the label-based security modules that are on."""
    try:
        with open("/sys/kernel/security/lsm") as file:
            names = file.read().strip().split(",")
    except OSError:
        names = []
        if os.path.isdir("/sys/fs/selinux/booleans"):
            names.append("selinux")
        try:
            with open("/sys/module/apparmor/parameters/enabled") as file:
                names += ["apparmor"] if file.read(1) == "Y" else []
        except OSError:
            pass
    return [name for name in names if name in ("apparmor", "selinux")]


def set_on_exec(kind: str, label: str, procfs: int) -> None:
    """Ask for a label at the next execve, through a procfs that is surely one: a fake one would swallow the request."""
    pid = os.getpid()
    if kind == "AppArmor":
        places = [f"{pid}/attr/apparmor/exec", f"{pid}/attr/exec"]
        text = f"exec {label}"
    else:
        places = [f"{pid}/attr/exec"]
        text = label
    for place in places:
        try:
            fd = syscalls.openat2(
                procfs, place, os.O_WRONLY, resolve=lib.RESOLVE_BENEATH | lib.RESOLVE_NO_SYMLINKS | lib.RESOLVE_NO_XDEV
            )
        except syscalls.KernelError as error:
            if error.errno == errno.ENOENT:
                continue
            raise
        try:
            os.write(fd, text.encode())
        except OSError as error:
            raise _explained(kind, label, error.errno or 0) from None
        finally:
            os.close(fd)
        return
    raise syscalls.KernelError(errno.EOPNOTSUPP, "write", (places[-1], text), f"this kernel runs without {kind}")


def _explained(kind: str, label: str, number: int) -> syscalls.KernelError:
    reasons = {
        errno.ENOENT: f"the {kind} profile {label!r} is not loaded",
        errno.EINVAL: f"this kernel runs without {kind}, or {label!r} is no valid label",
        errno.EACCES: f"{kind} does not allow us to change to {label!r}",
    }
    return syscalls.KernelError(number, "write", ("/proc/self/attr/exec", label), reasons.get(number))
