# SPDX-License-Identifier: Apache-2.0
"""The commands of ketch-cni: what an ADD would do, whether networks work, who holds which address, and tidying up."""

import argparse
import sys
from typing import NoReturn

from runtime.linux import tracebacks

from .. import protocol
from ..errors import CniError

EPILOG = f"""\
Called under the name of a plugin (or as `ketch-cni PLUGIN`) it is that plugin: {", ".join(protocol.PLUGINS)}."""


def main(arguments: list[str]) -> int:
    """Run one command for a person."""
    wanted = _parser().parse_args(arguments)
    if not hasattr(wanted, "run"):
        _parser().print_help()
        return 2
    try:
        status: int = wanted.run(wanted)
    except (CniError, OSError) as error:
        tracebacks.show_if_wanted()
        sys.stderr.write(f"ketch-cni: {error}\n")
        return 1
    return status


class _Parser(argparse.ArgumentParser):
    """argparse prints its whole usage before an error; one line is enough."""

    def error(self, message: str) -> NoReturn:
        tracebacks.show_if_wanted()
        sys.stderr.write(f"ketch-cni: {message} (try: {self.prog} --help)\n")
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    from . import addresses, conf, networks

    parser = _Parser(prog="ketch-cni", description=__doc__, epilog=EPILOG)
    parser.add_argument("--conf-dir", default="/etc/cni/net.d", help="where networks are described (%(default)s)")
    parser.add_argument("--plugin-dir", default="/opt/cni/bin", help="where plugins are: CNI_PATH (%(default)s)")
    parser.add_argument("--cache-dir", default="/var/lib/cni", help="where results are cached (%(default)s)")
    parser.add_argument("--json", action="store_true", help="for programs")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    explain = commands.add_parser("explain", help="print every link, address, route, rule and sysctl an ADD would make")
    explain.add_argument("conf", help="a .conflist or .conf file, or the name of a network; - for stdin")
    explain.add_argument("--capability", action="append", default=[], metavar="KEY=JSON", help="as a runtime gives it")
    explain.add_argument("--ifname", default="eth0")
    explain.add_argument("--container-id", default="example")
    explain.set_defaults(run=networks.explain)
    status = commands.add_parser("status", help="whether each network could serve an ADD now, and why not")
    status.set_defaults(run=networks.status)
    check = commands.add_parser("check", help="whether every attachment is as its ADD left it")
    check.set_defaults(run=networks.check)
    gc = commands.add_parser("gc", help="remove what attachments have left whose network namespace is gone")
    gc.add_argument("--dry-run", action="store_true", help="only say which")
    gc.set_defaults(run=networks.gc)
    listed = commands.add_parser("addresses", help="who holds which address, since when, for which pod")
    listed.add_argument("address", nargs="?", help="only this one")
    listed.add_argument("--data-dir", default="/var/lib/cni/networks", help="host-local's directory (%(default)s)")
    listed.set_defaults(run=addresses.run)
    write = commands.add_parser("conf", help="write a sound conflist for this node; never overwrites one")
    write.add_argument("--subnet", action="append", default=[], help="of this node's pods (again for IPv6)")
    write.add_argument("--cluster-cidr", action="append", default=[], help="masquerade only what leaves this")
    write.add_argument("--preset", choices=("bridge", "kubenet"), default="bridge")
    write.add_argument("--name", default="ketch", help="of the network (%(default)s)")
    write.add_argument("--print", action="store_true", dest="only_print", help="to stdout, to no file")
    write.set_defaults(run=conf.run)
    return parser
