# SPDX-License-Identifier: Apache-2.0
"""Types of the C extension: kept in step with core.cdef by a test."""

from typing import Any

class _Lib:
    MS_RDONLY: int
    MS_NOSUID: int
    MS_NODEV: int
    MS_NOEXEC: int
    MS_SYNCHRONOUS: int
    MS_REMOUNT: int
    MS_MANDLOCK: int
    MS_DIRSYNC: int
    MS_NOSYMFOLLOW: int
    MS_NOATIME: int
    MS_NODIRATIME: int
    MS_BIND: int
    MS_MOVE: int
    MS_REC: int
    MS_SILENT: int
    MS_POSIXACL: int
    MS_UNBINDABLE: int
    MS_PRIVATE: int
    MS_SLAVE: int
    MS_SHARED: int
    MS_RELATIME: int
    MS_I_VERSION: int
    MS_STRICTATIME: int
    MS_LAZYTIME: int
    MNT_FORCE: int
    MNT_DETACH: int
    MNT_EXPIRE: int
    UMOUNT_NOFOLLOW: int
    OPEN_TREE_CLONE: int
    OPEN_TREE_CLOEXEC: int
    MOVE_MOUNT_F_EMPTY_PATH: int
    MOVE_MOUNT_F_SYMLINKS: int
    MOVE_MOUNT_T_EMPTY_PATH: int
    MOVE_MOUNT_T_SYMLINKS: int
    MOVE_MOUNT_SET_GROUP: int
    MOVE_MOUNT_BENEATH: int
    FSOPEN_CLOEXEC: int
    FSMOUNT_CLOEXEC: int
    FSPICK_CLOEXEC: int
    FSPICK_EMPTY_PATH: int
    FSCONFIG_SET_FLAG: int
    FSCONFIG_SET_STRING: int
    FSCONFIG_SET_BINARY: int
    FSCONFIG_SET_PATH: int
    FSCONFIG_SET_PATH_EMPTY: int
    FSCONFIG_SET_FD: int
    FSCONFIG_CMD_CREATE: int
    FSCONFIG_CMD_RECONFIGURE: int
    FSCONFIG_CMD_CREATE_EXCL: int
    MOUNT_ATTR_RDONLY: int
    MOUNT_ATTR_NOSUID: int
    MOUNT_ATTR_NODEV: int
    MOUNT_ATTR_NOEXEC: int
    MOUNT_ATTR__ATIME: int
    MOUNT_ATTR_RELATIME: int
    MOUNT_ATTR_NOATIME: int
    MOUNT_ATTR_STRICTATIME: int
    MOUNT_ATTR_NODIRATIME: int
    MOUNT_ATTR_IDMAP: int
    MOUNT_ATTR_NOSYMFOLLOW: int
    AT_FDCWD: int
    AT_RECURSIVE: int
    AT_EMPTY_PATH: int
    AT_SYMLINK_NOFOLLOW: int
    AT_NO_AUTOMOUNT: int
    STATMOUNT_SB_BASIC: int
    STATMOUNT_MNT_BASIC: int
    STATMOUNT_PROPAGATE_FROM: int
    STATMOUNT_MNT_ROOT: int
    STATMOUNT_MNT_POINT: int
    STATMOUNT_FS_TYPE: int
    LSMT_ROOT: int
    CLONE_NEWNS: int
    CLONE_NEWUTS: int
    CLONE_NEWIPC: int
    CLONE_NEWUSER: int
    CLONE_NEWPID: int
    CLONE_NEWNET: int
    CLONE_NEWCGROUP: int
    CLONE_NEWTIME: int
    CLONE_PARENT: int
    CLONE_FILES: int
    CLONE_FS: int
    CLONE_VM: int
    CLONE_VFORK: int
    CLONE_PIDFD: int
    CLONE_INTO_CGROUP: int
    CLONE_CLEAR_SIGHAND: int
    RESOLVE_NO_XDEV: int
    RESOLVE_NO_MAGICLINKS: int
    RESOLVE_NO_SYMLINKS: int
    RESOLVE_BENEATH: int
    RESOLVE_IN_ROOT: int
    RESOLVE_CACHED: int
    CLOSE_RANGE_UNSHARE: int
    CLOSE_RANGE_CLOEXEC: int
    PR_SET_PDEATHSIG: int
    PR_GET_DUMPABLE: int
    PR_SET_DUMPABLE: int
    PR_GET_KEEPCAPS: int
    PR_SET_KEEPCAPS: int
    PR_SET_NAME: int
    PR_CAPBSET_READ: int
    PR_CAPBSET_DROP: int
    PR_GET_SECUREBITS: int
    PR_SET_SECUREBITS: int
    SECBIT_NOROOT: int
    SECBIT_KEEP_CAPS: int
    SECBIT_NO_SETUID_FIXUP: int
    PR_SET_NO_NEW_PRIVS: int
    PR_GET_NO_NEW_PRIVS: int
    PR_SET_CHILD_SUBREAPER: int
    PR_GET_CHILD_SUBREAPER: int
    PR_CAP_AMBIENT: int
    PR_CAP_AMBIENT_IS_SET: int
    PR_CAP_AMBIENT_RAISE: int
    PR_CAP_AMBIENT_LOWER: int
    PR_CAP_AMBIENT_CLEAR_ALL: int
    PR_SET_THP_DISABLE: int
    PR_SET_IO_FLUSHER: int
    SECCOMP_SET_MODE_FILTER: int
    SECCOMP_GET_ACTION_AVAIL: int
    SECCOMP_GET_NOTIF_SIZES: int
    SECCOMP_FILTER_FLAG_TSYNC: int
    SECCOMP_FILTER_FLAG_LOG: int
    SECCOMP_FILTER_FLAG_SPEC_ALLOW: int
    SECCOMP_FILTER_FLAG_NEW_LISTENER: int
    SECCOMP_FILTER_FLAG_TSYNC_ESRCH: int
    SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: int
    SECCOMP_RET_KILL_PROCESS: int
    SECCOMP_RET_KILL_THREAD: int
    SECCOMP_RET_TRAP: int
    SECCOMP_RET_ERRNO: int
    SECCOMP_RET_USER_NOTIF: int
    SECCOMP_RET_TRACE: int
    SECCOMP_RET_LOG: int
    SECCOMP_RET_ALLOW: int
    BPF_PROG_TYPE_CGROUP_DEVICE: int
    BPF_CGROUP_DEVICE: int
    BPF_F_ALLOW_OVERRIDE: int
    BPF_F_ALLOW_MULTI: int
    BPF_F_REPLACE: int
    KEYCTL_GET_KEYRING_ID: int
    KEYCTL_JOIN_SESSION_KEYRING: int
    KEYCTL_SETPERM: int
    KEYCTL_DESCRIBE: int
    KEY_SPEC_SESSION_KEYRING: int
    IOPRIO_WHO_PROCESS: int
    IOPRIO_CLASS_RT: int
    IOPRIO_CLASS_BE: int
    IOPRIO_CLASS_IDLE: int
    IOPRIO_CLASS_SHIFT: int
    MPOL_DEFAULT: int
    MPOL_PREFERRED: int
    MPOL_BIND: int
    MPOL_INTERLEAVE: int
    MPOL_LOCAL: int
    MPOL_PREFERRED_MANY: int
    MPOL_WEIGHTED_INTERLEAVE: int
    MPOL_F_STATIC_NODES: int
    MPOL_F_RELATIVE_NODES: int
    MPOL_F_NUMA_BALANCING: int
    PROC_SUPER_MAGIC: int
    SYSFS_MAGIC: int
    CGROUP_SUPER_MAGIC: int
    CGROUP2_SUPER_MAGIC: int
    DEVPTS_SUPER_MAGIC: int
    TMPFS_MAGIC: int
    NSFS_MAGIC: int
    OVERLAYFS_SUPER_MAGIC: int
    BPF_FS_MAGIC: int
    NS_GET_USERNS: int
    NS_GET_PARENT: int
    NS_GET_NSTYPE: int
    NS_GET_OWNER_UID: int
    TIOCGPTPEER: int
    TIOCSCTTY: int
    TIOCSWINSZ: int
    TIOCGWINSZ: int
    TIOCSPTLCK: int
    TIOCGPTN: int
    SYS_openat: int
    SYS_close: int
    SYS_write: int
    SYS_fchdir: int
    SYS_chdir: int
    SYS_chroot: int
    SYS_umask: int
    SYS_setsid: int
    SYS_setns: int
    SYS_unshare: int
    SYS_prctl: int
    SYS_setgroups: int
    SYS_setresgid: int
    SYS_setresuid: int
    SYS_capset: int
    SYS_prlimit64: int
    SYS_dup3: int
    SYS_close_range: int
    SYS_fsopen: int
    SYS_fsconfig: int
    SYS_fsmount: int
    SYS_open_tree: int
    SYS_move_mount: int
    SYS_mount_setattr: int
    SYS_openat2: int
    SYS_mkdirat: int
    SYS_mknodat: int
    SYS_symlinkat: int
    SYS_unlinkat: int
    SYS_fchownat: int
    SYS_pivot_root: int
    SYS_umount2: int
    SYS_mount: int
    SYS_sethostname: int
    SYS_setdomainname: int
    SYS_keyctl: int
    SYS_socket: int
    SYS_ioctl: int
    ACT_EXPECT: int
    ACT_DIRECTORY: int
    ACT_BIRTH: int
    ACT_SLOTS: int
    ACT_INSIDE: int
    ACT_HOME: int
    ACT_FIND: int
    ACT_OWN_STDIO: int
    ACT_EXECUTE: int
    ACT_AWAIT: int
    ACT_NOT_PROC: int
    ACT_SKIP: int
    ACT_COVER: int
    ACT_TARGET: int
    ACT_WORD: int
    SYS_fcntl: int
    def k_mount(self, source_: Any, target_: Any, type_: Any, flags_: int, data_: Any, /) -> int: ...
    def k_umount2(self, target_: Any, flags_: int, /) -> int: ...
    def k_open_tree(self, dirfd_: int, path_: Any, flags_: int, /) -> int: ...
    def k_move_mount(self, from_fd_: int, from_: Any, to_fd_: int, to_: Any, flags_: int, /) -> int: ...
    def k_mount_setattr(
        self, dirfd_: int, path_: Any, flags_: int, set_: int, clear_: int, propagation_: int, userns_fd_: int, /
    ) -> int: ...
    def k_fsopen(self, type_: Any, flags_: int, /) -> int: ...
    def k_fsconfig(self, fd_: int, command_: int, key_: Any, value_: Any, aux_: int, /) -> int: ...
    def k_fsmount(self, fd_: int, flags_: int, attributes_: int, /) -> int: ...
    def k_fspick(self, dirfd_: int, path_: Any, flags_: int, /) -> int: ...
    def k_pivot_root(self, new_root_: Any, put_old_: Any, /) -> int: ...
    def k_syncfs(self, fd_: int, /) -> int: ...
    def k_unshare(self, flags_: int, /) -> int: ...
    def k_setns(self, fd_: int, flags_: int, /) -> int: ...
    def k_clone3(self, flags_: int, exit_signal_: int, cgroup_fd_: int, /) -> int: ...
    def k_openat2(self, dirfd_: int, path_: Any, flags_: int, mode_: int, resolve_: int, /) -> int: ...
    def k_close_range(self, first_: int, last_: int, flags_: int, /) -> int: ...
    def k_execveat(self, dirfd_: int, path_: Any, argv_: Any, environ_: Any, flags_: int, /) -> int: ...
    def k_exec_confined(
        self,
        dirfd_: int,
        path_: Any,
        argv_: Any,
        environ_: Any,
        at_flags_: int,
        filter_: Any,
        count_: int,
        filter_flags_: int,
        mailbox_: Any,
        /,
    ) -> int: ...
    def k_pidfd_open(self, pid_: int, flags_: int, /) -> int: ...
    def k_pidfd_send_signal(self, pidfd_: int, signal_: int, flags_: int, /) -> int: ...
    def k_pidfd_getfd(self, pidfd_: int, fd_: int, /) -> int: ...
    def k_capget(self, sets_: Any, /) -> int: ...
    def k_capset(self, sets_: Any, /) -> int: ...
    def k_prctl(self, option_: int, a_: int, b_: int, c_: int, d_: int, /) -> int: ...
    def k_seccomp(self, operation_: int, flags_: int, filter_: Any, count_: int, /) -> int: ...
    def k_seccomp_action_known(self, action_: int, /) -> int: ...
    def k_bpf_load(self, program_: Any, count_: int, type_: int, log_: Any, log_size_: int, /) -> int: ...
    def k_bpf_attach(self, target_fd_: int, program_fd_: int, type_: int, flags_: int, /) -> int: ...
    def k_bpf_detach(self, target_fd_: int, program_fd_: int, type_: int, /) -> int: ...
    def k_bpf_query(self, target_fd_: int, type_: int, ids_: Any, room_: int, /) -> int: ...
    def k_bpf_fd_by_id(self, id_: int, /) -> int: ...
    def k_keyctl(self, operation_: int, a_: int, b_: int, c_: int, d_: int, /) -> int: ...
    def k_join_session_keyring(self, name_: Any, /) -> int: ...
    def k_sched_setattr(
        self, policy_: int, flags_: int, nice_: int, priority_: int, runtime_: int, deadline_: int, period_: int, /
    ) -> int: ...
    def k_ioprio_set(self, which_: int, who_: int, priority_: int, /) -> int: ...
    def k_set_mempolicy(self, mode_: int, nodes_: Any, bits_: int, /) -> int: ...
    def k_personality(self, persona_: int, /) -> int: ...
    def k_sethostname(self, name_: Any, length_: int, /) -> int: ...
    def k_setdomainname(self, name_: Any, length_: int, /) -> int: ...
    def k_prlimit(self, pid_: int, resource_: int, new_limit_: Any, old_limit_: Any, /) -> int: ...
    def k_statmount(self, mount_id_: int, mask_: int, buffer_: Any, size_: int, /) -> int: ...
    def k_listmount(self, mount_id_: int, last_: int, ids_: Any, room_: int, /) -> int: ...
    def k_filesystem_type(self, fd_: int, /) -> int: ...
    def k_reset_signals(self, /) -> int: ...
    def k_act(self, act_: int, given_: Any, count_: int, /) -> int: ...
    def k_mailbox(self, fd_: int, /) -> Any: ...

lib: _Lib

class _FFI:
    NULL: Any
    def new(self, kind: str, init: Any = ..., /) -> Any: ...
    def from_buffer(self, kind: str, data: Any, /) -> Any: ...
    def release(self, data: Any, /) -> None: ...
    def buffer(self, data: Any, size: int = ..., /) -> Any: ...
    def string(self, data: Any, size: int = ..., /) -> bytes: ...

ffi: _FFI
