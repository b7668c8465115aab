# SPDX-License-Identifier: Apache-2.0
"""What the global options mean: the root directory, the cgroup driver, whether we run without privilege."""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli import Options


def root(settings: "Options") -> str:
    """Where containers are recorded."""
    given = settings.value("--root")
    if given:
        return os.path.abspath(given)
    if os.geteuid() == 0:
        return "/run/ketch-runtime"
    return os.environ.get("XDG_RUNTIME_DIR", f"/tmp/ketch-runtime-{os.geteuid()}") + "/ketch-runtime"  # noqa: S108


def systemd_cgroup(settings: "Options") -> bool:
    """Whether systemd makes the cgroups."""
    return settings.flag("--systemd-cgroup") or settings.value("--cgroup-manager") == "systemd"


def uses_cgroups(settings: "Options") -> bool:
    """Whether there are cgroups at all."""
    return settings.value("--cgroup-manager") != "disabled"


def rootless(settings: "Options") -> bool:
    """Whether what needs real privilege is left out."""
    value = settings.value("--rootless", default="auto")
    return value == "true" or (value == "auto" and os.geteuid() != 0)
