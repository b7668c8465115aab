# SPDX-License-Identifier: Apache-2.0
"""What our netlink makes is what ip, nft and pyroute2 see, and what they make is what ours reads."""

import errno
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from runtime.linux import netlink_messages as m
from runtime.linux import nft
from runtime.linux.netlink import Netlink
from runtime.linux.syscalls import KernelError
from tests.support.needs import needs
from tests.support.pod_driver import wait_for

pytestmark = needs("root", "veth", "bridge", "nft")
INET = 1  # NFPROTO_INET


def ip(*words: str) -> Any:
    """What `ip -j -d` prints."""
    done = subprocess.run(["ip", "-j", "-d", *words], check=True, capture_output=True, text=True)
    return json.loads(done.stdout or "[]")


@pytest.fixture
def net() -> Iterator[Netlink]:
    """Our netlink; the links of the test go afterwards, and with a link its addresses, routes and neighbours."""
    with Netlink() as opened:
        yield opened
        for name in ("left", "one", "two", "three", "four", "five", "br"):
            if opened.find_link(name):
                opened.transact(m.delete_link(name=name))


def a_veth(net: Netlink, name: str = "left", peer: str = "right") -> int:
    net.transact(m.new_link(name, "veth", data=m.veth_peer(m.link_attributes(name=peer))))
    return net.link(name).index


def test_a_bridge_with_a_port_is_what_ip_shows(net: Netlink) -> None:
    net.transact(m.new_link("br", "bridge", m.link_attributes(mac="02:00:00:00:00:07"), up=True))
    net.transact(m.set_link(net.link("br").index, m.link_attributes(mtu=1400)))
    port = a_veth(net)
    net.transact(m.set_link(port, m.link_attributes(master=net.link("br").index)), m.link_up(port))
    net.transact(m.bridge_port(port, hairpin=True, isolated=True))
    ours = net.link("left")
    bridge, link = ip("link", "show", "br")[0], ip("link", "show", "left")[0]
    assert (bridge["address"], bridge["mtu"], bridge["linkinfo"]["info_kind"]) == ("02:00:00:00:00:07", 1400, "bridge")
    assert "UP" in bridge["flags"]
    assert "UP" in link["flags"]
    assert link["master"] == "br"
    port_data = link["linkinfo"]["info_slave_data"]
    assert (port_data["hairpin"], port_data["isolated"]) == (True, True)
    assert (ours.hairpin, ours.isolated, ours.kind, ours.up) == (True, True, "veth", True)
    assert (ours.index, ours.mac) == (link["ifindex"], link["address"])


def test_links_that_ip_made_are_read_as_ip_shows_them(net: Netlink) -> None:
    subprocess.run(["ip", "link", "add", "one", "mtu", "1300", "type", "veth", "peer", "name", "two"], check=True)
    subprocess.run(["ip", "link", "set", "two", "txqueuelen", "77"], check=True)
    subprocess.run(["ip", "link", "set", "two", "alias", "the other end"], check=True)
    ours = {link.name: link for link in net.links()}
    shown = {link["ifname"]: link for link in ip("link")}
    assert {n: (k.index, k.mtu, k.mac, k.operstate.upper()) for n, k in ours.items()} == {
        n: (k["ifindex"], k["mtu"], k["address"], k["operstate"]) for n, k in shown.items()
    }
    assert (ours["two"].alias, ours["two"].queue_length) == ("the other end", 77)
    assert ours["one"].lower == ours["two"].index


def test_a_link_is_known_by_its_name_and_number_alone(net: Netlink) -> None:
    index = a_veth(net)
    subprocess.run(["ip", "link", "property", "add", "dev", "left", "altname", "leftmost"], check=True)
    assert (net.has_link("left"), net.has_link("leftmost"), net.has_link("nobody")) == (True, True, False)
    assert net.index_of("left") == ip("link", "show", "left")[0]["ifindex"] == index
    assert "right" in {link.name for link in net.links()}, "a socket that has asked is good for more"
    with pytest.raises(KernelError, match="nobody"):
        net.index_of("nobody")


def test_addresses_and_routes_are_what_ip_shows(net: Netlink) -> None:
    link = a_veth(net)
    net.transact(m.link_up(link), m.link_up(net.link("right").index))
    net.transact(m.add_address(link, "10.9.0.1", 24), m.add_address(link, "fd09::1", 64))
    body = m.route_body("10.10.0.0", 16, link=link, gateway="10.9.0.2", priority=50, mtu=1280, advmss=1200)
    net.transact(m.add_route(body, "10.10.0.0/16"))
    # The kernel adds a link-local one in its own time.
    wait_for(lambda: len(net.addresses(link)) == 3, 5, lambda: str(net.addresses(link)))
    ours = {a.text for a in net.addresses(link)}
    route = next(r for r in net.routes(socket.AF_INET) if r.destination == "10.10.0.0/16")
    shown = {f"{a['local']}/{a['prefixlen']}" for a in ip("address", "show", "left")[0]["addr_info"]}
    assert {"10.9.0.1/24", "fd09::1/64"} <= ours == shown
    seen = ip("route", "show", "10.10.0.0/16")[0]
    metrics = {name: value for each in seen["metrics"] for name, value in each.items()}
    assert (seen["gateway"], seen["dev"], seen["metric"], metrics) == (
        "10.9.0.2", "left", 50, {"mtu": 1280, "advmss": 1200},
    )  # fmt: skip
    assert (route.gateway, route.link, route.priority, route.mtu, route.advmss) == ("10.9.0.2", link, 50, 1280, 1200)


def test_rules_and_neighbours_are_what_pyroute2_sees(net: Netlink) -> None:
    from pyroute2 import IPRoute

    link = a_veth(net)
    net.transact(m.link_up(link), m.add_address(link, "10.9.0.1", 24))
    net.transact(m.add_rule(socket.AF_INET, source="10.9.0.1", prefix=32, table=100, priority=7))
    net.transact(m.add_neighbour(link, "10.9.0.9", "02:00:00:00:00:09"))
    ours = next(rule for rule in net.rules(socket.AF_INET) if rule.priority == 7)
    with IPRoute() as oracle:
        rule = next(r for r in oracle.get_rules(family=socket.AF_INET) if r.get_attr("FRA_PRIORITY") == 7)
        seen = [n for n in oracle.get_neighbours(ifindex=link) if n.get_attr("NDA_DST") == "10.9.0.9"]
    assert (rule.get_attr("FRA_SRC"), rule.get_attr("FRA_TABLE"), rule["src_len"]) == ("10.9.0.1", 100, 32)
    assert (ours.source, ours.table, ours.prefix) == ("10.9.0.1", 100, 32)
    assert [n.get_attr("NDA_LLADDR") for n in seen] == ["02:00:00:00:00:09"]
    net.transact(m.delete_rule(socket.AF_INET, source="10.9.0.1", prefix=32, table=100, priority=7))
    assert [rule for rule in net.rules(socket.AF_INET) if rule.priority == 7] == []


def test_a_peer_is_born_in_another_namespace() -> None:
    child = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    namespace = os.open(f"/proc/{child.pid}/ns/net", os.O_RDONLY)
    try:
        with Netlink() as net, Netlink(namespace) as within:
            peer = m.link_attributes(name="eth0", netns_fd=namespace)
            net.transact(m.new_link("host0", "veth", data=m.veth_peer(peer)))
            assert within.link("eth0").kind == "veth"
            assert net.find_link("eth0") is None
            net.transact(m.delete_link(name="host0"))
    finally:
        os.close(namespace)
        child.kill()
        child.wait()
        child.stdout.close()


def test_a_refusal_names_the_call_and_what_it_was_about(net: Netlink) -> None:
    link = a_veth(net)
    with pytest.raises(KernelError, match="left"):
        net.transact(m.new_link("left", "bridge"))
    with pytest.raises(KernelError) as caught:
        net.transact(m.add_route(m.route_body("10.1.0.0", 16, link=link, gateway="10.77.0.1"), "10.1.0.0/16"))
    assert "10.1.0.0/16" in str(caught.value)


def test_of_many_requests_the_first_failure_is_told_and_the_rest_is_done(net: Netlink) -> None:
    """Only the last request asks for an answer; failures before it come unasked."""
    net.transact(m.new_link("one", "bridge"))
    again = m.new_link("one", "bridge")
    with pytest.raises(FileExistsError):
        net.transact(m.new_link("two", "bridge"), again, m.delete_link(name="nobody"), m.new_link("three", "bridge"))
    assert {"one", "two", "three"} <= {link.name for link in net.links()}
    net.transact(again.tolerating(errno.EEXIST), m.new_link("four", "bridge"))
    net.transact(m.new_link("five", "bridge"), again.tolerating(errno.EEXIST))
    assert net.link("five").name == "five"


def test_elements_of_sets_and_maps_are_what_nft_lists() -> None:
    nft.load(
        "table inet oracle {\n set hosts { type ipv4_addr; }\n map ports { type inet_service : ipv4_addr; }\n"
        " chain c { }\n map jumps { type ipv4_addr : verdict; }\n}\n"
    )
    with nft.Nft() as table:
        table.transact(
            nft.add_element(INET, "oracle", "hosts", nft.packed("10.1.2.3"), comment="who it is"),
            nft.add_element(INET, "oracle", "ports", nft.port(8080), data=nft.packed("10.1.2.4")),
            nft.add_element(INET, "oracle", "jumps", nft.packed("10.1.2.5"), jump="c"),
        )
        ours = table.elements(INET, "oracle", "hosts")[0]
        assert (ours.key, ours.comment) == (nft.packed("10.1.2.3"), "who it is")
        listed = _listed("hosts", "ports", "jumps")
        assert listed["set hosts"] == [{"elem": {"val": "10.1.2.3", "comment": "who it is"}}]
        assert listed["map ports"] == [[8080, "10.1.2.4"]]
        assert listed["map jumps"] == [["10.1.2.5", {"jump": {"target": "c"}}]]
        table.transact(nft.delete_element(INET, "oracle", "hosts", nft.packed("10.1.2.3")))
        assert table.find_element(INET, "oracle", "hosts", nft.packed("10.1.2.3")) is None
        table.transact(nft.delete_table(INET, "oracle"))
        assert not table.has_table(INET, "oracle")


def test_a_transaction_is_all_or_nothing() -> None:
    nft.load("table inet oracle {\n set hosts { type ipv4_addr; }\n}\n")
    with nft.Nft() as table:
        with pytest.raises(KernelError, match="absent"):
            table.transact(
                nft.add_element(INET, "oracle", "hosts", nft.packed("10.1.2.3")),
                nft.add_element(INET, "oracle", "absent", nft.packed("10.1.2.3")),
            )
        assert table.elements(INET, "oracle", "hosts") == []
        table.transact(nft.delete_table(INET, "oracle"))


def _listed(*names: str) -> dict[str, Any]:
    """The elements of each set and map of the table, by kind and name, as `nft -j` prints them."""
    done = subprocess.run(["nft", "-j", "list", "table", "inet", "oracle"], check=True, capture_output=True, text=True)
    found = {}
    for entry in json.loads(done.stdout)["nftables"]:
        for kind in ("set", "map"):
            if kind in entry and entry[kind]["name"] in names:
                found[f"{kind} {entry[kind]['name']}"] = entry[kind].get("elem", [])
    return found
