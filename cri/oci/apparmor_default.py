# SPDX-License-Identifier: Apache-2.0
"""The text of the AppArmor profile `ketch-default`: what a container may do that asks for nothing special."""

from __future__ import annotations

NAME = "ketch-default"
# Where distributions keep the set of kernel features that profiles of AppArmor 3 were written for.
ABI = "/etc/apparmor.d/abi/3.0"

# No #include and no tunables: the text must mean the same on every distribution. Rules only add up and a `deny` beats
# all others, so everything is allowed first, and what leads to the node's kernel is taken away again.
_TEXT = """\
profile {name} flags=(attach_disconnected,mediate_deleted) {{
  # Namespaces, capabilities, cgroups and seccomp say what these may really do.
  network,
  capability,
  file,
  umount,
  unix,

  # A container's processes signal and trace each other; the node may end them; none of them reaches out.
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (send, receive) peer={name},
  ptrace (read, readby, trace, tracedby) peer={name},

  # A mount could bring in a second procfs, in which nothing is masked.
  deny mount,

  # The switches of the kernel. A process keeps its own files in /proc/PID; /proc/self is a link to them.
  deny /proc/* w,
  deny /proc/[^0-9s]*/** w,
  deny /proc/s[^y]*/** w,
  deny /proc/kcore rwklx,
  deny /proc/sysrq-trigger rwklx,
  # Of /proc/sys only what belongs to a pod's namespaces: net, and in kernel the limits of IPC (msg*, sem, shm*).
  deny /proc/sys/[^kn]** w,
  deny /proc/sys/kernel/[^ms]** w,
  deny /proc/sys/kernel/m[^s]** w,
  deny /proc/sys/kernel/s[^eh]** w,
  deny /proc/sys/kernel/se[^m]** w,

  # The node's hardware and kernel as files; only cgroups stay, where a container sees its own.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"""


def text(*, pinned: bool, name: str = NAME) -> str:
    """The source that apparmor_parser compiles. `pinned`: mediate what AppArmor 3 knew; a newer parser would otherwise
    refuse whatever else its kernel can mediate, such as user namespaces, because no rule here speaks of it."""
    return ("abi <abi/3.0>,\n" if pinned else "") + _TEXT.format(name=name)
