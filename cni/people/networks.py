# SPDX-License-Identifier: Apache-2.0
"""explain, status, check and gc: networks and their attachments, for people."""

import argparse
import os
import sys
from typing import Any

from runtime.linux import json_text, tracebacks

from .. import call as calls
from .. import protocol
from ..client import Attachment, Network, Options, load, load_file, parse
from ..client.cache import Cached
from ..client.networks import plugin_config
from ..errors import INVALID_CONFIG, CniError, bad_config
from ..records import STATE_DIRECTORY
from ..wire.veth import Leftovers


def options_of(wanted: argparse.Namespace) -> Options:
    return Options(path=wanted.plugin_dir, cache_dir=wanted.cache_dir)


def explain(wanted: argparse.Namespace) -> int:
    """Every effect of an ADD, plugin by plugin; nothing is changed."""
    configuration = _configuration(wanted)
    environ = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": wanted.container_id,
        "CNI_NETNS": "/run/netns/example",
        "CNI_IFNAME": wanted.ifname,
        "CNI_PATH": wanted.plugin_dir,
        "CNI_ARGS": "IgnoreUnknown=1",
    }
    capabilities = dict(_capability(word) for word in wanted.capability)
    previous: dict[str, Any] | None = None
    for plugin in configuration.plugins:
        raw = plugin_config(configuration, plugin, capability_args=capabilities, previous=previous)
        sys.stdout.write(f"{plugin['type']}:\n")
        module = protocol.plugin(plugin["type"])
        if module is None:
            sys.stdout.write("  run by exec: not ours, so only it knows\n")
            continue
        call = calls.of_config("ADD", environ, raw, in_process=True)
        for line in module.explain(call) or ["nothing to do"]:
            sys.stdout.write(f"  {line}\n")
        if hasattr(module, "preview_result"):
            previous = module.preview_result(call).to_json(configuration.version)
    return 0


def _configuration(wanted: argparse.Namespace) -> Any:
    if wanted.conf == "-":
        return parse(sys.stdin.buffer.read())
    if os.path.exists(wanted.conf):
        return load_file(wanted.conf)
    for network in load(wanted.conf_dir, options_of(wanted)):
        if network.name == wanted.conf:
            return network.configuration
    raise CniError(INVALID_CONFIG, f"{wanted.conf} is neither a file nor a network in {wanted.conf_dir}")


def _capability(word: str) -> tuple[str, Any]:
    key, _, value = word.partition("=")
    try:
        return key, json_text.loads(value)
    except json_text.JSONError as error:
        raise bad_config("--capability", word, f"expected KEY=JSON: {error}") from None


def status(wanted: argparse.Namespace) -> int:
    """One line per network: ready, or why not."""
    networks = load(wanted.conf_dir, options_of(wanted))
    if not networks:
        raise CniError(INVALID_CONFIG, f"no network config found in {wanted.conf_dir} (ketch-cni conf writes one)")
    failed = 0
    for network in networks:
        try:
            network.status()
            words = "ready"
        except CniError as error:
            words = f"not ready: {error}"
            failed = 1
        sys.stdout.write(f"{network.name}: {words}\n")
    return failed


def check(wanted: argparse.Namespace) -> int:
    """One line per attachment: sound, or what differs."""
    failed = 0
    for network in load(wanted.conf_dir, options_of(wanted)):
        for cached in network.cached():
            try:
                network.check(_attachment(cached))
                words = "as ADD left it"
            except CniError as error:
                words = f"differs: {error}"
                failed = 1
            sys.stdout.write(f"{network.name} {cached.container_id} {cached.ifname}: {words}\n")
        for link, why in Leftovers(f"{STATE_DIRECTORY}/{network.name}/leftovers").all().items():
            sys.stdout.write(f"{network.name}: link {link} could not be removed, GC tries again: {why}\n")
            failed = 1
    return failed or status(wanted)


def gc(wanted: argparse.Namespace) -> int:
    """Attachments whose namespace is gone are garbage; everything else stays."""
    failed = 0
    for network in load(wanted.conf_dir, options_of(wanted)):
        living = [cached for cached in network.cached() if _namespace_lives(cached)]
        stale = [cached for cached in network.cached() if not _namespace_lives(cached)]
        for cached in stale:
            sys.stdout.write(f"{network.name}: {cached.container_id} {cached.ifname}: {cached.netns} is gone\n")
        if wanted.dry_run:
            continue
        failed |= _collect(network, living, stale)
    return failed


def _collect(network: Network, living: list[Cached], stale: list[Cached]) -> int:
    if not living and not stale:
        return 0  # a network that no runtime with a cache of results uses: we cannot tell who lives
    try:
        network.gc([_attachment(cached) for cached in living])
    except CniError as error:
        tracebacks.show_if_wanted()
        sys.stderr.write(f"ketch-cni: {network.name}: {error}\n")
        return 1
    return 0


def _attachment(cached: Cached) -> Attachment:
    return Attachment(cached.container_id, cached.netns, cached.ifname, cached.args, cached.capability_args or {})


def _namespace_lives(cached: Cached) -> bool:
    """Pinned namespaces are nsfs mounts: a plain file of that name is what an unmount leaves."""
    from runtime.linux.namespaces import open_namespace

    if not cached.netns:
        return True  # whoever added it did not say; only its DEL can tell
    try:
        os.close(open_namespace(cached.netns))
    except (OSError, ValueError):
        return False
    return True
