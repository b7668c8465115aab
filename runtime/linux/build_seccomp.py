# SPDX-License-Identifier: Apache-2.0
"""Describe the C extension runtime.linux._seccomp to cffi: the part of libseccomp that compiles a profile."""

from cffi import FFI

CDEF = """
typedef void *scmp_filter_ctx;
struct scmp_arg_cmp { unsigned int arg; int op; uint64_t datum_a; uint64_t datum_b; };
struct scmp_version { unsigned int major; unsigned int minor; unsigned int micro; };
const struct scmp_version *seccomp_version(void);
scmp_filter_ctx seccomp_init(uint32_t def_action);
void seccomp_release(scmp_filter_ctx ctx);
int seccomp_arch_add(scmp_filter_ctx ctx, uint32_t arch_token);
int seccomp_arch_exist(const scmp_filter_ctx ctx, uint32_t arch_token);
uint32_t seccomp_arch_native(void);
uint32_t seccomp_arch_resolve_name(const char *arch_name);
int seccomp_attr_set(scmp_filter_ctx ctx, int attr, uint32_t value);
int seccomp_syscall_resolve_name(const char *name);
int seccomp_syscall_resolve_name_arch(uint32_t arch_token, const char *name);
int seccomp_rule_add_array(scmp_filter_ctx ctx, uint32_t action, int syscall, unsigned int arg_cnt,
                           const struct scmp_arg_cmp *arg_array);
int seccomp_export_bpf(const scmp_filter_ctx ctx, int fd);
int seccomp_api_set(unsigned int level);
unsigned int seccomp_api_get(void);
#define __NR_SCMP_ERROR ...
#define SCMP_FLTATR_CTL_NNP ...
#define SCMP_FLTATR_CTL_OPTIMIZE ...
#define SCMP_CMP_NE ...
#define SCMP_CMP_LT ...
#define SCMP_CMP_LE ...
#define SCMP_CMP_EQ ...
#define SCMP_CMP_GE ...
#define SCMP_CMP_GT ...
#define SCMP_CMP_MASKED_EQ ...
"""

ffi = FFI()
ffi.cdef(CDEF)
ffi.set_source("runtime.linux._seccomp", "#include <seccomp.h>", libraries=["seccomp"], extra_compile_args=["-O2"])

if __name__ == "__main__":
    ffi.compile(verbose=True)
