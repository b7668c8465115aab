# SPDX-License-Identifier: Apache-2.0
"""Which peers are installed here: on PATH, where Debian puts CNI plugins, and what tests/e2e/go_build has built."""

import os
import shutil
from pathlib import Path

TOP = Path(__file__).parents[2]
OURS = TOP / ".venv/bin"
OUR_PLUGINS = TOP / "build/cni/bin"
CNI_FOLDERS = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")


def cache() -> Path:
    return Path(os.environ.get("KETCH_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "ketch"))


def executable(name: str) -> str | None:
    """A program on PATH."""
    return shutil.which(name)


def built(name: str) -> str | None:
    """A program that go_build has built already, the newest; nothing is built for a benchmark."""
    found = [p for p in cache().glob(f"{name}-*/{name}") if p.exists()]
    return str(max(found, key=lambda p: p.stat().st_mtime)) if found else None


def oci_runtimes() -> dict[str, str]:
    """Name -> program of every OCI runtime here, ours first; a built runc beside Debian's is another contender."""
    found = {"ketch-runtime": str(OURS / "ketch-runtime")}
    found |= {f"{n} (installed)": p for n in ("crun", "runc", "youki") if (p := executable(n))}
    found |= {f"{n} (built)": p for n in ("crun", "runc") if (p := built(n))}
    return found


def go_plugins() -> str | None:
    """The newest Go plugins here: those of the pinned module, else those that a package has installed."""
    return built("cni-plugins") or next((f for f in CNI_FOLDERS if os.access(f"{f}/bridge", os.X_OK)), None)


def plugin_folders() -> dict[str, str]:
    """Name -> folder of every set of CNI plugins here, ours first."""
    found = {"ketch-cni": str(OUR_PLUGINS)}
    found |= {f"Go plugins ({folder})": folder for folder in CNI_FOLDERS if os.access(f"{folder}/bridge", os.X_OK)}
    if folder := built("cni-plugins"):
        found["Go plugins (built)"] = folder
    return found
