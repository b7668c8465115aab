# SPDX-License-Identifier: Apache-2.0
"""etcd, API server, controllers, scheduler and image registry, in the machine called site that also is the network."""

from __future__ import annotations

from pathlib import Path

from tests.e2e import go_build, registry
from tests.e2e.machine import Machine, until
from tests.e2e.pki import Pki

SITE_ADDRESS = "10.99.0.254"
SITE_BRIDGE = "site0"
SERVER = f"https://{SITE_ADDRESS}:6443"
REGISTRY = f"{SITE_ADDRESS}:{registry.PORT}"
POD_RANGE = "10.244.0.0/16"
SERVICE_RANGE = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"
DNS_ADDRESS = "10.96.0.10"


def lay_cable(site: Machine) -> None:
    """The network that the nodes share: a bridge with the site's address."""
    site.run("ip", "link", "add", SITE_BRIDGE, "type", "bridge")
    site.run("ip", "addr", "add", f"{SITE_ADDRESS}/24", "dev", SITE_BRIDGE)
    site.run("ip", "link", "set", SITE_BRIDGE, "up")


def start_registry(site: Machine, images: str) -> None:
    """This set of images, for every node."""
    settings = site.folder / "registry.yml"
    settings.write_text(registry.configuration(registry.storage(images), f":{registry.PORT}"))
    site.start("registry", *registry.command(settings))


def start(site: Machine, pki: Pki) -> None:
    """The control plane; return when the API server says it is ready."""
    _start_etcd(site)
    _start_api_server(site, pki)
    kubeconfig = pki.kubeconfig(SERVER, "admin")
    kubectl = (str(go_build.program("kubectl")), f"--kubeconfig={kubeconfig}", "get", "--raw=/readyz")

    def is_ready() -> bool:
        if site.pid_of("kube-apiserver") is None:
            raise RuntimeError(f"kube-apiserver ended: {site.log_of('kube-apiserver').read_text()[-2000:]}")
        return site.run(*kubectl, check=False).stdout == "ok"

    until(is_ready, "the API server is ready", 120, every=0.2)
    _start_controllers(site, pki, kubeconfig)


def _start_etcd(site: Machine) -> None:
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    site.start(
        "etcd",
        str(go_build.program("etcd")),
        f"--data-dir={site.folder}/etcd",
        "--unsafe-no-fsync",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
    )


def _start_api_server(site: Machine, pki: Pki) -> None:
    site.start(
        "kube-apiserver",
        str(go_build.program("kube-apiserver")),
        "--etcd-servers=http://127.0.0.1:2379",
        "--secure-port=6443",
        f"--advertise-address={SITE_ADDRESS}",
        f"--tls-cert-file={pki.path('api.crt')}",
        f"--tls-private-key-file={pki.path('api.key')}",
        f"--client-ca-file={pki.authority}",
        f"--token-auth-file={pki.path('tokens.csv')}",
        f"--cert-dir={site.folder}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged=true",
        f"--service-account-key-file={pki.path('service-account.key')}",
        f"--service-account-signing-key-file={pki.path('service-account.key')}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--kubelet-client-certificate={pki.path('front-proxy.crt')}",
        f"--kubelet-client-key={pki.path('front-proxy.key')}",
        # node names are in no DNS here
        "--kubelet-preferred-address-types=InternalIP,Hostname",
        f"--requestheader-client-ca-file={pki.authority}",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={pki.path('front-proxy.crt')}",
        f"--proxy-client-key-file={pki.path('front-proxy.key')}",
    )


def _start_controllers(site: Machine, pki: Pki, kubeconfig: Path) -> None:
    site.start(
        "kube-controller-manager",
        str(go_build.program("kube-controller-manager")),
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--allocate-node-cidrs=true",
        f"--cluster-cidr={POD_RANGE}",
        "--node-cidr-mask-size=24",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        f"--root-ca-file={pki.authority}",
        f"--service-account-private-key-file={pki.path('service-account.key')}",
        f"--cluster-signing-cert-file={pki.authority}",
        f"--cluster-signing-key-file={pki.path('ca.key')}",
        "--bind-address=127.0.0.1",
    )
    site.start(
        "kube-scheduler",
        str(go_build.program("kube-scheduler")),
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        # a bench creates a hundred pods at once: the scheduler must not be what they wait for
        "--kube-api-qps=1000",
        "--kube-api-burst=1000",
    )
