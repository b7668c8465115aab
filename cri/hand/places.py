# SPDX-License-Identifier: Apache-2.0
"""Where things are, for a command that may never need the configuration: flags, then environment, file, defaults."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cri.config import Config

STATE, ROOT, CONFIG = "/run/ketch", "/var/lib/ketch", "/etc/ketch/config.toml"


class Places:
    """The directories. The file is read (and tomllib imported) only where there is one."""

    def __init__(self, config: str = "", *, state: str = "", root: str = "") -> None:
        self._file = config or os.environ.get("KETCH_CONFIG", "")
        self._given = (state or os.environ.get("KETCH_STATE", ""), root or os.environ.get("KETCH_ROOT", ""))
        self._config: Config | None = None

    @property
    def config(self) -> Config:
        """The whole configuration with the flags applied."""
        if self._config is None:
            from cri import config
            from runtime.linux.quick_dataclasses import replace

            loaded = config.load(self._file or CONFIG, required=bool(self._file))
            state, root = self._given
            paths = replace(
                loaded.paths,
                state=os.path.abspath(state or loaded.paths.state),
                root=os.path.abspath(root or loaded.paths.root),
            )
            self._config = replace(loaded, paths=paths)
        return self._config

    def _has_file(self) -> bool:
        return bool(self._file) or os.path.exists(CONFIG)

    @property
    def state(self) -> str:
        """Live objects: pods, bundles, containers."""
        if self._given[0]:
            return os.path.abspath(self._given[0])
        return self.config.paths.state if self._has_file() else STATE

    @property
    def root(self) -> str:
        """What survives a boot: images, volumes, networks."""
        if self._given[1]:
            return os.path.abspath(self._given[1])
        return self.config.paths.root if self._has_file() else ROOT

    @property
    def hand(self) -> str:
        """What only this door keeps: names, one folder per container with its logs."""
        return f"{self.state}/hand"

    @property
    def networks(self) -> str:
        """CNI lists of people's networks; never where a kubelet looks for its own."""
        return f"{self.root}/networks"

    @property
    def volumes(self) -> str:
        """One folder per volume, with `_data` inside as docker has it."""
        return f"{self.root}/volumes"
