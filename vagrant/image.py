# SPDX-License-Identifier: Apache-2.0
"""Make the guest's disk, kernel and initrd from Debian packages, without loop devices, KVM or mounts of images.

mmdebstrap -> a directory -> mke2fs -d -> a raw disk with an MBR and GRUB written into it -> qcow2
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vagrant import guest

_HOST_PACKAGES = (
    "qemu-system-x86",
    "qemu-utils",
    "mmdebstrap",
    "e2fsprogs",
    "fdisk",
    "grub-pc-bin",
    "grub-common",
    "openssh-client",
    "rsync",
    "python3-venv",
)
_FIRST_SECTOR = 2048
_DISK_BYTES = 8 << 30
_SECTOR_BYTES = 512
_PROJECT = Path(__file__).resolve().parent.parent


def cache_directory() -> Path:
    """Where images and frozen machines are kept; KETCH_CACHE moves it."""
    base = os.environ.get("KETCH_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "ketch")
    return Path(base).expanduser() / "vm"


@dataclass(frozen=True, slots=True)
class Image:
    """One built guest; its directory is named by what it was made from."""

    suite: str
    directory: Path

    @property
    def disk(self) -> Path:
        return self.directory / "disk.qcow2"

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd.img"

    @property
    def key(self) -> Path:
        return self.directory / "id_vm"

    @property
    def built(self) -> bool:
        return self.disk.exists()


def image(suite: str) -> Image:
    if suite not in guest.SUITES:
        raise SystemExit(f"vm: unknown Debian suite {suite!r}; known: {', '.join(guest.SUITES)}")
    made_from = "\n".join([suite, *guest.packages(suite), *_hooks(suite), *_requirements(), str(_DISK_BYTES)])
    digest = hashlib.sha256(made_from.encode()).hexdigest()[:12]
    return Image(suite, cache_directory() / f"{suite}-{digest}")


def build(wanted: Image) -> None:
    """Build the image unless it is there; an interrupted build leaves only a directory that the next one clears."""
    if wanted.built:
        return
    if os.geteuid() != 0:
        raise SystemExit("vm: building the guest's image needs root (mmdebstrap makes device nodes and owners)")
    install_packages(_HOST_PACKAGES)
    wanted.directory.parent.mkdir(parents=True, exist_ok=True)
    with wanted.directory.with_name(f"{wanted.directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wanted.built:
            _build(wanted)


def _build(wanted: Image) -> None:
    work = wanted.directory.with_name(wanted.directory.name + ".building")
    _forget(work)
    work.mkdir(parents=True)
    _say(f"building the {wanted.suite} image (about a minute)")
    _make_keys(work / "id_vm")
    _bootstrap(wanted.suite, work)
    _make_disk(work)
    _forget(work / "root")
    _forget(wanted.directory)
    work.rename(wanted.directory)


def _say(text: str) -> None:
    print(f"vm: {text}", file=sys.stderr, flush=True)


def _run(*command: str | Path, **environment: str) -> None:
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=sys.stderr, check=False)
    if done.returncode:
        raise SystemExit(f"vm: {command[0]} failed with status {done.returncode}: {' '.join(map(str, command))[:200]}")


def install_packages(wanted: Iterable[str]) -> None:
    """Install those of the Debian packages that are missing."""
    names = list(wanted)
    listed = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *names],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    present = {line.split()[0] for line in listed.splitlines() if line.endswith(" installed")}
    missing = [name for name in names if name not in present]
    if missing:
        _say(f"installing {' '.join(missing)}")
        _run("apt-get", "update", "-qq")
        _run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, DEBIAN_FRONTEND="noninteractive")


def _forget(directory: Path) -> None:
    if directory.is_dir():
        # rm stays on this file system: a mount that mmdebstrap left behind is not emptied
        _run("rm", "-rf", "--one-file-system", directory)


def _make_keys(path: Path) -> None:
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ketch-vm", "-f", path)


def _requirements() -> list[str]:
    project = tomllib.loads((_PROJECT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    return sorted({*wanted, *(name for extra in extras.values() for name in extra)})


def _has_this_python(suite: str) -> bool:
    """Whether wheels that are made here serve the guest."""
    command = ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    ours = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return ours == guest.PYTHON_OF_SUITE[suite]


def _wheels(suite: str, work: Path) -> Path:
    """What everything that the tests import is called, and its wheels if they can be made here."""
    wheels = work / "wheels"
    wheels.mkdir()
    (wheels / "requirements.txt").write_text("\n".join(sorted({r.replace(" ", "") for r in _requirements()})) + "\n")
    if _has_this_python(suite):
        builder = work / "builder"
        _run("/usr/bin/python3", "-m", "venv", builder)
        # python-iptables comes as source and is built by the legacy path, which wants these in the environment
        _run(builder / "bin/pip", "install", "-q", "wheel", "setuptools", PIP_FIND_LINKS="")
        _run(builder / "bin/pip", "wheel", "-q", "-w", wheels, "wheel", "pip", *_requirements(), PIP_FIND_LINKS="")
    return wheels


def _sources(suite: str, work: Path) -> Path:
    """This machine's own apt sources, for the wanted suite: no mirror is named by the project."""
    here = next(
        line.split("=")[1] for line in Path("/etc/os-release").read_text().splitlines() if "VERSION_CODENAME=" in line
    )
    files = [*Path("/etc/apt/sources.list.d").glob("debian*.sources"), Path("/etc/apt/sources.list")]
    found = [f for f in files if f.exists() and f.read_text().strip()]
    if not found:
        raise SystemExit("vm: no apt sources under /etc/apt to build the guest from")
    target = work / ("apt" + (found[0].suffix or ".list"))
    target.write_text(found[0].read_text().replace(here, suite))
    return target


def _hooks(suite: str) -> list[str]:
    return [guest.CUSTOMIZE] if _has_this_python(suite) else [guest.MAKE_WHEELS, guest.CUSTOMIZE]


def _bootstrap(suite: str, work: Path) -> None:
    hooks = []
    for number, script in enumerate(_hooks(suite)):
        hook = work / f"customize-{number}.sh"
        hook.write_text(script)
        hooks.append(f'--customize-hook=sh {hook} "$1"')
    options = [
        "--mode=root", "--variant=minbase", "--quiet",
        "--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\"",
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude=/usr/share/{tree}/*" for tree in ("man", "doc", "locale")),
        *hooks, f"--include={','.join(guest.packages(suite))}",
    ]  # fmt: skip
    _run(
        "mmdebstrap", *options, suite, work / "root", _sources(suite, work),
        KEYS=(work / "id_vm.pub").read_text().strip(), WHEELS=str(_wheels(suite, work)), TMPDIR=str(work),
    )  # fmt: skip


def _make_disk(work: Path) -> None:
    raw, core, root = work / "disk.raw", work / "core.img", work / "root"
    with raw.open("wb") as disk:
        disk.truncate(_DISK_BYTES)
    subprocess.run(
        ["sfdisk", "-q", raw], input=f"label: dos\nstart={_FIRST_SECTOR}, type=83, bootable\n", text=True, check=True
    )
    offset = _FIRST_SECTOR * _SECTOR_BYTES
    features = f"offset={offset},lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    _run(
        "mke2fs", "-q", "-F", "-t", "ext4", "-L", "ketchroot", "-m", "0", "-E", features, "-d", root, raw,
        f"{(_DISK_BYTES - offset) // 1024}k",
    )  # fmt: skip
    modules = "biosdisk part_msdos ext2 normal linux search search_label configfile serial terminal boot echo test"
    _run("grub-mkimage", "-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o", core, *modules.split())
    _write_boot_code(raw, Path("/usr/lib/grub/i386-pc/boot.img"), core)
    for name in ("vmlinuz", "initrd.img"):
        shutil.copyfile(root / name, work / name)
    _run("qemu-img", "convert", "-O", "qcow2", raw, work / "disk.qcow2")
    raw.unlink()


def _write_boot_code(raw: Path, boot: Path, core: Path) -> None:
    """GRUB without grub-install, which wants the disk mounted: its code before the partition table, its core after."""
    code = core.read_bytes()
    if len(code) > (_FIRST_SECTOR - 1) * _SECTOR_BYTES:
        raise SystemExit("vm: GRUB's core does not fit before the first partition")
    with raw.open("r+b") as disk:
        disk.write(boot.read_bytes()[:440])
        disk.seek(_SECTOR_BYTES)
        disk.write(code)
