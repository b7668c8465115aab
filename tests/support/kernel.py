# SPDX-License-Identifier: Apache-2.0
"""The few system calls that the test harness makes itself, so that it does not stand on the code it tests."""

import errno
import os
import struct
from typing import Any

import cffi

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_RDONLY = 1
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

_ffi = cffi.FFI()
_ffi.cdef(
    """
    int unshare(int flags);
    int mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data);
    int umount2(const char *target, int flags);
    int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
    int setns(int fd, int kind);
    struct sock_filter { unsigned short code; unsigned char jt, jf; unsigned int k; };
    struct sock_fprog { unsigned short len; struct sock_filter *filter; };
    long ptrace(long request, int pid, void *address, void *data);
    """
)
_libc: Any = _ffi.dlopen(None)


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(_ffi.errno, f"{what}: {os.strerror(_ffi.errno)}")


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, kind: int = 0) -> None:
    _check(_libc.setns(fd, kind), f"setns({fd})")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    result = _libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode() or _ffi.NULL)
    _check(result, f"mount({source!r}, {target!r}, {kind!r}, {flags:#x}, {data!r})")


def umount(target: str, flags: int = 2) -> None:
    """Lazily unless told otherwise: MNT_DETACH is 2."""
    _check(_libc.umount2(target.encode(), flags), f"umount2({target!r})")


def prctl(option: int, argument: int, more: int = 0) -> None:
    _check(_libc.prctl(option, argument, more, 0, 0), f"prctl({option})")


def become_an_older_kernel(numbers: list[int]) -> None:
    """From here on, for this process and its descendants, these system calls do not exist: ENOSYS (seccomp)."""
    load_number, equal, give = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    refuse, allow = 0x00050000 | errno.ENOSYS, 0x7FFF0000
    code = [(load_number, 0, 0, 0)]
    code += [(equal, len(numbers) - index, 0, number) for index, number in enumerate(numbers)]
    code += [(give, 0, 0, allow), (give, 0, 0, refuse)]
    filters = _ffi.new("struct sock_filter[]", code)
    program = _ffi.new("struct sock_fprog *", {"len": len(code), "filter": filters})
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_SECCOMP, 2, int(_ffi.cast("uintptr_t", program)))


PTRACE_CONT = 7
PTRACE_DETACH = 17
PTRACE_SYSCALL = 24
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
PTRACE_LISTEN = 0x4208
_PTRACE_GETEVENTMSG = 0x4201
_PTRACE_GET_SYSCALL_INFO = 0x420E
_SYSCALL_INFO_ENTRY = 1


def ptrace(request: int, pid: int, address: int, data: int) -> None:
    _check(_libc.ptrace(request, pid, _ffi.cast("void *", address), _ffi.cast("void *", data)), f"ptrace({request:#x})")


def ptrace_event_message(pid: int) -> int:
    """What the kernel says with a fork, vfork or clone event: the id of the new task."""
    message = _ffi.new("unsigned long *")
    _check(_libc.ptrace(_PTRACE_GETEVENTMSG, pid, _ffi.NULL, message), "ptrace(GETEVENTMSG)")
    return int(message[0])


def system_call_entered(pid: int) -> int | None:
    """The number of the call that a traced thread is about to make; None if it is stopped anywhere else."""
    buffer = _ffi.new("char[88]")
    if _libc.ptrace(_PTRACE_GET_SYSCALL_INFO, pid, _ffi.cast("void *", 88), buffer) < 0:
        return None
    raw = bytes(_ffi.buffer(buffer))
    return struct.unpack_from("Q", raw, 24)[0] if raw[0] == _SYSCALL_INFO_ENTRY else None
