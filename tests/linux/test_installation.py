# SPDX-License-Identifier: Apache-2.0
"""What a release does: the wheel works in an empty venv; make install and uninstall put and remove exactly the same."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]

# These talk to the package index, so they stay in the network of the machine; what they make is beneath tmp_path.
pytestmark = [pytest.mark.own_namespaces, pytest.mark.timeout(300)]


def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done


def listing(top: Path) -> set[str]:
    return {os.path.join(d, n) for d, directories, files in os.walk(top) for n in directories + files}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    destination = tmp_path_factory.mktemp("destination")
    (destination / "usr/local/bin").mkdir(parents=True)  # as everywhere: there before us, to stay after us
    (destination / "usr/local/bin/other").write_text("not ours\n")
    before = listing(destination)
    run("make", "install", f"DESTDIR={destination}", "PREFIX=/usr/local")
    yield destination
    run("make", "uninstall", f"DESTDIR={destination}", "PREFIX=/usr/local")
    assert listing(destination) == before


def test_the_commands_plugins_unit_and_manual_pages_are_installed(installed: Path) -> None:
    said = run(installed / "usr/local/bin/ketch-runtime", "--version").stdout
    assert said.startswith("ketch-runtime version ")
    for path in ("bin/ketch", "bin/ketch-cri", "bin/ketch-cni", "share/man/man8/ketch-cri.8", "share/man/man1/ketch.1"):
        assert (installed / "usr/local" / path).exists(), path
    assert os.readlink(installed / "opt/cni/bin/bridge") == "/usr/local/lib/ketch/bin/ketch-cni"
    unit = (installed / "usr/local/lib/systemd/system/ketch-cri.service").read_text()
    assert "ExecStart=/usr/local/bin/ketch-cri\n" in unit
    assert str(installed) not in unit


def test_an_installation_names_no_path_of_the_machine_that_made_it(installed: Path) -> None:
    home = installed / "usr/local/lib/ketch"
    naming = [
        p for p in home.rglob("*.pyc") if str(installed).encode() in p.read_bytes() or b"/stage/" in p.read_bytes()
    ]
    assert naming == []
    assert str(TOP) not in (home / "pyvenv.cfg").read_text()


def test_verify_finds_every_change(installed: Path) -> None:
    runtime = installed / "usr/local/bin/ketch-runtime"
    assert (
        run(installed / "usr/local/bin/ketch", "doctor", "--verify").stdout == run(runtime, "doctor", "--verify").stdout
    )
    clean = run(runtime, "doctor", "--verify")
    assert clean.stdout.startswith("every installed file is as it was installed")
    page = installed / "usr/local/share/man/man1/ketch.1"
    before = page.read_text()
    page.write_text(before + "evil\n")
    link = installed / "opt/cni/bin/bridge"
    target = os.readlink(link)
    link.unlink()
    try:
        told = run(runtime, "doctor", "--verify", check=False)
    finally:
        page.write_text(before)
        link.symlink_to(target)
    assert told.returncode == 1
    assert sorted(told.stdout.splitlines()) == sorted(
        [f"{page}: was changed after the installation", f"{link}: is missing"]
    )


def test_a_second_installation_replaces_the_first_and_foreign_files_stop_it(installed: Path, tmp_path: Path) -> None:
    run("make", "install", f"DESTDIR={installed}", "PREFIX=/usr/local")
    (tmp_path / "opt/cni/bin").mkdir(parents=True)
    (tmp_path / "opt/cni/bin/bridge").write_text("somebody else's plugin\n")
    refused = run("make", "install", f"DESTDIR={tmp_path}", "PREFIX=/usr/local", check=False)
    assert refused.returncode != 0
    assert f"{tmp_path}/opt/cni/bin/bridge is there already and is not ours" in refused.stderr
    assert listing(tmp_path) == {str(tmp_path / p) for p in ("opt", "opt/cni", "opt/cni/bin", "opt/cni/bin/bridge")}


def test_the_wheel_installs_into_an_empty_venv_and_works_without_protobuf(tmp_path: Path) -> None:
    run("make", "dist")
    wheel = next((TOP / "dist").glob("ketch-*.whl"))
    assert "-abi3-" in wheel.name
    run("sh", "-c", "cd dist && sha256sum --check --quiet SHA256SUMS")
    run("/usr/bin/python3", "-m", "venv", tmp_path / "venv")
    run(tmp_path / "venv/bin/pip", "install", "-q", "--disable-pip-version-check", wheel)
    commands = tmp_path / "venv/bin"
    assert run(commands / "ketch-runtime", "--version").stdout.startswith("ketch-runtime version ")
    assert run(commands / "ketch-runtime", "doctor", "--verify").stdout.startswith("every installed file is as it was")
    assert "bridge" in run(commands / "ketch-cni", check=False).stdout
    refused = run(commands / "ketch-cri", check=False)
    assert refused.returncode == 1
    assert refused.stderr == "ketch-cri: the Python package 'google' is not installed (try: pip install 'ketch[cri]')\n"
