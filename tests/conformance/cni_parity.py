# SPDX-License-Identifier: Apache-2.0
"""The same calls through our CNI plugins and the Go ones, answers and kernel compared (SUITE=cni-parity).

Each side works in network and mount namespaces of its own. Of what follows from chance (MACs, names of veth ends) only
the shape is compared; of an error its code. A difference that is meant stands in cni-parity.expected with its reason.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.conformance import cni_parity_cases, cni_parity_generated, table
from tests.conformance.cni import folder_of
from tests.conformance.table import Result
from tests.e2e.runtimes import PROJECT

HERE = Path(__file__).parent
_SIDE = 'mount -t tmpfs none /run && mount -t tmpfs none /var/lib && ip link set lo up && exec "$@"'


_UNSPECIFIC = (100, 999)
# What chance meets again and again; in the other cases each is listed by name (cni-parity.expected).
_EXPLAINED = tuple(
    re.compile(pattern)
    for pattern in (
        r'^\[\d+\]: null, theirs \{"failed": "DEL"',  # theirs refuses to DEL what it refuses to ADD
        r"\.host\[\d\]\.addresses\[\d\]\[4\]: false, theirs true$",  # theirs checks gateways for duplicates
        r"\.host\[\d\]\.hairpin: true, theirs false$",  # so that a pod reaches its own hostPort
        r"\.host\[\d\]\.isolated: true, theirs false$",  # what stays on the bridge meets no forward chain
        r'^\[\d+\]: \{"failed": "CHECK", "code": 101\}, theirs null$',  # ours sees more
    )
)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="cni-parity", description=__doc__)
    parser.add_argument("--ours", default="ketch", help="ketch, go, or a folder")
    parser.add_argument("--theirs", default="go", help="ketch, go, or a folder")
    parser.add_argument("--only", default="", help="a regular expression: only these cases")
    parser.add_argument("--show", action="store_true", help="print both sides of every difference in full")
    parser.add_argument(
        "--generated", type=int, default=10, metavar="N", help="cases of chance per plugin (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the cases of chance (%(default)s)")
    wanted = parser.parse_args(words)
    chance = {"seed": wanted.seed, "count": wanted.generated}
    sides = [_run(folder_of(name), wanted.only, chance) for name in (wanted.ours, wanted.theirs)]
    results = []
    for name, ours in sides[0].items():
        differences = list(compare(ours, sides[1][name]))
        if name.startswith("generated"):
            differences = [words for words in differences if not any(pattern.search(words) for pattern in _EXPLAINED)]
        if wanted.show and differences:
            print(f"--- {name}\nours:   {json.dumps(ours)}\ntheirs: {json.dumps(sides[1][name])}")
        results.append(Result(name, "failed" if differences else "passed", said="; ".join(differences)))
    expected = table.parse_expected((HERE / "cni-parity.expected").read_text())
    text, status = table.report(results, expected, is_whole_suite=not wanted.only)
    print(f"calls through {wanted.ours} and {wanted.theirs}: {text}")
    return status


def compare(ours: Any, theirs: Any, where: str = "") -> Any:
    """Where two documents differ, and how."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            if key == "mtu" and ".interfaces" in where and key not in theirs:
                continue  # 1.1.0 has it, and the reference does not fill it in
            if key not in theirs:
                yield f"{where}.{key}: {json.dumps(ours[key])}, theirs has none"
            elif key not in ours:
                yield f"{where}.{key}: none, theirs {json.dumps(theirs[key])}"
            else:
                yield from compare(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from compare(one, other, f"{where}[{number}]")
    elif where.endswith("].code") and theirs in _UNSPECIFIC:
        return  # theirs says only that it failed; ours may say more
    elif ours != theirs:
        yield f"{where}: {json.dumps(ours)}, theirs {json.dumps(theirs)}"


def _run(folder: str, only: str, chance: dict[str, int]) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile("r", prefix="ketch-parity-") as report:
        command = ["unshare", "-n", "-m", "--propagation", "private", "sh", "-c", _SIDE, "sh"]
        side = [sys.executable, "-m", "tests.conformance.cni_parity", folder, only, json.dumps(chance), report.name]
        subprocess.run([*command, *side], cwd=PROJECT, check=True)
        found: dict[str, Any] = json.load(report)
    return found


# -- one side: runs inside its namespaces ------------------------------------------------------------------------------


def serve_side(folder: str, only: str, chance: str, report: str) -> None:
    found = {}
    for name, steps in itertools.chain(cni_parity_cases.cases(), cni_parity_generated.cases(**json.loads(chance))):
        if re.search(only, name):
            found[name] = _case(folder, steps)
    Path(report).write_text(json.dumps(found))


def _shell(text: str) -> None:
    subprocess.run(["sh", "-c", text], capture_output=True, check=False)


def _case(folder: str, steps: list[Any]) -> list[Any]:
    _shell("ip netns add pod; ip link add up0 type veth peer name up1; ip link set up0 up; ip link set up1 up")
    seen: list[Any] = []
    last: Any = None
    try:
        for step in steps:
            if isinstance(step, str):
                _shell(step)
                continue
            status, answer = _call(folder, step, last)
            seen.append(_shape(_judged(step, status, answer), str(step)))
            seen.append(_reserved())
            if step["command"] == "ADD" and status == 0:
                last = answer
                seen.append(_shape(_kernel(), str(step)))
    finally:
        _clean()
    return seen


def _call(folder: str, step: dict[str, Any], last: Any) -> tuple[int, Any]:
    conf = step["conf"]
    if isinstance(conf, dict) and conf.get("prevResult") == "last":
        conf = {**conf, "prevResult": last}
    environ = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "CNI_COMMAND": step["command"], "CNI_PATH": folder,
        "CNI_CONTAINERID": "c", "CNI_NETNS": "/run/netns/pod", "CNI_IFNAME": "eth0", **step["environ"],
    }  # fmt: skip
    environ = {key: value for key, value in environ.items() if value is not None}
    given = conf if isinstance(conf, str) else json.dumps(conf)
    done = subprocess.run(
        [f"{folder}/{step['plugin']}"], input=given, env=environ, capture_output=True, text=True, check=False
    )
    try:
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None
    except ValueError:
        return done.returncode, {"said": done.stdout}


def _judged(step: dict[str, Any], status: int, answer: Any) -> Any:
    """What is compared of an answer: all of a result, the code of an error."""
    if status == 0:
        return answer
    return {"failed": step["command"], "code": answer.get("code") if isinstance(answer, dict) else answer}


def _reserved() -> dict[str, str]:
    """host-local's files, those that others read."""
    places = (Path("/var/lib/cni/networks"), Path("/run/parity/data"))
    files = [path for place in places for path in place.glob("*/*") if path.is_file()]
    return {str(path): path.read_text() for path in files if re.fullmatch("[0-9a-f.:]+", path.name)}


def _kernel() -> dict[str, Any]:
    """What an ADD has made, inside and on the host."""
    return {
        "inside": _links("-n", "pod"),
        "routes": _routes("-n", "pod"),
        "host": _links(),
        "forwarding": _forwarding(),
        "shaping": _shaping(),
    }


def _ip(*words: str) -> Any:
    return json.loads(
        subprocess.run(["ip", "-j", "-d", *words], capture_output=True, text=True, check=False).stdout or "[]"
    )


def _links(*where: str) -> list[Any]:
    links = []
    for link in _ip(*where, "addr"):
        if link["ifname"] in ("lo", "up0", "up1"):
            continue
        info = link.get("linkinfo", {})
        port = info.get("info_slave_data", {})
        addresses = [
            [each["family"], each.get("local"), each["prefixlen"], each["scope"], "tentative" in each]
            for each in link.get("addr_info", [])
            if each["scope"] != "link" or each["family"] == "inet"
        ]
        links.append(
            {
                "name": link["ifname"], "kind": info.get("info_kind"), "mtu": link["mtu"], "master": link.get("master"),
                "up": "UP" in link["flags"], "promiscuous": "PROMISC" in link["flags"],
                "txqlen": link.get("txqlen") if where else None,
                "allmulti": "ALLMULTI" in link["flags"], "mac": link.get("address"), "addresses": sorted(addresses),
                "hairpin": port.get("hairpin"), "isolated": port.get("isolated"),
                "mode": info.get("info_data", {}).get("mode"),
            }
        )  # fmt: skip
    return sorted(links, key=lambda link: str(link["kind"]) + link["name"])


def _routes(*where: str) -> list[Any]:
    kept = ("dst", "gateway", "dev", "metric", "table", "scope", "metrics", "type", "nexthops")
    found = []
    for family in ("-4", "-6"):
        for route in _ip(*where, family, "route", "show", "table", "all"):
            usual = route.get("table") == "local" or str(route.get("dst", "")).startswith(("fe80", "ff00"))
            if not usual:
                found.append({key: route[key] for key in kept if key in route})
    for family in ("-4", "-6"):
        found += [{"rule": [each.get("src"), each.get("table")]} for each in _ip(*where, family, "rule")]
    return found


def _shaping() -> list[Any]:
    said = subprocess.run(["tc", "-j", "qdisc"], capture_output=True, text=True, check=False).stdout
    found = [each for each in json.loads(said or "[]") if each["kind"] not in ("noqueue", "fq_codel", "pfifo_fast")]
    return [[each["kind"], each["dev"], each.get("options", {}).get("rate")] for each in found]


def _forwarding() -> list[str]:
    return [Path(f"/proc/sys/net/{key}").read_text().strip() for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding")]


_CHANCE = (
    (re.compile(r"^veth[0-9a-f]{8}$"), "<veth>"),
    (re.compile(r"^bwp[0-9a-f]{8,12}$"), "<ifb>"),
    (re.compile(r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$"), "<mac>"),
)


def _shape(value: Any, given: str) -> Any:
    """The value with chance taken out; what the call itself names stays."""
    if isinstance(value, dict):
        return {key: _shape(inner, given) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shape(inner, given) for inner in value]
    for pattern, word in _CHANCE:
        if isinstance(value, str) and value not in given.lower() and pattern.match(value):
            return word
    return value


def _clean() -> None:
    _shell("ip netns del pod; ip netns del other")
    for _ in range(200):
        links = [link["ifname"] for link in _ip("link") if link["ifname"] != "lo"]
        if not links:
            break
        for name in links:
            _shell(f"ip link del {name}")
    _shell("nft flush ruleset; iptables -P FORWARD ACCEPT; rm -rf /run/cni /var/lib/cni /run/parity; mkdir /run/parity")
    for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path(f"/proc/sys/net/{key}").write_text("0")


if __name__ == "__main__":
    serve_side(*sys.argv[1:5])
