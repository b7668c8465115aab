# SPDX-License-Identifier: Apache-2.0
"""features: what is supported, in the JSON of the runtime-spec."""

from __future__ import annotations

from runtime.linux import capabilities
from runtime.plan import mount_options
from runtime.spec import parse
from runtime.version import SPEC_VERSION, VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

UNSAFE_ANNOTATIONS = ("run.oci.", "org.systemd.property.")


def mount_option_names() -> list[str]:
    """Every option that is ours and not the file system's."""
    plain = {*mount_options.ATTRIBUTES, *mount_options.ACCESS_TIMES}
    names = plain | {"r" + name for name in plain} | set(mount_options.PROPAGATION) | set(mount_options.SUPERBLOCK)
    names |= {"async", "nomand", "defaults", "remount", "bind", "rbind", "tmpcopyup", "idmap", "ridmap"}
    names |= {"copy-symlink", "src-nofollow", "dest-nofollow"}
    return sorted(names)


def report() -> dict[str, Any]:
    """The document."""
    known = min(capabilities.last_known() + 1, len(capabilities.NAMES))
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": mount_option_names(),
        "linux": {
            "namespaces": sorted(parse.NAMESPACE_KINDS),
            "capabilities": list(capabilities.NAMES[:known]),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": list(parse.ACTIONS),
                "operators": list(parse.OPERATORS),
                "archs": [f"SCMP_ARCH_{name}" for name in parse.ARCHITECTURES.split()],
                "knownFlags": list(parse.SECCOMP_FLAGS),
                "supportedFlags": list(parse.SECCOMP_FLAGS),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False},
            "memoryPolicy": {
                "modes": list(parse.MEMORY_MODES),
                "flags": ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"],
            },
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": {"io.ketch.version": VERSION},
        "potentiallyUnsafeConfigAnnotations": list(UNSAFE_ANNOTATIONS),
    }
