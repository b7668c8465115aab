# SPDX-License-Identifier: Apache-2.0
"""static: the addresses that the configuration or the caller names; nothing is kept."""

from ..addresses import Prefix, parse_ip, parse_prefix, to_text
from ..call import Call
from ..errors import INVALID_ENVIRONMENT, MISMATCH, NOT_AVAILABLE, CniError, bad_config
from ..results import IP, Result, Route
from ..versions import at_least

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def add(call: Call) -> "dict[str, Any]":
    return preview(call).to_json(call.version)


def preview(call: Call) -> Result:
    """What an ADD answers."""
    call.check_args(("IP", "GATEWAY", "MAC"))
    if "ipam" not in call.fields:
        raise bad_config("ipam", None, "static needs an ipam section")
    ipam = call.fields.object("ipam")
    ips = _addresses(call)
    families = [ip.prefix.family for ip in ips]
    if not at_least(call.version, "0.3.0") and len(families) != len(set(families)):
        raise bad_config("ipam.addresses", len(families), "CNI 0.2.0 and older have room for one address per family")
    routes = [Route.from_fields(item) for item in ipam.objects("routes")]
    return Result(ips=ips, routes=routes, dns=ipam.object("dns").raw)


def delete(call: Call) -> None:
    """Nothing is kept."""


def check(call: Call) -> None:
    have = {ip.prefix: ip.gateway for ip in call.previous.ips}
    for ip in preview(call).ips:
        if ip.prefix not in have:
            raise CniError(MISMATCH, f"static: prevResult has no address {ip.prefix}")
        found = _gateway("prevResult", have[ip.prefix] or "")
        if ip.gateway and ip.gateway != found:
            raise CniError(MISMATCH, f"static: prevResult has gateway {found} for {ip.prefix}, not {ip.gateway}")


def status(call: Call) -> None:
    try:
        preview(call)
    except CniError as error:
        raise CniError(NOT_AVAILABLE, f"static: {error.message}", error.details) from error


def gc(call: Call) -> None:
    """Nothing is kept."""


def explain(call: Call) -> list[str]:
    return [f"assign the address {ip.prefix}" for ip in preview(call).ips]


def _addresses(call: Call) -> list[IP]:
    """runtimeConfig.ips before args.cni.ips before the configuration's own, to which CNI_ARGS adds."""
    added = _of_environment(call)  # judged even where it does not count
    for where, words in (
        ("runtimeConfig.ips", call.runtime_config().texts("ips")),
        ("args.cni.ips", call.cni_args().texts("ips")),
    ):
        if words:
            return [IP(_prefix(where, word)) for word in words]
    ips = [
        IP(_prefix(item.at("address"), item.text("address")), _gateway(item.at("gateway"), item.text("gateway")))
        for item in call.fields.object("ipam").objects("addresses")
    ]
    return ips + added


def _of_environment(call: Call) -> list[IP]:
    ips = [IP(_prefix("CNI_ARGS: IP", word.strip())) for word in _words(call, "IP")]
    for word in _words(call, "GATEWAY"):
        gateway = _gateway("CNI_ARGS: GATEWAY", word.strip())
        for ip in ips:
            if gateway and ip.prefix.contains(*parse_ip(gateway)):
                ip.gateway = gateway
    return ips


def _words(call: Call, key: str) -> list[str]:
    return call.args[key].split(",") if call.args.get(key) else []


def _prefix(where: str, text: str) -> Prefix:
    try:
        return parse_prefix(text)
    except ValueError as error:
        if where.startswith("CNI_ARGS"):
            raise CniError(INVALID_ENVIRONMENT, f"{where}: {error}") from None
        raise bad_config(where, text, str(error)) from None


def _gateway(where: str, text: str) -> str | None:
    if not text:
        return None
    try:
        return to_text(*parse_ip(text))
    except ValueError as error:
        raise bad_config(where, text, str(error)) from None
