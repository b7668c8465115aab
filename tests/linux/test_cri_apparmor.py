# SPDX-License-Identifier: Apache-2.0
"""AppArmor by what the process in the container sees; on a kernel with it, so in the VM."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cri.oci import apparmor_default
from tests.support.needs import needs
from tests.support.pod_driver import Container, Daemon, daemon

pytestmark = needs("root", "apparmor", "overlay", "veth", "bridge", "nft", "busybox")
LABEL = "cat /proc/1/attr/apparmor/current 2>/dev/null || cat /proc/1/attr/current"


@pytest.fixture
def cri(tmp_path: Path) -> Iterator[Daemon]:
    yield from daemon(tmp_path)


@pytest.fixture
def named() -> Iterator[str]:
    """A profile of this test's own: everything but writing below /tmp."""
    name = "ketch-test-no-tmp"
    text = f"profile {name} flags=(attach_disconnected) {{\n  file,\n  signal,\n  deny /tmp/** w,\n}}\n"
    subprocess.run(["apparmor_parser", "-r", "-T", "-W"], input=text.encode(), check=True)
    yield name
    subprocess.run(["apparmor_parser", "-R"], input=text.encode(), check=True)


def confined(cri: Daemon, **context: object) -> Container:
    return cri.run_pod().start("sleep", "1000", linux={"security_context": context})


def label_of(container: Container) -> str:
    return container.sh(LABEL).strip()


def test_a_container_gets_the_default_profile_whether_it_asks_for_it_or_says_nothing(cri: Daemon) -> None:
    for asked in ({}, {"apparmor": {"profile_type": "RuntimeDefault"}}, {"apparmor_profile": "runtime/default"}):
        assert label_of(confined(cri, **asked)) == f"{apparmor_default.NAME} (enforce)", asked


def test_unconfined_and_privileged_containers_have_no_profile(cri: Daemon) -> None:
    for asked in (
        {"apparmor": {"profile_type": "Unconfined"}},
        {"apparmor_profile": "unconfined"},
        {"privileged": True},
    ):
        assert label_of(confined(cri, **asked)) == "unconfined", asked


def test_the_default_profile_lets_ordinary_work_happen(cri: Daemon) -> None:
    container = confined(cri)
    assert container.sh("echo x > /tmp/x; cat /tmp/x; ps | head -1; hostname; sleep 100 & kill $!; echo done") != ""
    assert label_of(container) == container.sh("cat /proc/self/attr/current").strip()
    container.stop(5)


def test_the_default_profile_refuses_mounts_and_the_kernels_switches(cri: Daemon) -> None:
    context = {
        "capabilities": {"add_capabilities": ["SYS_ADMIN"]},
        "masked_paths": ["/proc/acpi"],
        "readonly_paths": ["/proc/irq"],
    }
    container = confined(cri, **context)
    assert b"denied" in container.exec("mount", "-t", "tmpfs", "x", "/tmp").stderr
    for path in ("/proc/sysrq-trigger", "/proc/sys/kernel/panic", "/proc/sys/vm/swappiness"):
        assert container.exec("sh", "-c", f": >> {path}").exit_code != 0, path
    unconfined = confined(cri, **context, apparmor={"profile_type": "Unconfined"})
    assert unconfined.exec("mount", "-t", "tmpfs", "x", "/tmp").exit_code == 0


def test_a_localhost_profile_holds_and_one_that_is_not_loaded_is_refused(cri: Daemon, named: str) -> None:
    for asked in (
        {"apparmor": {"profile_type": "Localhost", "localhost_ref": named}},
        {"apparmor_profile": f"localhost/{named}"},
    ):
        container = confined(cri, **asked)
        assert label_of(container) == f"{named} (enforce)"
        assert container.exec("touch", "/tmp/x").exit_code != 0
        assert container.exec("touch", "/x").exit_code == 0
    with pytest.raises(grpc.RpcError, match="is not loaded on this node"):
        confined(cri, apparmor={"profile_type": "Localhost", "localhost_ref": "nowhere"})
