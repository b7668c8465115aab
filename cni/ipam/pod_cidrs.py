# SPDX-License-Identifier: Apache-2.0
"""The pod CIDRs of this node: written by ketch-cri on UpdateRuntimeConfig, read where a subnet says "usePodCidr"."""

import os

from runtime.linux import json_text

from ..addresses import Prefix, parse_prefix
from ..errors import TRY_AGAIN_LATER, CniError, bad_config

NODE_FILE = "/run/ketch/node.json"


def write(cidrs: list[str], path: str = NODE_FILE) -> None:
    """Keep this node's pod CIDRs for plugins that are started later."""
    for cidr in cidrs:
        parse_prefix(cidr)
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(json_text.dumps({"podCidrs": cidrs}))
    os.rename(temporary, path)


def read(path: str, environ: "dict[str, str] | None" = None) -> list[Prefix]:
    """From the environment (KETCH_POD_CIDR, several by comma), or from the node file."""
    given = (environ or {}).get("KETCH_POD_CIDR") or os.environ.get("KETCH_POD_CIDR", "")
    if given:
        return [parse_prefix(word.strip()) for word in given.split(",")]
    try:
        with open(path, encoding="utf-8") as file:
            listed = json_text.loads(file.read())["podCidrs"]
    except FileNotFoundError:
        raise CniError(
            TRY_AGAIN_LATER,
            f"the subnet is to be this node's pod CIDR, and nobody has told it yet: {path} does not exist",
            "ketch-cri writes it on the kubelet's UpdateRuntimeConfig; KETCH_POD_CIDR in the environment would do too",
        ) from None
    except (json_text.JSONError, KeyError, TypeError) as error:
        raise CniError(TRY_AGAIN_LATER, f"{path}: not a node file: {error}") from None
    return [parse_prefix(str(word)) for word in listed]


def filled_in(key: str, placeholder: str, cidrs: list[Prefix]) -> str:
    """The pod CIDR that a placeholder stands for."""
    family = 10 if placeholder.endswith("IPv6") else None
    for cidr in cidrs:
        if family in (None, cidr.family):
            return str(cidr.network)
    raise bad_config(key, placeholder, "this node has no pod CIDR of that family")
