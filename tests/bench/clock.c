// SPDX-License-Identifier: Apache-2.0
// What the time is when a container's program runs its first line: nanoseconds of the monotonic clock, and a newline.
#include <stdio.h>
#include <time.h>

int main(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	printf("%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
	return 0;
}
