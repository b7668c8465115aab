# SPDX-License-Identifier: Apache-2.0
"""From what was seen of a start or an end to its true cause: pure but for looks into the container's own files.

execve(2) says "no such file" for four different reasons; which one it was stands in the files: the program itself, the
interpreter of its first line, or the loader that it was linked for.
"""

from __future__ import annotations

import os
import stat

from cri.hand.programs import Program, find_program, interpreter_of
from runtime.linux.quick_dataclasses import dataclass, field

_ENOENT = "no such file or directory"
Cause = tuple[str, str, str]  # a word for scripts, the sentence, what to try


@dataclass(frozen=True, slots=True)
class Facts:
    """A start that failed."""

    sentence: str
    argv: list[str]
    rootfs: str
    working_dir: str = "/"


@dataclass(frozen=True, slots=True)
class Exit:
    """An end."""

    code: int
    signal: int | None
    argv: list[str] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)
    seconds: float = 0.0
    tty: bool = False


def signal_name(number: int | None) -> str:
    """SIGKILL for 9."""
    from signal import Signals

    try:
        return Signals(number or 0).name
    except ValueError:
        return f"signal {number}"


# starts


def of_start(facts: Facts) -> Cause:
    """Why the program never ran."""
    lower = facts.sentence.lower()
    program = facts.argv[0] if facts.argv else ""
    if "exec" in lower:
        return _of_execve(facts, program, lower)
    for words, cause in _STARTS:
        if all(word in lower for word in words):
            word, sentence, hint = cause
            return word, sentence.format(program=program, said=facts.sentence), hint
    return "start", facts.sentence, ""


_STARTS: tuple[tuple[tuple[str, ...], Cause], ...] = (
    (
        ("cannot work in",),
        ("workdir", "its working directory cannot be entered: {said}", "make it in the image, or another -w"),
    ),
    (
        ("cwd",),
        ("workdir", "its working directory cannot be entered: {said}", "make it in the image, or another --workdir"),
    ),
    (("chdir",), ("workdir", "its working directory cannot be entered: {said}", "make it in the image, or another -w")),
    (("no space left",), ("disk-full", "the disk is full: {said}", "ketch image prune, or make room")),
    (("too many", "open files"), ("nofile", "this machine ran out of open files: {said}", "raise fs.file-max")),
    (
        ("capabilit",),
        ("capability", "a capability cannot be given here: {said}", "leave it out, or run on a host that has it"),
    ),
    (("apparmor",), ("apparmor", "{said}", "load the profile, or --security-opt apparmor=unconfined")),
    (("seccomp",), ("seccomp", "{said}", "mend the profile, or --security-opt seccomp=unconfined")),
    (("sysctl",), ("sysctl", "a kernel setting cannot be made: {said}", "leave it out")),
    (
        ("cannot mount",),
        ("mount", "a mount cannot be made: {said}", "does the source exist, and is it of the same kind?"),
    ),
    (("mount", "denied"), ("mount", "a mount cannot be made: {said}", "")),
    (("rlimit",), ("ulimit", "a resource limit cannot be set: {said}", "a lower --ulimit")),
    (("memory", "limit"), ("memory-limit", "its memory limit cannot be set: {said}", "a larger --memory")),
    (("cpuset",), ("cpuset", "its processors cannot be chosen: {said}", "which there are: nproc")),
    (("cgroup",), ("cgroup", "its cgroup cannot be made: {said}", "ketch doctor")),
    (("hostname",), ("hostname", "its host name cannot be set: {said}", "a shorter one")),
    (("device",), ("device", "a device cannot be given: {said}", "is it there?")),
)


def _of_execve(facts: Facts, program: str, lower: str) -> Cause:
    for word, sign, sentence, hint in _TOLD:
        if sign in lower:
            said = facts.sentence.partition(": ")[2] or facts.sentence
            return word, sentence.format(program=program, said=said.removeprefix(f"'{program}': ")), hint
    found = find_program(facts.rootfs, program, facts.working_dir, _path_in(facts.sentence))
    if "permission denied" in lower or "is a directory" in lower:
        return _not_allowed(program, found)
    if "exec format error" in lower:
        return _wrong_format(program, found)
    if found is None:
        return _no_such_program(facts, program)
    interpreter = interpreter_of(found.head)
    if interpreter and find_program(facts.rootfs, interpreter, "/", "") is None:
        if found.head.startswith(b"#!"):
            hint = f"install {os.path.basename(interpreter)} in the image, or change the first line"
            if interpreter.endswith("\r"):
                interpreter, hint = interpreter.rstrip("\r") + "\\r", "the script has Windows line ends: dos2unix it"
            return "interpreter", f"{program} is a script for {interpreter}, which is not in the image", hint
        hint = "an image with its C library (glibc or musl), or a statically linked program"
        return "loader", f"{program} is there, but the loader it was linked for is not: {interpreter}", hint
    return "exec", f"{program} cannot be executed: {facts.sentence}", ""


# What our own runtime has already found out, from inside, where volumes are mounted too.
_TOLD = (
    (
        "interpreter",
        "ends in crlf",
        "{program} is a script with Windows line ends, so its interpreter is not found",
        "dos2unix it",
    ),
    ("no-shebang", "neither an elf program nor a script", "{program} is no program and has no #! line", "#!/bin/sh"),
    (
        "interpreter",
        "its interpreter",
        "{program} cannot run: {said}",
        "install it in the image, or mend the first line",
    ),
    ("loader", "elf loader", "{program} cannot run: {said}", "an image with its C library, or a static program"),
    ("empty", "the file is empty", "{program} is an empty file", "was it copied whole?"),
    ("architecture", "built for", "{program} was made for another machine: {said}", "pull the image with --platform"),
    ("not-executable", "no execute bit", "{program} is not executable", "chmod +x"),
)


def _path_in(sentence: str) -> str:
    """The $PATH that the runtime says it searched."""
    _, _, rest = sentence.partition("$PATH (")
    return rest.partition(")")[0]


def _no_such_program(facts: Facts, program: str) -> Cause:
    if " " in program.strip():
        hint = f"write the words apart, or: sh -c '{program}'"
        return "quoting", f"there is no program named {program!r}: a whole command line was given as one word", hint
    if program.startswith("-"):
        return (
            "no-program",
            f"{program!r} was taken for the command: options of ketch go before the image",
            "before the image",
        )
    if "/" in program:
        return "no-program", f"there is no {program} in the image", "is the path right, and is a volume covering it?"
    near = _alike(facts.rootfs, program)
    hint = f"did you mean {near!r}?" if near else "install it in the image, or give its path"
    return "no-program", f"there is no program {program!r} in the $PATH of the image", hint


def _alike(rootfs: str, program: str) -> str:
    from difflib import get_close_matches

    names: set[str] = set()
    for folder in ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin"):
        try:
            names |= set(os.listdir(f"{rootfs}/{folder}"))
        except OSError:
            continue
    near = get_close_matches(program, names, n=1, cutoff=0.7)
    return near[0] if near else ""


def _not_allowed(program: str, found: Program | None) -> Cause:
    if found is not None and stat.S_ISDIR(found.mode):
        return "directory", f"{program} is a folder, not a program", "name the program inside it"
    if found is not None and not found.mode & 0o111:
        return (
            "not-executable",
            f"{program} is not executable (mode {stat.S_IMODE(found.mode):04o})",
            f"chmod +x {program}",
        )
    return (
        "denied",
        f"{program} may not be executed by this user, or its file system is noexec",
        "another --user, or mount without noexec",
    )


def _wrong_format(program: str, found: Program | None) -> Cause:
    if found is None:
        return "format", f"{program} is not in a format that this kernel runs", ""
    if not found.head:
        return "empty", f"{program} is an empty file", "was it copied whole?"
    if found.head.startswith(b"\x7fELF"):
        other = _MACHINES.get(int.from_bytes(found.head[18:20], "little"), "another kind of machine")
        here = os.uname().machine
        if other != here:
            return (
                "architecture",
                f"{program} was built for {other}, and this machine is {here}",
                "pull the image with --platform",
            )
        return "format", f"{program} is a damaged program file", "was it copied whole?"
    return (
        "no-shebang",
        f"{program} is a script without a first line that names its interpreter",
        "begin it with #!/bin/sh",
    )


_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64", 21: "ppc64", 22: "s390x"}


# ends


def of_exit(end: Exit) -> Cause:
    """Why a program that ran has ended."""
    program = end.argv[0] if end.argv else "its program"
    if end.code == 0:
        return _finished(end, program)
    if end.signal:
        return _killed(end, program)
    told = "\n".join(end.printed).lower()
    for word, sign, sentence, hint in _PRINTED:
        if sign in told:
            line = next((text for text in reversed(end.printed) if sign in text.lower()), "")
            return word, sentence.format(program=program, line=line.strip()), hint
    if end.code in (126, 127) and program.rpartition("/")[2] in ("sh", "bash", "ash", "dash"):
        what = "could not find" if end.code == 127 else "could not execute"
        return "shell", f"the shell {what} a command of its script", "the lines that it printed name it"
    if end.code > 128:
        name = signal_name(end.code - 128)
        return "signal-code", f"{program} ended with {end.code}: a program under it was ended by {name}", ""
    last = f": {end.printed[-1].strip()}" if end.printed else ", and printed nothing"
    return "failed", f"{program} itself ended with exit code {end.code}{last}", ""


def _finished(end: Exit, program: str) -> Cause:
    if (
        program.rpartition("/")[2] in ("sh", "bash", "ash", "dash", "python3", "python")
        and len(end.argv) == 1
        and end.seconds < 5
    ):
        hint = "-it gives it a terminal; or name a command that stays"
        return "no-input", f"{program} found no input to read, and ended as it should", hint
    hint = (
        "a container lives as long as its first process; servers must stay in the foreground" if end.seconds < 5 else ""
    )
    return "finished", f"{program} has finished its work: exit code 0", hint


_SIGNALS = {
    4: (
        "illegal",
        "{program} used an instruction that this processor does not have (SIGILL)",
        "an image for this processor",
    ),
    6: ("abort", "{program} gave up by itself (SIGABRT)", "the lines that it printed say why"),
    7: ("bus", "{program} read memory that is not there (SIGBUS)", "a full /dev/shm does this: --shm-size"),
    8: ("arithmetic", "{program} divided by zero (SIGFPE)", ""),
    9: (
        "killed",
        "it was killed from outside (SIGKILL): by ketch stop, rm or kill, or by somebody on this machine",
        "",
    ),
    11: ("crash", "{program} crashed (SIGSEGV)", "a fault of the program; its core would tell"),
    2: ("interrupted", "it was interrupted from a keyboard (SIGINT)", ""),
    15: ("stopped", "it was asked to end, and ended (SIGTERM): by ketch stop, or by somebody on this machine", ""),
    31: (
        "seccomp",
        "{program} made a system call that its seccomp profile forbids (SIGSYS)",
        "--security-opt seccomp=unconfined to see whether it is that",
    ),
    24: ("cpu-limit", "{program} used up its processor time (SIGXCPU)", "a larger --ulimit cpu"),
    25: ("file-limit", "{program} wrote a file larger than its limit (SIGXFSZ)", "a larger --ulimit fsize"),
    13: ("pipe", "{program} wrote into a pipe that nobody reads (SIGPIPE)", ""),
}


def _killed(end: Exit, program: str) -> Cause:
    word, sentence, hint = _SIGNALS.get(
        end.signal or 0, ("signal", f"{{program}} was ended by {signal_name(end.signal)}", "")
    )
    return word, sentence.format(program=program), hint


# What programs print when it is the container that they miss something in: (cause, sign, sentence, hint).
_PRINTED = (
    ("privilege", "are you root?", "{program} was not allowed to: {line}", "--cap-add SYS_ADMIN, or --privileged"),
    (
        "read-only",
        "read-only file system",
        "{program} could not write: {line}",
        "a volume or --tmpfs where it writes, or no --read-only",
    ),
    (
        "port-taken",
        "address already in use",
        "{program} could not have its port: {line}",
        "another process of the same network has it",
    ),
    (
        "privilege",
        "operation not permitted",
        "{program} was not allowed to: {line}",
        "a capability: --cap-add; which, the line may tell",
    ),
    (
        "permission",
        "permission denied",
        "{program} was not allowed to: {line}",
        "another --user, or other owners of the files",
    ),
    (
        "disk-full",
        "no space left on device",
        "{program} found no room: {line}",
        "a larger volume, --tmpfs size or --shm-size",
    ),
    (
        "processes",
        "resource temporarily unavailable",
        "{program} could not make a process or thread: {line}",
        "a larger --pids-limit or --ulimit nproc",
    ),
    ("processes", "cannot fork", "{program} could not make a process: {line}", "a larger --pids-limit"),
    ("files", "too many open files", "{program} may not open more files: {line}", "a larger --ulimit nofile"),
    ("memory", "cannot allocate memory", "{program} got no memory: {line}", "a larger --memory"),
    ("memory", "out of memory", "{program} ran out of memory: {line}", "a larger --memory"),
    (
        "name",
        "temporary failure in name resolution",
        "{program} could not look up a name: {line}",
        "--dns, or another --network",
    ),
    ("name", "bad address", "{program} could not look up a name: {line}", "--dns, or another --network"),
    (
        "name",
        "name or service not known",
        "{program} could not look up a name: {line}",
        "is the name right, and on the same network?",
    ),
    ("unreachable", "network is unreachable", "{program} has no way there: {line}", "another --network than none"),
    ("unreachable", "no route to host", "{program} has no way there: {line}", "is the address right?"),
    ("refused", "connection refused", "{program} was refused: {line}", "does the other side listen already?"),
    (
        "missing-library",
        "error while loading shared libraries",
        "{program} lacks a library: {line}",
        "install it in the image",
    ),
    ("missing-library", "error loading shared library", "{program} lacks a library: {line}", "install it in the image"),
    (
        "missing-file",
        "no such file or directory",
        "{program} did not find a file: {line}",
        "a volume that is missing, or a wrong path",
    ),
    (
        "missing-file",
        "can't open",
        "{program} could not open a file: {line}",
        "a volume that is missing, or a wrong path",
    ),
    ("not-found", "not found", "{program} did not find what it needs: {line}", "install it in the image"),
)
