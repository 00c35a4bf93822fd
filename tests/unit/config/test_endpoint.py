"""Endpoints have one spelling, so that a rule for a host cannot be evaded by another one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed
from garrison.formats.endpoint import Endpoint, is_address, parse_host, parse_listen


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("example.com", "example.com", None),
        ("Example.COM.:443", "example.com", 443),
        ("localhost:1", "localhost", 1),
        ("127.0.0.1:65535", "127.0.0.1", 65535),
        ("[::1]:80", "::1", 80),
        ("[0:0::0001]", "::1", None),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1", 80),
        ("[::FFFF:7f00:1]", "127.0.0.1", None),
        ("_srv.example.com", "_srv.example.com", None),
        ("xn--bcher-kva.example", "xn--bcher-kva.example", None),
    ],
)
def test_endpoints(text: str, host: str, port: int | None) -> None:
    endpoint = Endpoint.parse(text)
    assert endpoint == Endpoint(host, port)
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "a:",
        "a:0",
        "a:080",
        "a:65536",
        "a:http",
        "::1",
        "[::1",
        "[::1]x",
        "[::1]:",
        "a b",
        "[127.0.0.1]:80",
        "[fe80::1%eth0]:80",
        "bücher.example",
        "a..b",
        "-a.example",
        "a/b",
        "127.1",
        "0x7f.1",
        "2130706433",
        "0177.0.0.1",
        "1.2.3.4.5",
        "a:\u0661",
        "a.example:80:80",
        f"{'a' * 64}.example",
        "a." * 127 + "example",
        "a\x00b",
        "127.0.0.1..",
        "example.0x7f",
    ],
)
def test_anything_else_is_malformed(text: str) -> None:
    with pytest.raises(Malformed) as caught:
        Endpoint.parse(text, field="target")
    assert caught.value.field == "target"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("0", "::", 0),
        ("8443", "::", 8443),
        ("127.0.0.1:80", "127.0.0.1", 80),
        ("[::1]:80", "::1", 80),
        ("::1:80", "::1", 80),
        ("[::ffff:10.0.0.1]:80", "10.0.0.1", 80),
        (":::80", "::", 80),
    ],
)
def test_where_to_listen(text: str, host: str, port: int) -> None:
    assert parse_listen(text) == Endpoint(host, port)


@pytest.mark.parametrize("text", ["", "x", "localhost:80", ":80", "1.2.3.4", "80 ", "-1", "65536"])
def test_where_not_to_listen(text: str) -> None:
    with pytest.raises(Malformed):
        parse_listen(text)


@given(st.text(max_size=80))
def test_parsing_raises_malformed_only(text: str) -> None:
    for parse in (Endpoint.parse, parse_listen, parse_host):
        try:
            parsed = parse(text)
        except Malformed:
            continue
        assert str(parsed)


def test_addresses_are_told_from_names() -> None:
    assert is_address("127.0.0.1")
    assert is_address("::1")
    assert not is_address("example.com")
