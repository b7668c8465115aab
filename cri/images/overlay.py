# SPDX-License-Identifier: Apache-2.0
"""Layers seen as one tree: overlay mounts made by descriptor, idmapped where a user namespace asks for it."""

import errno
import os
import secrets
from collections.abc import Sequence
from contextlib import ExitStack

from cri.images.errors import StoreFailed
from runtime.linux import mounts, syscalls
from runtime.linux._core import lib
from runtime.linux.mounts import Tree

# What overlayfs must not do behind our back: redirects and the index write marks that tie an upper to its lowers,
# and a layer's tree is used above other lowers too.
PLAIN = ("index=off", "redirect_dir=off", "metacopy=off")
# A chown -R in a container (runtimes and init scripts do it) then copies inodes, not data.
METACOPY = ("index=off", "redirect_dir=on", "metacopy=on")
_METACOPY_SWITCH = "/sys/module/overlay/parameters/metacopy"
_MAX_OLD_OPTIONS = 4095  # mount(2) takes one page
_MAX_VALUE = 255  # of one fsconfig(2) string


def metacopy_here() -> bool:
    """Whether this kernel's overlayfs can copy up metadata alone (4.19, CONFIG or not, the switch tells)."""
    return os.path.exists(_METACOPY_SWITCH)


def make(
    lowerdirs: Sequence[str],
    upperdir: str = "",
    workdir: str = "",
    options: Sequence[str] = PLAIN,
    *,
    userns: int = -1,
    scratch: str = "",
) -> Tree:
    """A detached overlay mount; `userns` (a descriptor) maps the owners of the lower layers.

    `scratch` is a directory for kernels before 6.15, which want an idmapped layer attached somewhere while the overlay
    is made.
    """
    with ExitStack() as stack:
        lowers = list(lowerdirs)
        if userns >= 0:
            trees = [stack.enter_context(_idmapped(path, userns)) for path in lowers]
            lowers = [f"/proc/self/fd/{tree.fd}" for tree in trees]
            try:
                return _mount(lowers, upperdir, workdir, options)
            except syscalls.KernelError as error:
                if error.errno not in (errno.EINVAL, errno.ELOOP) or not scratch:
                    raise
            lowers = [_attach(tree, scratch, stack) for tree in trees]
        return _mount(lowers, upperdir, workdir, options)


def _mount(lowers: Sequence[str], upperdir: str, workdir: str, options: Sequence[str]) -> Tree:
    settings: list[tuple[str, str | None]] = [("lowerdir+", path) for path in lowers]
    if any(len(path) > _MAX_VALUE for path in (*lowers, upperdir, workdir)):
        raise StoreFailed(
            f"{max((*lowers, upperdir, workdir), key=len)}: too long for overlayfs",
            hint="give the store a root with a short path",
        )
    rest: list[tuple[str, str | None]] = []
    if upperdir:
        rest += [("upperdir", upperdir), ("workdir", workdir)]
    for option in options:
        key, equals, value = option.partition("=")
        rest.append((key, value if equals else None))
    attributes = 0 if upperdir else lib.MOUNT_ATTR_RDONLY
    try:
        return mounts.make("overlay", settings + rest, attributes=attributes, source="overlay")
    except syscalls.KernelError as error:
        joined = ":".join(lowers)
        # lowerdir+ came with 6.5. Before, all layers are one string, which fsconfig(2) limits to 255 bytes.
        if error.errno != errno.EINVAL or len(joined) > _MAX_VALUE or "lowerdir+" not in str(error):
            raise
        return mounts.make("overlay", [("lowerdir", joined), *rest], attributes=attributes, source="overlay")


def mount_old(lowers: Sequence[str], upperdir: str, workdir: str, options: Sequence[str], target: str) -> None:
    """For kernels before 6.5 with many layers: mount(2) with everything in one page."""
    data = ",".join((f"lowerdir={':'.join(lowers)}", f"upperdir={upperdir}", f"workdir={workdir}", *options))
    if not upperdir:
        data = ",".join((f"lowerdir={':'.join(lowers)}", *options))
    if len(data) > _MAX_OLD_OPTIONS:
        raise StoreFailed(
            f"{len(lowers)} layers are too many for mount(2)", hint="Linux 6.5 and later have no such limit"
        )
    syscalls.mount("overlay", target, "overlay", 0 if upperdir else lib.MS_RDONLY, data)


def _idmapped(path: str, userns: int) -> Tree:
    tree = mounts.clone(path, recursive=False)
    try:
        tree.set_attributes(set_=lib.MOUNT_ATTR_IDMAP, userns=userns)
    except syscalls.KernelError as error:
        tree.close()
        raise StoreFailed(
            f"cannot map the owners of {path}: {error}", hint="the store's file system must allow idmapped mounts"
        ) from error
    return tree


def _attach(tree: Tree, scratch: str, stack: ExitStack) -> str:
    target = os.path.join(scratch, secrets.token_hex(6))
    os.mkdir(target, 0o700)
    stack.callback(os.rmdir, target)
    tree.attach(target)
    stack.callback(mounts.detach, target)
    return target


def usable(root: str, scratch: str) -> bool:
    """Whether overlayfs can stand on the store, asked of the kernel once: the answer is a file named after it."""
    for name, answer in (("overlay.yes", True), ("overlay.no", False)):
        if os.path.exists(os.path.join(root, name)):
            return answer
    if not os.access(root, os.W_OK) or os.geteuid() != 0:
        return True  # not for us to find out
    answer = works(scratch)
    try:
        name = "overlay.yes" if answer else "overlay.no"
        os.close(os.open(os.path.join(root, name), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    except OSError:
        pass  # asked again next time
    return answer


def works(scratch: str) -> bool:
    """Whether overlayfs can stand on this file system (not on some FUSE, NFS or, before 6.x, overlay itself)."""
    base = os.path.join(scratch, f"probe-{secrets.token_hex(6)}")
    folders = [os.path.join(base, name) for name in ("lower", "upper", "work")]
    try:
        for folder in folders:
            os.makedirs(folder)
        os.setxattr(folders[0], "trusted.overlay.opaque", b"n")
        with make(folders[:1], folders[1], folders[2]) as tree:
            os.close(os.open("probe", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=tree.fd))
    except (syscalls.KernelError, OSError):
        return False
    finally:
        from runtime.linux import beneath

        beneath.remove_tree(base)
    return True
