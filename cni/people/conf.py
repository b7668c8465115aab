# SPDX-License-Identifier: Apache-2.0
"""conf: a sound conflist for this node."""

import argparse
import os
import sys
from typing import Any

from runtime.linux import durable, json_text

from ..addresses import Prefix, parse_prefix
from ..client.networks import configuration_files
from ..errors import CONFLICT, CniError, bad_config

_DEFAULT_SUBNET = "10.88.0.0/16"


def run(wanted: argparse.Namespace) -> int:
    text = json_text.dumps(conflist(wanted), indent=2) + "\n"
    if wanted.only_print:
        sys.stdout.write(text)
        return 0
    there = configuration_files(wanted.conf_dir)
    if there:
        raise CniError(
            CONFLICT, f"{wanted.conf_dir}/{there[0]} exists already: this node has a network", "--print shows ours"
        )
    os.makedirs(wanted.conf_dir, 0o755, exist_ok=True)
    path = f"{wanted.conf_dir}/10-{wanted.name}.conflist"
    if not durable.create_exclusive(path, text.encode(), 0o644):
        raise CniError(CONFLICT, f"{path} exists already")
    sys.stdout.write(f"{path}\n")
    return 0


def conflist(wanted: argparse.Namespace) -> dict[str, Any]:
    """bridge, portmap, bandwidth and firewall, as most nodes need them."""
    subnets = [_subnet(text) for text in wanted.subnet]
    bridge: dict[str, Any] = {"type": "bridge"}
    if wanted.preset == "kubenet":
        bridge["preset"] = "kubenet"
        ranges = [[{"subnet": str(subnet)}] for subnet in subnets] or [[{"subnet": "usePodCidr"}]]
    else:
        bridge |= {"bridge": "cni0", "isDefaultGateway": True, "hairpinMode": True, "ipMasq": True, "mtu": "auto"}
        ranges = [[{"subnet": str(subnet)}] for subnet in subnets or [parse_prefix(_DEFAULT_SUBNET)]]
    bridge["ipam"] = {"type": "host-local", "ranges": ranges}
    if wanted.cluster_cidr:
        bridge["nonMasqueradeCIDRs"] = [str(_subnet(text)) for text in wanted.cluster_cidr]
    return {
        "cniVersion": "1.1.0",
        "name": wanted.name,
        "plugins": [
            bridge,
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": "bandwidth", "capabilities": {"bandwidth": True}},
            {"type": "firewall"},
        ],
    }


def _subnet(text: str) -> Prefix:
    try:
        prefix = parse_prefix(text)
    except ValueError as error:
        raise bad_config("--subnet", text, str(error)) from None
    if prefix.address != prefix.first:
        raise bad_config("--subnet", text, f"has host bits set (do you mean {prefix.network}?)")
    return prefix
