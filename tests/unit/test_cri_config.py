# SPDX-License-Identifier: Apache-2.0
"""The TOML configuration: documented, checked, refused by name."""

import contextlib
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri import config, plain_toml


def test_the_documented_default_reads_back_as_the_default() -> None:
    text = config.dump(config.Config(), documented=True)
    assert config.parse(tomllib.loads(text), "default") == config.Config()


PLAIN = [
    config.dump(config.Config(), documented=True),
    config.dump(config.parse({"runtime": {"handlers": {"runc": {"command": ["runc", "--debug"]}}}}, "x")),
    '\n# said\n[paths]\r\n  state="/run/x"\nroot =  "a # b = [c]"\n[runtime]\npids_limit = 0\nstart_seconds = 1.50\n',
]
NOT_PLAIN = [
    'a = "\\u0041"', "a = 'x'", 'a = """x"""', "a = 1_000", "a = 0x10", "a = -1", "a = 1e3", "a = 2020-01-01", "a = 01",
    "a.b = 1", '"a" = 1', "a = 1 # why", "[[a]]", "a = [1]", 'a = ["x,y"]', "a = {b = 1}", "a = [\n]", "a =", "= 1",
    "a = 1\na = 2", "[a]\n[a]", "a = 1\n[a]", "[a]\nb = 1\n[a.b]", "[a", "a = inf", "a = true1", 'a = "x', "a = .5",
    "a = 5.",
]  # fmt: skip


@pytest.mark.parametrize("text", PLAIN)
def test_a_plain_file_is_read_as_tomllib_reads_it(text: str) -> None:
    assert plain_toml.read(text) == tomllib.loads(text)


@pytest.mark.parametrize("text", NOT_PLAIN)
def test_what_is_not_plain_is_left_to_tomllib(text: str) -> None:
    with pytest.raises(plain_toml.NotPlain):
        plain_toml.read(text)


def test_a_handler_survives_the_round_trip() -> None:
    handlers = {"runc": {"command": ["runc", "--debug"]}, 'of "v1.2"': {"command": ["crun"]}}
    found = config.parse({"runtime": {"handlers": handlers}}, "x")
    assert config.parse(tomllib.loads(config.dump(found)), "x") == found


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
        ({"paths": {"state": "/run/\0"}}, "control character"),
        ({"cri": {"max_concurrent_calls": 3}}, r"cri\.max_concurrent_calls: 3 is not between 4 and 10000"),
        ({"cri": {"streaming_port": 65536}}, "between 0 and 65535"),
        ({"cri": {"slow_call_seconds": float("nan")}}, "nan is not between"),
        ({"cri": {"slow_call_seconds": 1 << 99999}}, "expected a number, got a very large number"),
        ({"runtime": {"shm_bytes": -1}}, "between 4096"),
        ({"runtime": {"max_log_line": 0}}, "between 64"),
        ({"runtime": {"nofile_soft": 10, "nofile_hard": 9}}, "above runtime.nofile_hard"),
    ],
)
def test_a_wrong_key_is_refused_by_name(data: dict[str, object], why: str) -> None:
    with pytest.raises(config.BadConfig, match=why):
        config.parse(data, "file")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"[cri\n", "not TOML"),
        (b"\xff\xfe[cri]\n", "not TOML: 'utf-8'"),
        (b"a = " + b"[" * 100_000, "not TOML: brackets"),
        (b"[runtime]\npids_limit = " + b"9" * 5000, "not TOML: Exceeds"),
        (b"[runtime]\npids_limit = 0x" + b"f" * 5000, "a very large number is not between"),
        (b"[cri]\nsocket = 2026-11-21\n", "expected a string"),
        (b"cri = 1\n", "cri: expected a table"),
        (b"[[cri]]\n", "cri: expected a table"),
        (b"[runtime.handlers]\nkata = 3\n", r"runtime\.handlers\.kata: expected a table"),
        (b"[cri]\nsocket = '/a'\nsocket = '/b'\n", "not TOML"),
        (b"\0" * 100, "not TOML"),
    ],
)
def test_a_broken_file_is_named_in_one_line(tmp_path: Path, text: bytes, why: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(text)
    with pytest.raises(config.BadConfig, match=why) as caught:
        config.load(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 1000


WORDS = st.sampled_from(
    ["[", "]", "=", ".", '"', "'", "cri", "paths", "socket", "1", "-", "true", "\n", "#", "{", "}", ","]
)


@given(st.lists(WORDS, max_size=30).map("".join) | st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        data = tomllib.loads(text)
    except ValueError:
        return
    with contextlib.suppress(config.BadConfig):
        config.parse(data, "file")


def test_a_reload_takes_over_only_what_it_may() -> None:
    handlers = {"crun": {"command": ["/usr/bin/crun"]}}
    new = config.parse({"cri": {"log_level": "debug", "socket": "/x"}, "runtime": {"handlers": handlers}}, "file")
    merged, kept = config.reloadable(config.Config(), new)
    assert merged.cri.log_level == "debug"
    assert list(merged.runtime.handlers) == ["crun"]
    assert merged.cri.socket == config.Config().cri.socket
    assert kept == ["cri.socket"]
