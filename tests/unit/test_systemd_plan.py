# SPDX-License-Identifier: Apache-2.0
"""Scopes planned without a systemd: names, places, limits as properties, values of annotations, the wire."""

import pytest

from runtime.linux import dbus
from runtime.plan import gvariant, limits, scope
from runtime.spec import parse
from runtime.spec.model import DeviceRule
from runtime.spec.reader import Object, SpecError

Variant = dbus.Variant


@pytest.mark.parametrize(
    ("path", "unit", "slice_name"),
    [
        ("", "ketch-c1.scope", "system.slice"),
        ("::c1", "c1.scope", "system.slice"),
        ("a-b.slice:cri-containerd:c1", "cri-containerd-c1.scope", "a-b.slice"),
        ("user.slice:p:x+y", "p-x\\x2by.scope", "user.slice"),
    ],
)
def test_a_path_names_unit_and_slice(path: str, unit: str, slice_name: str) -> None:
    assert scope.names(path, "c1", user=False) == (unit, slice_name)


@pytest.mark.parametrize(
    "path", ["/a/b", "a:b", "a:b:c:d", "x:p:n", "a--b.slice:p:n", "-a.slice:p:n", "a/b.slice:p:n", "a.slice:p:"]
)
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(SpecError, match=r"linux\.cgroupsPath"):
        scope.names(path, "c1", user=False)


@pytest.mark.parametrize(
    ("name", "path"),
    [("system.slice", "/system.slice"), ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"), ("-.slice", "")],
)
def test_a_slice_lies_in_the_one_that_its_name_begins_with(name: str, path: str) -> None:
    assert scope.slice_path(name) == path


@pytest.mark.parametrize(
    ("own", "top"),
    [
        ("/user.slice/user-7.slice/session-3.scope", "/user.slice/user-7.slice/user@7.service"),
        ("/user.slice/user-7.slice/user@7.service/app.slice/x.scope", "/user.slice/user-7.slice/user@7.service"),
        ("/", "/user.slice/user-1000.slice/user@1000.service"),
    ],
)
def test_the_units_of_a_user_are_beneath_his_manager(own: str, top: str) -> None:
    assert scope.user_top(own, 1000) == top


def properties(resources: dict[str, object], *, v2: bool) -> dict[str, object]:
    writes = limits.plan(parse.resources(Object(resources, "linux.resources")), v2=v2)
    return {name: value for name, _, value in scope.limits(writes, v2=v2)}


ASKED = {
    "memory": {"limit": 1 << 20, "swap": 3 << 20},
    "cpu": {"quota": 1001, "period": 10000, "shares": 1024, "cpus": "0-2,9"},
    "pids": {"limit": -1},
}


def test_limits_become_properties_on_cgroup_v2() -> None:
    assert properties(ASKED, v2=True) == {
        "MemoryMax": 1 << 20,
        "MemorySwapMax": 2 << 20,
        "CPUWeight": 100,
        "CPUQuotaPeriodUSec": 10000,
        "CPUQuotaPerSecUSec": 110000,  # rounded up to hundredths of a CPU
        "AllowedCPUs": [0b111, 0b10],
        "TasksMax": scope.INFINITY,
    }


def test_limits_become_properties_on_cgroup_v1() -> None:
    assert properties(ASKED, v2=False) == {
        "MemoryLimit": 1 << 20,
        "CPUShares": 1024,
        "CPUQuotaPeriodUSec": 10000,
        "CPUQuotaPerSecUSec": 110000,
        "TasksMax": scope.INFINITY,
    }


def test_unified_files_become_properties_too() -> None:
    assert properties({"unified": {"memory.high": "max", "memory.min": "7", "cpu.max": "max"}}, v2=True) == {
        "MemoryHigh": scope.INFINITY,
        "MemoryMin": 7,
        "CPUQuotaPerSecUSec": scope.INFINITY,
    }


def test_a_limit_of_no_processes_is_one_for_systemd() -> None:
    assert properties({"pids": {"limit": 0}}, v2=True) == {"TasksMax": 1}


def rule(kind: str, major: int | None, minor: int | None, access: str, *, allow: bool = True) -> DeviceRule:
    return DeviceRule(allow=allow, kind=kind, major=major, minor=minor, access=access)


def test_device_rules_become_an_allow_list() -> None:
    rules = [
        rule("a", None, None, "rwm", allow=False),
        rule("c", None, None, "m"),
        rule("c", 1, 3, "rw"),
        rule("c", 1, 3, "w", allow=False),
        rule("c", 136, None, "rwm"),
        rule("c", 999, None, "rwm"),
    ]
    assert scope.device_properties(
        rules, scope.device_groups("Character devices:\n136 pts\n\nBlock devices:\n  8 sd\n")
    ) == [
        ("DevicePolicy", "s", "strict"),
        ("DeviceAllow", "a(ss)", [("char-*", "m"), ("/dev/char/1:3", "r"), ("char-pts", "rwm")]),
    ]


def test_a_container_with_all_devices_has_no_policy() -> None:
    found = scope.device_properties([rule("a", None, None, "rwm"), rule("c", 1, 3, "rw")], {})
    assert found == [("DevicePolicy", "s", "auto"), ("DeviceAllow", "a(ss)", [])]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("true", "b", True),
        ("5", "i", 5),
        ("uint64 0x10", "t", 16),
        ("'it\\'s'", "s", "it's"),
        ('"a b"', "s", "a b"),
        ("['a', 'b']", "as", ["a", "b"]),
        ("@as []", "as", []),
        ("[uint32 1, 2]", "au", [1, 2]),
        ("('a', true)", "(sb)", ("a", True)),
        ("@a(ss) [('x', 'r')]", "a(ss)", [("x", "r")]),
        ("1.5", "d", 1.5),
    ],
)
def test_values_of_annotations_are_read_as_gvariant_has_them(text: str, kind: str, value: object) -> None:
    assert gvariant.parse(text) == (kind, value)


@pytest.mark.parametrize("text", ["", "abc", "'open", "[1, 'a']", "[]", "byte 256", "5 6", "(1", "@zz 5", "@u 'x'"])
def test_a_value_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"character|after the value"):
        gvariant.parse(text)


def test_times_in_seconds_become_microseconds() -> None:
    found = scope.from_annotations({"org.systemd.property.TimeoutStopSec": "1.5", "other": "x"})
    assert found == [("TimeoutStopUSec", "t", 1_500_000)]


@pytest.mark.parametrize("name", ["A", "Timeout.Stop", "", "Fünf5"])
def test_a_name_that_is_no_property_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="not the name of a property"):
        scope.from_annotations({f"org.systemd.property.{name}": "5"})


@pytest.mark.parametrize(
    ("signature", "values"),
    [
        ("yu", [1, 2]),
        ("ybt", [1, True, 1 << 63]),
        ("sas", ["a", ["", "bc"]]),
        ("a(sv)", [[("x", Variant("t", 5)), ("y", Variant("as", ["p"]))]]),
        ("ssa(sv)a(sa(sv))", ["u", "replace", [("PIDs", Variant("au", [1]))], []]),
        ("a{sv}d", [[("k", Variant("i", -1))], 0.5]),
        ("at", [[]]),
    ],
)
def test_what_is_packed_is_unpacked_again(signature: str, values: list[object]) -> None:
    assert dbus.unpack(signature, dbus.pack(signature, values)) == values


def test_a_message_is_as_the_specification_has_it() -> None:
    """Checked by hand against the D-Bus specification: little endian, fields aligned to 8, the body after padding."""
    packed = dbus.Message(dbus.CALL, 1, {1: "/", 3: "Hi"}, ["x"]).packed("s")
    assert packed[:16] == b"l\x01\x00\x01" + (6).to_bytes(4, "little") + (1).to_bytes(4, "little") + (39).to_bytes(
        4, "little"
    )
    assert packed[16:26] == b"\x01\x01o\x00\x01\x00\x00\x00/\x00"
    assert len(packed) == 16 + 40 + 6
    assert packed.endswith(b"\x01\x00\x00\x00x\x00")
