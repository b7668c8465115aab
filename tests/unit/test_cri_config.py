# SPDX-License-Identifier: Apache-2.0
"""The TOML configuration: documented, checked, refused by name."""

import tomllib

import pytest

from cri import config


def test_the_documented_default_reads_back_as_the_default() -> None:
    text = config.dump(config.Config(), documented=True)
    assert config.parse(tomllib.loads(text), "default") == config.Config()


def test_a_handler_survives_the_round_trip() -> None:
    given = config.parse({"runtime": {"handlers": {"runc": {"command": ["runc", "--debug"]}}}}, "x")
    assert config.parse(tomllib.loads(config.dump(given)), "x") == given


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"pahts": {}}, "unknown key pahts"),
        ({"cri": {"sokcet": "x"}}, r"unknown key cri\.sokcet"),
        ({"cri": {"max_concurrent_calls": "many"}}, r"cri\.max_concurrent_calls: expected an integer, got 'many'"),
        ({"cri": {"max_concurrent_calls": True}}, "expected an integer"),
        ({"network": {"plugin_dirs": "x"}}, "expected a list"),
        ({"runtime": {"cgroup_driver": "magic"}}, "not auto, cgroupfs or systemd"),
        ({"runtime": {"default_handler": "kata"}}, "no runtime.handlers.kata"),
        ({"paths": {"state": "run"}}, "absolute"),
    ],
)
def test_a_wrong_key_is_refused_by_name(data: dict[str, object], why: str) -> None:
    with pytest.raises(config.BadConfig, match=why):
        config.parse(data, "file")


def test_a_reload_takes_over_only_what_it_may() -> None:
    handlers = {"crun": {"command": ["/usr/bin/crun"]}}
    new = config.parse({"cri": {"log_level": "debug", "socket": "/x"}, "runtime": {"handlers": handlers}}, "file")
    merged, kept = config.reloadable(config.Config(), new)
    assert merged.cri.log_level == "debug"
    assert list(merged.runtime.handlers) == ["crun"]
    assert merged.cri.socket == config.Config().cri.socket
    assert kept == ["cri.socket"]
