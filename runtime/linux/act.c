// SPDX-License-Identifier: Apache-2.0
// A flat program of system calls, decided in Python and run by a child that never goes back to Python. Such a child touches a dozen
// pages of what it was forked from; one that interprets Python copies hundreds, at 1 to 3 us each: most of what a start costs.
//
// The calls are data (their arguments numbers, slots, or offsets into one block of bytes), so what is done, in which order, and
// which refusals are borne is decided and tested in Python (program.py); the few calls below 0 look at a result in between.
// Whatever goes wrong ends the child with (index of the step, errno) on the report descriptor; words for it are not its business.
// Before execve it reports '+': an end without it is a death.

struct act_step {
	int32_t call;
	int16_t result, skip;         // slot that takes the result or -1; how many steps are left out after a tolerated error
	uint32_t kinds, tolerated;    // 4 bits per argument; up to four errnos, one per byte
	int64_t arguments[6];
};
enum { ACT_NUMBER, ACT_SLOT, ACT_ADDRESS };
enum { ACT_EXPECT = -1, ACT_DIRECTORY = -2, ACT_BIRTH = -3, ACT_KEEP_ONLY = -4, ACT_INSIDE = -5, ACT_HOME = -6, ACT_FIND = -7,
       ACT_OWN_STDIO = -8, ACT_EXECUTE = -9, ACT_AWAIT = -10, ACT_NOT_PROC = -11, ACT_SKIP = -12, ACT_COVER = -13 };
#define ACT_SLOTS 256

// What a child needs besides its steps. Strings live as long as the program does; environ has room for one more entry, HOME.
typedef struct {
	const char *steps, *data, *filter;
	unsigned int step_count, filter_count, filter_flags, report; // report: a slot
	char **argv, **environ, **candidates;
} k_program;
struct act {
	const k_program *program;
	const char *path;
	long slots[ACT_SLOTS];
	char home[4096 + 8];
};

// fstat: (mode & mask) == wanted, and the device number if one is given; another answer is the errno in the last argument.
static long act_expect(const int64_t *a)
{
	struct stat facts;
	if (fstat((int)a[0], &facts) < 0)
		return -errno;
	return (facts.st_mode & (mode_t)a[1]) == (mode_t)a[2] && (a[3] < 0 || (int64_t)facts.st_rdev == a[3]) ? 0 : -a[4];
}
// Close all descriptors above stderr but those in these slots.
static long act_keep_only(struct act *act, const int64_t *a)
{
	unsigned int first = 3;
	for (;;) {
		long next = -1;
		for (int i = 0; i < 64; i++)
			if ((uint64_t)a[0] >> i & 1 && act->slots[i] >= (long)first && (next < 0 || act->slots[i] < next))
				next = act->slots[i];
		if (next < 0)
			return syscall(SYS_close_range, first, ~0U, 0) < 0 ? -errno : 0;
		if (next > (long)first && syscall(SYS_close_range, first, (unsigned int)next - 1, 0) < 0)
			return -errno;
		first = (unsigned int)next + 1;
	}
}
// A descriptor of the host leaked to us could make the working directory lie outside the root: the kernel then cannot name it.
// a: where we must be, or 0.
static long act_inside(const int64_t *a)
{
	char here[PATH_MAX];
	if (syscall(SYS_getcwd, here, sizeof here) < 0)
		return -errno;
	if (here[0] != '/')
		return -EXDEV;
	return a[0] && strcmp(here, (const char *)a[0]) ? -EACCES : 0;
}
// HOME from the container's own /etc/passwd, read as a plain file. a: user as text, length of that, HOME where no line tells.
static long act_home(struct act *act, const int64_t *a)
{
	char text[65536];
	struct stat facts;
	const char *uid = (const char *)a[0], *found = (const char *)a[2];
	size_t uid_length = (size_t)a[1], found_length = strlen(found);
	int fd = open("/etc/passwd", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	ssize_t length = fd < 0 || fstat(fd, &facts) < 0 || !S_ISREG(facts.st_mode) ? 0 : read(fd, text, sizeof text);
	if (fd >= 0)
		close(fd);
	if (length == sizeof text)
		return -EFBIG;
	for (char *line = text, *end = text + (length > 0 ? length : 0); line < end;) {
		char *next = memchr(line, '\n', (size_t)(end - line)), *stop = next ? next : end, *field[7] = {line};
		int fields = 1;
		for (char *at = line; at < stop && fields < 7; at++)
			if (*at == ':')
				field[fields++] = at + 1;
		if (fields >= 6 && (size_t)(field[3] - 1 - field[2]) == uid_length && !memcmp(field[2], uid, uid_length)) {
			size_t size = (size_t)((fields == 7 ? field[6] - 1 : stop) - field[5]);
			if (size >= sizeof act->home - 8 || memchr(field[5], 0, size))
				return -EFBIG;
			if (size)
				found = field[5], found_length = size;
			break;
		}
		line = next ? next + 1 : end;
	}
	memcpy(act->home, "HOME=", 5);
	memcpy(act->home + 5, found, found_length);
	act->home[5 + found_length] = 0;
	char **entry = act->program->environ;
	while (*entry)
		entry++;
	*entry = act->home;
	return 0;
}
// The first candidate that is a file with an execute bit, as a shell finds it.
static long act_find(struct act *act)
{
	struct stat facts;
	for (char **path = act->program->candidates; *path; path++)
		if (stat(*path, &facts) == 0 && S_ISREG(facts.st_mode) && facts.st_mode & 0111) {
			act->path = *path;
			return 0;
		}
	return -ENOENT;
}
// Pipes and files that the caller made belong to the container's user; /dev/null and what cannot be given away stay as they are.
static long act_own_stdio(const int64_t *a)
{
	struct stat facts;
	for (int fd = 0; fd < 3; fd++)
		if (fstat(fd, &facts) == 0 && facts.st_rdev != (dev_t)a[1] && facts.st_uid != (uid_t)a[0])
			errno = fchown(fd, (uid_t)a[0], (gid_t)-1) < 0 ? errno : 0;
	return 0;
}
// What a symlink of the image has led into procfs is no place for a mount.
static long act_not_proc(const int64_t *a)
{
	struct statfs facts;
	if (fstatfs((int)a[0], &facts) < 0)
		return -errno;
	return facts.f_type == PROC_SUPER_MAGIC ? -ELOOP : 0;
}
static long act_special(struct act *act, const struct act_step *step, const int64_t *a)
{
	const k_program *program = act->program;
	char word = 0;
	struct stat facts;
	switch (step->call) {
	case ACT_EXPECT: return act_expect(a);
	case ACT_DIRECTORY: return fstat((int)a[0], &facts) < 0 ? -errno : S_ISDIR(facts.st_mode) ? 0 : -ENOTDIR;
	case ACT_COVER: return fstat((int)a[0], &facts) < 0 ? -errno : S_ISDIR(facts.st_mode) ? a[1] : a[2];
	case ACT_KEEP_ONLY: return act_keep_only(act, a);
	case ACT_INSIDE: return act_inside(a);
	case ACT_HOME: return act_home(act, a);
	case ACT_FIND: return act_find(act);
	case ACT_OWN_STDIO: return act_own_stdio(a);
	case ACT_SKIP: return -EPERM;
	case ACT_NOT_PROC: return act_not_proc(a);
	case ACT_AWAIT: return read((int)a[0], &word, 1) == 1 && word == (char)a[1] ? 0 : -EPIPE;
	case ACT_EXECUTE:
		k_reset_signals();
		if (write((int)act->slots[program->report], "+", 1) != 1) // from here on the end of the report means success
			return -EPIPE;
		return k_exec_confined(AT_FDCWD, act->path, program->argv, program->environ, 0, program->filter, program->filter_count, program->filter_flags, 0);
	}
	return -ENOSYS;
}
// Run from step `at`; comes back only in a process that gave birth (the child's pid), or to say -errno.
static long act_run(struct act *act, int at)
{
	long r = 0;
	for (; at < (int)act->program->step_count; at++) {
		const struct act_step *step = (const struct act_step *)act->program->steps + at;
		int64_t a[6];
		for (int i = 0; i < 6; i++) {
			unsigned int kind = step->kinds >> 4 * i & 15;
			a[i] = kind == ACT_SLOT ? act->slots[step->arguments[i]] : step->arguments[i];
			if (kind == ACT_ADDRESS)
				a[i] = (int64_t)(uintptr_t)(act->program->data + step->arguments[i]);
		}
		if (step->call == ACT_BIRTH) {
			struct clone_args args = {.flags = (uint64_t)a[0], .cgroup = a[0] & (int64_t)CLONE_INTO_CGROUP ? (uint64_t)a[1] : 0};
			r = syscall(SYS_clone3, &args, sizeof args);
			if (r > 0)
				return r;
			r = r < 0 ? -errno : 0;
		} else if (step->call < 0) {
			r = act_special(act, step, a);
		} else {
			do
				r = syscall(step->call, a[0], a[1], a[2], a[3], a[4], a[5]);
			while (r < 0 && step->call == SYS_openat2 && (errno == EAGAIN || errno == EINTR)); // a rename raced with the walk
			r = r < 0 ? -errno : r;
		}
		if (r < 0) {
			bool borne = false;
			for (int i = 0; i < 4; i++)
				borne |= (step->tolerated >> 8 * i & 255) == (uint32_t)-r;
			if (!borne) {
				int words[2] = {at, (int)-r};
				if (write((int)act->slots[act->program->report], words, sizeof words) < 0)
					return r; // nobody listens: the end of the process says as much
				return r;
			}
			at += step->skip;
		} else if (step->result >= 0) {
			act->slots[step->result] = r;
		}
	}
	return 0;
}

static int act_child(void *act)
{
	long r = ((struct act *)act)->slots[ACT_SLOTS - 1] = act_run(act, 0);
	_exit(r < 0 ? 127 : 0);
}

// Run a program in a child; its pid or -errno. `slots` are given to it, the last of them is ours. With `in_between` a process
// that shares our memory, while we wait, runs the steps up to a BIRTH: what it enters, its child is born in, as our own child.
// Otherwise the child is cloned with `flags`. No Python runs in any of them; signals stay blocked until the program resets them.
long k_act(const k_program *program, const long *slots, unsigned int slot_count, uint64_t flags, int cgroup_fd, int in_between)
{
	struct act act = {.program = program};
	char stack[4 * 65536] __attribute__((aligned(16)));
	sigset_t all, before;
	long r;

	memcpy(act.slots, slots, (slot_count < ACT_SLOTS - 1 ? slot_count : ACT_SLOTS - 1) * sizeof *slots);
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &before);
	if (in_between) {
		// The child is born as we are, not dumpable: a container whose PID namespace it enters must not look into it.
		int dumpable = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
		prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
		r = clone(act_child, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, &act);
		if (r < 0) {
			r = -errno;
		} else {
			while (waitpid((pid_t)r, 0, __WALL) < 0 && errno == EINTR)
				;
			r = act.slots[ACT_SLOTS - 1] ? act.slots[ACT_SLOTS - 1] : -ECHILD;
		}
		if (dumpable == 1)
			prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	} else {
		struct clone_args args = {.flags = flags, .exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD};
		if (cgroup_fd >= 0) {
			args.flags |= CLONE_INTO_CGROUP;
			args.cgroup = (uint64_t)cgroup_fd;
		}
		r = syscall(SYS_clone3, &args, sizeof args);
		if (r == 0) {
			act_run(&act, 0);
			_exit(127);
		}
		r = r < 0 ? -errno : r;
	}
	sigprocmask(SIG_SETMASK, &before, 0);
	return r;
}
