# SPDX-License-Identifier: Apache-2.0
"""The floor against the real kernel: what each wrapper did is read from /proc or asked of another program."""

import errno
import fcntl
import os
import pickle
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.linux import beneath, capabilities, fdpass, mountinfo, mounts, namespaces, processes, steps, syscalls
from runtime.linux._core import lib
from runtime.plan import device_filter
from runtime.spec.model import DeviceRule
from tests.support import crash, kernel
from tests.support.needs import needs


def in_a_child(work: Callable[[], object]) -> None:
    """For what changes the process itself; an exception there is a failure here."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as e:
            os.write(2, f"{type(e).__name__}: {e}\n".encode())
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def status(field: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{field}:"))


def options(path: Path) -> set[str]:
    return set(
        subprocess.check_output(["findmnt", "-nro", "OPTIONS", "--mountpoint", path], text=True).strip().split(",")
    )


# --- mounts ---


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two directories beneath a mount of their own, taken down with everything on it."""
    top = tmp_path / "place"
    top.mkdir()
    syscalls.mount("place", str(top), "tmpfs", 0, "size=1m")
    for name in ("from", "to"):
        (top / name).mkdir()
    (top / "from/file").write_text("content")
    yield top  # type: ignore[misc]
    mounts.detach_all_beneath(str(top))


def test_a_detached_clone_is_attached_with_attributes_that_it_got_in_between(place: Path) -> None:
    tree = syscalls.open_tree(str(place / "from"), lib.OPEN_TREE_CLONE)
    assert mountinfo.beneath(str(place / "to")) == []
    syscalls.mount_setattr(tree, set_=lib.MOUNT_ATTR_RDONLY | lib.MOUNT_ATTR_NOSUID)
    syscalls.move_mount(tree, str(place / "to"))
    os.close(tree)
    assert (place / "to/file").read_text() == "content"
    assert {"ro", "nosuid"} <= options(place / "to")
    with pytest.raises(OSError, match="Read-only file system"):
        (place / "to/file").write_text("x")


def test_a_file_system_is_made_and_changed_by_its_context(place: Path) -> None:
    context = syscalls.fsopen("tmpfs")
    syscalls.fsconfig_string(context, "size", "2m")
    syscalls.fsconfig_create(context)
    mount = syscalls.fsmount(context, lib.MOUNT_ATTR_NOEXEC)
    syscalls.move_mount(mount, str(place / "to"))
    os.close(mount)
    os.close(context)
    assert {"size=2048k", "noexec"} <= options(place / "to")
    context = syscalls.fspick(str(place / "to"))
    syscalls.fsconfig_flag(context, "ro")
    syscalls.fsconfig_reconfigure(context)
    os.close(context)
    assert os.statvfs(place / "to").f_flag & os.ST_RDONLY


def test_a_mount_that_cannot_be_says_what_the_file_system_thought_of_it(place: Path) -> None:
    with pytest.raises(syscalls.KernelError, match="nonsense"):
        mounts.make("tmpfs", [("nonsense", "1")])
    with pytest.raises(syscalls.KernelError, match=r"^umount2\(.*/to', 0\): Invalid argument$"):
        syscalls.umount(str(place / "to"))


def test_the_kernel_lists_mounts_and_tells_of_each(place: Path) -> None:
    try:
        ids = syscalls.listmount()
    except syscalls.KernelError as missing:
        pytest.skip(str(missing))
    assert ("tmpfs", str(place)) in [syscalls.statmount(number) for number in ids]


def test_a_root_is_pivoted(place: Path) -> None:
    def pivot() -> None:
        syscalls.unshare(lib.CLONE_NEWNS)
        os.chdir(place)
        syscalls.pivot_root(".", ".")
        syscalls.umount(".", lib.MNT_DETACH)
        assert sorted(os.listdir("/")) == ["from", "to"]

    in_a_child(pivot)


def test_nothing_leads_out_from_beneath_a_root(place: Path) -> None:
    (place / "from/absolute").symlink_to("/etc")
    (place / "from/up").symlink_to("../..")
    root = os.open(place / "from", os.O_PATH)
    for name in ("absolute/passwd", "up/to", "../to", "/etc/passwd"):
        with pytest.raises(OSError, match="openat2"):
            os.close(beneath.open_beneath(root, name))
    inside = beneath.open_in_root(root, "up/up/file", os.O_RDONLY)  # as if from were /
    assert os.read(inside, 10) == b"content"
    os.close(inside)
    os.close(root)


# --- processes and namespaces ---


def test_clone3_makes_a_child_in_new_namespaces_that_python_knows_of() -> None:
    seen = []
    os.register_at_fork(after_in_child=lambda: seen.append("child"))
    pid = syscalls.clone3(lib.CLONE_NEWUTS | lib.CLONE_NEWPID)
    if pid == 0:
        syscalls.sethostname("inside")
        syscalls.setdomainname("domain")
        names = os.uname().nodename, Path("/proc/sys/kernel/domainname").read_text()
        os._exit(0 if (seen, os.getpid(), names) == (["child"], 1, ("inside", "domain\n")) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert os.uname().nodename != "inside"


def test_a_namespace_is_pinned_told_apart_and_entered(tmp_path: Path) -> None:
    pid = syscalls.clone3(lib.CLONE_NEWUTS)
    if pid == 0:
        syscalls.sethostname("pinned")
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    pin = str(tmp_path / "uts")
    namespaces.pin(namespaces.path_of(pid, "uts"), pin)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert namespaces.identity(pin) != namespaces.identity(namespaces.path_of("self", "uts"))
    fd = namespaces.open_namespace(pin)
    assert namespaces.kind_of(fd) == "uts"
    os.close(fd)

    def enter() -> None:
        namespaces.enter(pin, "uts")
        assert os.uname().nodename == "pinned"

    in_a_child(enter)
    namespaces.unpin(pin)
    namespaces.unpin(pin)
    assert not os.path.exists(pin)
    with pytest.raises(ValueError, match="is not a namespace"):
        namespaces.open_namespace(__file__)


def test_a_pidfd_means_one_process_and_reaches_its_descriptors() -> None:
    reader, writer = os.pipe()
    with subprocess.Popen(["sleep", "60"], pass_fds=[writer]) as child:
        started = processes.start_time(child.pid)
        assert started is not None
        assert processes.is_alive(child.pid, started)
        assert processes.open_pidfd(child.pid, started + 1) is None
        assert not processes.signal(child.pid, started + 1, signal.SIGKILL)
        pidfd = syscalls.pidfd_open(child.pid)
        copy = syscalls.pidfd_getfd(pidfd, writer)
        os.write(copy, b"x")
        syscalls.pidfd_send_signal(pidfd, signal.SIGTERM)
        assert child.wait() == -signal.SIGTERM
        with pytest.raises(syscalls.KernelError, match=r"pidfd_send_signal\(.*No such process"):
            syscalls.pidfd_send_signal(pidfd, signal.SIGTERM)
    assert os.read(reader, 1) == b"x"
    for fd in (reader, writer, pidfd, copy):
        os.close(fd)


def test_a_program_is_executed_by_its_descriptor_and_sees_no_other(tmp_path: Path) -> None:
    out = os.open(tmp_path / "out", os.O_CREAT | os.O_RDWR)

    def execute() -> None:
        program = os.open("/bin/busybox", os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(out, 1)
        syscalls.close_range(3, flags=lib.CLOSE_RANGE_CLOEXEC)
        syscalls.execveat(program, "", ["busybox", "sh", "-c", "echo /proc/self/fd/*; echo $X"], ["X=y"])

    in_a_child(execute)
    os.close(out)
    assert (tmp_path / "out").read_text().split("\n")[1] == "y"
    assert not any(f"/fd/{n}" in (tmp_path / "out").read_text().split()[4:] for n in range(4, 64))


def test_descriptors_go_over_a_socket_at_a_path_of_any_length(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    listener = fdpass.listen(str(deep / "socket"))
    assert (deep / "socket").stat().st_mode & 0o777 == 0o600
    client = fdpass.connect(str(deep / "socket"))
    fd, _ = listener._accept()  # type: ignore[attr-defined]  # the C half of socket has no other
    server = type(client)(fileno=fd)
    reader, writer = os.pipe()
    fdpass.send(client, b"take", [writer])
    data, fds = fdpass.receive(server)
    os.write(fds[0], b"through")
    assert (data, os.read(reader, 9)) == (b"take", b"through")
    assert fcntl.fcntl(fds[0], fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    assert fdpass.peer(server) == (os.getpid(), os.getuid(), os.getgid())
    for each in (reader, writer, *fds):
        os.close(each)
    for sock in (client, server, listener):
        sock.close()


# --- attributes of a process ---


def test_capabilities_are_those_that_the_kernel_shows() -> None:
    assert capabilities.bounding() == int(status("CapBnd"), 16)
    assert capabilities.NAMES[capabilities.last_known()] in capabilities.names_of(-1)

    def drop() -> None:
        kept = capabilities.mask(["CAP_CHOWN", "CAP_SETPCAP"])
        capabilities.limit_bounding(kept)
        syscalls.capset(kept, kept, kept)
        capabilities.set_ambient(kept)
        assert syscalls.capget() == (kept, kept, kept)
        shown = {int(status(name), 16) for name in ("CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb")}
        assert shown == {kept}

    in_a_child(drop)


def test_securebits_and_other_attributes_take_effect() -> None:
    def change() -> None:
        syscalls.prctl(lib.PR_SET_SECUREBITS, lib.SECBIT_NOROOT | lib.SECBIT_KEEP_CAPS)
        assert syscalls.prctl(lib.PR_GET_SECUREBITS) == lib.SECBIT_NOROOT | lib.SECBIT_KEEP_CAPS
        syscalls.personality(0x0040000)  # ADDR_NO_RANDOMIZE
        assert Path("/proc/self/personality").read_text().strip() == "00040000"
        syscalls.sched_setattr(os.SCHED_BATCH, nice=7)
        assert (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)) == (os.SCHED_BATCH, 7)
        syscalls.ioprio_set(3 << 13)
        assert subprocess.check_output(["ionice", "-p", str(os.getpid())], text=True).startswith("idle")
        syscalls.set_mempolicy(lib.MPOL_DEFAULT, [])
        syscalls.setrlimit(7, 99, 100)  # RLIMIT_NOFILE
        assert syscalls.getrlimit(7) == (99, 100)
        assert syscalls.join_session_keyring("ketch-test") > 0
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        syscalls.reset_signals()
        assert (status("SigIgn"), status("SigBlk")) == ("0" * 16, "0" * 16)

    in_a_child(change)


# --- cgroup v2 ---


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Path]:
    """A new group of the cgroup2 hierarchy, which can be mounted beside v1's: a device filter needs no controller."""
    hierarchy = tmp_path / "cgroup2"
    hierarchy.mkdir()
    syscalls.mount("cgroup2", str(hierarchy), "cgroup2", 0)
    made = hierarchy / f"ketch-test-{os.getpid()}"
    made.mkdir()
    yield made
    made.rmdir()
    mounts.detach_all_beneath(str(hierarchy))


def exit_code_inside(group: Path, work: Callable[[], None]) -> int:
    """Of a child that clone3 bears in the group: 0, or the errno of what the work met."""
    directory = os.open(group, os.O_RDONLY)
    pid = syscalls.clone3(0, cgroup_fd=directory)
    if pid == 0:
        code = 255
        try:
            assert Path("/proc/self/cgroup").read_text().splitlines()[-1].endswith(group.name)
            work()
            code = 0
        except OSError as refused:
            code = refused.errno or 254
        finally:
            os._exit(code)
    os.close(directory)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_device_filter_judges_those_that_are_born_in_its_group(group: Path) -> None:
    def read_zero() -> None:
        os.close(os.open("/dev/zero", os.O_RDONLY))

    def write_zero() -> None:
        os.close(os.open("/dev/zero", os.O_WRONLY))

    all_devices = DeviceRule(allow=False, kind="a", major=None, minor=None, access="rwm")
    zero_to_read = DeviceRule(allow=True, kind="c", major=1, minor=5, access="r")
    program = syscalls.bpf_load_device_filter(device_filter.program((all_devices, zero_to_read)))
    directory = os.open(group, os.O_RDONLY)
    assert exit_code_inside(group, write_zero) == 0
    syscalls.bpf_attach_device_filter(directory, program)
    assert (exit_code_inside(group, read_zero), exit_code_inside(group, write_zero)) == (0, errno.EPERM)
    [attached] = syscalls.bpf_device_filters(directory)
    syscalls.bpf_detach_device_filter(directory, attached)
    assert (exit_code_inside(group, write_zero), syscalls.bpf_device_filters(directory)) == (0, [])
    for fd in (program, directory, attached):
        os.close(fd)


def test_a_program_that_the_kernel_does_not_trust_is_refused_with_its_reason() -> None:
    without_an_end = bytes.fromhex("b400000001000000")  # w0 = 1, and then nothing
    with pytest.raises(syscalls.KernelError, match=r"^bpf\('load'\).*last insn is not an exit or jmp"):
        syscalls.bpf_load_device_filter(without_an_end)


# --- errors and plans ---


@pytest.mark.parametrize(
    ("call", "missing"),
    [
        (lambda: syscalls.open_tree("/", 0), "open_tree"),
        (lambda: syscalls.fsopen("tmpfs"), "fsopen"),
        (lambda: syscalls.mount_setattr(0), "mount_setattr"),
        (lambda: syscalls.openat2(syscalls.AT_FDCWD, "/", 0), "openat2"),
        (lambda: syscalls.pidfd_getfd(0, 0), "pidfd_getfd"),
        (lambda: syscalls.close_range(100), "close_range"),
    ],
)
def test_a_call_that_the_kernel_lacks_is_named_with_the_kernel_that_brings_it(
    call: Callable[[], object], missing: str
) -> None:
    def attempt() -> None:
        kernel.become_an_older_kernel(list(crash.numbers([missing])))
        with pytest.raises(
            syscalls.KernelError, match=rf"this kernel lacks {missing} \(Linux \d+\.\d+ brings it\)"
        ) as e:
            call()
        assert (e.value.call, e.value.errno) == (missing, errno.ENOSYS)

    in_a_child(attempt)


def test_an_error_is_of_the_class_that_python_has_for_its_errno(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        syscalls.open_tree(str(tmp_path / "absent"), 0)
    assert isinstance(missing.value, syscalls.KernelError)
    assert str(missing.value) == f"open_tree('{tmp_path}/absent'): No such file or directory"
    copy = pickle.loads(pickle.dumps(missing.value))
    assert (type(copy), str(copy), copy.call) == (type(missing.value), str(missing.value), "open_tree")
    assert type(syscalls.KernelError(errno.EINVAL, "mount")) is syscalls.KernelError


class Append(steps.Step):
    """A step for the test."""

    def __init__(self, word: str) -> None:
        self.word = word

    def describe(self) -> str:
        return f"append {self.word}"

    def apply(self, context: list[str]) -> None:
        if self.word == "bad":
            raise OSError(errno.EIO, "no")
        context.append(self.word)


def test_a_plan_ends_at_the_step_that_fails_and_names_it() -> None:
    done: list[str] = []
    with pytest.raises(steps.StepFailed, match=r"cannot append bad: \[Errno 5\] no") as failed:
        steps.run([Append("one"), Append("bad"), Append("three")], done)
    assert done == ["one"]
    assert failed.value.step.describe() == "append bad"


@needs("userns")
def test_idmapped_mounts_change_owners_by_a_user_namespace(place: Path) -> None:
    os.chown(place / "from/file", 1000, 1000)
    pid = syscalls.clone3(lib.CLONE_NEWUSER)
    if pid == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{name}").write_text("1000 7 1")
    userns = os.open(namespaces.path_of(pid, "user"), os.O_RDONLY)
    tree = syscalls.open_tree(str(place / "from"), lib.OPEN_TREE_CLONE)
    syscalls.mount_setattr(tree, set_=lib.MOUNT_ATTR_IDMAP, userns=userns)
    syscalls.move_mount(tree, str(place / "to"))
    assert (place / "to/file").stat().st_uid == 7
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(userns)
    os.close(tree)
