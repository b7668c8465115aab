# SPDX-License-Identifier: Apache-2.0
"""Mount options as people write them become attributes, propagation and file system data; pure."""

from __future__ import annotations

from runtime.linux._core import lib
from runtime.linux.frozen import Frozen

# name -> (attribute, set it?). The kernel keeps these per mount; an "r" before the name means all mounts beneath too.
ATTRIBUTES = {
    "ro": (lib.MOUNT_ATTR_RDONLY, True),
    "rw": (lib.MOUNT_ATTR_RDONLY, False),
    "nosuid": (lib.MOUNT_ATTR_NOSUID, True),
    "suid": (lib.MOUNT_ATTR_NOSUID, False),
    "nodev": (lib.MOUNT_ATTR_NODEV, True),
    "dev": (lib.MOUNT_ATTR_NODEV, False),
    "noexec": (lib.MOUNT_ATTR_NOEXEC, True),
    "exec": (lib.MOUNT_ATTR_NOEXEC, False),
    "nodiratime": (lib.MOUNT_ATTR_NODIRATIME, True),
    "diratime": (lib.MOUNT_ATTR_NODIRATIME, False),
    "nosymfollow": (lib.MOUNT_ATTR_NOSYMFOLLOW, True),
    "symfollow": (lib.MOUNT_ATTR_NOSYMFOLLOW, False),
}
# The three ways to keep access times are one field of the kernel: to set one, the field is cleared first.
ACCESS_TIMES = {
    "relatime": lib.MOUNT_ATTR_RELATIME,
    "norelatime": lib.MOUNT_ATTR_RELATIME,
    "noatime": lib.MOUNT_ATTR_NOATIME,
    "atime": lib.MOUNT_ATTR_RELATIME,
    "strictatime": lib.MOUNT_ATTR_STRICTATIME,
    "nostrictatime": lib.MOUNT_ATTR_RELATIME,
}
PROPAGATION = {
    "shared": lib.MS_SHARED,
    "rshared": lib.MS_SHARED | lib.MS_REC,
    "slave": lib.MS_SLAVE,
    "rslave": lib.MS_SLAVE | lib.MS_REC,
    "private": lib.MS_PRIVATE,
    "rprivate": lib.MS_PRIVATE | lib.MS_REC,
    "unbindable": lib.MS_UNBINDABLE,
    "runbindable": lib.MS_UNBINDABLE | lib.MS_REC,
}
# Kept per file system: (name for fsconfig, mount(2) flag); on a bind mount they mean nothing.
SUPERBLOCK = {
    "sync": lib.MS_SYNCHRONOUS,
    "dirsync": lib.MS_DIRSYNC,
    "mand": lib.MS_MANDLOCK,
    "lazytime": lib.MS_LAZYTIME,
    "iversion": lib.MS_I_VERSION,
    "silent": lib.MS_SILENT,
}
SUPERBLOCK_OFF = (
    "async",
    "nomand",
    "nolazytime",
    "noiversion",
    "loud",
    "rsync",
    "rasync",
    "rdirsync",
    "rmand",
    "rnomand",
)
BOTH_WAYS = ("defaults", "remount", "bind", "rbind")


class MountOptions(Frozen):
    """What the options of one mount mean."""

    bind: bool
    recursive_bind: bool
    set_: int
    clear: int
    recursive_set: int
    recursive_clear: int
    propagation: int
    superblock: tuple[str, ...]
    data: tuple[tuple[str, str | None], ...]
    copy_up: bool
    idmap: str
    source_nofollow: bool
    target_nofollow: bool
    copy_symlink: bool


class _Reading:
    """The options read so far."""

    def __init__(self) -> None:
        self.set_ = self.clear = self.recursive_set = self.recursive_clear = self.propagation = 0
        self.superblock: list[str] = []
        self.data: list[tuple[str, str | None]] = []
        self.words: set[str] = set()
        self.idmap = ""

    def attribute(self, bits: int, *, on: bool, recursive: bool, field: int = 0) -> None:
        """One attribute; the last one given wins."""
        field = field or bits
        if recursive:
            self.recursive_set = self.recursive_set & ~field | (bits if on else 0)
            self.recursive_clear = self.recursive_clear & ~field | (0 if on and field == bits else field)
        else:
            self.set_ = self.set_ & ~field | (bits if on else 0)
            self.clear = self.clear & ~field | (0 if on and field == bits else field)

    def option(self, option: str) -> None:
        """One word of the options."""
        recursive = option[0:1] == "r" and option not in ATTRIBUTES and option not in ACCESS_TIMES
        name = option[1:] if recursive else option
        if name in ATTRIBUTES:
            bits, on = ATTRIBUTES[name]
            self.attribute(bits, on=on, recursive=recursive)
        elif name in ACCESS_TIMES:
            self.attribute(ACCESS_TIMES[name], on=True, recursive=recursive, field=lib.MOUNT_ATTR__ATIME)
        elif option in PROPAGATION:
            self.propagation = PROPAGATION[option]
        elif option in SUPERBLOCK:
            self.superblock.append(option)
        elif option in ("idmap", "ridmap") or option.startswith(("idmap=", "ridmap=")):
            self.idmap = option
        elif option in ("tmpcopyup", "src-nofollow", "dest-nofollow", "copy-symlink", *BOTH_WAYS):
            self.words.add(option)
        elif option not in SUPERBLOCK_OFF:
            key, equals, value = option.partition("=")
            self.data.append((key, value if equals else None))


def read(options: tuple[str, ...]) -> MountOptions:
    """The meaning of these options together."""
    reading = _Reading()
    for option in options:
        if option:
            reading.option(option)
    words = reading.words
    return MountOptions(
        bind="bind" in words or "rbind" in words,
        recursive_bind="rbind" in words,
        set_=reading.set_,
        clear=reading.clear,
        recursive_set=reading.recursive_set,
        recursive_clear=reading.recursive_clear,
        propagation=reading.propagation,
        superblock=tuple(reading.superblock),
        data=tuple(reading.data),
        copy_up="tmpcopyup" in words,
        idmap=reading.idmap,
        source_nofollow="src-nofollow" in words,
        target_nofollow="dest-nofollow" in words,
        copy_symlink="copy-symlink" in words,
    )


def attribute_names(bits: int) -> list[str]:
    """Words for a mask of attributes, for descriptions."""
    names = [name for name, (bit, on) in ATTRIBUTES.items() if on and bits & bit]
    access = bits & lib.MOUNT_ATTR__ATIME
    return names + [name for name in ("noatime", "strictatime") if access and ACCESS_TIMES[name] == access]
