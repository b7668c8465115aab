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
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <libgen.h>
#include <limits.h>
#include <linux/mount.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
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

static void fail(const char *what, const char *path, const char *hint)
{
	fprintf(stderr, "ketch: cannot %s %s: %s (%s)\n", what, path, strerror(errno), hint);
	exit(127);
}

/* What a caller left closed of 0, 1 and 2 would be the number of the next file we open: a container's stdio, perhaps. */
static void hold_standard_descriptors(void)
{
	int fd;

	while ((fd = open("/dev/null", O_RDWR)) >= 0 && fd <= STDERR_FILENO)
		;
	if (fd >= 0)
		close(fd);
}

static int read_only_clone(const char *path)
{
	struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};
	int fd = syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

	if (fd >= 0 && syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attributes, sizeof(attributes)) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

static int sealed_copy(const char *path)
{
	int from = open(path, O_RDONLY | O_CLOEXEC), to = memfd_create("ketch", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct stat status;

	if (from < 0 || to < 0 || fstat(from, &status) < 0)
		return -1;
	for (off_t done = 0; done < status.st_size;)
		if (sendfile(to, from, &done, status.st_size - done) <= 0)
			return -1;
	close(from);
	return fcntl(to, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0 ? -1 : to;
}

static void find_installation(char *interpreter, char *library)
{
	char self[PATH_MAX], pattern[PATH_MAX + 64];
	glob_t found;

	if (!realpath("/proc/self/exe", self))
		fail("find", "/proc/self/exe", "is /proc mounted?");
	char *prefix = dirname(dirname(self));
	snprintf(pattern, sizeof(pattern), "%s/bin/python3", prefix);
	if (!realpath(pattern, interpreter))
		fail("find the interpreter", pattern, "the installation is incomplete; install again");
	snprintf(pattern, sizeof(pattern), "%s/lib/python3*/site-packages/runtime/linux/start.py", prefix);
	if (glob(pattern, 0, NULL, &found) != 0)
		fail("find the library", pattern, "the installation is incomplete; install again");
	snprintf(library, PATH_MAX, "%.*s", (int)(strlen(found.gl_pathv[0]) - strlen("/runtime/linux/start.py")),
		 found.gl_pathv[0]);
}

int main(int argc, char **argv, char **environment)
{
	char interpreter[PATH_MAX] = INTERPRETER, library[PATH_MAX] = LIBRARY, *arguments[argc + 10];
	/* What execve was given: argv[0] is the caller's choice, but tells the name where this one is a descriptor's. */
	char *name = (char *)getauxval(AT_EXECFN);
	int n = 0, fd;

	hold_standard_descriptors();
	if (!name || !strncmp(name, "/dev/fd/", 8) || !strncmp(name, "/proc/", 6))
		name = argc ? argv[0] : "ketch";
	if (!*library)
		find_installation(interpreter, library);
	char *head[] = {interpreter, "-I", "-S", "-c", (char *)code, library, DEPENDENCIES, name};
	for (size_t i = 0; i < sizeof(head) / sizeof(*head); i++)
		arguments[n++] = head[i];
	for (int i = 1; i < argc; i++)
		arguments[n++] = argv[i];
	arguments[n] = NULL;

	/* Ctrl-C while the interpreter starts would be its "Fatal Python error"; start.py lets it in, as our own 130. */
	if (!strcmp(strrchr(name, '/') ? strrchr(name, '/') + 1 : name, "ketch")) {
		sigset_t interrupt;

		sigemptyset(&interrupt);
		sigaddset(&interrupt, SIGINT);
		sigprocmask(SIG_BLOCK, &interrupt, NULL);
	}
	fd = read_only_clone(interpreter);
	if (fd < 0 && faccessat(AT_FDCWD, interpreter, W_OK, AT_EACCESS) == 0 && (fd = sealed_copy(interpreter)) < 0)
		fail("make a sealed copy of", interpreter, "needed because this user may write to it; is memory short?");
	if (fd < 0)
		execve(interpreter, arguments, environment);
	else
		execveat(fd, "", arguments, environment, AT_EMPTY_PATH);
	fail("execute", interpreter, "run make build or install again");
}
