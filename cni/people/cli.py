# SPDX-License-Identifier: Apache-2.0
"""The commands of ketch-cni."""

import sys

from .. import protocol


def main(arguments: list[str]) -> int:
    """Run one command for a person."""
    sys.stderr.write(f"usage: ketch-cni PLUGIN, or a link to it under a plugin's name: {', '.join(protocol.PLUGINS)}\n")
    return 2 if arguments else 0
