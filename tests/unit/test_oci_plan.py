# SPDX-License-Identifier: Apache-2.0
"""The pure parts of the OCI runtime: limits, device programs, mount options, JSON, frozen types, the C declarations."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.commands import life
from runtime.inside import diagnosis
from runtime.linux import json_text
from runtime.linux._core import lib
from runtime.plan import device_filter, identity, limits, mount_options
from runtime.spec import parse
from runtime.spec.model import DeviceRule
from runtime.spec.reader import Object, SpecError

RULES = st.builds(
    DeviceRule,
    allow=st.booleans(),
    kind=st.sampled_from("abc"),
    major=st.sampled_from([None, 1, 5]),
    minor=st.sampled_from([None, 3, 7]),
    access=st.sampled_from(["r", "w", "m", "rw", "rwm"]),
)


def interpret(program: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """Run a cgroup device program as the kernel would."""
    registers = [0] * 11
    mask = sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access)
    context = {0: {"b": 1, "c": 2}[kind] | mask << 16, 4: major, 8: minor}
    counter = 0
    while True:
        code, spread = program[counter * 8], program[counter * 8 + 1]
        target, source = spread & 15, spread >> 4
        offset = int.from_bytes(program[counter * 8 + 2 : counter * 8 + 4], "little", signed=True)
        value = int.from_bytes(program[counter * 8 + 4 : counter * 8 + 8], "little")
        counter += 1
        if code == 0x61:
            registers[target] = context[offset]
        elif code == 0xBC:
            registers[target] = registers[source]
        elif code == 0x54:
            registers[target] &= value
        elif code == 0x74:
            registers[target] >>= value
        elif code == 0xB4:
            registers[target] = value
        elif code == 0x56:
            counter += offset if registers[target] != value else 0
        elif code == 0x16:
            counter += offset if registers[target] == value else 0
        elif code == 0x95:
            return registers[0] == 1
        else:
            raise AssertionError(hex(code))


@given(
    st.lists(RULES, max_size=6),
    st.sampled_from("bc"),
    st.sampled_from([1, 5, 9]),
    st.sampled_from([3, 7, 9]),
    st.sampled_from(["r", "w", "m", "rw", "rwm"]),
)
def test_the_device_program_answers_as_the_rules_do(
    rules: list[DeviceRule], kind: str, major: int, minor: int, access: str
) -> None:
    program = device_filter.program(tuple(rules))
    assert interpret(program, kind, major, minor, access) == device_filter.allows(
        tuple(rules), kind, major, minor, access
    )


def test_v1_lines_start_from_nothing_allowed() -> None:
    asked = (DeviceRule(allow=False, kind="a", major=None, minor=None, access="rwm"),)
    lines = device_filter.v1_lines(device_filter.rules(asked, ()))
    assert lines[0] == ("devices.deny", "a")
    assert ("devices.allow", "c 1:3 rwm") in lines
    assert device_filter.v1_lines((DeviceRule(allow=True, kind="c", major=1, minor=3, access="r"),)) == [
        ("devices.deny", "a"),
        ("devices.allow", "c 1:3 r"),
    ]


def writes(resources: object, *, v2: bool) -> dict[str, str]:
    parsed = parse.resources(Object(resources, "linux.resources"))
    return {write.file: write.value for write in limits.plan(parsed, v2=v2)}


def test_memory_and_swap_become_swap_alone_on_v2() -> None:
    asked = {"memory": {"limit": 100, "swap": 150, "reservation": 50}}
    assert writes(asked, v2=True) == {"memory.max": "100", "memory.swap.max": "50", "memory.low": "50"}
    assert writes(asked, v2=False) == {
        "memory.limit_in_bytes": "100",
        "memory.memsw.limit_in_bytes": "150",
        "memory.soft_limit_in_bytes": "50",
    }


@pytest.mark.parametrize(
    ("asked", "v2"),
    [
        ({"memory": {"limit": -1}}, {"memory.max": "max", "memory.swap.max": "max"}),
        ({"cpu": {"quota": 5000}}, {"cpu.max": "5000 100000"}),
        ({"cpu": {"quota": -1, "period": 50000}}, {"cpu.max": "max 50000"}),
        ({"cpu": {"shares": 1024}}, {"cpu.weight": "100"}),
        ({"cpu": {"cpus": "0-1", "mems": "0"}}, {"cpuset.cpus": "0-1", "cpuset.mems": "0"}),
        ({"pids": {"limit": 0}}, {"pids.max": "0"}),
        ({"pids": {"limit": -1}}, {"pids.max": "max"}),
        ({"unified": {"memory.high": "1"}}, {"memory.high": "1"}),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}, {"hugetlb.2MB.max": "0", "hugetlb.2MB.rsvd.max": "0"}),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 9}]}},
            {"io.max": "8:0 rbps=9"},
        ),
    ],
)
def test_limits_on_v2(asked: object, v2: dict[str, str]) -> None:
    assert writes(asked, v2=True) == v2


def test_weights_meet_both_ends_and_the_default() -> None:
    assert [limits.cpu_weight(shares) for shares in (2, 1024, 262144)] == [1, 100, 10000]
    weights = [limits.cpu_weight(shares) for shares in range(2, 262144, 997)]
    assert weights == sorted(weights)


@pytest.mark.parametrize("v2", [{"memory": {"disableOOMKiller": True}}, {"cpu": {"realtimeRuntime": 5}}])
def test_what_v2_lacks_is_refused_by_name(v2: object) -> None:
    with pytest.raises(SpecError):
        writes(v2, v2=True)
    with pytest.raises(SpecError):
        writes({"unified": {"memory.max": "1"}}, v2=False)


def test_the_last_of_contradicting_mount_options_wins() -> None:
    read = mount_options.read(("ro", "rw", "nosuid", "noatime", "strictatime"))
    assert read.set_ == lib.MOUNT_ATTR_NOSUID | lib.MOUNT_ATTR_STRICTATIME
    assert read.clear & lib.MOUNT_ATTR_RDONLY
    assert read.clear & lib.MOUNT_ATTR__ATIME == lib.MOUNT_ATTR__ATIME
    recursive = mount_options.read(("rbind", "rro", "rnodev"))
    assert recursive.recursive_bind
    assert recursive.recursive_set == lib.MOUNT_ATTR_RDONLY | lib.MOUNT_ATTR_NODEV
    assert recursive.set_ == 0


def test_unknown_mount_options_are_the_file_systems() -> None:
    read = mount_options.read(("mode=755", "size=1k", "noswap", "tmpcopyup", "rshared"))
    assert read.data == (("mode", "755"), ("size", "1k"), ("noswap", None))
    assert read.copy_up
    assert read.propagation == lib.MS_SHARED | lib.MS_REC


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.1/rp_filter", "net/ipv4/conf/eth0.1/rp_filter"),
        ("net.ipv4.conf.eth0/1.rp_filter", "net/ipv4/conf/eth0.1/rp_filter"),
    ],
)
def test_a_sysctl_is_written_with_dots_or_slashes(key: str, path: str) -> None:
    assert identity.sysctl_path(key) == path


@pytest.mark.parametrize(
    ("text", "number"),
    [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("term", 15), ("RTMIN", 34), ("SIGRTMIN+1", 35), ("RTMAX-1", 63)],
)
def test_signals_by_number_and_name(text: str, number: int) -> None:
    assert life.signal_number(text) == number


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_our_json_reads_and_writes_as_the_module_does(value: object) -> None:
    assert json_text.loads(json.dumps(value)) == value
    assert json.loads(json_text.dumps(value)) == value
    assert json.loads(json_text.dumps(value, indent=2)) == value


def refuse(name: str) -> None:
    raise ValueError(name)


@given(st.text(max_size=40))
def test_our_json_refuses_what_the_module_refuses(text: str) -> None:
    try:
        expected = json.loads(text, parse_constant=refuse)
    except ValueError:
        with pytest.raises(json_text.JSONError):
            json_text.loads(text)
    else:
        assert json_text.loads(text) == expected


def test_the_types_of_the_core_are_those_of_its_declarations() -> None:
    import runtime.linux

    folder = Path(runtime.linux.__file__).parent
    declared = set(re.findall(r"\b(k_\w+)\(", (folder / "core.cdef").read_text()))
    declared |= set(re.findall(r"#define (\w+) \.\.\.", (folder / "core.cdef").read_text()))
    typed = set(re.findall(r"def (k_\w+)\(", (folder / "_core.pyi").read_text()))
    typed |= set(re.findall(r"^    ([A-Z]\w+): int$", (folder / "_core.pyi").read_text(), re.M))
    assert declared == typed
    assert all(hasattr(lib, name) for name in declared)


@pytest.mark.parametrize(
    ("head", "number", "cause"),
    [
        (b"#!/bin/nosuch\n", 2, "its interpreter '/bin/nosuch'"),
        (b"#!/bin/sh\r\n", 2, "CRLF"),
        (b"echo hi\n", 8, "neither an ELF program nor a script"),
        (b"", 8, "the file is empty"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00" + bytes(44), 8, "built for aarch64"),
    ],
)
def test_a_failed_exec_names_its_cause(head: bytes, number: int, cause: str, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(head)
    program.chmod(0o755)
    assert cause in diagnosis.of_exec("program", str(program), number)
