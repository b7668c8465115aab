# SPDX-License-Identifier: Apache-2.0
"""Addresses, ranges and allocation: arithmetic against the standard library and a set."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.addresses import parse_ip, parse_prefix, to_text
from cni.errors import CniError
from cni.fields import Fields
from cni.ipam import allocate, ranges
from cni.ipam.allocate import Exclusions

NOTHING = Exclusions([], {})


@given(st.ip_addresses())
def test_an_address_is_read_and_written_as_the_standard_library_does(address: ipaddress.IPv4Address) -> None:
    family, number = parse_ip(str(address))
    mapped = getattr(address, "ipv4_mapped", None)
    assert number == int(mapped or address)
    assert parse_ip(to_text(family, number)) == (family, number)


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_a_prefix_knows_its_network(address: ipaddress.IPv4Address, length: int) -> None:
    prefix = parse_prefix(f"{address}/{length}")
    network = ipaddress.ip_network(f"{address}/{length}", strict=False)
    assert str(prefix.network) == str(network)
    assert (prefix.first, prefix.last) == (int(network[0]), int(network[-1]))


@pytest.mark.parametrize(
    "text", ["", "1.2.3", "1.2.3.4.5", "x", "::1::", "1.2.3.4/33", "1.2.3.4/", "1.2.3.4/-1", "1.2.3.4/٣"]
)
def test_what_is_no_prefix_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not an"):
        parse_prefix(text)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 19)), max_size=60),
    st.sampled_from(["10.0.0.0/29", "fd00::/124", "10.0.0.0/28"]),
)
def test_the_allocator_behaves_as_a_set_with_a_round_robin(actions: list[tuple[bool, int]], subnet: str) -> None:
    pool = ranges.Pool([ranges.parse_range(Fields({"subnet": subnet}))])
    held: list[str] = []
    last = ""
    for take, which in actions:
        if take:
            choice = allocate.next_free(0, pool, last, NOTHING, lambda address: address in held, 0)
            assert (choice is None) == (len(held) == pool.size)
            if choice is not None:
                assert choice.address not in held
                assert parse_ip(choice.address)[1] != choice.piece.gateway
                assert pool.range_of(*parse_ip(choice.address)) is not None
                held.append(choice.address)
                last = choice.address
        elif held:
            held.pop(which % len(held))


def test_a_freed_address_is_not_the_next_one_given() -> None:
    pool = ranges.Pool([ranges.parse_range(Fields({"subnet": "10.0.0.0/29"}))])
    choice = allocate.next_free(0, pool, "10.0.0.4", NOTHING, lambda address: address == "10.0.0.2", 0)
    assert choice is not None
    assert choice.address == "10.0.0.5"


def test_a_pool_spills_over_into_its_next_range_and_back() -> None:
    pieces = [{"subnet": "10.0.0.0/30"}, {"subnet": "10.0.1.0/30"}]
    pool = ranges.Pool([ranges.parse_range(Fields(piece)) for piece in pieces])
    given_out = []
    last = ""
    for _ in range(2):
        choice = allocate.next_free(0, pool, last, NOTHING, lambda address: address in given_out, 0)
        assert choice is not None
        last = choice.address
        given_out.append(last)
    assert given_out == ["10.0.0.2", "10.0.1.2"]
    assert allocate.next_free(0, pool, last, NOTHING, lambda address: address in given_out, 0) is None


@pytest.mark.parametrize(
    ("piece", "key"),
    [
        ({}, "subnet"),
        ({"subnet": "10.0.0.0/31"}, "subnet"),
        ({"subnet": "10.0.0.5/24"}, "do you mean 10.0.0.0/24"),
        ({"subnet": "10.0.0.0/24", "rangeStart": "10.1.0.1"}, "rangeStart"),
        ({"subnet": "10.0.0.0/24", "rangeEnd": "::1"}, "rangeEnd"),
        ({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8"}, "rangeEnd"),
        ({"subnet": "10.0.0.0/24", "gateway": "x"}, "gateway"),
        ({"subnet": 5}, "subnet"),
    ],
)
def test_a_bad_range_is_refused_with_its_key(piece: dict[str, object], key: str) -> None:
    with pytest.raises(CniError, match=key) as refusal:
        ranges.parse_range(Fields(piece, "ipam.ranges[0][0]"))
    assert refusal.value.code == 7
