# SPDX-License-Identifier: Apache-2.0
"""AppArmor on this node: which profiles are loaded, and loading our own where it is missing.

To see it work (a kernel with AppArmor, the package `apparmor`, root): `pytest tests/linux/test_cri_apparmor.py`, and
critest's nine specs: `make conformance SUITE="critest --focus AppArmor"`.
"""

from __future__ import annotations

import os
import threading

from cri.engine.errors import BadRequest, Failed
from cri.engine.request import Profile, ProfileKind
from cri.oci import apparmor_default
from cri.oci.facts import Node

PROFILES = "/sys/kernel/security/apparmor/profiles"
PARSER_SECONDS = 30.0
_loading = threading.Lock()


def loaded(name: str) -> bool:
    """Whether the kernel knows the profile; each line is `NAME (MODE)`."""
    try:
        with open(PROFILES) as file:
            return any(line.rpartition(" (")[0] == name for line in file)
    except OSError as e:
        raise Failed(f"AppArmor's list of profiles cannot be read: {e} (is securityfs mounted?)") from e


def load_default(*, anew: bool) -> None:
    """Compile our own profile and give it to the kernel, if asked also over an older text of it."""
    with _loading:  # who needs it while it is being loaded waits for that
        if anew or not loaded(apparmor_default.NAME):
            _load()


def _load() -> None:
    import subprocess

    source = apparmor_default.text(pinned=os.path.exists(apparmor_default.ABI))
    # --replace is right for a name that is not loaded yet too; the cache could hold another version's text.
    command = ["apparmor_parser", "--replace", "--skip-cache", "--quiet"]
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    try:
        done = subprocess.run(
            command, input=source, text=True, capture_output=True, timeout=PARSER_SECONDS,
            env={**os.environ, "PATH": path}, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise Failed(
            f"AppArmor profile {apparmor_default.NAME}: apparmor_parser is missing (package apparmor)"
        ) from None
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Failed(f"AppArmor profile {apparmor_default.NAME}: apparmor_parser: {e}") from e
    if done.returncode:
        said = " ".join(done.stderr.split())[-300:]
        raise Failed(f"AppArmor profile {apparmor_default.NAME}: apparmor_parser: {said or done.returncode}")


def prepare(name: str, asked: Profile | None, node: Node) -> str:
    """The profile a container will change to, surely loaded; nothing where nobody asked for it and it cannot be had."""
    if not name or not node.apparmor:
        return name
    if name != apparmor_default.NAME:
        if not loaded(name):
            raise BadRequest(
                f"security_context.apparmor: profile {name!r} is not loaded on this node (apparmor_parser -r FILE)"
            )
        return name
    try:
        if not loaded(name):
            load_default(anew=False)
    except Failed:
        if asked is not None and asked.kind == ProfileKind.RUNTIME_DEFAULT:
            raise
        return ""  # a node without the parser runs what asks for nothing as it did before; the start has warned
    return name
