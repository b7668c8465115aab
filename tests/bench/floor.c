// SPDX-License-Identifier: Apache-2.0
// What the kernel itself takes for the `run` of a program: groups, namespaces, mounts, masks, pivot_root, execve, and all gone again;
// in as few calls as C can make of them, with no configuration to read and nothing checked. Prints when it begins.
// usage: floor ROOTFS PROGRAM GROUP...
#define _GNU_SOURCE
#include <linux/sched.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void must(long result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
}

static void put(const char *group, const char *file, const char *text)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/%s", group, file);
	int fd = open(path, O_WRONLY);
	must(fd, path);
	must(write(fd, text, strlen(text)), path);
	close(fd);
}

static void devices(void)
{
	static const struct { const char *path; int major, minor; } nodes[] = {
		{"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7}, {"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0}};
	static const char *links[][2] = {{"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"},
		{"/proc/self/fd/2", "dev/stderr"}, {"/proc/kcore", "dev/core"}, {"pts/ptmx", "dev/ptmx"}};
	for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++)
		must(mknod(nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)), nodes[i].path);
	for (size_t i = 0; i < sizeof links / sizeof *links; i++)
		must(symlink(links[i][0], links[i][1]), links[i][1]);
}

static void masks(void)
{
	static const char *hidden[] = {"proc/acpi", "proc/kcore", "proc/keys", "proc/timer_list", "sys/firmware"};
	static const char *fixed[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"};
	struct stat facts;
	for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
		if (stat(hidden[i], &facts) == 0 && S_ISDIR(facts.st_mode))
			must(mount("tmpfs", hidden[i], "tmpfs", MS_RDONLY, ""), hidden[i]);
		else if (stat(hidden[i], &facts) == 0)
			must(mount("dev/null", hidden[i], NULL, MS_BIND, NULL), hidden[i]);
	for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
		if (stat(fixed[i], &facts) == 0) {
			must(mount(fixed[i], fixed[i], NULL, MS_BIND, NULL), fixed[i]);
			must(mount(NULL, fixed[i], NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL), fixed[i]);
		}
}

static void contain(const char *root, char *program, char **groups)
{
	const unsigned long quiet = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	for (; *groups; groups++)
		put(*groups, "tasks", "0");
	must(mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL), "slave");
	must(mount(root, root, NULL, MS_BIND | MS_REC, NULL), root);
	must(chdir(root), root);
	must(mount("proc", "proc", "proc", quiet, NULL), "proc");
	must(mount("tmpfs", "dev", "tmpfs", MS_NOSUID, "mode=755,size=65536k"), "dev");
	must(mkdir("dev/pts", 0755) | mkdir("dev/shm", 0755) | mkdir("dev/mqueue", 0755), "mkdir");
	must(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"), "pts");
	must(mount("shm", "dev/shm", "tmpfs", quiet, "mode=1777,size=65536k"), "shm");
	must(mount("mqueue", "dev/mqueue", "mqueue", quiet, NULL), "mqueue");
	must(mount("sysfs", "sys", "sysfs", quiet | MS_RDONLY, NULL), "sys");
	must(mount("tmpfs", "run", "tmpfs", MS_NOSUID, "mode=755"), "run");
	must(sethostname("bench", 5), "hostname");
	devices();
	masks();
	must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
	must(umount2(".", MNT_DETACH), "umount");
	must(chdir("/"), "/");
	execl(program, program, NULL);
	must(-1, program);
}

int main(int argc, char **argv)
{
	struct clone_args args = {.flags = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS, .exit_signal = SIGCHLD};
	struct timespec now;
	int status = 0;

	if (argc < 3)
		return 2;
	clock_gettime(CLOCK_MONOTONIC, &now);
	printf("%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
	fflush(stdout);
	for (char **group = argv + 3; *group; group++) {
		must(mkdir(*group, 0755), *group);
		if (strstr(*group, "/memory/"))
			put(*group, "memory.limit_in_bytes", "268435456");
		if (strstr(*group, "/cpuset/")) { // nobody enters one without
			put(*group, "cpuset.cpus", "0");
			put(*group, "cpuset.mems", "0");
		}
	}
	long pid = syscall(SYS_clone3, &args, sizeof args);
	must(pid, "clone3");
	if (pid == 0)
		contain(argv[1], argv[2], argv + 3);
	must(waitpid((pid_t)pid, &status, 0), "waitpid");
	for (char **group = argv + 3; *group; group++)
		must(rmdir(*group), *group);
	return WEXITSTATUS(status);
}
