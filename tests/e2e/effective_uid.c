/* SPDX-License-Identifier: Apache-2.0
 * Stand-in for the image "nonewprivs": installed set-uid root, it says which user it really became. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	return printf("Effective uid: %u\n", (unsigned)geteuid()) < 0;
}
