# SPDX-License-Identifier: Apache-2.0
"""From environment and stdin to an exit status and a JSON document, for a plugin that was started as a program.

environ, stdin -> call.parse -> plugins.<name>.<verb>(call) -> result on stdout
                        \\______________ CniError ____________-> error on stdout, status 1
"""

from runtime.linux import json_text

from . import call as calls
from . import versions
from .call import Call
from .errors import INTERNAL, INVALID_ENVIRONMENT, IO_FAILURE, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType
    from typing import Any

PLUGINS = (
    "bandwidth", "bridge", "dummy", "firewall", "host-device", "host-local", "ipvlan", "loopback",
    "macvlan", "portmap", "ptp", "sbr", "static", "tuning", "vlan",
)  # fmt: skip
_modules: "dict[str, ModuleType]" = {}
VERBS = {"ADD": "add", "DEL": "delete", "CHECK": "check", "GC": "gc", "STATUS": "status"}


def plugin(name: str) -> "ModuleType | None":
    """The module of one of our plugins; None if it is not ours."""
    if name not in PLUGINS:
        return None
    if name not in _modules:
        _modules[name] = __import__(f"cni.plugins.{name.replace('-', '_')}", fromlist=["add"])
    return _modules[name]


def dispatch(name: str, call: Call) -> "dict[str, Any] | None":
    """Run one verb of one of our plugins; the result of ADD, None for the others. Every failure is a CniError."""
    module = plugin(name)
    if module is None:
        raise CniError(INVALID_ENVIRONMENT, f"{name} is none of our plugins ({', '.join(PLUGINS)})")
    if call.version not in versions.of_plugin(name):
        raise calls.incompatible(call.version, versions.of_plugin(name))
    if call.command == "GC" and not call.says_what_is_valid:
        return None  # libcni leaves the list out when its caller gave none: nothing tells what is stale
    try:
        answer: dict[str, Any] | None = getattr(module, VERBS[call.command])(call)
    except CniError:
        raise
    except OSError as error:
        raise CniError(IO_FAILURE, f"{name} {call.command}: {error}") from error
    return answer if call.command == "ADD" else None


def run(name: str, environ: "Mapping[str, str]", stdin: bytes) -> tuple[int, str]:
    """Serve one call; exit status and what goes to stdout."""
    version = versions.CURRENT
    try:
        command = environ.get("CNI_COMMAND", "")
        if command == "VERSION":
            return 0, json_text.dumps(_versions(name, stdin), indent=4)
        calls.check_environment(command, environ)
        raw = calls.parse_config(stdin)
        if raw.get("cniVersion") in versions.SUPPORTED:
            version = raw["cniVersion"]
        answer = dispatch(name, calls.of_config(command, environ, raw, in_process=False))
    except CniError as error:
        _show_traceback()
        return 1, json_text.dumps(error.to_json(version), indent=4)
    except Exception as error:
        _show_traceback()
        message = f"{name}: internal error: {type(error).__name__}: {error} (KETCH_DEBUG=1 shows the traceback)"
        return 1, json_text.dumps(CniError(INTERNAL, message).to_json(version), indent=4)
    return 0, "" if answer is None else json_text.dumps(answer, indent=4)


def _versions(name: str, stdin: bytes) -> "dict[str, Any]":
    try:
        asked = calls.parse_config(stdin).get("cniVersion")
    except CniError:  # libcni's older probes send nothing
        asked = None
    version = asked if isinstance(asked, str) and asked else versions.CURRENT
    return {"cniVersion": version, "supportedVersions": list(versions.of_plugin(name))}


def about(name: str) -> str:
    return f"CNI {name} plugin of Ketch\nCNI protocol versions supported: {', '.join(versions.of_plugin(name))}\n"


def _show_traceback() -> None:
    from runtime.linux import tracebacks

    tracebacks.show_if_wanted()
