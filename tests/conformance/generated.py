# SPDX-License-Identifier: Apache-2.0
"""Configs for the differential test, each from a number: what runc, crun and ketch-runtime should all understand."""

from __future__ import annotations

import random
from typing import Any

from runtime.linux import capabilities

# What the container tells about itself, in sections; busybox is all that it has. The last `fd` is that of ls itself.
REPORT = r"""
s() { echo "== $1"; }
s status; grep -E "^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:|Umask|SigIgn|SigBlk)" /proc/self/status
s env; env | sort
s cwd; pwd
s limits; sed 's/  */ /g' /proc/self/limits
s oom; cat /proc/self/oom_score_adj
s ids; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups
s names; hostname; cat /proc/sys/kernel/domainname
s namespaces; for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done
s mounts; cat /proc/self/mountinfo
s dev; ls -ln /dev | sed -n '2,$p' | awk '{print $1, $3, $4, $5, $6, ($1 ~ /^[cbd]/ ? $NF : $(NF-2) $(NF-1) $NF)}'
s fds; ls /proc/self/fd
s sysctl; for f in kernel/msgmax kernel/shmmax net/ipv4/ip_forward net/core/somaxconn; do cat /proc/sys/$f 2>&1; done
s masked; for p in /proc/kcore /proc/keys /proc/timer_list /proc/scsi /sys/firmware /etc/passwd /bin; do
  if [ -d $p ]; then echo "$p $(ls $p 2>&1 | wc -l)"; else echo "$p $(head -c 20 $p 2>&1 | wc -c)"; fi; done
s readonly; for p in /proc/sys/kernel/msgmax /proc/sysrq-trigger /etc /tmp /; do
  [ -w $p ] && echo "$p w" || echo "$p -"; done
s cgroup; for f in memory/memory.limit_in_bytes memory/memory.soft_limit_in_bytes memory/memory.memsw.limit_in_bytes \
  memory/memory.swappiness pids/pids.max cpu/cpu.shares cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpuset/cpuset.cpus \
  cpuset/cpuset.mems memory.max memory.low memory.swap.max pids.max cpu.weight cpu.max cpuset.cpus; do
  [ -e /sys/fs/cgroup/$f ] && echo "$f $(cat /sys/fs/cgroup/$f | tr '\n' ';')"; done
s devices; cat /sys/fs/cgroup/devices/devices.list 2>&1 | sort
s seccomp; mkdir /tmp/seccomp-probe 2>&1; chmod 700 /tmp 2>&1; uname -r > /dev/null && echo uname works
s personality; uname -m
s loopback; ip -o link show lo 2>&1 | grep -o '<.*>'
s session; tty
exit 0
"""

_KINDS = ("bounding", "effective", "permitted", "inheritable", "ambient")
_COMMON = [name for name in capabilities.NAMES[:24] if name != "CAP_SYS_RESOURCE"]  # the machine has not got that one


def _base() -> dict[str, Any]:
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/bin/sh", "-c", REPORT],
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
            {
                "destination": "/sys/fs/cgroup",
                "type": "cgroup",
                "source": "cgroup",
                "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
            },
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "cgroup", "network")],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        },
    }


def _process(pick: random.Random, config: dict[str, Any]) -> None:
    process = config["process"]
    if pick.random() < 0.5:
        process["user"] = {"uid": pick.choice([0, 1, 1000, 65534]), "gid": pick.choice([0, 5, 1000])}
        if pick.random() < 0.5:
            process["user"]["additionalGids"] = pick.sample([5, 6, 7, 100, 2000], pick.randrange(1, 4))
        if pick.random() < 0.3:
            process["user"]["umask"] = pick.choice([0, 0o22, 0o77])
    process["env"] += [f"V{n}={pick.choice(['', 'a b', 'x=y', 'ü'])}" for n in range(pick.randrange(3))]
    process["cwd"] = pick.choice(["/", "/", "/tmp", "/made/by/runtime"])
    if pick.random() < 0.6:
        held = pick.sample(_COMMON, pick.randrange(0, 8))
        sets = dict.fromkeys(("bounding", "effective", "permitted"), held)
        if pick.random() < 0.3:
            sets |= {"inheritable": held, "ambient": held[: len(held) // 2]}
        process["capabilities"] = sets
    if pick.random() < 0.4:
        process["noNewPrivileges"] = pick.random() < 0.7
    if pick.random() < 0.4:
        kinds = pick.sample(["RLIMIT_NOFILE", "RLIMIT_CORE", "RLIMIT_STACK", "RLIMIT_CPU", "RLIMIT_FSIZE"], 2)
        process["rlimits"] = [{"type": k, "soft": 1 << 20, "hard": 1 << 20} for k in kinds if k != "RLIMIT_NOFILE"] + [
            {"type": k, "soft": 512, "hard": 1024} for k in kinds if k == "RLIMIT_NOFILE"
        ]
    if pick.random() < 0.3:
        process["oomScoreAdj"] = pick.choice([0, 100, 1000])


def _file_systems(pick: random.Random, config: dict[str, Any]) -> None:
    mounts = config["mounts"]
    if pick.random() < 0.5:
        config["root"]["readonly"] = True
    if pick.random() < 0.7:
        options = pick.sample(["nosuid", "nodev", "noexec", "ro"], 2)
        options.append(pick.choice(["noatime", "relatime", "nodiratime"]))
        options += pick.choice([[], ["size=1m"], ["mode=700"], ["mode=1777", "size=64k"]])
        mounts.append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": options})
    if pick.random() < 0.6:
        options = [pick.choice(["bind", "rbind"])]
        options += pick.sample(["ro", "nosuid", "nodev", "noexec"], pick.randrange(0, 4))
        options += pick.choice([[], ["rprivate"], ["rslave"], ["private"]])
        mounts.append({"destination": pick.choice(["/data", "/a/deep/place"]), "source": "SHARED", "options": options})
    if pick.random() < 0.3:
        mounts.append({"destination": "/etc/one", "source": "FILE", "options": ["bind", "ro"]})
    if pick.random() < 0.4:
        mounts.append(
            {
                "destination": "/dev/mqueue",
                "type": "mqueue",
                "source": "mqueue",
                "options": ["nosuid", "noexec", "nodev"],
            }
        )
    if pick.random() < 0.4:
        mounts.append(
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "mode=1777", "size=1m"]}
        )
    if pick.random() < 0.4:
        mounts.insert(
            3,
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        )
    linux = config["linux"]
    if pick.random() < 0.4:
        linux["rootfsPropagation"] = pick.choice(["private", "slave", "rslave", "rprivate"])
    if pick.random() < 0.5:
        paths = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware", "/no/such"]
        linux["maskedPaths"] = pick.sample(paths, 3)
        linux["readonlyPaths"] = pick.sample(["/proc/sys", "/proc/sysrq-trigger", "/proc/bus", "/etc", "/no/such"], 3)


def _kernel(pick: random.Random, config: dict[str, Any]) -> None:
    linux = config["linux"]
    if pick.random() < 0.4:
        config["hostname"] = "box"
    if pick.random() < 0.4:
        sysctls = {"kernel.msgmax": "4096", "kernel.shmmax": "65536", "net.ipv4.ip_forward": "1"}
        linux["sysctl"] = dict(pick.sample(sorted(sysctls.items()), 2))
    if pick.random() < 0.5:
        linux["devices"] = [
            {
                "path": "/dev/mine",
                "type": "c",
                "major": 1,
                "minor": pick.choice([3, 5]),
                "fileMode": pick.choice([0o666, 0o600, 0o640]),
                "uid": pick.choice([0, 7]),
                "gid": 9,
            }
        ]
    resources = linux["resources"]
    if pick.random() < 0.5:
        resources["memory"] = {"limit": 256 << 20}
        if pick.random() < 0.5:
            resources["memory"] |= {"reservation": 64 << 20, "swap": 512 << 20}
    if pick.random() < 0.5:
        resources["pids"] = {"limit": pick.choice([50, 100])}
    if pick.random() < 0.5:
        resources["cpu"] = {"shares": pick.choice([2, 512, 2048]), "quota": 50000, "period": 100000}
        if pick.random() < 0.5:
            resources["cpu"]["cpus"] = "0"
    if pick.random() < 0.4:
        action: dict[str, Any] = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}
        action |= pick.choice([{}, {"errnoRet": 38}, {"errnoRet": 13}])
        linux["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [action],
        }
    if pick.random() < 0.1:
        linux["personality"] = {"domain": "LINUX32"}


def _namespaces(pick: random.Random, config: dict[str, Any]) -> None:
    linux = config["linux"]
    if pick.random() < 0.2:
        mappings = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = linux["gidMappings"] = mappings
        linux.pop("devices", None)  # a node is bound from the host there, and the host has no such
    elif pick.random() < 0.3:
        left_out = pick.choice(["network", "cgroup"])
        linux["namespaces"] = [space for space in linux["namespaces"] if space["type"] != left_out]
        if left_out == "network" and "sysctl" in linux:
            linux["sysctl"].pop("net.ipv4.ip_forward", None)


def config(number: int) -> dict[str, Any]:
    """The config of this number: the same each time."""
    pick = random.Random(number)
    made = _base()
    for part in (_process, _file_systems, _kernel, _namespaces):
        part(pick, made)
    return made
