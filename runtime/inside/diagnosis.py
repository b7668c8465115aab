# SPDX-License-Identifier: Apache-2.0
"""Why execve failed: the kernel says ENOENT for a missing program, interpreter and ELF loader alike."""

import errno
import os
import stat

MACHINES = {
    3: "i386",
    8: "mips",
    20: "ppc",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    62: "x86-64",
    183: "aarch64",
    243: "riscv",
}
OURS = {
    "x86_64": ("x86-64", "i386"),
    "aarch64": ("aarch64", "arm"),
    "ppc64le": ("ppc64",),
    "s390x": ("s390x",),
    "riscv64": ("riscv",),
}


def of_missing(name: str, path: str, error: OSError) -> str:
    """A program that cannot even be looked at."""
    if error.errno == errno.ENOENT and os.path.islink(path):
        return f"exec: {name!r}: a symlink to {os.readlink(path)!r}, which does not exist"
    if error.errno == errno.ENOENT:
        return f"exec: {name!r}: no such file or directory"
    return f"exec: {name!r}: {os.strerror(error.errno or 0).lower()}"


def of_exec(name: str, path: str, number: int) -> str:
    """One sentence for a failed execve of path."""
    reason = os.strerror(number).lower()
    cause = ""
    try:
        cause = _cause(path, number)
    except (OSError, ValueError, IndexError):
        pass
    return f"exec: {name!r}: {cause or reason}"


def _cause(path: str, number: int) -> str:
    if number == errno.E2BIG:
        return "argument list too long: all together exceed a quarter of RLIMIT_STACK, or one exceeds 128 KiB"
    if number == errno.ENOMEM:
        return "cannot allocate memory: the memory limit of the container is too small even to start the program"
    if number == errno.EAGAIN:
        return "resource temporarily unavailable: RLIMIT_NPROC of the user is exceeded"
    if number == errno.ETXTBSY:
        return "text file busy: the program is open for writing"
    facts = os.stat(path)
    if stat.S_ISDIR(facts.st_mode):
        return "is a directory"
    if number in (errno.EACCES, errno.EPERM):
        return _no_permission(path, facts, number)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        head = os.read(fd, 4096)
        if head[:2] == b"#!":
            return _script(head, number)
        if head[:4] == b"\x7fELF":
            return _elf(fd, head, number)
    finally:
        os.close(fd)
    if not head:
        return "exec format error: the file is empty"
    if number == errno.ENOEXEC:
        return "exec format error: neither an ELF program nor a script that begins with #! and its interpreter"
    return ""


def _no_permission(path: str, facts: os.stat_result, number: int) -> str:
    # f_flag of statvfs shows the options of the mount: ST_NOEXEC is 8.
    if os.statvfs(path).f_flag & 8:
        return "permission denied: the file system that it lies on is mounted noexec"
    if not facts.st_mode & 0o111:
        return "permission denied: the file has no execute bit (chmod +x)"
    if not os.access(path, os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        return f"permission denied: user {os.geteuid()} may not execute it (mode {stat.S_IMODE(facts.st_mode):04o})"
    if number == errno.EPERM:
        return "operation not permitted: seccomp or a security module forbids execve here"
    return ""


def _script(head: bytes, number: int) -> str:
    line = head.split(b"\n", 1)[0]
    text = line[2:].strip(b" \t").decode(errors="replace")
    if line.endswith(b"\r"):
        return f"its first line ends in CRLF, so the kernel looks for {text!r}: save the script with Unix line ends"
    words = text.split(None, 1)
    if not words:
        return "exec format error: no interpreter after #!"
    interpreter = words[0]
    if number == errno.ENOENT:
        if not os.path.exists(interpreter):
            return f"its interpreter {interpreter!r} (first line of the script) does not exist in the container"
        return f"the interpreter {interpreter!r} of the script lacks its own loader"
    if number in (errno.EACCES, errno.EPERM):
        return f"permission denied for its interpreter {interpreter!r}"
    return ""


def _elf(fd: int, head: bytes, number: int) -> str:
    order = "big" if head[5] == 2 else "little"
    wide = head[4] == 2
    machine = int.from_bytes(head[18:20], order)  # type: ignore[arg-type]
    name = MACHINES.get(machine, f"machine {machine}")
    ours = os.uname().machine
    if ours in OURS and name not in OURS[ours]:
        return f"exec format error: built for {name}, this machine is {ours} (pull the image for the right platform)"
    loader = _loader(fd, head, order, wide=wide)
    if number == errno.ENOENT and loader and not os.path.exists(loader):
        return f"its ELF loader {loader!r} does not exist in the container (built for another libc?)"
    if number == errno.ENOEXEC:
        return "exec format error: the ELF file is damaged, or of a kind that this kernel does not run"
    return ""


def _loader(fd: int, head: bytes, order: str, *, wide: bool) -> str:
    """The PT_INTERP of an ELF file."""

    def number(data: bytes, at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]

    table = number(head, 32, 8) if wide else number(head, 28, 4)
    size, count = (number(head, 54, 2), number(head, 56, 2)) if wide else (number(head, 42, 2), number(head, 44, 2))
    data = os.pread(fd, size * min(count, 64), table)
    for index in range(min(count, 64)):
        entry = data[index * size : (index + 1) * size]
        if number(entry, 0, 4) != 3:
            continue
        offset, length = (
            (number(entry, 8, 8), number(entry, 32, 8)) if wide else (number(entry, 4, 4), number(entry, 16, 4))
        )
        return os.pread(fd, min(length, 4096), offset).rstrip(b"\0").decode(errors="replace")
    return ""
