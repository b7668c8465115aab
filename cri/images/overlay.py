# SPDX-License-Identifier: Apache-2.0
"""Layers seen as one tree: overlay mounts made by descriptor, idmapped where a user namespace asks for it."""

import errno
import os
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
    is made, and for those before 6.5, which know no detached overlay of many layers.
    """
    with ExitStack() as stack:
        lowers = list(lowerdirs)
        if userns >= 0:
            trees = [stack.enter_context(_idmapped(path, userns)) for path in lowers]
            lowers = [f"/proc/self/fd/{tree.fd}" for tree in trees]
            try:
                return _mount(lowers, upperdir, workdir, options, scratch)
            except syscalls.KernelError as error:
                if error.errno not in (errno.EINVAL, errno.ELOOP) or not scratch:
                    raise
            lowers = [_attach(tree, scratch, stack) for tree in trees]
        return _mount(lowers, upperdir, workdir, options, scratch)


def _mount(lowers: Sequence[str], upperdir: str, workdir: str, options: Sequence[str], scratch: str) -> Tree:
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
        each: list[tuple[str, str | None]] = [("lowerdir+", path) for path in lowers]
        return mounts.make("overlay", each + rest, attributes=attributes, source="overlay")
    except syscalls.KernelError as error:
        # lowerdir+ came with 6.5. Before, all layers are one string, which fsconfig(2) limits to 255 bytes.
        if error.errno != errno.EINVAL or "lowerdir+" not in str(error):
            raise
        joined = ":".join(_escaped(path) for path in lowers)
        if len(joined) <= _MAX_VALUE:
            return mounts.make("overlay", [("lowerdir", joined), *rest], attributes=attributes, source="overlay")
        if not scratch:
            raise
    return _mount_old(lowers, upperdir, workdir, options, scratch)


def _mount_old(lowers: Sequence[str], upperdir: str, workdir: str, options: Sequence[str], scratch: str) -> Tree:
    """Many layers before 6.5: mount(2) takes them in one page, at a place; what we want is a copy that has none."""
    with ExitStack() as stack:
        data = _old_options(lowers, upperdir, workdir, options)
        if len(data) > _MAX_OLD_OPTIONS:
            opened = [os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in lowers]
            for descriptor in opened:
                stack.callback(os.close, descriptor)
            data = _old_options([f"/proc/self/fd/{fd}" for fd in opened], upperdir, workdir, options)
        if len(data) > _MAX_OLD_OPTIONS:
            hint = "Linux 6.5 and later have no such limit"
            raise StoreFailed(f"{len(lowers)} layers are too many for mount(2)", hint=hint)
        target = os.path.join(scratch, f"old-{os.urandom(6).hex()}")
        os.mkdir(target, 0o700)
        stack.callback(os.rmdir, target)
        syscalls.mount("overlay", target, "overlay", 0 if upperdir else lib.MS_RDONLY, data)
        stack.callback(mounts.detach, target)
        return mounts.clone(target, recursive=False)


def _old_options(lowers: Sequence[str], upperdir: str, workdir: str, options: Sequence[str]) -> str:
    words = [f"lowerdir={':'.join(_escaped(path) for path in lowers)}"]
    if upperdir:
        words += [f"upperdir={_escaped(upperdir)}", f"workdir={_escaped(workdir)}"]
    return ",".join((*words, *options))


def _escaped(path: str) -> str:
    """As overlayfs wants separators inside a name."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


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
    target = os.path.join(scratch, os.urandom(6).hex())
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
    base = os.path.join(scratch, f"probe-{os.urandom(6).hex()}")
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
