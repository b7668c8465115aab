/* SPDX-License-Identifier: Apache-2.0
 * PID 1 of a pod that shares its PID namespace: reaps what the pod's containers orphan, ends on SIGTERM or SIGINT.
 *
 * It is no Python because any container of the pod may look at /proc/1/root: this runs in an empty read-only root.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	sigset_t awaited;
	int received;

	sigemptyset(&awaited);
	sigaddset(&awaited, SIGCHLD);
	sigaddset(&awaited, SIGTERM);
	sigaddset(&awaited, SIGINT);
	/* Blocked, so that one that comes while we reap stays pending. The kernel ignores what PID 1 has not asked for. */
	sigprocmask(SIG_BLOCK, &awaited, NULL);
	/* SIGCHLD does not queue: whoever died before the mask was set, or twice in one signal, is found by this loop. */
	for (;;) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (sigwait(&awaited, &received) == 0 && received != SIGCHLD)
			return 0;
	}
}
