/* SPDX-License-Identifier: Apache-2.0
 * Runs one command and writes to descriptor 3 what it cost: "wall_ns cpu_us peak_rss_kb status". Small and static, because
 * a child's peak RSS begins with that of the process it was forked from. CPU includes all descendants that were waited for.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct timespec before, after;
	struct rusage usage;
	int status;

	if (argc < 2)
		return 2;
	clock_gettime(CLOCK_MONOTONIC, &before);
	pid_t pid = vfork();
	if (pid == 0) {
		close(3);
		execv(argv[1], argv + 1);
		_exit(127);
	}
	if (pid < 0 || wait4(pid, &status, 0, &usage) < 0)
		return 1;
	clock_gettime(CLOCK_MONOTONIC, &after);
	dprintf(3, "%lld %lld %ld %d\n",
		(after.tv_sec - before.tv_sec) * 1000000000LL + after.tv_nsec - before.tv_nsec,
		(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000LL + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec,
		usage.ru_maxrss, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	return 0;
}
