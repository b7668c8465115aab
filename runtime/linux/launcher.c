/* SPDX-License-Identifier: Apache-2.0
 * The installed commands: start our Python from an executable that nobody can write to, and from nowhere but its own path.
 *
 * A process of ours may meet a hostile one that holds its /proc/PID/exe; opened for writing once we are gone, that would
 * be the host's interpreter (CVE-2019-5736). So the interpreter is executed through a detached, read-only clone of its
 * mount: opening /proc/PID/exe for writing gives EROFS for ever. The rule where that is impossible (not root, or a kernel
 * before 5.12): whoever could write to the interpreter executes a sealed copy of it, all others execute it as it is.
 *
 * `make build` gives the interpreter and the library as macros; an installed launcher finds both from its own place:
 * PREFIX/bin/NAME -> PREFIX/bin/python3 and PREFIX/lib/python3.N/site-packages. Neither PATH nor PYTHON* is looked at.
 */
#define _GNU_SOURCE
#include "bare.h"
#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef LIBRARY
#define LIBRARY ""      /* where our packages are */
#define DEPENDENCIES "" /* where others' packages are, if elsewhere */
#define INTERPRETER ""
#endif

/* -c CODE LIBRARY DEPENDENCIES NAME ARGUMENTS...: replaces the zip entry of sys.path, the first, by our packages. With
 * a cold image for this Python (see cold.py) imports come from there; anything wrong with it, and they come as usual. */
static const char code[] =
	"import sys\n"
	"a=sys.argv;sys.path[:1]=[p for p in a[1:3]if p];del a[:3]\n"
	"try:\n"
	" import marshal,posix\n"
	" from _frozen_importlib_external import MAGIC_NUMBER as m\n"
	" f=posix.open(sys.path[0]+'/runtime/linux/cold-'+m[:2].hex()+'.image',posix.O_CLOEXEC)\n"
	" c,i=marshal.loads(posix.read(f,16384));g={'__name__':'runtime.linux.cold'};exec(c,g);g['install'](f,i)\n"
	"except Exception:pass\n"
	"from runtime.linux.start import start;start()";

static const char *digits(unsigned long number)
{
	static char text[24];
	char *at = text + sizeof(text) - 1;

	do
		*--at = (char)('0' + number % 10);
	while (number /= 10);
	return at;
}

static const char *reason(long error)
{
	switch (error) {
	case -EPERM: return "Operation not permitted";
	case -ENOENT: return "No such file or directory";
	case -ENOEXEC: return "Exec format error";
	case -ENOMEM: return "Cannot allocate memory";
	case -EACCES: return "Permission denied";
	case -ENOTDIR: return "Not a directory";
	case -EMFILE: return "Too many open files";
	case -ENAMETOOLONG: return "File name too long";
	}
	return digits((unsigned long)-error); /* errno(3) has all of them */
}

__attribute__((noreturn)) static void fail(const char *what, const char *path, long error, const char *hint)
{
	const char *parts[] = {"ketch: cannot ", what, " ", path, ": ", reason(error), " (", hint, ")\n"};
	struct iovec text[sizeof(parts) / sizeof(*parts)];

	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
		text[i] = (struct iovec){(char *)parts[i], strlen(parts[i])};
	CALL(SYS_writev, STDERR_FILENO, text, sizeof(parts) / sizeof(*parts));
	CALL(SYS_exit_group, 127);
	__builtin_unreachable();
}

/* A path of four parts, of which the last may be empty. */
static const char *joined(char *to, const char *one, const char *two, const char *three, const char *four)
{
	const char *parts[] = {one, two, three, four};
	size_t length = 0;

	for (size_t i = 0; i < 4; i++) {
		size_t more = strlen(parts[i]);

		if (length + more >= PATH_MAX)
			fail("use", one, -ENAMETOOLONG, "install it at a shorter path");
		memcpy(to + length, parts[i], more);
		length += more;
	}
	to[length] = 0;
	return to;
}

static const char *last_slash(const char *path)
{
	const char *found = 0;

	for (; *path; path++)
		if (*path == '/')
			found = path;
	return found;
}

/* What a caller left closed of 0, 1 and 2 would be the number of the next file we open: a container's stdio, perhaps. */
static void hold_standard_descriptors(void)
{
	long fd;

	while ((fd = CALL(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR)) >= 0 && fd <= STDERR_FILENO)
		;
	if (fd >= 0)
		CALL(SYS_close, fd);
}

static long read_only_clone(const char *path)
{
	struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};
	long fd = CALL(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	long r = fd < 0 ? fd : CALL(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attributes, sizeof(attributes));

	if (r < 0 && fd >= 0)
		CALL(SYS_close, fd);
	return r < 0 ? r : fd;
}

static long sealed_copy(const char *path)
{
	long from = CALL(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC), moved;
	long to = CALL(SYS_memfd_create, "ketch", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (from < 0 || to < 0)
		return from < 0 ? from : to;
	while ((moved = CALL(SYS_sendfile, to, from, 0, 1L << 30)) > 0)
		;
	CALL(SYS_close, from);
	if (moved == 0)
		moved = CALL(SYS_fcntl, to, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
	return moved < 0 ? moved : to;
}

/* The path without symlinks, as the kernel tells it of an open file. */
static long real_path(const char *path, char *real)
{
	char link[PATH_MAX];
	long fd = CALL(SYS_openat, AT_FDCWD, path, O_PATH | O_CLOEXEC), length;

	if (fd < 0)
		return fd;
	length = CALL(SYS_readlinkat, AT_FDCWD, joined(link, "/proc/self/fd/", digits((unsigned long)fd), "", ""), real, PATH_MAX - 1);
	CALL(SYS_close, fd);
	if (length >= 0)
		real[length] = 0;
	return length;
}

/* The first python3.N of PREFIX/lib that has our packages; library is PREFIX/lib at first. */
static bool find_library(char *library)
{
	struct { ino64_t ino; off64_t offset; unsigned short size; unsigned char type; char name[]; } *entry;
	char entries[4096] __attribute__((aligned(8))), found[PATH_MAX], start[PATH_MAX];
	long fd = CALL(SYS_openat, AT_FDCWD, library, O_RDONLY | O_DIRECTORY | O_CLOEXEC), size;

	while (fd >= 0 && (size = CALL(SYS_getdents64, fd, entries, sizeof(entries))) > 0)
		for (long at = 0; at < size; at += entry->size) {
			entry = (void *)(entries + at);
			if (strlen(entry->name) < 7 || !same(entry->name, "python3", 7))
				continue;
			joined(found, library, "/", entry->name, "/site-packages");
			if (CALL(SYS_faccessat, AT_FDCWD, joined(start, found, "/runtime/linux/start.py", "", ""), F_OK) == 0) {
				joined(library, found, "", "", "");
				CALL(SYS_close, fd);
				return true;
			}
		}
	return false;
}

static void find_installation(char *interpreter, char *library)
{
	char prefix[PATH_MAX], path[PATH_MAX];
	long r = real_path("/proc/self/exe", prefix);

	if (r < 0)
		fail("find", "/proc/self/exe", r, "is /proc mounted?");
	for (int up = 0; up < 2; up++)
		*(char *)last_slash(prefix) = 0;
	if ((r = real_path(joined(path, prefix, "/bin/python3", "", ""), interpreter)) < 0)
		fail("find the interpreter", path, r, "the installation is incomplete; install again");
	if (!find_library((char *)joined(library, prefix, "/lib", "", "")))
		fail("find the library in", library, -ENOENT, "the installation is incomplete; install again");
}

/* What execve was given: argv[0] is the caller's choice, but tells the name where this one is a descriptor's. */
static char *own_name(int argc, char **argv, char **environment)
{
	char *name = 0;

	while (*environment)
		environment++;
	for (Elf64_auxv_t *fact = (void *)(environment + 1); fact->a_type != AT_NULL; fact++)
		if (fact->a_type == AT_EXECFN)
			name = (char *)fact->a_un.a_val;
	if (!name || same(name, "/dev/fd/", 8) || same(name, "/proc/", 6))
		name = argc ? argv[0] : "ketch";
	return name;
}

static int program(int argc, char **argv, char **environment)
{
	static char interpreter[PATH_MAX] = INTERPRETER, library[PATH_MAX] = LIBRARY;
	char *name = own_name(argc, argv, environment), *arguments[argc + 10];
	/* Ctrl-C while the interpreter starts would be its "Fatal Python error"; start.py lets it in, as our own 130. */
	const unsigned long interrupt = 1UL << (SIGINT - 1);
	int n = 0;
	long fd, r;

	hold_standard_descriptors();
	if (!*library)
		find_installation(interpreter, library);
	char *head[] = {interpreter, "-I", "-S", "-c", (char *)code, library, DEPENDENCIES, name};
	for (size_t i = 0; i < sizeof(head) / sizeof(*head); i++)
		arguments[n++] = head[i];
	for (int i = 1; i < argc; i++)
		arguments[n++] = argv[i];
	arguments[n] = NULL;

	CALL(SYS_rt_sigprocmask, SIG_BLOCK, &interrupt, 0, sizeof(interrupt));
	fd = read_only_clone(interpreter);
	/* As whom it acts, which faccessat(2) cannot ask; a kernel before 5.8 cannot tell, and then it may. */
	r = fd < 0 ? CALL(SYS_faccessat2, AT_FDCWD, interpreter, W_OK, AT_EACCESS) : 0;
	if (fd < 0 && (r == 0 || r == -ENOSYS) && (fd = sealed_copy(interpreter)) < 0)
		fail("make a sealed copy of", interpreter, fd, "needed because this user may write to it; is memory short?");
	if (fd < 0)
		r = CALL(SYS_execve, interpreter, arguments, environment);
	else
		r = CALL(SYS_execveat, fd, "", arguments, environment, AT_EMPTY_PATH);
	fail("execute", interpreter, r, "run make build or install again");
}
