# SPDX-License-Identifier: Apache-2.0
"""Run tests and suites in the guest: bring the tree in, choose what runs, bring the reports back."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from vagrant import checkout, machine, speed

# What the suites of others are made of: built on the host (the guest has no network), kept under these names there.
_PROGRAMS = {
    "critest": ("critest", "critest-local", "crictl", "runc", "registry-critest", "debian-docker-registry", "pause"),
    "runtime-tools": ("runtime-tools", "runc"),
    "cni": ("cni-plugins", "cnitool"),
    "e2e": (
        "kubelet", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl", "etcd",
        "runc", "cni-plugins", "registry-cluster", "debian-docker-registry", "debian-nginx", "pause", "crictl",
        "effective_uid", "agnhost", "coredns",
    ),
}  # fmt: skip
_CHOICES = ("KETCH_RUNTIME", "KETCH_PROXY", "KETCH_NODES")  # of the rig: see tests/e2e/README.md
# The CNI checks are no part of the project: tests/conformance/cni.py looks for them at this place, too.
_CNI_SPEC = Path(os.environ.get("KETCH_CNI_SPEC") or checkout.TOP.parent / "shared/conformance/cni-spec.py")
_NEEDED_BY_ALL = ("busybox",)  # images are described by its digest
# For CI, which has 12 minutes from nothing, a third of which the machine takes: some tests of each kind that its own
# machine cannot run. `make vm-test` runs all of them, and its outcomes are committed.
CI_PART = (
    "tests/linux/cni/test_kernel_links.py::test_a_pod_on_a_vlan_reaches_who_is_on_it_and_nobody_else",
    "tests/linux/cni/test_kernel_links.py::test_ipvlan_pods_share_their_masters_mac_and_reach_each_other[l2]",
    "tests/linux/cni/test_kernel_links.py::test_a_pod_reaches_another_node_through_a_tunnel_of_wireguard_with_its_mtu",
    "tests/linux/cni/test_kernel_links.py::test_a_service_of_ipvs_leads_to_a_pod_from_outside_and_from_the_host",
    "tests/linux/test_oci_beyond_ci.py",
    "tests/linux/test_oci_runtime.py::test_limits_arrive_in_the_control_groups",
    "tests/linux/test_oci_runtime.py::test_a_paused_container_stands_still",
    "tests/linux/test_systemd_scopes.py::test_limits_survive_a_reload_of_systemd_and_an_update",
    "tests/linux/test_cri_apparmor.py::test_the_default_profile_refuses_mounts_and_the_kernels_switches",
    "tests/guest/test_systemd.py::test_containers_run_on_when_the_unit_is_stopped_and_started",
)


def run(chosen: machine.Machine, report: Path, words: list[str], *, everything: bool) -> int:
    """pytest in the guest; the report is junit.xml and a table of outcomes, below the folder `report`."""
    selection = words or (["tests"] if everything else _beyond_ci())
    checkout.bring_in(chosen)
    if any(word == "tests" or word.startswith("tests/guest") for word in selection):
        checkout.bring_installation_in(chosen)
    factor = speed.timeout_factor(chosen)
    print(f"vm: timeouts are {factor} times those of the host", file=sys.stderr)
    status = machine.ssh(
        chosen,
        f"cd {checkout.TOP} && KETCH_TIMEOUT_FACTOR={factor} KETCH_TEST_SETTLE_SECONDS={2 * factor}"
        f" .venv/bin/pytest -q --timeout={120 * factor} --durations=10 --junit-xml={checkout.REPORT}/junit.xml"
        f" -o junit_family=xunit2 {shlex.join(selection)}",
        check=False,
    ).returncode
    machine.pull(chosen, str(checkout.REPORT), report)
    print(f"vm: the machine has taken {machine.cpu_seconds(chosen):.0f} s of CPU since its start", file=sys.stderr)
    return status


def _beyond_ci() -> list[str]:
    """The tests that CI's machine cannot run, chosen here: importing 1,700 tests costs an emulated CPU a minute."""
    if not checkout.PYTHON.exists():
        raise machine.GuestError("the tests are chosen on the host, which has no venv (try: make build)")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    listed = subprocess.run(
        [checkout.PYTHON, "-m", "pytest", "-q", "--collect-only", "--beyond-ci", "tests"],
        cwd=checkout.TOP, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        raise machine.GuestError(f"the tests cannot be collected:\n{listed.stdout[-2000:]}")
    return [line for line in listed.stdout.splitlines() if "::" in line]


def suite(chosen: machine.Machine, report: Path, name: str, words: list[str]) -> int:
    """One suite of others in the guest, on programs that were built on the host."""
    checkout.bring_in(chosen)
    factor = speed.timeout_factor(chosen)
    _push_programs(chosen, [*_PROGRAMS[name], *_NEEDED_BY_ALL])
    command = (
        f"tests/e2e/run {shlex.join(words)}" if name == "e2e" else f"tests/conformance/run {shlex.join([name, *words])}"
    )
    chosen_here = [f"{each}={os.environ[each]}" for each in _CHOICES if each in os.environ]
    settings = shlex.join([f"KETCH_TIMEOUT_FACTOR={factor}", *chosen_here])
    if name == "cni":
        machine.copy_in(chosen, _CNI_SPEC.parent, "/root/conformance")
        settings += f" KETCH_CNI_SPEC=/root/conformance/{_CNI_SPEC.name}"
    log = f"{checkout.REPORT}/{name}.log"
    status = machine.ssh(
        chosen,
        # the log is the report; pipefail keeps the suite's own status
        f"cd {checkout.TOP} && set -o pipefail && export {settings} && {command} 2>&1 | tee {log}",
        check=False,
    ).returncode
    machine.pull(chosen, str(checkout.REPORT), report)
    return status


def _push_programs(chosen: machine.Machine, names: list[str]) -> None:
    """The newest folder of each name: names end in a dash and the key of what they were made from."""
    home = Path(os.environ.get("KETCH_PROGRAMS") or Path("~/.cache/ketch").expanduser())
    for name in names:
        found = sorted(home.glob(f"{name}-{'?' * 16}"), key=lambda folder: folder.stat().st_mtime)
        if not found:
            raise machine.GuestError(f"no {name} in {home} (try: make conformance or make e2e with that suite here)")
        machine.copy_in(chosen, found[-1], f"/root/.cache/ketch/{found[-1].name}")
