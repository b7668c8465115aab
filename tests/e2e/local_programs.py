# SPDX-License-Identifier: Apache-2.0
"""What the images need and Go modules do not give: busybox from Debian's source, packages, small C programs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.e2e import cache

HERE = Path(__file__).parent
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# Debian's own builds lack pgrep, ipcs and adduser, which the suites call; an ash that prefers its built-in applets
# would not notice that /bin/ls is masked; tc does not compile against current kernel headers.
_BUSYBOX_OFF = ("CONFIG_FEATURE_PREFER_APPLETS", "CONFIG_FEATURE_SH_STANDALONE", "CONFIG_TC")


class CannotMake(Exception):
    """A helper program could not be made; the message says which step failed and what it printed."""


def _run(*command: str, cwd: Path | None = None, given: str | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotMake(f"{' '.join(command)}: status {done.returncode}: {done.stderr[-1500:]}")
    return done.stdout


def c_program(name: str) -> Path:
    """A static program out of NAME.c in this folder."""
    source = HERE / f"{name}.c"

    def make(folder: Path) -> None:
        _run("gcc", "-Os", "-Wall", "-Werror", "-static", "-s", "-o", str(folder / name), str(source))

    return cache.made_once(name, cache.key(source.read_bytes()), make) / name


def localhost_certificate() -> Path:
    """A folder with tls.crt and tls.key for a server on localhost, trusted by nobody."""

    def make(folder: Path) -> None:
        subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650")
        files = ("-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt"))
        _run("openssl", "req", "-x509", *curve, *subject, *files)

    return cache.made_once("localhost-certificate", cache.key("1"), make)


def debian_package(*names: str) -> Path:
    """A folder into which these packages of Debian are unpacked: nothing is installed and no service starts."""

    def make(folder: Path) -> None:
        apt = _own_apt(folder, "deb")
        _run(*apt, "download", *names, cwd=folder)
        for package in sorted(folder.glob("*.deb")):
            _run("dpkg", "-x", str(package), str(folder))
            package.unlink()
        _run("rm", "-rf", str(folder / "apt"))

    return cache.made_once("debian-" + "-".join(names), cache.key(*names, "2"), make)


def busybox() -> Path:
    """busybox with all its ordinary applets, linked dynamically so that names are resolved as in any image."""
    return cache.made_once("busybox", cache.key("defconfig", *_BUSYBOX_OFF), _make_busybox) / "busybox"


def _make_busybox(folder: Path) -> None:
    source = _debian_source("busybox", folder)
    tree = folder / "tree"
    tree.mkdir()
    _run("tar", "-xf", str(source), "--strip-components=1", "-C", str(tree))
    _run("make", "-s", "defconfig", cwd=tree)
    configuration = (tree / ".config").read_text()
    for option in _BUSYBOX_OFF:
        configuration = re.sub(rf"^{option}=y$", f"# {option} is not set", configuration, flags=re.M)
    (tree / ".config").write_text(configuration)
    _run("make", "-s", "oldconfig", cwd=tree, given="\n" * 200)
    _run("make", "-s", f"-j{os.cpu_count() or 1}", cwd=tree)
    (tree / "busybox").rename(folder / "busybox")
    for leftover in ("tree", "apt", source.name):
        _run("rm", "-rf", str(folder / leftover))


def _debian_source(package: str, folder: Path) -> Path:
    """The upstream archive of a source package."""
    _run(*_own_apt(folder, "deb-src"), "source", "--download-only", package, cwd=folder)
    return next(folder.glob(f"{package}_*.orig.tar.*"))


def _own_apt(folder: Path, kind: str) -> list[str]:
    """apt-get with package lists of its own, freshly fetched: the machine's may be missing, and stay as they are."""
    state = folder / "apt"
    for part in ("state/lists/partial", "cache/archives/partial", "etc"):
        (state / part).mkdir(parents=True)
    (state / "etc/sources.list").write_text(f"{kind} [signed-by={KEYRING}] {_mirror()} {_release()} main\n")
    options = {
        "Dir::State": f"{state}/state",
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": f"{state}/cache",
        "Dir::Etc::sourcelist": f"{state}/etc/sources.list",
        "Dir::Etc::sourceparts": "-",
        "APT::Sandbox::User": "root",  # the folder is ours alone; apt's own user could not write there
    }
    apt = ["apt-get", "-qq", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    _run(*apt, "update", cwd=folder)
    return apt


def _mirror() -> str:
    """Where this machine gets Debian from: asked of apt, whose lists come in two formats and any number of files."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in listed.stdout.splitlines():
        address, *what = line.split()
        if what == [_release(), "main"]:
            return address
    raise CannotMake(f"apt knows no mirror of Debian's {_release()}: packages for the rig cannot be fetched")


def _release() -> str:
    found = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.M)
    return found[1] if found else "bookworm"


def libraries(programs: list[Path]) -> list[tuple[str, Path]]:
    """Where a program looks for each shared library, and the file that is there."""
    found: dict[str, Path] = {}
    for program in programs:
        for line in _run("ldd", str(program)).splitlines():
            words = line.split()
            where = words[2] if "=>" in words else words[0]
            if where.startswith("/"):
                found[where] = Path(where).resolve()
    return sorted(found.items())
