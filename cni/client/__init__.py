# SPDX-License-Identifier: Apache-2.0
"""What a runtime does with CNI plugins: load networks, run their chains, keep results, collect garbage.

    for network in load("/etc/cni/net.d"):
        network.status()
        result = network.add(Attachment(pod_id, "/run/netns/...", "eth0", args=(("IgnoreUnknown", "1"), ...),
                                        capability_args={"portMappings": [...]}))
        ...
        network.delete(attachment)          # also after a failed add(); idempotent; works when the netns is gone
        network.gc([attachment, ...])       # everything else of this network goes

All calls block, raise CniError (code, message, details), and may come from any thread. Our own plugins run in process,
foreign ones by exec. One attachment must not be worked on by two threads at once.
"""

from ..errors import CniError
from .chain import Attachment, Network, Options, load
from .networks import Configuration, Directory, load_directory, load_file, parse

__all__ = [
    "Attachment",
    "CniError",
    "Configuration",
    "Directory",
    "Network",
    "Options",
    "load",
    "load_directory",
    "load_file",
    "parse",
]
