# SPDX-License-Identifier: Apache-2.0
"""How a pod joins and leaves its network: the CNI list of the configured folder, and what Kubernetes passes to it."""

from __future__ import annotations

import threading

from cni.client import Attachment, CniError, Directory, Network, Options, parse
from cni.client.cache import Cache
from cni.client.chain import pod_ips
from cni.ipam import pod_cidrs
from cri.config import Config
from cri.engine.book import changed
from cri.engine.errors import BadRequest, Failed
from cri.engine.records import PodRecord
from cri.engine.request import PodRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

IFNAME = "eth0"


def cni_args(record: PodRecord) -> list[tuple[str, str]]:
    """CNI_ARGS as the kubelet's runtimes have always passed them."""
    request = record.request
    return [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", request.namespace),
        ("K8S_POD_NAME", request.name),
        ("K8S_POD_INFRA_CONTAINER_ID", record.id),
        ("K8S_POD_UID", request.uid),
    ]


BANDWIDTH = {
    "kubernetes.io/ingress-bandwidth": ("ingressRate", "ingressBurst"),
    "kubernetes.io/egress-bandwidth": ("egressRate", "egressBurst"),
}
SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(text: str) -> int:
    """Bits per second: a Kubernetes quantity such as 10M."""
    number = text.rstrip("kKMGTi")
    try:
        return int(float(number) * SUFFIXES[text[len(number) :]])
    except (ValueError, KeyError):
        raise Failed(f"annotation {text!r}: not a quantity such as 10M") from None


def capability_args(request: PodRequest) -> dict[str, Any]:
    """What plugins that declare the capability are given."""
    built: dict[str, Any] = {}
    ports = [m for m in request.port_mappings if m.host_port > 0]
    if ports:
        built["portMappings"] = [
            {
                "hostPort": m.host_port,
                "containerPort": m.container_port,
                "protocol": m.protocol.lower(),
                "hostIP": m.host_ip,
            }
            for m in ports
        ]
    bandwidth: dict[str, int] = {}
    for annotation, (rate, burst) in BANDWIDTH.items():
        if annotation in request.annotations:
            bandwidth[rate] = quantity(request.annotations[annotation])
            bandwidth[burst] = 2**31 - 1
    if bandwidth:
        built["bandwidth"] = bandwidth
    if request.dns is not None:
        dns = request.dns
        built["dns"] = {"servers": list(dns.servers), "searches": list(dns.searches), "options": list(dns.options)}
    built["io.kubernetes.cri.pod-annotations"] = dict(request.annotations)
    return built


class PodNetwork:
    """The CNI lists of the configured folder, read anew when the folder changes."""

    def __init__(self, config: Config) -> None:
        self._config = config.network
        self._directory = Directory(config.network.conf_dir)
        self._lock = threading.Lock()
        self._node_file = f"{config.paths.state}/node.json"
        self._options = Options(
            path=":".join(config.network.plugin_dirs),
            cache_dir=f"{config.network.data_dir}/cache",
            environ={"KETCH_NODE_FILE": self._node_file, "KETCH_CNI_STATE": f"{config.paths.state}/cni"},
            foreign_timeout_seconds=config.network.add_seconds,
        )

    def networks(self) -> list[Network]:
        with self._lock:
            return [Network(configuration, self._options) for configuration in self._directory.networks()]

    def ready(self) -> tuple[bool, str]:
        """Whether pods can be networked now, and if not why."""
        try:
            found = self.networks()
            if not found:
                return False, f"no network config found in {self._config.conf_dir}"
            found[0].status()
        except (CniError, OSError) as e:
            return False, str(e)
        return True, ""

    def chosen(self, name: str) -> Network:
        """The network of that name; without one the first."""
        found = self.networks()
        if not found:
            raise Failed(f"network: no network config found in {self._config.conf_dir}")
        if not name:
            return found[0]
        for network in found:
            if network.name == name:
                return network
        raise BadRequest(f"network {name!r}: not in {self._config.conf_dir} ({', '.join(n.name for n in found)})")

    def attachment(self, record: PodRecord) -> Attachment:
        args = (*cni_args(record), *record.request.network_args.items())
        return Attachment(record.id, record.netns, IFNAME, args, capability_args(record.request))

    def add(self, record: PodRecord) -> PodRecord:
        """Join the network that the record names; returns the record with what came of it."""
        try:
            result = self.chosen(record.network).add(self.attachment(record))
        except (CniError, OSError) as e:
            raise Failed(f"network {record.network}: {e}") from e
        ips = tuple(str(ip) for ip in pod_ips(result, IFNAME))
        if not ips:
            raise Failed(f"network {record.network}: its plugins gave the pod no address")
        return changed(record, ips=ips)

    def delete(self, record: PodRecord) -> None:
        """Leave; a second time is a no-op, and a network that was never joined is none to leave."""
        if not record.network:
            return
        try:
            network = self._with_configuration(record)
            if network is not None:
                network.delete(self.attachment(record))
        except (CniError, OSError) as e:
            raise Failed(f"network {record.network}: {e}") from e

    def _with_configuration(self, record: PodRecord) -> Network | None:
        """Today's configuration of the network, else the one the pod was added with."""
        for network in self.networks():
            if network.name == record.network:
                return network
        for cached in Cache(self._options.cache_dir).all(record.network):
            if cached.container_id == record.id:
                return Network(parse(cached.config), self._options)
        return None

    def collect(self, records: list[PodRecord]) -> None:
        """Everything that is not one of these pods' goes: what a crash or a boot has left behind."""
        for network in self.networks():
            network.gc([self.attachment(r) for r in records if r.network == network.name])

    def set_pod_cidr(self, cidr: str) -> None:
        """What the kubelet says of this node's range, for plugins that ask."""
        if not cidr:
            return
        import ipaddress

        ranges = [part.strip() for part in cidr.split(",") if part.strip()]
        for part in ranges:
            try:
                ipaddress.ip_network(part)
            except ValueError:
                raise BadRequest(f"runtime_config.network_config.pod_cidr: {part!r} is not a range") from None
        pod_cidrs.write(ranges, self._node_file)
