// SPDX-License-Identifier: Apache-2.0
// What every ordinary container of a warm spawner and every short exec begins as: it runs a list of system calls that was decided in Python
// (program.py), the last of which executes the container's program. A child of the spawner or of a keeper would copy what they have
// loaded, page by page, at 1 to 3 us each, and others in a PID namespace could look for it there; this has loaded nothing else.
//
// The calls are data (their arguments numbers, slots, or offsets into one block of bytes), so what is done, in which order, and
// which refusals are borne is decided and tested in Python; the few calls below 0 look at a result in between.
// Whatever goes wrong ends the process with (index of the step, errno) on the report descriptor; words for it are not its business.
// Before execve it reports '+': an end without it is a death.
//
// usage: act BORN PROGRAM READY SLOT...   descriptors by number; the pid of the child that a BIRTH makes is written to BORN. A word comes
// out of READY as soon as the program is there: who makes it may begin us first, and execve is done when it has finished. READY 0: it is there.
#define _GNU_SOURCE
#include "act.h"
#include "bare.h"
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

struct act {
	struct act_head head;
	const struct act_step *steps;
	const char *data, *filter, *path;
	char **argv, **environ, **candidates;
	long slots[ACT_SLOTS];
	int born;
	char home[4096 + 8];
};

// fstat: (mode & mask) == wanted, and the device number if one is given; another answer is the errno in the last argument.
static long act_expect(const int64_t *a)
{
	struct stat facts;
	long r = CALL(SYS_fstat, a[0], &facts);
	if (r < 0)
		return r;
	return (facts.st_mode & (mode_t)a[1]) == (mode_t)a[2] && (a[3] < 0 || (int64_t)facts.st_rdev == a[3]) ? 0 : -a[4];
}
// `directory` for a directory, `other` for anything else.
static long act_kind(int64_t fd, long directory, long other)
{
	struct stat facts;
	long r = CALL(SYS_fstat, fd, &facts);
	return r < 0 ? r : S_ISDIR(facts.st_mode) ? directory : other;
}
// A descriptor of the host leaked to us could make the working directory lie outside the root: the kernel then cannot name it.
// a: where we must be, or 0.
static long act_inside(const int64_t *a)
{
	char here[PATH_MAX];
	const char *wanted = (const char *)a[0];
	long r = CALL(SYS_getcwd, here, sizeof here);
	if (r < 0)
		return r;
	if (here[0] != '/')
		return -EXDEV;
	return wanted && !same(here, wanted, strlen(wanted) + 1) ? -EACCES : 0;
}
static long act_add_home(struct act *act, const char *home, size_t length)
{
	char **entry = act->environ;
	for (size_t i = 0; i < length; i++)
		if (!home[i])
			return -EFBIG;
	if (length >= sizeof act->home - 8)
		return -EFBIG;
	memcpy(act->home, "HOME=", 5);
	memcpy(act->home + 5, home, length);
	act->home[5 + length] = 0;
	while (*entry)
		entry++;
	*entry = act->home;
	return 0;
}
// HOME from the container's own /etc/passwd, read as a plain file. a: user as text, length of that, HOME where no line tells.
static long act_home(struct act *act, const int64_t *a)
{
	char text[65536];
	struct stat facts;
	const char *uid = (const char *)a[0], *otherwise = (const char *)a[2];
	long length = 0, fd = CALL(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd >= 0) {
		if (CALL(SYS_fstat, fd, &facts) == 0 && S_ISREG(facts.st_mode))
			length = CALL(SYS_read, fd, text, sizeof text);
		CALL(SYS_close, fd);
	}
	if (length == sizeof text)
		return -EFBIG;
	for (char *line = text, *end = text + (length > 0 ? length : 0), *stop; line < end; line = stop + 1) {
		char *field[7] = {line};
		int fields = 1;
		for (stop = line; stop < end && *stop != '\n'; stop++)
			if (*stop == ':' && fields < 7)
				field[fields++] = stop + 1;
		if (fields >= 6 && field[3] - 1 - field[2] == a[1] && same(field[2], uid, (size_t)a[1])) {
			size_t size = (size_t)((fields == 7 ? field[6] - 1 : stop) - field[5]);
			if (size)
				return act_add_home(act, field[5], size);
			break;
		}
	}
	return act_add_home(act, otherwise, strlen(otherwise));
}
// The first candidate that is a file with an execute bit, as a shell finds it.
static long act_find(struct act *act)
{
	struct stat facts;
	for (char **path = act->candidates; *path; path++)
		if (CALL(SYS_newfstatat, AT_FDCWD, *path, &facts, 0) == 0 && S_ISREG(facts.st_mode) && facts.st_mode & 0111) {
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
		if (CALL(SYS_fstat, fd, &facts) == 0 && facts.st_rdev != (dev_t)a[1] && facts.st_uid != (uid_t)a[0])
			CALL(SYS_fchown, fd, a[0], -1);
	return 0;
}
// What a symlink of the image has led into procfs is no place for a mount.
static long act_not_proc(const int64_t *a)
{
	struct statfs facts;
	long r = CALL(SYS_fstatfs, a[0], &facts);
	return r < 0 ? r : facts.f_type == PROC_SUPER_MAGIC ? -ELOOP : 0;
}
static long act_open_in(const int64_t *a, const char *path, uint64_t flags)
{
	struct open_how how = {.flags = flags | O_PATH | O_CLOEXEC, .resolve = (uint64_t)a[2]};
	long r;
	do
		r = CALL(SYS_openat2, a[0], *path ? path : ".", &how, sizeof how);
	while (r == -EAGAIN || r == -EINTR); // a rename raced with the walk
	return r;
}
// Each missing directory on the way; a symlink is followed inside the root, one that dangles is not ordinary.
static long act_directory_in(const int64_t *a, const char *path)
{
	char done[PATH_MAX] = "";
	long r = act_open_in(a, path, O_DIRECTORY);
	for (const char *part = path, *end; r == -ENOENT && *part; part = end) {
		while (*part == '/')
			part++;
		for (end = part; *end && *end != '/'; end++)
			;
		size_t length = (size_t)(end - part), before = strlen(done);
		if (!length || (length == 1 && *part == '.'))
			continue;
		if (before + length + 2 > sizeof done)
			return -ENAMETOOLONG;
		long parent = act_open_in(a, done, O_DIRECTORY);
		if (parent < 0)
			return parent;
		done[before] = '/';
		memcpy(done + before + 1, part, length);
		done[before + 1 + length] = 0;
		long made = CALL(SYS_mkdirat, parent, done + before + 1, 0755);
		CALL(SYS_close, parent);
		if (made < 0 && made != -EEXIST)
			return made;
	}
	return r == -ENOENT ? act_open_in(a, path, O_DIRECTORY) : r;
}
static long act_file_in(const int64_t *a, const char *path)
{
	char parent[PATH_MAX];
	size_t length = strlen(path), name;
	long directory, r = act_open_in(a, path, 0);
	if (r != -ENOENT || length >= sizeof parent)
		return r;
	while (length && path[length - 1] == '/')
		length--;
	for (name = length; name && path[name - 1] != '/'; name--)
		;
	memcpy(parent, path, length);
	parent[length] = 0;
	if (name)
		parent[name - 1] = 0;
	if ((directory = act_directory_in(a, name ? parent : "")) < 0)
		return directory;
	// O_EXCL: a dangling symlink in the last place must not make us create its target unseen.
	r = CALL(SYS_openat, directory, parent + name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (r >= 0) {
		CALL(SYS_close, r);
		r = CALL(SYS_openat, directory, parent + name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	}
	CALL(SYS_close, directory);
	return r;
}
// Where something is to be mounted, made where it is missing. a: root, path, how names are resolved, what comes there: if that
// is known (not -1) and no directory, it needs a file.
static long act_target(const int64_t *a)
{
	const char *path = (const char *)a[1];
	long kind = a[3] < 0 ? 1 : act_kind(a[3], 1, 2);
	return kind < 0 ? kind : kind == 1 ? act_directory_in(a, path) : act_file_in(a, path);
}
// Signals as a program expects them, for what is ignored and the mask survive execve; the filter, which may forbid anything but execve.
static long act_execute(struct act *act)
{
	static const unsigned long standard[4], none; // the kernel's struct sigaction with SIG_DFL, on every architecture
	struct sock_fprog filter = {(unsigned short)(act->head.filter / sizeof(struct sock_filter)), (struct sock_filter *)act->filter};
	long r = 0;

	for (int number = 1; number <= 64; number++)
		CALL(SYS_rt_sigaction, number, standard, 0, sizeof none); // refused for SIGKILL and SIGSTOP: nothing to reset there
	CALL(SYS_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof none);
	if (CALL(SYS_write, act->slots[act->head.report], "+", 1) != 1) // from here on the end of the report means success
		return -EPIPE;
	if (filter.len)
		r = CALL(SYS_seccomp, SECCOMP_SET_MODE_FILTER, act->head.filter_flags, &filter);
	return r < 0 ? r : CALL(SYS_execve, act->path, act->argv, act->environ);
}
// The child goes on; its parent's work is done when it has told the pid.
static long act_give_birth(struct act *act, const int64_t *a)
{
	struct clone_args args = {.flags = (uint64_t)a[0], .cgroup = a[0] & (int64_t)CLONE_INTO_CGROUP ? (uint64_t)a[1] : 0};
	int pid = (int)CALL(SYS_clone3, &args, sizeof args);
	if (pid > 0) {
		CALL(SYS_write, act->born, &pid, sizeof pid);
		CALL(SYS_exit_group, 0);
	}
	return pid < 0 ? pid : CALL(SYS_close, act->born);
}
static long act_await(const int64_t *a)
{
	char word = 0;
	return CALL(SYS_read, a[0], &word, 1) == 1 && word == (char)a[1] ? 0 : -EPIPE;
}
static long act_special(struct act *act, int call, const int64_t *a)
{
	switch (call) {
	case ACT_EXPECT: return act_expect(a);
	case ACT_DIRECTORY: return act_kind(a[0], 0, -ENOTDIR);
	case ACT_COVER: return act_kind(a[0], a[1], a[2]);
	case ACT_INSIDE: return act_inside(a);
	case ACT_HOME: return act_home(act, a);
	case ACT_FIND: return act_find(act);
	case ACT_OWN_STDIO: return act_own_stdio(a);
	case ACT_SKIP: return -EPERM;
	case ACT_NOT_PROC: return act_not_proc(a);
	case ACT_AWAIT: return act_await(a);
	case ACT_TARGET: return act_target(a);
	case ACT_BIRTH: return act_give_birth(act, a);
	case ACT_EXECUTE: return act_execute(act);
	}
	return -ENOSYS;
}
static long act_call(struct act *act, const struct act_step *step)
{
	int64_t a[6];
	long r;
	for (int i = 0; i < 6; i++) {
		unsigned int kind = step->kinds >> 4 * i & 15;
		a[i] = kind == ACT_SLOT ? act->slots[step->arguments[i]] : step->arguments[i];
		if (kind == ACT_ADDRESS)
			a[i] = (int64_t)(uintptr_t)(act->data + step->arguments[i]);
	}
	if (step->call < 0)
		return act_special(act, step->call, a);
	do
		r = CALL(step->call, a[0], a[1], a[2], a[3], a[4], a[5]);
	while (step->call == SYS_openat2 && (r == -EAGAIN || r == -EINTR)); // a rename raced with the walk
	return r;
}
static bool act_bears(const struct act_step *step, long r)
{
	for (int i = 0; i < 4; i++)
		if ((step->tolerated >> 8 * i & 255) == (uint32_t)-r)
			return true;
	return false;
}
static void act_run(struct act *act)
{
	for (int at = 0, count = (int)(act->head.steps / sizeof *act->steps); at < count; at++) {
		const struct act_step *step = act->steps + at;
		long r = act_call(act, step);
		if (r >= 0) {
			if (step->result >= 0)
				act->slots[step->result] = r;
		} else if (act_bears(step, r)) {
			at += step->skip;
		} else {
			int words[2] = {at, (int)-r};
			CALL(SYS_write, act->slots[act->head.report], words, sizeof words); // if nobody listens, our end says as much
			return;
		}
	}
}

// Close all descriptors above stderr but these.
static long act_keep_only(const long *kept, int count)
{
	unsigned int first = 3;
	for (;;) {
		long next = -1, r = 0;
		for (int i = 0; i < count; i++)
			if (kept[i] >= (long)first && (next < 0 || kept[i] < next))
				next = kept[i];
		if (next < 0)
			return CALL(SYS_close_range, first, ~0U, 0);
		if (next > (long)first && (r = CALL(SYS_close_range, first, next - 1, 0)) < 0)
			return r;
		first = (unsigned int)next + 1;
	}
}
static char *act_map(size_t size, int protection, int flags, int fd)
{
	long r = CALL(SYS_mmap, 0, size, protection, MAP_PRIVATE | flags, fd, 0);
	return r < 0 && r >= -4095 ? 0 : (char *)r;
}
// An array of `count` strings that lie behind each other, with room for one more, HOME; both places are moved on.
static char **act_strings(char ***room, char **text, unsigned int count)
{
	char **array = *room;
	for (unsigned int i = 0; i < count; i++, *text += strlen(*text) + 1)
		array[i] = *text;
	*room += count + 2;
	return array;
}
static bool act_load(struct act *act, int fd)
{
	struct stat facts;
	char *memory = CALL(SYS_fstat, fd, &facts) < 0 ? 0 : act_map((size_t)facts.st_size, PROT_READ, 0, fd);
	if (!memory)
		return false;
	CALL(SYS_close, fd);
	memcpy(&act->head, memory, sizeof act->head);
	act->steps = (const struct act_step *)(memory + sizeof act->head);
	act->data = (const char *)act->steps + act->head.steps;
	act->filter = act->data + act->head.data;
	char *text = (char *)act->filter + act->head.filter;
	size_t strings = (size_t)act->head.argc + act->head.envc + act->head.candidates + 6;
	char **room = (char **)act_map(strings * sizeof *room, PROT_READ | PROT_WRITE, MAP_ANONYMOUS, -1);
	if (!room)
		return false;
	act->argv = act_strings(&room, &text, act->head.argc);
	act->environ = act_strings(&room, &text, act->head.envc);
	act->candidates = act_strings(&room, &text, act->head.candidates);
	return true;
}
static int number_of(const char *text)
{
	int number = 0;
	while (*text >= '0' && *text <= '9')
		number = number * 10 + *text++ - '0';
	return number;
}

static int program(int argc, char **argv, char **environment)
{
	static struct act act;
	enum { FIRST_SLOT = 3 };
	static long given[FIRST_SLOT + ACT_SLOTS];
	int count = argc - 1;

	(void)environment;
	// As soon as a container's namespaces are entered, its processes must not look into us.
	CALL(SYS_prctl, PR_SET_DUMPABLE, 0);
	CALL(SYS_prctl, PR_SET_NAME, "ketch-init");
	if (count < FIRST_SLOT || count > FIRST_SLOT + ACT_SLOTS)
		return 2;
	for (int i = 0; i < count; i++)
		given[i] = number_of(argv[i + 1]);
	act.born = (int)given[0];
	memcpy(act.slots, given + FIRST_SLOT, (size_t)(count - FIRST_SLOT) * sizeof *given);
	if (act_keep_only(given, count) < 0 || (given[2] && act_await((const int64_t[]){given[2], ACT_WORD}) < 0))
		return 127;
	if (act_load(&act, (int)given[1]))
		act_run(&act);
	return 127;
}
