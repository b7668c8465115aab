# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ARG002 - every RPC has the same two arguments
"""RPCs about the runtime itself: version, readiness, what it can do."""

from __future__ import annotations

import json
from typing import Any

from cri.engine import handlers
from cri.engine.engine import Engine
from proto import cri_pb2 as pb
from runtime.linux.quick_dataclasses import asdict
from runtime.version import VERSION

KUBE_API_VERSION = "0.1.0"
NAME = "ketch"


class NodeService:
    """Version, Status, RuntimeConfig, UpdateRuntimeConfig."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def Version(self, request: Any, context: Any) -> Any:
        return pb.VersionResponse(
            version=KUBE_API_VERSION, runtime_name=NAME, runtime_version=VERSION, runtime_api_version="v1"
        )

    def Status(self, request: Any, context: Any) -> Any:
        ready, why = self._engine.network_ready()
        response = pb.StatusResponse(
            status=pb.RuntimeStatus(
                conditions=[
                    pb.RuntimeCondition(type="RuntimeReady", status=True),
                    pb.RuntimeCondition(
                        type="NetworkReady",
                        status=ready,
                        reason="" if ready else "NetworkPluginNotReady",
                        message=why,
                    ),
                ]
            ),
            runtime_handlers=[
                pb.RuntimeHandler(
                    name=runner.name,
                    features=pb.RuntimeHandlerFeatures(
                        recursive_read_only_mounts=runner.settings.recursive_read_only,
                        user_namespaces=runner.settings.user_namespaces,
                    ),
                )
                for runner in handlers.all_of(self._engine.config)
            ],
            features=pb.RuntimeFeatures(
                supplemental_groups_policy=True, user_namespaces_host_network=True, mount_options=True
            ),
        )
        if request.verbose:
            config = asdict(self._engine.config)
            # Tools look for these two where containerd has them.
            config["stateDir"] = self._engine.config.paths.state
            config["rootDir"] = self._engine.config.paths.root
            response.info["config"] = json.dumps(config)
            response.info["node"] = json.dumps(asdict(self._engine.node))
        return response

    def RuntimeConfig(self, request: Any, context: Any) -> Any:
        driver = pb.SYSTEMD if self._engine.node.cgroup_driver == "systemd" else pb.CGROUPFS
        return pb.RuntimeConfigResponse(linux=pb.LinuxRuntimeConfiguration(cgroup_driver=driver))

    def UpdateRuntimeConfig(self, request: Any, context: Any) -> Any:
        self._engine.set_pod_cidr(request.runtime_config.network_config.pod_cidr)
        return pb.UpdateRuntimeConfigResponse()
