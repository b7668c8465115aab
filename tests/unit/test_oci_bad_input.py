# SPDX-License-Identifier: Apache-2.0
"""200 broken configs and command lines: each gives one sentence that names what is at fault, and nothing is made."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from runtime import cli
from tests.support.containers import config, set_path

ABSENT = None
# (where, what is put there, what the sentence must contain); the container is only explained, which needs no root.
CONFIGS: list[tuple[str, Any, str]] = [
    ("ociVersion", ABSENT, "ociVersion: missing"),
    ("ociVersion", "", "ociVersion: expected a semantic version"),
    ("ociVersion", "1.3", "ociVersion: expected a semantic version"),
    ("ociVersion", "abc", "ociVersion: expected a semantic version"),
    ("ociVersion", "2.0.0", "ociVersion: 2.0.0 is not supported"),
    ("ociVersion", "9.9.9", "expected 1.x.y"),
    ("ociVersion", 13, "ociVersion: expected a string, got 13"),
    ("ociVersion", ["1.0.0"], "ociVersion: expected a string, got an array"),
    ("root", ABSENT, "root: missing"),
    ("root", "rootfs", "root: expected an object, got 'rootfs'"),
    ("root", {}, "root.path: missing"),
    ("root.path", "", "root.path: expected a path"),
    ("root.path", 7, "root.path: expected a string, got 7"),
    ("root.path", "a\0b", "root.path: a string with a NUL"),
    ("root.path", "\ud800", "root.path: a string with half a surrogate"),
    ("root.readonly", "yes", "root.readonly: expected true or false"),
    ("root.readonly", 1, "root.readonly: expected true or false, got 1"),
    ("mounts", {}, "mounts: expected an array, got an object"),
    ("mounts", "none", "mounts: expected an array"),
    ("mounts.0", "proc", "mounts[0]: expected an object, got 'proc'"),
    ("mounts.0", 4, "mounts[0]: expected an object"),
    ("mounts.0.destination", ABSENT, "mounts[0].destination: missing"),
    ("mounts.0.destination", "", "mounts[0].destination: expected a path"),
    ("mounts.0.destination", "/", "mounts[0].destination: proc cannot be the root"),
    ("mounts.0.destination", "/..", "mounts[0].destination: proc cannot be the root"),
    ("mounts.1.destination", "/proc/self", "mounts[1].destination: /proc/self is inside /proc"),
    ("mounts.1.destination", "//proc/kcore", "mounts[1].destination: /proc/kcore is inside /proc"),
    ("mounts.1.destination", "/x/../proc/sys", "is inside /proc"),
    ("mounts.1.destination", "/proc", "mounts[1].type: only procfs may be mounted on /proc"),
    ("mounts.0.type", ABSENT, "mounts[0].type: only procfs may be mounted on /proc"),
    ("mounts.1.type", ABSENT, "mounts[1].type: missing"),
    ("mounts.1.type", 3, "mounts[1].type: expected a string, got 3"),
    ("mounts.1.source", False, "mounts[1].source: expected a string, got false"),
    ("mounts.1.options", "ro", "mounts[1].options: expected an array, got 'ro'"),
    ("mounts.1.options", ["ro", 5], "mounts[1].options[1]: expected a string, got 5"),
    ("mounts.1", {"destination": "/x", "type": "bind"}, "mounts[1].source: missing"),
    ("mounts.1", {"destination": "/x", "options": ["rbind"]}, "mounts[1].source: missing"),
    ("mounts.1", {"destination": "/x", "type": "tmpfs", "options": ["idmap"]}, "id mappings are for bind mounts only"),
    ("mounts.1", {"destination": "/x", "source": "/y", "options": ["bind", "idmap"]}, "there is none"),
    ("mounts.1", {"destination": "/x", "source": "/y", "options": ["bind", "idmap=x=1"]}, "expected uids= or gids="),
    (
        "mounts.1",
        {"destination": "/x", "source": "/y", "options": ["bind", "idmap=uids=1"]},
        "expected inside-host-size",
    ),
    (
        "mounts.1",
        {
            "destination": "/x",
            "source": "/y",
            "options": ["bind"],
            "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}],
        },
        "mounts[1]: uidMappings and gidMappings must be given together",
    ),
    ("mounts.1.uidMappings", [{}], "mounts[1].uidMappings[0].containerID: missing"),
    ("process", "sh", "process: expected an object, got 'sh'"),
    ("process", [], "process: expected an object, got an array"),
    ("process.args", ABSENT, "process.args: missing"),
    ("process.args", [], "process.args: expected the command to run"),
    ("process.args", "sh", "process.args: expected an array, got 'sh'"),
    ("process.args", ["sh", None], "process.args[1]: expected a string, got null"),
    ("process.args", ["a\0b"], "process.args[0]: a string with a NUL"),
    ("process.cwd", ABSENT, "process.cwd: missing"),
    ("process.cwd", "", "process.cwd: expected an absolute path"),
    ("process.cwd", "tmp", "process.cwd: expected an absolute path, got 'tmp'"),
    ("process.env", "A=b", "process.env: expected an array"),
    ("process.env", ["A"], "process.env[0]: expected KEY=value, got 'A'"),
    ("process.env", ["A=b", "=c"], "process.env[1]: expected KEY=value"),
    ("process.env", [3], "process.env[0]: expected a string, got 3"),
    ("process.terminal", "true", "process.terminal: expected true or false"),
    ("process.user", "root", "process.user: expected an object, got 'root'"),
    ("process.user.uid", "0", "process.user.uid: expected an integer, got '0'"),
    ("process.user.uid", -1, "process.user.uid: expected an integer from 0"),
    ("process.user.uid", 4294967295, "process.user.uid: expected an integer from 0 to 4294967294"),
    ("process.user.uid", 1.5, "process.user.uid: expected an integer, got 1.5"),
    ("process.user.gid", True, "process.user.gid: expected an integer, got true"),
    ("process.user.gid", [], "process.user.gid: expected an integer, got an array"),
    ("process.user.umask", 8192, "process.user.umask: expected an integer from 0 to 4095"),
    ("process.user.additionalGids", 5, "process.user.additionalGids: expected an array"),
    ("process.user.additionalGids", ["5"], "process.user.additionalGids[0]: expected an integer"),
    ("process.user.additionalGids", [1, -2], "process.user.additionalGids[1]: expected an integer"),
    ("process.consoleSize", "80x24", "process.consoleSize: expected an object"),
    (
        "process.consoleSize",
        {"height": 70000, "width": 1},
        "process.consoleSize.height: expected an integer from 0 to 65535",
    ),
    ("process.capabilities", [], "process.capabilities: expected an object"),
    ("process.capabilities.bounding", "CAP_KILL", "process.capabilities.bounding: expected an array"),
    ("process.capabilities.effective", [7], "process.capabilities.effective[0]: expected a string"),
    ("process.capabilities.effective", ["CAP_SETUID"], "CAP_SETUID is effective but not permitted"),
    ("process.rlimits", {}, "process.rlimits: expected an array"),
    ("process.rlimits", [{}], "process.rlimits[0].type: missing"),
    (
        "process.rlimits",
        [{"type": "NOFILE", "soft": 1, "hard": 1}],
        "process.rlimits[0].type: unknown resource 'NOFILE'",
    ),
    ("process.rlimits", [{"type": "RLIMIT_NOFILE", "hard": 1}], "process.rlimits[0].soft: missing"),
    ("process.rlimits", [{"type": "RLIMIT_NOFILE", "soft": 1}], "process.rlimits[0].hard: missing"),
    (
        "process.rlimits",
        [{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}],
        "the soft limit 2 is above the hard limit 1",
    ),
    (
        "process.rlimits",
        [{"type": "RLIMIT_NOFILE", "soft": "1", "hard": 1}],
        "process.rlimits[0].soft: expected an integer",
    ),
    (
        "process.rlimits",
        [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2,
        "process.rlimits[1].type: RLIMIT_CPU is given twice",
    ),
    ("process.noNewPrivileges", 0, "process.noNewPrivileges: expected true or false, got 0"),
    ("process.apparmorProfile", 1, "process.apparmorProfile: expected a string"),
    ("process.selinuxLabel", {}, "process.selinuxLabel: expected a string, got an object"),
    ("process.oomScoreAdj", 1001, "process.oomScoreAdj: expected an integer from -1000 to 1000"),
    ("process.oomScoreAdj", "high", "process.oomScoreAdj: expected an integer, got 'high'"),
    ("process.scheduler", {}, "process.scheduler.policy: missing"),
    ("process.scheduler", {"policy": "FAST"}, "process.scheduler.policy: expected one of SCHED_OTHER"),
    (
        "process.scheduler",
        {"policy": "SCHED_OTHER", "nice": 20},
        "process.scheduler.nice: expected an integer from -20 to 19",
    ),
    ("process.scheduler", {"policy": "SCHED_OTHER", "flags": ["X"]}, "process.scheduler.flags: unknown flag 'X'"),
    ("process.scheduler", {"policy": "SCHED_FIFO", "priority": 100}, "process.scheduler.priority"),
    ("process.ioPriority", {}, "process.ioPriority.class: missing"),
    ("process.ioPriority", {"class": "BEST"}, "process.ioPriority.class: expected one of IOPRIO_CLASS_RT"),
    ("process.ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": 8}, "process.ioPriority.priority"),
    ("process.execCPUAffinity", {"initial": "a"}, "process.execCPUAffinity.initial: expected a list of CPUs"),
    ("process.execCPUAffinity", {"final": "3-1"}, "process.execCPUAffinity.final: expected a list of CPUs"),
    ("hostname", 1, "hostname: expected a string"),
    ("hostname", "h" * 65, "hostname: at most 64 bytes"),
    ("domainname", "d" * 65, "domainname: at most 64 bytes"),
    ("hooks", [], "hooks: expected an object"),
    ("hooks", {"prestart": {}}, "hooks.prestart: expected an array"),
    ("hooks", {"prestart": [{}]}, "hooks.prestart[0].path: missing"),
    ("hooks", {"poststop": [{"path": "true"}]}, "hooks.poststop[0].path: expected an absolute path, got 'true'"),
    (
        "hooks",
        {"poststart": [{"path": "/bin/true", "timeout": 0}]},
        "hooks.poststart[0].timeout: expected an integer from 1",
    ),
    ("hooks", {"createRuntime": [{"path": "/x", "env": ["A"]}]}, "hooks.createRuntime[0].env[0]: expected KEY=value"),
    ("hooks", {"createContainer": [{"path": "/x", "args": "a"}]}, "hooks.createContainer[0].args: expected an array"),
    ("hooks", {"startContainer": [None]}, "hooks.startContainer[0]: expected an object, got null"),
    ("annotations", [], "annotations: expected an object"),
    ("annotations", {"a": 1}, "annotations.a: expected a string, got 1"),
    ("annotations", {"run.oci.handler": "krun"}, "annotations.run.oci.handler: 'krun' is not supported"),
    (
        "annotations",
        {"run.oci.seccomp.plugins": "a.so"},
        "annotations.run.oci.seccomp.plugins: 'a.so' is not supported",
    ),
    (
        "annotations",
        {"run.oci.seccomp.receiver": "a"},
        "annotations.run.oci.seccomp.receiver: expected an absolute path",
    ),
    ("annotations", {"run.oci.pidfd_receiver": "a"}, "annotations.run.oci.pidfd_receiver: expected an absolute path"),
    ("annotations", {"run.oci.seccomp_bpf_data": "AAAA"}, "annotations.run.oci.seccomp_bpf_data: expected 1 to 4096"),
    ("annotations", {"run.oci.mount_context_type": "x"}, "annotations.run.oci.mount_context_type: expected one of"),
    ("linux", "linux", "linux: expected an object"),
    ("linux.namespaces", {}, "linux.namespaces: expected an array"),
    ("linux.namespaces.0", "pid", "linux.namespaces[0]: expected an object"),
    ("linux.namespaces.0", {}, "linux.namespaces[0].type: missing"),
    ("linux.namespaces.0.type", "process", "linux.namespaces[0].type: unknown namespace 'process'"),
    ("linux.namespaces.1.type", "pid", "linux.namespaces[1].type: the pid namespace is given twice"),
    ("linux.namespaces.0.path", "proc", "linux.namespaces[0].path: expected an absolute path"),
    ("linux.namespaces.0.path", 5, "linux.namespaces[0].path: expected a string, got 5"),
    ("linux.namespaces", [{"type": "mount"}], "hostname: needs a uts namespace"),
    ("linux.namespaces.5", {"type": "user"}, "linux.uidMappings: a new user namespace needs"),
    (
        "linux.uidMappings",
        [{"containerID": 0, "hostID": 1, "size": 1}],
        "linux.uidMappings: id mappings need a user namespace",
    ),
    ("linux.uidMappings", [{"containerID": 0, "hostID": 1}], "linux.uidMappings[0].size: missing"),
    (
        "linux.uidMappings",
        [{"containerID": 0, "hostID": 1, "size": 0}],
        "linux.uidMappings[0].size: expected an integer from 1",
    ),
    ("linux.gidMappings", {"containerID": 0}, "linux.gidMappings: expected an array"),
    ("linux.timeOffsets", {"monotonic": {"secs": 1}}, "linux.timeOffsets: needs a new time namespace"),
    ("linux.timeOffsets", {"wall": {}}, "linux.timeOffsets.wall: unknown clock"),
    ("linux.timeOffsets", {"boottime": {"nanosecs": -1}}, "linux.timeOffsets.boottime.nanosecs"),
    ("linux.devices", {}, "linux.devices: expected an array"),
    ("linux.devices", [{"path": "/dev/x"}], "linux.devices[0].type: missing"),
    ("linux.devices", [{"path": "/dev/x", "type": "d"}], "linux.devices[0].type: expected one of c, b, u, p"),
    ("linux.devices", [{"path": "/dev/x", "type": "c", "minor": 1}], "linux.devices[0].major: missing"),
    ("linux.devices", [{"path": "dev/x", "type": "p"}], "linux.devices[0].path: expected an absolute path"),
    ("linux.devices", [{"path": "/dev/x", "type": "c", "major": -1, "minor": 0}], "linux.devices[0].major"),
    ("linux.netDevices", [], "linux.netDevices: expected an object"),
    ("linux.netDevices", {"eth9": {"name": "a/b"}}, "linux.netDevices.eth9: 'a/b' is not a valid name"),
    ("linux.netDevices", {"x" * 16: {}}, "is not a valid name"),
    ("linux.cgroupsPath", 3, "linux.cgroupsPath: expected a string"),
    ("linux.cgroupsPath", "/a/../../b", "linux.cgroupsPath: '/a/../../b' contains .."),
    ("linux.cgroupsPath", "..", "contains .."),
    ("linux.cgroupsPath", "/", "linux.cgroupsPath: is the root group"),
    ("linux.resources", [], "linux.resources: expected an object"),
    ("linux.resources.memory", 512, "linux.resources.memory: expected an object, got 512"),
    ("linux.resources.memory.limit", "512Mi", "linux.resources.memory.limit: expected an integer, got '512Mi'"),
    ("linux.resources.memory.limit", -2, "linux.resources.memory.limit: expected an integer from -1"),
    ("linux.resources.memory.limit", 1 << 63, "linux.resources.memory.limit: expected an integer from -1"),
    (
        "linux.resources.memory.disableOOMKiller",
        "no",
        "linux.resources.memory.disableOOMKiller: expected true or false",
    ),
    (
        "linux.resources.memory",
        {"limit": 100, "swap": 50},
        "linux.resources.memory.swap: 50 is memory and swap together",
    ),
    ("linux.resources.cpu.shares", -5, "linux.resources.cpu.shares: expected an integer from 0"),
    ("linux.resources.cpu.period", "100ms", "linux.resources.cpu.period: expected an integer"),
    ("linux.resources.cpu.quota", [], "linux.resources.cpu.quota: expected an integer, got an array"),
    ("linux.resources.cpu.cpus", "0-", "linux.resources.cpu.cpus: expected a list of CPUs"),
    ("linux.resources.cpu.mems", "zero", "linux.resources.cpu.mems: expected a list of CPUs"),
    ("linux.resources.cpu.idle", 2, "linux.resources.cpu.idle: expected an integer from 0 to 1"),
    ("linux.resources.pids", 5, "linux.resources.pids: expected an object"),
    ("linux.resources.pids.limit", "many", "linux.resources.pids.limit: expected an integer"),
    ("linux.resources.pids.limit", -7, "linux.resources.pids.limit: expected an integer from -1"),
    ("linux.resources.blockIO.weight", 70000, "linux.resources.blockIO.weight: expected an integer from 0 to 65535"),
    ("linux.resources.blockIO.throttleReadBpsDevice", {}, "throttleReadBpsDevice: expected an array"),
    (
        "linux.resources.blockIO.throttleReadBpsDevice",
        [{"rate": -1}],
        "throttleReadBpsDevice[0].rate: expected an integer",
    ),
    ("linux.resources.hugepageLimits", [{}], "linux.resources.hugepageLimits[0].pageSize: missing"),
    ("linux.resources.hugepageLimits", [{"pageSize": "2M", "limit": 1}], "expected a size such as 64KB"),
    ("linux.resources.hugepageLimits", [{"pageSize": "../x", "limit": 1}], "expected a size such as 64KB"),
    ("linux.resources.hugepageLimits", [{"pageSize": "2MB"}], "linux.resources.hugepageLimits[0].limit: missing"),
    ("linux.resources.network", {"classID": -1}, "linux.resources.network.classID"),
    ("linux.resources.rdma", {"mlx": {"hcaHandles": -1}}, "linux.resources.rdma.mlx.hcaHandles"),
    ("linux.resources.unified", {"../x": "1"}, "linux.resources.unified: '../x' is not the name of a cgroup file"),
    ("linux.resources.unified", {"memory.max": 1}, "linux.resources.unified.memory.max: expected a string, got 1"),
    ("linux.resources.devices", [{}], "linux.resources.devices[0].allow: missing"),
    (
        "linux.resources.devices",
        [{"allow": True, "type": "x"}],
        "linux.resources.devices[0].type: expected one of a, b, c",
    ),
    (
        "linux.resources.devices",
        [{"allow": True, "access": "rx"}],
        "linux.resources.devices[0].access: expected letters out of rwm",
    ),
    ("linux.rootfsPropagation", "public", "linux.rootfsPropagation: expected one of shared"),
    ("linux.seccomp", {}, "linux.seccomp.defaultAction: missing"),
    ("linux.seccomp", {"defaultAction": "ALLOW"}, "linux.seccomp.defaultAction: expected one of SCMP_ACT_KILL"),
    (
        "linux.seccomp",
        {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["amd64"]},
        "linux.seccomp.architectures[0]",
    ),
    (
        "linux.seccomp",
        {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_Z80"]},
        "linux.seccomp.architectures[1]",
    ),
    (
        "linux.seccomp",
        {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["FAST"]},
        "linux.seccomp.flags[0]: unknown flag 'FAST'",
    ),
    (
        "linux.seccomp",
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{}]},
        "linux.seccomp.syscalls[0].names: missing",
    ),
    (
        "linux.seccomp",
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_KILL"}]},
        "linux.seccomp.syscalls[0].names: expected names",
    ),
    (
        "linux.seccomp",
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "KILL"}]},
        "linux.seccomp.syscalls[0].action: expected one of",
    ),
    (
        "linux.seccomp",
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_KILL", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}
            ],
        },
        "linux.seccomp.syscalls[0].args[0].index: expected an integer from 0 to 5",
    ),
    (
        "linux.seccomp",
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_KILL", "args": [{"index": 0, "value": 0, "op": "EQ"}]}
            ],
        },
        "linux.seccomp.syscalls[0].args[0].op: expected one of",
    ),
    (
        "linux.seccomp",
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]},
        "linux.seccomp.listenerPath: missing",
    ),
    ("linux.seccomp", {"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x"}, "linux.seccomp.defaultAction"),
    ("linux.sysctl", [], "linux.sysctl: expected an object"),
    ("linux.sysctl", {"net.ipv4.ip_forward": 1}, "linux.sysctl.net.ipv4.ip_forward: expected a string, got 1"),
    ("linux.sysctl", {"vm.swappiness": "1"}, "linux.sysctl.vm.swappiness: not a parameter of a namespace"),
    ("linux.sysctl", {"kernel.hostname": "x"}, "linux.sysctl.kernel.hostname: use hostname for that"),
    ("linux.sysctl", {"net..ipv4": "1"}, "linux.sysctl.net..ipv4: not the name of a kernel parameter"),
    ("linux.maskedPaths", ["proc/keys"], "linux.maskedPaths[0]: expected an absolute path"),
    ("linux.readonlyPaths", [3], "linux.readonlyPaths[0]: expected a string"),
    ("linux.personality", {}, "linux.personality.domain: missing"),
    ("linux.personality", {"domain": "BSD"}, "linux.personality.domain: expected one of LINUX, LINUX32"),
    ("linux.memoryPolicy", {}, "linux.memoryPolicy.mode: missing"),
    ("linux.memoryPolicy", {"mode": "MPOL_BIND", "nodes": "x"}, "linux.memoryPolicy.nodes: expected a list"),
    ("linux.memoryPolicy", {"mode": "MPOL_BIND", "flags": ["F"]}, "linux.memoryPolicy.flags[0]: unknown flag"),
    ("linux.memoryPolicy", {"mode": "MPOL_LOCAL", "nodes": "0"}, "linux.memoryPolicy.nodes: MPOL_LOCAL takes no nodes"),
    ("linux.intelRdt", {"closID": "a"}, "linux.intelRdt: not supported yet"),
]

COMMAND_LINES: list[tuple[list[str], str]] = [
    ([], ""),
    (["frobnicate"], "unknown command 'frobnicate'"),
    (["creat", "x"], "did you mean create"),
    (["--rot", "/x", "list"], "unknown option --rot"),
    (["--root"], "option --root needs a value"),
    (["create"], "create needs ID"),
    (["create", "--bundle"], "option --bundle needs a value"),
    (["create", "a", "b"], "'b' is one argument too many"),
    (["create", "--no-such", "a"], "unknown option --no-such"),
    (["create", "../a"], "container id '../a' is not valid"),
    (["create", "."], "container id '.' is not valid"),
    (["create", ".."], "container id '..' is not valid"),
    (["create", ""], "the container id is empty"),
    (["create", "a b"], "container id 'a b' is not valid"),
    (["create", "a/b"], "is not valid"),
    (["create", "ä"], "is not valid"),
    (["create", "x" * 300], "container id is too long"),
    (["create", "--bundle", "/nonexistent", "a"], "/nonexistent/config.json does not exist"),
    (["create", "--preserve-fds", "x", "a"], "--preserve-fds: expected a number, got 'x'"),
    (["create", "--preserve-fds", "-1", "a"], "--preserve-fds: expected a number from 0"),
    (["create", "--no-pivot=maybe", "a"], "--no-pivot: expected true or false, got 'maybe'"),
    (["run"], "run needs ID"),
    (["start"], "start needs ID"),
    (["start", "absent"], "container 'absent' does not exist"),
    (["state", "absent"], "container 'absent' does not exist"),
    (["kill", "absent"], "container 'absent' does not exist"),
    (["kill", "absent", "NOSUCH"], "unknown signal 'NOSUCH'"),
    (["kill", "absent", "0"], "signal 0 is not valid"),
    (["kill", "absent", "65"], "signal 65 is not valid"),
    (["kill", "absent", "RTMIN+40"], "unknown signal 'RTMIN+40'"),
    (["kill", "a", "9", "x"], "'x' is one argument too many"),
    (["delete"], "delete needs ID"),
    (["delete", "absent"], "container 'absent' does not exist"),
    (["delete", "--force", "../absent"], "is not valid"),
    (["exec", "absent", "true"], "container 'absent' does not exist"),
    (["exec"], "exec needs ID"),
    (["list", "--format", "yaml"], "--format: expected table or json, got 'yaml'"),
    (["list", "extra"], "'extra' is one argument too many"),
    (["ps", "absent"], "container 'absent' does not exist"),
    (["ps", "--format", "x", "absent"], "--format: expected table or json"),
    (["pause", "absent"], "container 'absent' does not exist"),
    (["resume", "absent"], "container 'absent' does not exist"),
    (["update", "absent", "--memory", "1"], "container 'absent' does not exist"),
    (["events", "absent"], "container 'absent' does not exist"),
    (["checkpoint", "a"], "checkpoint is not supported yet"),
    (["restore", "a"], "restore is not supported yet"),
    (["mounts", "add"], "mounts add and remove are not supported yet"),
    (["explain", "--format", "yaml", "--bundle", "BUNDLE"], "--format: expected text or json"),
    (["doctor", "--format", "yaml"], "--format: expected text or json"),
    (["--log-format", "xml", "list"], "--log-format: expected text or json, got 'xml'"),
    (["--cgroup-manager", "none", "list"], "--cgroup-manager: expected cgroupfs, systemd or disabled"),
    (["--rootless", "maybe", "list"], "--rootless: expected true, false or auto"),
]


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command line that must fail with one line."""
    assert cli.main(words) != 0
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("ketch-runtime: error: ")
    assert "internal error" not in captured.err, captured.err
    return captured.err


def test_the_table_is_as_long_as_it_says() -> None:
    assert len(CONFIGS) + len(COMMAND_LINES) >= 200


@pytest.mark.parametrize(("where", "value", "sentence"), CONFIGS, ids=lambda part: str(part)[:40])
def test_a_broken_config_is_told_by_its_path(
    where: str, value: Any, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = config()
    set_path(document, where, value)
    (tmp_path / "config.json").write_text(json.dumps(document))
    (tmp_path / "rootfs").mkdir()
    root = tmp_path / "root"
    for command in (["explain"], ["create", "box"]):
        assert sentence in told(["--root", str(root), *command, "--bundle", str(tmp_path)], capsys)
        assert not root.exists()


@pytest.mark.parametrize(("words", "sentence"), COMMAND_LINES, ids=lambda part: str(part)[:40])
def test_a_wrong_command_line_is_told_by_its_argument(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config()))
    words = [str(tmp_path) if word == "BUNDLE" else word for word in words]
    if not words:
        assert cli.main([]) == 1
        assert "usage: ketch-runtime" in capsys.readouterr().err
        return
    if "--root" not in words and "--rot" not in words:
        words = ["--root", str(tmp_path / "root"), *words]
    assert sentence in told(words, capsys)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "expected a JSON object, got an array"),
        (b"null", "expected a JSON object, got null"),
        (b"{} {}", "not JSON: extra data"),
        (b'{"ociVersion": NaN}', "not JSON: NaN is not JSON"),
        (b'{"a": "\xff"}', "not JSON: not UTF-8 at byte 7"),
        (b"[" * 100_000, "not JSON: nested too deeply"),
        (b'{"a":' * 100_000, "not JSON: nested too deeply"),
    ],
)
def test_what_is_no_json_is_told_with_its_place(
    text: bytes, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_bytes(text)
    words = ["--root", str(tmp_path / "root"), "explain", "--bundle", str(tmp_path)]
    assert sentence in told(words, capsys)


def test_an_error_is_written_to_the_log_as_shims_read_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.json"
    assert cli.main(["--root", str(tmp_path), "--log", str(log), "--log-format", "json", "state", "absent"]) == 1
    line = json.loads(log.read_text())
    assert line["level"] == "error"
    assert "container 'absent' does not exist" in line["msg"]
    capsys.readouterr()


PIECES: list[Any] = [None, True, -1, 0, 1 << 64, 1.5, "", "x", "\0", "/", "..", [], {}, [None], {"": None}, "a" * 5000]


def mutate(document: Any, chance: random.Random) -> Any:
    """One random change somewhere."""
    if isinstance(document, dict) and document and chance.random() < 0.8:
        key = chance.choice(sorted(document))
        if chance.random() < 0.1:
            del document[key]
        else:
            document[key] = mutate(document[key], chance)
        return document
    if isinstance(document, list) and document and chance.random() < 0.8:
        index = chance.randrange(len(document))
        document[index] = mutate(document[index], chance)
        return document
    return chance.choice(PIECES)


def test_mutated_configs_give_a_plan_or_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = config(
        **{
            "linux.resources": {
                "memory": {"limit": 1 << 24, "swap": 1 << 25},
                "cpu": {"shares": 512, "quota": 1000, "period": 10000},
                "pids": {"limit": 5},
                "devices": [{"allow": False, "access": "rwm"}],
            },
            "linux.seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": []}],
            },
            "hooks": {"prestart": [{"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 3}]},
            "process.rlimits": [{"type": "RLIMIT_CPU", "soft": 1, "hard": 2}],
        }
    )
    chance = random.Random(4)
    for _ in range(int(os.environ.get("KETCH_MUTATIONS", "500"))):  # by hand: 100000
        document = mutate(json.loads(json.dumps(full)), chance)
        (tmp_path / "config.json").write_text(json.dumps(document))
        status = cli.main(["--root", str(tmp_path / "root"), "explain", "--bundle", str(tmp_path)])
        captured = capsys.readouterr()
        assert "internal error" not in captured.err, (captured.err, document)
        assert status == 0 or captured.err.count("\n") == 1
    assert not (tmp_path / "root").exists()
