# SPDX-License-Identifier: Apache-2.0
"""Programs that others wrote: clients that call our plugins, plugins above, below and before ours, a change of hands.

`make conformance SUITE=cni-clients` builds what is missing (cnitool, the Go plugins) and runs these.
"""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from cni.client import Attachment, Network, Options, parse
from cni.errors import CniError
from tests.bench import peers
from tests.linux.cni.world import NETWORKS, OUTSIDE, World, dial, ip, run, serve_port, settle
from tests.support.needs import needs

pytestmark = needs("root", "nft", "cni_plugins")

OURS = str(peers.OUR_PLUGINS)
THEIRS = peers.go_plugins() or ""
BUILT = ("containerd", "containerd-shim-runc-v2", "ctr", "runc")
KIND = ("bridge", "host-local", "portmap", "firewall", "tuning", "loopback", "bandwidth")
BOTH_STACKS = [[{"subnet": "10.85.0.0/24"}], [{"subnet": "fd00:85::/64"}]]


def _mixed(*theirs: str) -> str:
    """A plugin directory in which these are theirs and all others ours."""
    folder = Path(f"/run/cni/mixed-{'-'.join(theirs)}")
    folder.mkdir(parents=True, exist_ok=True)
    for name in KIND:
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(f"{THEIRS if name in theirs else OURS}/{name}")
    return str(folder)


def _crio(**more: Any) -> dict[str, Any]:
    """The shape that CRI-O installs: dual stack, masquerade, hairpin."""
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    bridge = {
        "type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "hairpinMode": True,
        "ipam": {"type": "host-local", "routes": routes, "ranges": BOTH_STACKS}, **more,
    }  # fmt: skip
    return {"cniVersion": "1.0.0", "name": "crio", "plugins": [bridge]}


def _chain(**more: Any) -> dict[str, Any]:
    """The shape that podman writes: ports, firewall and tuning after the bridge."""
    conf = _crio(**more)
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    conf["plugins"] += [ports, {"type": "firewall", "backend": "iptables"}, {"type": "tuning"}]
    return conf


def _network(conf: dict[str, Any], path: str) -> Network:
    return Network(parse(json.dumps(conf).encode()), Options(path=path))


def _cnitool(verb: str, conf: dict[str, Any], netns: str, path: str, ifname: str = "eth0", **capability: Any) -> Any:
    os.makedirs("/run/cni/net.d", exist_ok=True)
    Path("/run/cni/net.d/10-net.conflist").write_text(json.dumps(conf))
    environment = {
        "PATH": os.environ["PATH"], "NETCONFPATH": "/run/cni/net.d", "CNI_PATH": path, "CNI_IFNAME": ifname,
        "CAP_ARGS": json.dumps(capability),
    }  # fmt: skip
    command = [peers.built("cnitool") or "", verb, conf["name"], netns]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{verb}: {done.stdout} {done.stderr}"
    return json.loads(done.stdout) if done.stdout.strip() else None


def _left(network: str = "crio") -> list[str]:
    """Reservations, links and rules of pods that are still there."""
    settle()
    left = [name for name in os.listdir(f"{NETWORKS}/{network}") if name[0] in "1f" and name != "lock"]
    left += [link["ifname"] for link in ip("link") if link["ifname"].startswith("veth")]
    rules = run("nft", "list", "ruleset") + run("iptables-save")
    return left + [line.strip() for line in rules.splitlines() if "10.85.0." in line and "/24" not in line]


def _addresses(network: str = "crio") -> list[str]:
    return sorted(name for name in os.listdir(f"{NETWORKS}/{network}") if name.startswith("10."))


MAPPING = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}


@needs("cnitool")
def test_cnitool_adds_checks_and_deletes(host: World) -> None:
    pod = host.netns("pod")
    conf = _chain()
    result = _cnitool("add", conf, pod, OURS, portMappings=[MAPPING])
    assert [each["address"] for each in result["ips"]] == ["10.85.0.2/24", "fd00:85::2/64"]
    serve_port(host, pod, 80)
    assert dial("", "127.0.0.1", 8080)
    _cnitool("check", conf, pod, OURS, portMappings=[MAPPING])
    _cnitool("del", conf, pod, OURS, portMappings=[MAPPING])
    assert _left() == []


@needs("cnitool")
def test_cnitool_asks_for_the_status_and_collects_garbage(host: World) -> None:
    pod = host.netns("pod")
    conf = {**_chain(), "cniVersion": "1.1.0"}
    _cnitool("add", conf, pod, OURS)
    _cnitool("status", conf, pod, OURS)
    _cnitool("gc", conf, pod, OURS)
    host.drop_netns("pod")
    assert _left() == []


@pytest.mark.parametrize(
    "theirs", [("bridge",), ("host-local",), ("portmap",), ("firewall", "tuning"), ("bridge", "host-local"), KIND]
)
def test_their_plugins_work_above_below_and_beside_ours(host: World, theirs: tuple[str, ...]) -> None:
    outside = host.outside()
    pod = host.netns("pod")
    network = _network(_chain(ipMasqBackend="iptables"), _mixed(*theirs))
    attachment = Attachment("c1", pod, capability_args={"portMappings": [MAPPING]})
    network.add(attachment)
    serve_port(host, pod, 80)
    serve_port(host, outside, 81)
    assert dial(outside, "192.0.2.1", 8080) == f"it|{OUTSIDE}"
    assert dial(pod, OUTSIDE, 81) == "it|192.0.2.1"
    if "portmap" in theirs and THEIRS.startswith("/usr/lib"):
        # Debian's 1.1.1 looks for the rules of IPv4 in the chain of IPv6; newer ones do not.
        with pytest.raises(CniError, match="could not check ipv6 dnat"):
            network.check(attachment)
    else:
        network.check(attachment)
    network.delete(attachment)
    assert dial(outside, "192.0.2.1", 8080) is None
    assert _left() == []


@needs("cnitool")
@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_a_node_changes_hands_without_losing_an_address(host: World, backend: str) -> None:
    """Their pods live on under our plugins, are checked and deleted by them; new pods get new addresses."""
    conf = _chain(ipMasqBackend=backend)
    old = [host.netns(f"old{n}") for n in range(3)]
    for number, pod in enumerate(old):
        port = {"hostPort": 8080 + number, "containerPort": 80, "protocol": "tcp"}
        _cnitool("add", conf, pod, THEIRS, portMappings=[port])
    assert _addresses() == ["10.85.0.2", "10.85.0.3", "10.85.0.4"]
    serve_port(host, old[1], 80)
    assert dial("", "127.0.0.1", 8081)
    new = host.netns("new")
    result = _cnitool("add", conf, new, OURS)
    assert result["ips"][0]["address"] == "10.85.0.5/24"
    for number, pod in enumerate(old):
        port = {"hostPort": 8080 + number, "containerPort": 80, "protocol": "tcp"}
        _cnitool("check", conf, pod, OURS, portMappings=[port])
        _cnitool("del", conf, pod, OURS, portMappings=[port])
    assert _addresses() == ["10.85.0.5"]
    _cnitool("check", conf, new, OURS)
    _cnitool("del", conf, new, OURS)
    assert _left() == []


@needs("cnitool")
def test_a_node_changes_hands_back_without_losing_an_address(host: World) -> None:
    """Their DEL frees what we have reserved; our rules, which they cannot know, go with our next GC."""
    conf = {**_chain(), "cniVersion": "1.1.0"}
    ours, theirs = host.netns("ours"), host.netns("theirs")
    _cnitool("add", conf, ours, OURS)
    result = _cnitool("add", conf, theirs, THEIRS)
    assert result["ips"][0]["address"] == "10.85.0.3/24"
    _cnitool("del", conf, ours, THEIRS)
    assert _addresses() == ["10.85.0.3"]
    again = _cnitool("add", conf, ours, OURS)
    assert again["ips"][0]["address"].startswith("10.85.0.")
    assert len(_addresses()) == 2
    for pod in (ours, theirs):
        _cnitool("del", conf, pod, OURS)
    assert _left() == []


def test_a_pod_has_two_interfaces_as_multus_makes_them(host: World) -> None:
    """The default network first, then another one and the same one again under other names."""
    pod = host.netns("pod")
    default = _network(_chain(), OURS)
    second = _crio(bridge="br1", isGateway=False, ipam={"type": "host-local", "subnet": "10.86.0.0/24"})
    other = _network({**second, "name": "second"}, OURS)
    attachments = [(default, "eth0"), (other, "net1"), (default, "net2")]
    for network, ifname in attachments:
        network.add(Attachment("c1", pod, ifname))
    assert {link["ifname"] for link in ip("-n", "pod", "link")} == {"lo", "eth0", "net1", "net2"}
    defaults = ip("-n", "pod", "route", "show", "default")
    assert defaults[0]["dev"] == "eth0"
    for network, ifname in attachments:
        network.check(Attachment("c1", pod, ifname))
    other.delete(Attachment("c1", pod, "net1"))
    default.delete(Attachment("c1", pod, "net2"))
    default.check(Attachment("c1", pod, "eth0"))
    assert len(_addresses()) == 1
    default.delete(Attachment("c1", pod, "eth0"))
    assert _left() == []
    assert _left("second") == []


def test_keys_of_other_products_are_tolerated(host: World) -> None:
    """What Calico's and flannel's installers put beside the keys of the specification."""
    strange = {
        "log_level": "info", "datastore_type": "kubernetes", "nodename": "n1", "mtu": 1440,
        "policy": {"type": "k8s"}, "kubernetes": {"kubeconfig": "/etc/cni/net.d/kubeconfig"},
        "delegate": {"isDefaultGateway": True}, "ipam": {"type": "host-local", "subnet": "10.85.0.0/24"},
    }  # fmt: skip
    pod = host.netns("pod")
    network = _network(_chain(**strange), OURS)
    network.add(Attachment("c1", pod))
    network.check(Attachment("c1", pod))
    network.delete(Attachment("c1", pod))
    assert _left() == []


PODMAN = """
[network]
network_backend = "cni"
cni_plugin_dirs = ["{plugins}"]
network_config_dir = "/run/cni/net.d"
default_network = "crio"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


@needs("podman", "crun")
def test_podman_attaches_its_containers_by_our_plugins(host: World, rootfs: Path) -> None:
    outside = host.outside()
    os.makedirs("/run/cni/net.d", exist_ok=True)
    conf = _chain()
    conf["plugins"][0]["ipam"]["ranges"] = [[{"subnet": "10.85.0.0/24", "gateway": "10.85.0.1"}]]
    conf["plugins"][0]["ipam"]["routes"] = [{"dst": "0.0.0.0/0"}]
    Path("/run/cni/net.d/crio.conflist").write_text(json.dumps({**conf, "cniVersion": "0.4.0"}))
    Path("/run/cni/containers.conf").write_text(PODMAN.format(plugins=OURS))
    podman = [
        "podman", "--root", "/run/cni/podman/root", "--runroot", "/run/cni/podman/run",
        "--tmpdir", "/run/cni/podman/tmp",
        "--storage-driver", "vfs", "--runtime", "crun",
    ]  # fmt: skip
    environment = {**os.environ, "CONTAINERS_CONF": "/run/cni/containers.conf", "HOME": "/run/cni"}

    def told(*words: str) -> str:
        done = subprocess.run([*podman, *words], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    flags = ("--cgroups=disabled", "--security-opt", "seccomp=unconfined", "-p", "8080:80", "--network", "crio")
    page = "while true; do echo -e 'HTTP/1.0 200 OK\\n\\nhello' | busybox nc -l -p 80; done"
    told("run", "-d", "--name", "web", *flags, "--rootfs", str(rootfs), "busybox", "sh", "-c", page)
    try:
        assert '"10.85.0.2"' in told("inspect", "web")
        said = run("ip", "netns", "exec", "outside", "busybox", "wget", "-qO-", "http://192.0.2.1:8080/")
        assert "hello" in said
    finally:
        told("rm", "-f", "-t", "0", "web")
        run("rm", "-rf", "/run/crun", "/run/runc")
    assert outside
    assert _left() == []


CONTAINERD = """
version = 3
root = "/run/cni/containerd/root"
state = "/run/cni/containerd/state"
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/cni/containerd/sock"
"""


@needs("built_containerd", "etc_cni")
def test_containerd_attaches_its_containers_by_our_plugins(host: World, rootfs: Path) -> None:
    """ctr run --cni looks in the default directories, which are this test's own here."""
    folders = [str(Path(peers.built(name) or "").parent) for name in BUILT]
    environment = {**os.environ, "PATH": ":".join([*folders, os.environ["PATH"]])}
    os.makedirs("/run/cni/containerd")
    os.makedirs("/run/cni/net.d")
    Path("/run/cni/containerd/config.toml").write_text(CONTAINERD)
    Path("/run/cni/net.d/crio.conflist").write_text(json.dumps(_crio()))
    run("mount", "--bind", "/run/cni", "/etc/cni")
    run("mount", "-t", "tmpfs", "none", "/opt")
    os.mkdir("/opt/cni")
    os.symlink(OURS, "/opt/cni/bin")
    command = ["containerd", "--config", "/run/cni/containerd/config.toml", "--log-level", "warn"]
    log = open("/run/cni/containerd/log", "w")  # noqa: SIM115 (the daemon's for as long as it lives)
    daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not os.path.exists("/run/cni/containerd/sock") and time.monotonic() < deadline:
            time.sleep(0.05)
        ctr = ["ctr", "--address", "/run/cni/containerd/sock", "--connect-timeout", "10s"]
        flags = ["run", "--rm", "--cni", "--cgroup", "", "--rootfs"]
        words = [*flags, str(rootfs), "c1", "/bin/busybox", "ip", "addr", "show", "eth0"]
        done = subprocess.run([*ctr, *words], env=environment, capture_output=True, text=True, check=False)
        assert "inet 10.85.0.2/24" in done.stdout, done.stderr + Path("/run/cni/containerd/log").read_text()[-2000:]
    finally:
        daemon.terminate()
        daemon.wait()
        log.close()
        run("umount", "/opt")
        run("umount", "/etc/cni")
        run("rm", "-rf", "/run/containerd", "/run/runc", "/var/lib/containerd")
    assert _left() == []
