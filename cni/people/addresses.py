# SPDX-License-Identifier: Apache-2.0
"""addresses: who holds which address, since when, for which pod."""

import argparse
import os
import sys
import time
from typing import Any

from runtime.linux import json_text

from ..addresses import parse_ip, to_text
from ..errors import INVALID_ENVIRONMENT, CniError
from ..ipam.reservations import Store


def run(wanted: argparse.Namespace) -> int:
    only = _canonical(wanted.address) if wanted.address else None
    rows = [row for row in _rows(wanted.data_dir) if only in (None, row["address"])]
    if wanted.json:
        sys.stdout.write(json_text.dumps(rows, indent=2) + "\n")
        return 0
    if only and not rows:
        sys.stdout.write(f"{only} is free\n")
        return 0
    table = [("ADDRESS", "NETWORK", "POD", "CONTAINER", "INTERFACE", "SINCE")]
    table += [
        (row["address"], row["network"], row["pod"], row["container"][:13], row["interface"], row["since"] or "-")
        for row in rows
    ]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        sys.stdout.write("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() + "\n")
    return 0


def _canonical(text: str) -> str:
    try:
        return to_text(*parse_ip(text))
    except ValueError as error:
        raise CniError(INVALID_ENVIRONMENT, str(error)) from None


def _rows(data_directory: str) -> list[dict[str, Any]]:
    try:
        networks = sorted(name for name in os.listdir(data_directory) if os.path.isdir(f"{data_directory}/{name}"))
    except FileNotFoundError:
        return []
    rows: list[dict[str, Any]] = []
    for network in networks:
        store = Store(data_directory, network)  # without its lock: we only look
        for address in sorted(store.addresses(), key=parse_ip):
            container, _, interface = store.owner(address).partition(":")
            holder = store.holder(store.owner(address))
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since)) if holder else ""
            pod = holder.pod if holder and holder.pod != container else "-"
            rows.append(
                {
                    "address": address,
                    "network": network,
                    "pod": pod,
                    "container": container or "(nobody: left by a killed host-local)",
                    "interface": interface or "-",
                    "since": since,
                }
            )
    return rows
