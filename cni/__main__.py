# SPDX-License-Identifier: Apache-2.0
"""The one program behind every plugin's name, and `ketch-cni` for people."""

import gc
import os
import sys


def main(argv: list[str] | None = None) -> int:
    """Serve the plugin that we were called as; `ketch-cni` itself takes commands."""
    arguments = sys.argv if argv is None else argv
    if argv is None:
        gc.disable()  # a plugin lives for milliseconds; looking for cycles takes a tenth of them
    from . import protocol

    name = os.path.basename(arguments[0]) if arguments else "ketch-cni"
    if name not in protocol.PLUGINS and len(arguments) > 1 and arguments[1] in protocol.PLUGINS:
        name = arguments[1]  # ketch-cni bridge: as if called by that name
    if name not in protocol.PLUGINS:
        from .people import cli

        return cli.main(arguments[1:])
    if not os.environ.get("CNI_COMMAND"):
        sys.stderr.write(protocol.about(name))
        return 0
    chunks = []
    while chunk := os.read(0, 1 << 16):
        chunks.append(chunk)
    status, answer = protocol.run(name, os.environ, b"".join(chunks))
    if answer:
        os.write(1, answer.encode() + b"\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
