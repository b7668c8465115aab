# SPDX-License-Identifier: Apache-2.0
"""A root filesystem from Debian's static busybox: what a test's container sees."""

import os
import shutil
import subprocess
from pathlib import Path

BUSYBOX = "/bin/busybox"

_DIRECTORIES = ("bin", "dev", "etc", "home/user", "proc", "root", "run", "sys", "tmp", "usr/bin", "var")
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n"
    "user:x:1000:1000:user:/home/user:/bin/sh\n"
    "nobody:x:65534:65534::/:/bin/sh\n",
    "etc/group": "root:x:0:\nuser:x:1000:\nextra:x:1001:user\nnogroup:x:65534:\n",
    "etc/hostname": "ketch\n",
}


def applets() -> list[str]:
    """The commands that this build of busybox knows."""
    listed = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    return listed.stdout.split()


def make_rootfs(path: Path) -> Path:
    """Make a small root at path: busybox with a link per applet, passwd and group with root, user (1000), nobody."""
    for directory in _DIRECTORIES:
        (path / directory).mkdir(parents=True, exist_ok=True)
    (path / "tmp").chmod(0o1777)
    for name, content in _FILES.items():
        (path / name).write_text(content)
    shutil.copy(BUSYBOX, path / "bin/busybox")
    for applet in applets():
        if applet != "busybox":
            os.symlink("busybox", path / "bin" / applet)
    return path
