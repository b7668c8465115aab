# SPDX-License-Identifier: Apache-2.0
"""After a start: records and facts are compared by a pure function, and its verdicts carried out."""

from __future__ import annotations

import logging
import os
import time

from cri.engine import container, runners, sandbox
from cri.engine.book import Ended
from cri.engine.context import Context
from cri.engine.reconcile import ContainerFacts, ContainerVerdict, PodVerdict, judge_container, judge_pod
from cri.engine.records import ContainerPhase, ContainerRecord, PodRecord
from runtime.linux import beneath, mounts

log = logging.getLogger(__name__)
HEX = frozenset("0123456789abcdef")


def recover(context: Context) -> None:
    """Load what is there, keep what lives, finish what was half done, remove what was half made."""
    ours = load_pods(context)
    load_containers(context)
    for record in [r for r in list(context.book.containers.values()) if r.owner == context.owner]:
        settle_container(context, record)
    for pod in ours:
        settle_pod(context, pod)
    collect(context)


def collect(context: Context) -> None:
    """What no record stands for: layers, attachments and namespaces that a crash or a boot has left."""
    for what, drop in (
        ("layers", drop_layers),
        ("network namespaces", drop_namespaces),
        ("attachments", drop_attachments),
    ):
        try:
            drop(context)
        except Exception:
            log.exception("left-over %s could not be removed; tried again at the next start", what)


def drop_layers(context: Context) -> None:
    """Keys begin with a container's id; other keys are other people's."""
    for key in context.images.rootfs_keys():
        owner = key[:64]
        if len(owner) == 64 and set(owner) <= HEX and not os.path.isdir(context.bundles.directory(owner)):
            context.reclaim.put(key)


def drop_namespaces(context: Context) -> None:
    try:
        names = os.listdir(context.config.paths.netns)
    except FileNotFoundError:
        return
    for name in names:
        identity = name.removeprefix("ketch-")
        if identity != name and len(identity) == 64 and not os.path.isdir(context.pods.directory(identity)):
            context.keep.unpin({"net": f"{context.config.paths.netns}/{name}"})


def drop_attachments(context: Context) -> None:
    """The pods of all owners are in the networks, so all of them are named."""
    context.network.collect([record for _, record in context.pods.all() if record is not None])


def load_pods(context: Context) -> list[PodRecord]:
    found = []
    for name, record in list(context.pods.all()):
        if record is None:
            sweep(context.pods.directory(name))
        elif record.owner == context.owner:
            context.book.load_pod(record)
            found.append(record)
    return found


def load_containers(context: Context) -> None:
    for name, record in list(context.bundles.all()):
        if record is None:
            sweep(context.bundles.directory(name))
        elif record.owner == context.owner:
            context.book.load_container(record)


def sweep(directory: str) -> None:
    """A directory without a readable record: left by a crash before its first effect. One that another door is making
    at this very moment looks the same; its record is written again then."""
    log.warning("%s: no readable record in it; removed", directory)
    mounts.detach_all_beneath(directory)
    beneath.remove_tree(directory)


def settle_container(context: Context, record: ContainerRecord) -> None:
    kept = context.keep.kept(record.id)
    if kept is not None and kept.pid <= 0:
        kept = None  # its keeper died before there was a process
    facts = ContainerFacts(
        same_boot=record.boot_id == context.boot_id,
        pod_known=record.pod_id in context.book.pods,
        alive=container.alive(record),
        has_exit=context.keep.exit(record.id) is not None,
        kept=kept is not None,
    )
    verdict = judge_container(record.phase, facts)
    try:
        if verdict == ContainerVerdict.REMOVE:
            container.take_down(context, record.id)
            context.book.forget_container(record.id)
        elif verdict == ContainerVerdict.ADOPT and kept is not None:
            adopted = record
            if record.phase != ContainerPhase.STARTED or record.pid != kept.pid:
                adopted = container.update(
                    context,
                    record,
                    phase=ContainerPhase.STARTED,
                    pid=kept.pid,
                    start_time=kept.start_time,
                    started_at=record.started_at or time.time_ns(),
                )
            context.watch.add(adopted.id, adopted.pid, adopted.start_time)
        elif verdict == ContainerVerdict.ENDED:
            container.note_end(context, record.id, context.keep.exit(record.id))
        elif verdict == ContainerVerdict.NEVER_RAN:
            runners.delete(context, record)  # an init that nobody has told to start
            context.book.end(record.id, Ended(128, record.failed_at or time.time_ns(), detail=record.failure))
    except Exception:
        log.exception("container %s: could not be settled as %s; tried again at the next start", record.id, verdict)


def settle_pod(context: Context, record: PodRecord) -> None:
    verdict = judge_pod(record.phase, same_boot=record.boot_id == context.boot_id, pinned=pinned(record))
    try:
        if verdict == PodVerdict.REMOVE:
            container.remove_all_of(context, record.id)
            sandbox.take_down(context, record.id)
            sandbox.forget(context, record.id)
        elif verdict == PodVerdict.STOP:
            sandbox.stop(context, record.id)
    except Exception:
        log.exception("pod %s: could not be settled as %s; tried again at the next start", record.id, verdict)


def pinned(record: PodRecord) -> bool:
    return all(os.path.exists(path) for path in record.pins.values())
