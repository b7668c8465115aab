# SPDX-License-Identifier: Apache-2.0
"""Which programs of others the rigs need, and which pinned Go module each is built from (pure)."""

from __future__ import annotations

from dataclasses import dataclass

KUBERNETES_VERSION = "v1.36.3"
CONTAINERD_VERSION = "v2.4.2"
RUNC_VERSION = "1.5.2"
PLUGINS_VERSION = "v1.9.1"
CRI_TOOLS_VERSION = "v1.36.0"

_STRIP = "-s -w"
_KUBERNETES = (
    f"{_STRIP} -X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}"
    " -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36"
)
_CONTAINERD = f"{_STRIP} -X github.com/containerd/containerd/v2/version.Version={CONTAINERD_VERSION}"
_PLUGINS = f"{_STRIP} -X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion={PLUGINS_VERSION}"


@dataclass(frozen=True, slots=True)
class GoProgram:
    """One program, or with a package pattern a folder of programs, out of one module folder of gomod/."""

    name: str
    module: str
    packages: tuple[str, ...]
    ldflags: str = _STRIP
    tags: str = ""
    cgo: bool = False
    is_test: bool = False
    is_folder: bool = False

    def command(self, go: str, target: str) -> list[str]:
        """What to run in the module's folder so that target is the program (or the folder of programs)."""
        # Vetting what others have released takes as long as compiling it.
        verb = ["test", "-c", "-vet=off"] if self.is_test else ["build"]
        tags = ["-tags", self.tags] if self.tags else []
        return [
            go,
            *verb,
            "-trimpath",
            "-buildvcs=false",
            *tags,
            "-ldflags",
            self.ldflags,
            "-o",
            target,
            *self.packages,
        ]


def _kubernetes(name: str, *, cgo: bool = False) -> GoProgram:
    return GoProgram(name, "kubernetes", (f"k8s.io/kubernetes/cmd/{name}",), _KUBERNETES, cgo=cgo)


def _containerd(name: str) -> GoProgram:
    return GoProgram(name, "containerd", (f"github.com/containerd/containerd/v2/cmd/{name}",), _CONTAINERD)


_PLUGINS_BY_KIND = {
    "main": ("bridge", "loopback", "ptp", "macvlan", "ipvlan", "vlan", "host-device", "dummy"),
    "ipam": ("host-local", "static"),
    "meta": ("portmap", "bandwidth", "firewall", "tuning", "sbr"),
}
_PLUGIN_PACKAGES = tuple(
    f"github.com/containernetworking/plugins/plugins/{kind}/{name}"
    for kind, names in _PLUGINS_BY_KIND.items()
    for name in names
)

PROGRAMS = {
    program.name: program
    for program in (
        GoProgram(
            "crictl",
            "cri-tools",
            ("sigs.k8s.io/cri-tools/cmd/crictl",),
            f"{_STRIP} -X sigs.k8s.io/cri-tools/pkg/version.Version={CRI_TOOLS_VERSION}",
        ),
        GoProgram("critest", "cri-tools", ("sigs.k8s.io/cri-tools/cmd/critest",), is_test=True),
        GoProgram("runtime-tools", "runtime-tools", ("tool",), is_folder=True),
        GoProgram(
            "runc",
            "runc",
            ("github.com/opencontainers/runc",),
            f"{_STRIP} -X main.version={RUNC_VERSION}",
            tags="seccomp",
            cgo=True,
        ),
        GoProgram(
            "cni-plugins",
            "cni",
            _PLUGIN_PACKAGES,
            _PLUGINS,
            is_folder=True,
        ),
        GoProgram("cnitool", "cni", ("github.com/containernetworking/cni/cnitool",)),
        GoProgram("h2spec", "h2spec", ("github.com/summerwind/h2spec/cmd/h2spec",)),
        _containerd("containerd"),
        _containerd("containerd-shim-runc-v2"),
        _containerd("ctr"),
        _kubernetes("kubelet", cgo=True),
        _kubernetes("kube-apiserver"),
        _kubernetes("kube-controller-manager"),
        _kubernetes("kube-scheduler"),
        _kubernetes("kube-proxy"),
        _kubernetes("kubectl"),
        GoProgram("kubeadm", "suites", ("k8s.io/kubernetes/cmd/kubeadm",), _KUBERNETES),
        GoProgram("e2e_node.test", "suites", ("k8s.io/kubernetes/test/e2e_node",), _KUBERNETES, cgo=True, is_test=True),
        GoProgram("e2e.test", "suites", ("k8s.io/kubernetes/test/e2e",), _KUBERNETES, is_test=True),
        GoProgram("ginkgo", "suites", ("github.com/onsi/ginkgo/v2/ginkgo",)),
        GoProgram("resource-consumer", "suites", ("k8s.io/kubernetes/test/images/resource-consumer",)),
        GoProgram("agnhost", "kubernetes", ("k8s.io/kubernetes/test/images/agnhost",), _KUBERNETES),
        GoProgram("etcd", "etcd", ("go.etcd.io/etcd/server/v3",)),
        GoProgram("coredns", "coredns", ("github.com/coredns/coredns",)),
    )
}

CRI_TESTS = ("crictl", "critest")
OCI_TESTS = ("runtime-tools", "runc")
CONTAINERD_NODE = ("containerd", "containerd-shim-runc-v2", "ctr", "runc", "cni-plugins")
IN_IMAGES = ("agnhost", "coredns", "resource-consumer")
CLUSTER = (
    "kubelet",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubectl",
    "etcd",
    "coredns",
    "agnhost",
)
