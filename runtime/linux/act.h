// SPDX-License-Identifier: Apache-2.0
// A flat program as program.py writes it and act.c runs it: the head, the steps, a block of data, the filter, then the strings of argv,
// of the environment and of the paths where the program may be, each with its null byte.
#include <stdint.h>

struct act_head {
	uint32_t steps, data, filter; // bytes
	uint32_t filter_flags, report; // report: a slot
	uint32_t argc, envc, candidates;
};
struct act_step {
	int32_t call;
	int16_t result, skip;         // slot that takes the result or -1; how many steps are left out after a tolerated error
	uint32_t kinds, tolerated;    // 4 bits per argument; up to four errnos, one per byte
	int64_t arguments[6];
};
enum { ACT_NUMBER, ACT_SLOT, ACT_ADDRESS };
enum { ACT_EXPECT = -1, ACT_DIRECTORY = -2, ACT_BIRTH = -3, ACT_INSIDE = -4, ACT_HOME = -5, ACT_FIND = -6, ACT_OWN_STDIO = -7,
       ACT_EXECUTE = -8, ACT_AWAIT = -9, ACT_NOT_PROC = -10, ACT_SKIP = -11, ACT_COVER = -12, ACT_TARGET = -13 };
#define ACT_SLOTS 256
#define ACT_WORD 'g' // what ACT_AWAIT is given for the word on which it goes on
