# SPDX-License-Identifier: Apache-2.0
"""Tokens, request heads, negotiation, resize and status: the pure parts of streaming."""

from __future__ import annotations

import json

import pytest

from cri.streaming import channels, http, upgrade
from cri.streaming.tokens import Tokens, TooManyTokens


def test_a_token_is_good_once_and_not_after_its_time() -> None:
    now = [0.0]
    tokens: Tokens[str] = Tokens(60, clock=lambda: now[0])
    first, second = tokens.issue("one"), tokens.issue("two")
    assert (tokens.redeem(first), tokens.redeem(first)) == ("one", None)
    now[0] = 61.0
    assert tokens.redeem(second) is None


def test_tokens_that_nobody_fetches_are_bounded() -> None:
    tokens: Tokens[int] = Tokens(60, capacity=2)
    tokens.issue(1)
    tokens.issue(2)
    with pytest.raises(TooManyTokens, match="2 sessions are waiting"):
        tokens.issue(3)


def head(*lines: str) -> http.Request:
    return http.parse("\r\n".join(("POST /exec/x HTTP/1.1", *lines)).encode())


def test_the_first_protocol_that_both_speak_is_taken() -> None:
    request = head(
        "Connection: keep-alive, Upgrade",
        "Upgrade: SPDY/3.1",
        "X-Stream-Protocol-Version: v5.channel.k8s.io",
        "X-Stream-Protocol-Version: v4.channel.k8s.io",
        "X-Stream-Protocol-Version: v3.channel.k8s.io",
    )
    agreed = upgrade.agree(request, "exec")
    assert (agreed.protocol, agreed.structured, agreed.resizable) == ("v4.channel.k8s.io", True, True)
    assert b"X-Stream-Protocol-Version: v4.channel.k8s.io\r\n" in agreed.answer


def test_a_protocol_that_is_not_spoken_is_refused_with_both_lists() -> None:
    request = head("Connection: Upgrade", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v9.channel.k8s.io")
    with pytest.raises(http.Refused, match=r"client offers \['v9.*spoken here: \['v4") as refused:
        upgrade.agree(request, "exec")
    assert refused.value.status == 403


def test_no_upgrade_is_a_bad_request() -> None:
    with pytest.raises(http.Refused, match="an upgrade to") as refused:
        upgrade.agree(head("Host: x"), "exec")
    assert refused.value.status == 400


@pytest.mark.parametrize("garbage", [b"", b"\xff\xfe", b"GET\r\n", b"GET x HTTP/1.1", b"GET /x HTTP/1.1\r\n: x"])
def test_a_head_that_is_not_http_is_refused(garbage: bytes) -> None:
    with pytest.raises(http.Refused):
        http.parse(garbage)


def test_resizes_are_read_however_they_are_cut_and_nonsense_is_dropped() -> None:
    reader = channels.ResizeReader()
    text = b'{"Width":80,"Height":24}\n{"Width":-1,"Height":2}[1]{"Width":100,"Height":50}'
    sizes = [size for i in range(len(text)) for size in reader.feed(text[i : i + 1])]
    assert sizes == [(80, 24), (100, 50)]


def test_an_exit_code_travels_as_a_cause_of_the_status() -> None:
    status = json.loads(channels.status_exit(7, structured=True))
    assert status["reason"] == "NonZeroExitCode"
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]
    assert channels.status_success(structured=False) == b""
