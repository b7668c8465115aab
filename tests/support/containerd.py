# SPDX-License-Identifier: Apache-2.0
"""containerd's configuration for who serves beside us or in our place: releases 2 (built) and 1 (Debian's). Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Containerd:
    """Where everything of one containerd lies; `text` is its config.toml."""

    root: str
    state: str
    socket: str
    pause: str  # the image of the pod's own process
    runc: str
    plugins: str  # the folder of CNI plugins
    networks: str  # the folder of CNI configurations
    registries: str = ""  # the folder of hosts.toml files
    handlers: tuple[str, ...] = ("runc",)  # the first one is the default
    is_release_1: bool = False

    def text(self) -> str:
        return "\n".join([*self._daemon(), *self._images(), *self._runtime(), *self._rest(), ""])

    def _daemon(self) -> list[str]:
        version = 2 if self.is_release_1 else 3
        places = [f'root = "{self.root}"', f'state = "{self.state}"', "[grpc]", f'address = "{self.socket}"']
        return [f"version = {version}", *places]

    def _images(self) -> list[str]:
        registries = [f'config_path = "{self.registries}"'] if self.registries else []
        if self.is_release_1:
            head = ["[plugins.'io.containerd.grpc.v1.cri']", f'sandbox_image = "{self.pause}"']
            return [
                *head,
                "restrict_oom_score_adj = true",
                "[plugins.'io.containerd.grpc.v1.cri'.registry]",
                *registries,
            ]
        plugin = "plugins.'io.containerd.cri.v1.images'"
        pinned = [f"[{plugin}.pinned_images]", f'sandbox = "{self.pause}"']
        return [f"[{plugin}]", 'snapshotter = "overlayfs"', *pinned, f"[{plugin}.registry]", *registries]

    def _runtime(self) -> list[str]:
        """Root may not lower oom_score_adj where CAP_SYS_RESOURCE is missing, so containerd is told not to try."""
        plugin = (
            "plugins.'io.containerd.grpc.v1.cri'" if self.is_release_1 else "plugins.'io.containerd.cri.v1.runtime'"
        )
        lines = [] if self.is_release_1 else [f"[{plugin}]", "restrict_oom_score_adj = true"]
        lines += [f"[{plugin}.containerd]", f'default_runtime_name = "{self.handlers[0]}"']
        for handler in self.handlers:
            lines += [f"[{plugin}.containerd.runtimes.{handler}]", 'runtime_type = "io.containerd.runc.v2"']
            lines += [f"[{plugin}.containerd.runtimes.{handler}.options]", f'BinaryName = "{self.runc}"']
        folder = f'bin_dir = "{self.plugins}"' if self.is_release_1 else f'bin_dirs = ["{self.plugins}"]'
        return [*lines, f"[{plugin}.cni]", folder, f'conf_dir = "{self.networks}"']

    def _rest(self) -> list[str]:
        if self.is_release_1:
            return []
        streaming = ['stream_server_address = "127.0.0.1"', 'stream_server_port = "0"']
        return [
            "[plugins.'io.containerd.grpc.v1.cri']",
            *streaming,
            "[plugins.'io.containerd.nri.v1.nri']",
            "disable = true",
        ]
