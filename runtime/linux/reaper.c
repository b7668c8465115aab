/* SPDX-License-Identifier: Apache-2.0
 * PID 1 of a pod that shares its PID namespace: reaps what the pod's containers orphan, ends on SIGTERM or SIGINT.
 *
 * It is no Python because any container of the pod may look at /proc/1/root: this runs in an empty read-only root.
 */
#include "bare.h"
#include <signal.h>
#include <sys/wait.h>

static int program(int argc, char **argv, char **environment)
{
	const unsigned long awaited = 1UL << (SIGCHLD - 1) | 1UL << (SIGTERM - 1) | 1UL << (SIGINT - 1);
	long received;

	(void)argc, (void)argv, (void)environment;
	/* Blocked, so that one that comes while we reap stays pending. The kernel ignores what PID 1 has not asked for. */
	CALL(SYS_rt_sigprocmask, SIG_BLOCK, &awaited, 0, sizeof awaited);
	/* SIGCHLD does not queue: whoever died before the mask was set, or twice in one signal, is found by this loop. */
	for (;;) {
		while (CALL(SYS_wait4, -1, 0, WNOHANG) > 0)
			;
		received = CALL(SYS_rt_sigtimedwait, &awaited, 0, 0, sizeof awaited);
		if (received > 0 && received != SIGCHLD)
			return 0;
	}
}
