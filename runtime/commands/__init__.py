# SPDX-License-Identifier: Apache-2.0
"""The commands of ketch-runtime, a function each: options in, exit status out. Here, what the global options mean to
all of them: the root directory, the cgroup driver, whether we run without privilege."""

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli import Options


def root(settings: "Options") -> str:
    """Where containers are recorded."""
    given = settings.value("--root")
    if given:
        return given if given.startswith("/") else f"{posix.getcwd()}/{given}"
    own = posix.environ.get(b"XDG_RUNTIME_DIR", b"")
    if posix.geteuid() == 0 and not (own and _is_a_users_root()):
        return "/run/ketch-runtime"
    own = own or f"/tmp/ketch-runtime-{posix.geteuid()}".encode()  # noqa: S108
    return own.decode(errors="surrogateescape") + "/ketch-runtime"


def _is_a_users_root() -> bool:
    """podman of a user calls us as root of a user namespace, with the user's environment."""
    if posix.environ.get(b"USER") == b"root":
        return False
    from runtime.linux import namespaces

    return namespaces.is_rootless()


def systemd_cgroup(settings: "Options") -> bool:
    """Whether systemd makes the cgroups."""
    return settings.flag("--systemd-cgroup") or settings.value("--cgroup-manager") == "systemd"


def uses_cgroups(settings: "Options") -> bool:
    """Whether there are cgroups at all."""
    return settings.value("--cgroup-manager") != "disabled"


def rootless(settings: "Options") -> bool:
    """Whether what needs real privilege is left out."""
    value = settings.value("--rootless", default="auto")
    return value == "true" or (value == "auto" and posix.geteuid() != 0)


def listen_fds() -> int:
    """How many sockets of systemd's go on to the container."""
    if b"LISTEN_FDS" not in posix.environ:
        return 0
    from runtime import activation

    return activation.count()
