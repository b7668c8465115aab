// SPDX-License-Identifier: Apache-2.0
// The system calls that Python lacks: one function each, no policy; a result >= 0 or -errno.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "act.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/magic.h>
#include <linux/mempolicy.h>
#include <linux/mount.h>
#include <linux/nsfs.h>
#include <linux/openat2.h>
#include <linux/securebits.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/ioprio.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// glibc's <sys/mount.h> and the kernel's <linux/mount.h> cannot be included together on Debian 12.
extern int mount(const char *, const char *, const char *, unsigned long, const void *);
extern int umount2(const char *, int);
#ifndef MNT_FORCE
#define MNT_FORCE 1
#define MNT_DETACH 2
#define MNT_EXPIRE 4
#define UMOUNT_NOFOLLOW 8
#endif
#ifndef MS_NOSYMFOLLOW
#define MS_NOSYMFOLLOW 256 // 5.10
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000 // 5.2
#endif
#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2 // 5.9
#define CLOSE_RANGE_CLOEXEC 4 // 5.11
#endif
#ifndef MOVE_MOUNT_BENEATH
#define MOVE_MOUNT_BENEATH 0x200 // 6.5
#endif
#ifndef FSCONFIG_CMD_CREATE_EXCL
#define FSCONFIG_CMD_CREATE_EXCL 8 // 6.6; an enum in the headers, so the compiler accepts the same value twice
#endif
#ifndef STATMOUNT_SB_BASIC // 6.8
#define STATMOUNT_SB_BASIC 1
#define STATMOUNT_MNT_BASIC 2
#define STATMOUNT_PROPAGATE_FROM 4
#define STATMOUNT_MNT_ROOT 8
#define STATMOUNT_MNT_POINT 16
#define STATMOUNT_FS_TYPE 32
#define LSMT_ROOT 0xffffffffffffffffULL
#endif
#ifndef SYS_statmount // 6.8
#define SYS_statmount 457
#define SYS_listmount 458
#endif
#ifndef SYS_set_mempolicy_home_node
#define SYS_set_mempolicy_home_node 450 // 5.17
#endif
#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57 // 5.6
#endif
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV 32 // 5.19
#endif
#ifndef MPOL_WEIGHTED_INTERLEAVE
#define MPOL_WEIGHTED_INTERLEAVE 6 // 6.9
#endif
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80 // 5.6
#endif

// Declared here because Py_LIMITED_API of cffi's age hides them; they are in the stable ABI since 3.7.
extern void PyOS_BeforeFork(void);
extern void PyOS_AfterFork_Parent(void);
extern void PyOS_AfterFork_Child(void);

#define RESULT(call) long r = (long)(call); return r < 0 ? -errno : r

long k_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data) { RESULT(mount(source, target, type, flags, data)); }
long k_umount2(const char *target, int flags) { RESULT(umount2(target, flags)); }
long k_open_tree(int dirfd, const char *path, unsigned int flags) { RESULT(syscall(SYS_open_tree, dirfd, path, flags)); }
long k_move_mount(int from_fd, const char *from, int to_fd, const char *to, unsigned int flags) { RESULT(syscall(SYS_move_mount, from_fd, from, to_fd, to, flags)); }
long k_mount_setattr(int dirfd, const char *path, unsigned int flags, uint64_t set, uint64_t clear, uint64_t propagation, uint64_t userns_fd)
{
	struct mount_attr attr = {set, clear, propagation, userns_fd};
	RESULT(syscall(SYS_mount_setattr, dirfd, path, flags, &attr, sizeof attr));
}
long k_fsopen(const char *type, unsigned int flags) { RESULT(syscall(SYS_fsopen, type, flags)); }
long k_fsconfig(int fd, unsigned int command, const char *key, const char *value, int aux) { RESULT(syscall(SYS_fsconfig, fd, command, key, value, aux)); }
long k_fsmount(int fd, unsigned int flags, unsigned int attributes) { RESULT(syscall(SYS_fsmount, fd, flags, attributes)); }
long k_fspick(int dirfd, const char *path, unsigned int flags) { RESULT(syscall(SYS_fspick, dirfd, path, flags)); }
long k_pivot_root(const char *new_root, const char *put_old) { RESULT(syscall(SYS_pivot_root, new_root, put_old)); }
long k_syncfs(int fd) { RESULT(syncfs(fd)); }
long k_unshare(uint64_t flags) { RESULT(syscall(SYS_unshare, flags)); }
long k_setns(int fd, int flags) { RESULT(setns(fd, flags)); }

// cffi calls us without the interpreter's lock; the fork hooks of Python need it and leave it held in the child.
long k_clone3(uint64_t flags, int exit_signal, int cgroup_fd)
{
	struct clone_args args = {.flags = flags, .exit_signal = (uint64_t)exit_signal, .cgroup = cgroup_fd < 0 ? 0 : (uint64_t)cgroup_fd};
	PyGILState_STATE lock = PyGILState_Ensure();
	PyOS_BeforeFork();
	long pid = syscall(SYS_clone3, &args, sizeof args);
	long r = pid < 0 ? -errno : pid;
	if (pid == 0)
		PyOS_AfterFork_Child();
	else
		PyOS_AfterFork_Parent();
	PyGILState_Release(lock);
	return r;
}
long k_openat2(int dirfd, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
	struct open_how how = {flags, mode, resolve};
	RESULT(syscall(SYS_openat2, dirfd, path, &how, sizeof how));
}
long k_close_range(unsigned int first, unsigned int last, unsigned int flags) { RESULT(syscall(SYS_close_range, first, last, flags)); }
long k_execveat(int dirfd, const char *path, char **argv, char **environ, int flags) { RESULT(syscall(SYS_execveat, dirfd, path, argv, environ, flags)); }

// A page of a memfd that both sides map: a confined child tells the number of its seccomp listener without a system call.
volatile int *k_mailbox(int fd)
{
	void *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	return page == MAP_FAILED ? 0 : page;
}
// Load the filter and execve in one call: the filter may forbid whatever an interpreter would do between them. With a mailbox
// the child waits (without system calls: clock_gettime is the vdso's) until its parent has taken the listener.
long k_exec_confined(int dirfd, const char *path, char **argv, char **environ, int at_flags, const char *filter, unsigned int count,
		     unsigned int filter_flags, volatile int *mailbox)
{
	struct sock_fprog program = {(unsigned short)count, (struct sock_filter *)filter};
	if (count) {
		long listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, filter_flags, &program);
		if (listener < 0)
			return -errno;
		if (mailbox) {
			struct timespec since, now;
			clock_gettime(CLOCK_MONOTONIC, &since);
			mailbox[0] = (int)listener + 1;
			for (now = since; mailbox[1] == 0 && now.tv_sec - since.tv_sec < 30; )
				clock_gettime(CLOCK_MONOTONIC, &now);
		}
	}
	if (dirfd == AT_FDCWD && at_flags == 0) {
		RESULT(syscall(SYS_execve, path, argv, environ));
	}
	RESULT(syscall(SYS_execveat, dirfd, path, argv, environ, at_flags));
}
long k_pidfd_open(int pid, unsigned int flags) { RESULT(syscall(SYS_pidfd_open, pid, flags)); }
long k_pidfd_send_signal(int pidfd, int signal, unsigned int flags) { RESULT(syscall(SYS_pidfd_send_signal, pidfd, signal, 0, flags)); }
long k_pidfd_getfd(int pidfd, int fd) { RESULT(syscall(SYS_pidfd_getfd, pidfd, fd, 0)); }
// Six words: effective, permitted, inheritable of capabilities 0-31, then of 32-63.
long k_capget(uint32_t *sets)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	RESULT(syscall(SYS_capget, &head, sets));
}
long k_capset(const uint32_t *sets)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	RESULT(syscall(SYS_capset, &head, sets));
}
long k_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d) { RESULT(prctl(option, a, b, c, d)); }
long k_seccomp(unsigned int operation, unsigned int flags, const char *filter, unsigned int count)
{
	struct sock_fprog program = {(unsigned short)count, (struct sock_filter *)filter};
	RESULT(syscall(SYS_seccomp, operation, flags, &program));
}
long k_seccomp_action_known(uint32_t action) { RESULT(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action)); }
long k_bpf_load(const char *program, unsigned int count, int type, char *log, unsigned int log_size)
{
	union bpf_attr attr;
	memset(&attr, 0, sizeof attr);
	attr.prog_type = (uint32_t)type;
	attr.insns = (uint64_t)(uintptr_t)program;
	attr.insn_cnt = count;
	attr.license = (uint64_t)(uintptr_t)"Apache-2.0";
	attr.log_buf = (uint64_t)(uintptr_t)log;
	attr.log_size = log_size;
	attr.log_level = log_size ? 1 : 0;
	RESULT(syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr));
}
long k_bpf_attach(int target_fd, int program_fd, int type, unsigned int flags)
{
	union bpf_attr attr;
	memset(&attr, 0, sizeof attr);
	attr.target_fd = (uint32_t)target_fd;
	attr.attach_bpf_fd = (uint32_t)program_fd;
	attr.attach_type = (uint32_t)type;
	attr.attach_flags = flags;
	RESULT(syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof attr));
}
long k_bpf_detach(int target_fd, int program_fd, int type)
{
	union bpf_attr attr;
	memset(&attr, 0, sizeof attr);
	attr.target_fd = (uint32_t)target_fd;
	attr.attach_bpf_fd = (uint32_t)program_fd;
	attr.attach_type = (uint32_t)type;
	RESULT(syscall(SYS_bpf, BPF_PROG_DETACH, &attr, sizeof attr));
}
// The number of programs attached; their ids are written to ids.
long k_bpf_query(int target_fd, int type, uint32_t *ids, unsigned int room)
{
	union bpf_attr attr;
	memset(&attr, 0, sizeof attr);
	attr.query.target_fd = (uint32_t)target_fd;
	attr.query.attach_type = (uint32_t)type;
	attr.query.prog_ids = (uint64_t)(uintptr_t)ids;
	attr.query.prog_cnt = room;
	if (syscall(SYS_bpf, BPF_PROG_QUERY, &attr, sizeof attr) < 0)
		return -errno;
	return attr.query.prog_cnt;
}
long k_bpf_fd_by_id(uint32_t id)
{
	union bpf_attr attr;
	memset(&attr, 0, sizeof attr);
	attr.prog_id = id;
	RESULT(syscall(SYS_bpf, BPF_PROG_GET_FD_BY_ID, &attr, sizeof attr));
}
long k_keyctl(int operation, unsigned long a, unsigned long b, unsigned long c, unsigned long d) { RESULT(syscall(SYS_keyctl, operation, a, b, c, d)); }
long k_join_session_keyring(const char *name) { RESULT(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name, 0, 0, 0)); }
long k_sched_setattr(uint32_t policy, uint64_t flags, int32_t nice, uint32_t priority, uint64_t runtime, uint64_t deadline, uint64_t period)
{
	struct { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period; } attr =
		{48, policy, flags, nice, priority, runtime, deadline, period};
	RESULT(syscall(SYS_sched_setattr, 0, &attr, 0));
}
long k_ioprio_set(int which, int who, int priority) { RESULT(syscall(SYS_ioprio_set, which, who, priority)); }
long k_set_mempolicy(int mode, const unsigned long *nodes, unsigned long bits) { RESULT(syscall(SYS_set_mempolicy, mode, nodes, bits)); }
long k_personality(unsigned long persona) { RESULT(personality(persona)); }
long k_sethostname(const char *name, size_t length) { RESULT(sethostname(name, length)); }
long k_setdomainname(const char *name, size_t length) { RESULT(setdomainname(name, length)); }
long k_prlimit(int pid, int resource, const uint64_t *new_limit, uint64_t *old_limit) { RESULT(syscall(SYS_prlimit64, pid, resource, new_limit, old_limit)); }
long k_statmount(uint64_t mount_id, uint64_t mask, char *buffer, size_t size)
{
	struct { uint32_t size, spare; uint64_t id, param; } request = {24, 0, mount_id, mask};
	RESULT(syscall(SYS_statmount, &request, buffer, size, 0));
}
long k_listmount(uint64_t mount_id, uint64_t last, uint64_t *ids, size_t room)
{
	struct { uint32_t size, spare; uint64_t id, param; } request = {24, 0, mount_id, last};
	RESULT(syscall(SYS_listmount, &request, ids, room, 0));
}
long k_filesystem_type(int fd)
{
	struct statfs facts;
	return fstatfs(fd, &facts) < 0 ? -errno : (long)(uint32_t)facts.f_type;
}
// Ignored signals and the mask survive execve, and Python ignores SIGPIPE and SIGXFSZ.
long k_reset_signals(void)
{
	static const unsigned long standard[4]; // the kernel's struct sigaction with SIG_DFL, on every architecture
	sigset_t none;
	for (int number = 1; number < NSIG; number++) // glibc's call would refuse its own two, which a caller may have ignored
		syscall(SYS_rt_sigaction, number, standard, 0, 8); // refused for SIGKILL and SIGSTOP: nothing to reset there
	sigemptyset(&none);
	RESULT(sigprocmask(SIG_SETMASK, &none, 0));
}

struct start { int program; char **argv; const int *kept; unsigned int count; };
static int start_program(void *argument)
{
	static char *const nothing[] = {0};
	const struct start *start = argument;
	for (unsigned int i = 0; i < start->count; i++)
		fcntl(start->kept[i], F_SETFD, 0); // in this process: the table of descriptors is its own
	syscall(SYS_execveat, start->program, "", start->argv, nothing, AT_EMPTY_PATH);
	_exit(127);
}
// Execute act.c's program, which is open as `act`, with these descriptors: where it tells whom it gives birth to, its list of calls, where the
// word comes that the list is there or 0, its slots. Until it is executed the new process uses our memory while we wait, so that nothing is copied.
long k_act(int act, const int *given, unsigned int count)
{
	char stack[65536] __attribute__((aligned(16))), numbers[ACT_SLOTS][12], *argv[ACT_SLOTS + 2] = {"ketch-init"};
	struct start start = {act, argv, given, count};
	sigset_t all, before;

	if (count > ACT_SLOTS)
		return -E2BIG;
	for (unsigned int i = 0; i < count; i++) {
		snprintf(numbers[i], sizeof numbers[i], "%d", given[i]);
		argv[i + 1] = numbers[i];
	}
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &before); // a handler of ours must not run in a process that uses our memory
	long r = clone(start_program, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, &start);
	r = r < 0 ? -errno : r;
	sigprocmask(SIG_SETMASK, &before, 0);
	return r;
}
