# SPDX-License-Identifier: Apache-2.0
"""What List calls leave out: by id, state, pod and labels; all that are given must hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cri.engine.book import Book
from cri.engine.records import ContainerRecord, PodRecord
from cri.services.answer import STATES, pod_state


def labelled(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def named(identity: str, wanted: str) -> bool:
    """An id may be given by its beginning."""
    return not wanted or identity.startswith(wanted)


def pod(record: PodRecord, wanted: Any) -> bool:
    if wanted.HasField("state") and wanted.state.state != pod_state(record):
        return False
    return named(record.id, wanted.id) and labelled(record.request.labels, wanted.label_selector)


def container(record: ContainerRecord, book: Book, wanted: Any) -> bool:
    if wanted.HasField("state") and wanted.state.state != STATES[book.state(record)]:
        return False
    return container_named(record, wanted)


def container_named(record: ContainerRecord, wanted: Any) -> bool:
    """The part of the filter that stats have too."""
    return (
        named(record.id, wanted.id)
        and named(record.pod_id, wanted.pod_sandbox_id)
        and labelled(record.request.labels, wanted.label_selector)
    )


def pod_stats(record: PodRecord, wanted: Any) -> bool:
    return named(record.id, wanted.id) and labelled(record.request.labels, wanted.label_selector)
