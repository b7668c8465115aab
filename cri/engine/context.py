# SPDX-License-Identifier: Apache-2.0
"""What every part of the engine needs: configuration, records, index, and the things the engine stands on."""

from __future__ import annotations

import os

from cri.config import Config
from cri.engine.book import Book
from cri.engine.cgroups import Cgroups
from cri.engine.events import Events
from cri.engine.pod_network import PodNetwork
from cri.engine.reclaim import Reclaim
from cri.engine.records import Records
from cri.engine.watch import Watch
from cri.images.store import ImageStore
from cri.oci.facts import Node
from runtime.keep.client import Client
from runtime.linux.quick_dataclasses import dataclass, field


@dataclass(slots=True)
class Context:
    """One per engine; everything in it may be used from many threads."""

    config: Config
    owner: str
    boot_id: str
    node: Node
    keep: Client
    images: ImageStore
    network: PodNetwork
    pods: Records
    bundles: Records
    cgroups: Cgroups
    watch: Watch
    book: Book = field(default_factory=Book)
    events: Events = field(default_factory=Events)
    reclaim: Reclaim = field(init=False)

    def __post_init__(self) -> None:
        self.reclaim = Reclaim(self.images)


def new_id() -> str:
    """64 hex digits, as tools that read logs and cgroups expect."""
    return os.urandom(32).hex()
