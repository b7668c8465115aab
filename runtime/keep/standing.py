# SPDX-License-Identifier: Apache-2.0
"""What the spawner has of the kernel and its containers shall not: a protected OOM score, many descriptors."""

import resource
import struct

from runtime.linux._core import lib
from runtime.linux.program import Builder

_FILE = "/proc/self/oom_score_adj"
_PROTECTED = -999  # as kubelet and containerd have it; with -1000 the kernel would rather panic than choose us
_DESCRIPTORS = 65536  # a spawner of 500 containers with terminals and as many clients needs some thousands
_score: list[str] = []
_limit: list[tuple[int, int]] = []


def take() -> None:
    """Lower our score (without CAP_SYS_RESOURCE it stays), raise our soft limit of descriptors as far as we may."""
    with open(_FILE, encoding="ascii") as file:
        score = file.read()
    try:
        with open(_FILE, "w", encoding="ascii") as file:
            file.write(str(_PROTECTED))
        _score.append(score)
    except PermissionError:
        pass
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        _limit.append((soft, hard))


def give_back() -> None:
    """In a child that becomes a container or joins one: as they were, which a config without them means."""
    if _score:
        with open(_FILE, "w", encoding="ascii") as file:
            file.write(_score[0])
    if _limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, _limit[0])


def give_back_in(builder: Builder) -> None:
    """The same as steps of a child that interprets no Python."""
    if _score:
        builder.write_file(_FILE, _score[0].encode())
    if _limit:
        soft, hard = (2**64 - 1 if bound == resource.RLIM_INFINITY else bound for bound in _limit[0])
        builder.call(lib.SYS_prlimit64, 0, resource.RLIMIT_NOFILE, struct.pack("=QQ", soft, hard), 0)
