/* SPDX-License-Identifier: Apache-2.0
 * The first process of a rig's node, and the stand-in for the image "pause": waits, reaps what it inherits, ends on TERM. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	sigset_t wanted;
	int number;

	sigemptyset(&wanted);
	sigaddset(&wanted, SIGTERM);
	sigaddset(&wanted, SIGINT);
	sigaddset(&wanted, SIGCHLD);
	sigprocmask(SIG_BLOCK, &wanted, NULL);
	for (;;) {
		if (sigwait(&wanted, &number) != 0)
			return 1;
		if (number != SIGCHLD)
			return 0;
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}
