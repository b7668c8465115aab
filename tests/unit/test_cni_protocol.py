# SPDX-License-Identifier: Apache-2.0
"""The protocol without a kernel: versions, environment, configuration, results of every version."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni import protocol, versions
from cni.errors import CniError
from cni.fields import Fields
from cni.ipam.ranges import parse_range
from cni.plugins.bandwidth import Limit
from cni.results import Result
from cni.wire.hostports import Mapping

GOOD = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/nowhere", "CNI_IFNAME": "eth0"}
CONF = {"cniVersion": "1.1.0", "name": "n", "type": "bridge"}


def _serve(environ: dict[str, str], conf: Any, plugin: str = "bridge") -> dict[str, Any]:
    stdin = conf if isinstance(conf, bytes) else json.dumps(conf).encode()
    status, answer = protocol.run(plugin, environ, stdin)
    assert status == 1
    refused: dict[str, Any] = json.loads(answer)
    return refused


@pytest.mark.parametrize("plugin", protocol.PLUGINS)
def test_every_plugin_has_every_verb(plugin: str) -> None:
    module = protocol.plugin(plugin)
    assert module is not None
    for verb in (*protocol.VERBS.values(), "explain"):
        assert callable(getattr(module, verb))


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"CNI_COMMAND": "FROB"}, 4, "FROB"),
        ({"CNI_CONTAINERID": ""}, 4, "CNI_CONTAINERID"),
        ({"CNI_CONTAINERID": "../x"}, 4, "../x"),
        ({"CNI_IFNAME": "sixteen-bytes-ab"}, 4, "sixteen-bytes-ab"),
        ({"CNI_ARGS": "novalue"}, 4, "novalue"),
    ],
)
def test_a_bad_environment_answers_with_code_and_value(change: dict[str, str], code: int, words: str) -> None:
    refused = _serve({**GOOD, **change}, CONF)
    assert refused["code"] == code
    assert words in refused["msg"]


@pytest.mark.parametrize(
    ("conf", "code", "words"),
    [
        (b"{", 6, "JSON"),
        (b"[]", 6, "object"),
        ({**CONF, "cniVersion": "9.9.9"}, 1, "9.9.9"),
        ({**CONF, "name": "../evil"}, 7, "../evil"),
        ({**CONF, "mtu": "many"}, 7, 'mtu: "many"'),
        ({**CONF, "vlan": 5000}, 7, "vlan: 5000: expected 0 to 4094"),
        ({**CONF, "ipMasq": 7}, 7, "ipMasq: 7"),
        ({**CONF, "bridge": ["x"]}, 7, 'bridge: ["x"]'),
        ({**CONF, "hairpinMode": True, "promiscMode": True}, 7, "promiscMode"),
        ({**CONF, "nonMasqueradeCIDRs": ["10.0.0.0"]}, 7, "nonMasqueradeCIDRs[0]"),
        ({**CONF, "preset": "flannel"}, 2, 'preset: "flannel"'),
    ],
)
def test_a_bad_field_answers_with_the_code_the_key_and_the_value(conf: Any, code: int, words: str) -> None:
    refused = _serve(GOOD, conf)
    assert refused["code"] == code
    assert words in refused["msg"]


def test_keys_of_other_products_are_tolerated() -> None:
    others = {"log_level": "info", "datastore_type": "kubernetes", "nodename": "n", "policy": {}, "kubernetes": {}}
    assert _serve(GOOD, {**CONF, **others})["code"] == 3, "it got as far as the missing namespace"


@pytest.mark.parametrize("version", versions.SUPPORTED)
def test_a_result_survives_every_version(version: str) -> None:
    raw = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "br"}, {"name": "eth0", "sandbox": "/x", "mac": "02:00:00:00:00:01", "mtu": 1400}],
        "ips": [{"address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1", "mtu": 1300}],
        "dns": {"nameservers": ["1.1.1.1"]},
    }
    result = Result.from_json(raw)
    again = Result.from_json(result.to_json(version))
    assert [str(ip.prefix) for ip in again.ips] == ["10.0.0.2/24"]
    assert [route.gateway for route in again.routes] == ["10.0.0.1"]
    assert again.to_json(version) == result.to_json(version)
    if version == "1.1.0":
        assert result.to_json(version) == raw


KEYS = ("name", "type", "ips", "ipam", "mtu", "args", "prevResult", "runtimeConfig", "cniVersion", "routes", "cni")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # that health is the machine's, not the test's
@given(JSON)
def test_no_configuration_makes_a_plugin_fail_with_anything_but_an_answer(conf: Any) -> None:
    if isinstance(conf, dict):
        conf.setdefault("name", "n")
    for plugin in ("bridge", "host-local", "portmap", "static", "firewall", "bandwidth", "tuning"):
        _, answer = protocol.run(plugin, GOOD, json.dumps(conf).encode())
        assert json.loads(answer).get("code") != 999, answer


def test_booleans_may_be_words_and_nothing_else() -> None:
    assert Fields({"x": "true"}).boolean("x")
    assert not Fields({"x": "false"}).boolean("x")
    with pytest.raises(CniError, match='x: "yes"'):
        Fields({"x": "yes"}).boolean("x")


def test_names_match_in_any_case_as_they_do_in_go() -> None:
    """What containerd's go-cni sends: its types of capability arguments have no names of their own in JSON."""
    mapping = Mapping(Fields({"HostPort": 8080, "ContainerPort": 80, "Protocol": "TCP", "HostIP": ""}))
    assert str(mapping) == "tcp 8080 -> 80"
    assert parse_range(Fields({"Subnet": "10.1.0.0/24", "RangeStart": "10.1.0.9"})).first & 0xFF == 9
    assert Limit(Fields({"IngressRate": 8000, "IngressBurst": 800}), "ingress").rate == 8000
    assert Fields({"MTU": 1, "mtu": 2}).integer("mtu") == 2, "the exact name first"
