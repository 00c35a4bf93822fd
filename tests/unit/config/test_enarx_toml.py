"""`Enarx.toml`: both schemas, our additions, and every refusal with its line."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed
from garrison.formats.enarx_toml import MAX_SIZE, TEMPLATE, Config, File, Rule
from garrison.formats.endpoint import Endpoint
from garrison.formats.peer_rule import PeerRule
from garrison.testing.tls import Authority

HOST = {"stdin": "host", "stdout": "host", "stderr": "host"}
SLUG = "drawbridge.test/jane/chat:^1.0"


def parse(text: str) -> Config:
    return Config.from_bytes(text.encode())


def test_no_file_and_an_empty_one_are_standard_streams() -> None:
    for config in (Config.default(), parse(""), parse("# nothing\n")):
        assert config == Config.default()
        assert config.stdio == HOST
        assert config.environment() == {"FD_COUNT": "3", "FD_NAMES": "stdin:stdout:stderr"}
        assert config.incoming == config.outgoing == {}


def test_the_released_schema() -> None:
    config = parse(
        """
        steward = "https://steward.example.com"
        args = ["-v", "x y"]

        [[files]]
        kind = "stdin"

        [[files]]
        name = "X"
        kind = "listen"
        prot = "tcp"
        port = 9000

        [[files]]
        kind = "null"

        [[files]]
        kind = "listen"
        name = "Y"
        addr = "127.0.0.1"
        peers = ["any"]

        [[files]]
        kind = "connect"
        host = "Example.com"

        [[files]]
        kind = "connect"
        name = "six"
        host = "::1"
        prot = "tcp"

        [env]
        LOG = "1"
        """
    )
    assert config.steward == "https://steward.example.com"
    assert config.args == ("-v", "x y")
    assert config.files == (
        File("stdin", "stdin"),
        File("listen", "X", Endpoint("::", 9000), Rule("tcp")),
        File("null", "null"),
        File("listen", "Y", Endpoint("127.0.0.1", 443), Rule(peers=(PeerRule.parse("any"),))),
        File("connect", "example.com", Endpoint("example.com", 443), Rule()),
        File("connect", "six", Endpoint("::1", 80), Rule("tcp")),
    )
    assert config.stdio == {"stdin": "host", "stdout": "null", "stderr": "null"}
    assert config.environment() == {
        "LOG": "1",
        "FD_COUNT": "6",
        "FD_NAMES": "stdin:X:null:Y:example.com:six",
    }


def test_an_empty_list_of_files_is_no_descriptor_at_all() -> None:
    config = parse("files = []")
    assert config.files == ()
    assert set(config.stdio.values()) == {"null"}
    assert config.environment() == {"FD_COUNT": "0", "FD_NAMES": ""}


def test_the_fosdem_schema() -> None:
    config = parse(
        f"""
        steward = "https://steward.example.com:8443/x"
        [env]
        FD_COUNT = "mine"
        [stdout]
        kind = "host"
        [stdin]
        [network.incoming.8443]
        peers = ["{SLUG}"]
        [network.incoming.default]
        prot = "deny"
        [network.outgoing]
        "API.example.com:443" = {{ trust = "web" }}
        "[0::1]:80" = {{ prot = "tcp" }}
        "other.example.com" = {{ peers = [] }}
        default = {{ prot = "deny" }}
        """
    )
    assert config.files is None
    assert config.stdio == {"stdin": "null", "stdout": "host", "stderr": "null"}
    assert config.environment() == {"FD_COUNT": "mine"}
    assert config.incoming == {
        "8443": Rule(peers=(PeerRule.parse(SLUG),)),
        "default": Rule("deny"),
    }
    assert config.outgoing == {
        "api.example.com:443": Rule(trust="web"),
        "[::1]:80": Rule("tcp"),
        "other.example.com": Rule(peers=()),
        "default": Rule("deny"),
    }


def test_a_network_table_alone_makes_it_fosdem() -> None:
    assert set(parse("[network]").stdio.values()) == {"null"}


def test_trust_takes_certificates() -> None:
    pem = Authority().root_pem
    config = parse(f"[network.incoming.1]\ntrust = '''\n{pem}'''\npeers = ['any']")
    assert config.incoming["1"].trust == pem
    assert config.incoming["1"].peers == (PeerRule.parse("any"),)


def test_the_template_is_in_order_and_says_both() -> None:
    config = parse(TEMPLATE)
    assert (config.stdio, config.files) == (HOST, None)
    assert not config.incoming
    assert not config.outgoing
    for word in ("[[files]]", "[network.incoming.8443]", "peers", "trust", "deny", "steward"):
        assert word in TEMPLATE


def test_what_the_template_comments_out_is_in_order() -> None:
    head, _, released = TEMPLATE.partition("# The other schema")
    bare = [line.removeprefix("# ") for line in released.splitlines()[3:]]
    assert len(parse("\n".join(bare).replace("#", "")).files or ()) == 5
    lines = [
        line.removeprefix("# ")
        if line.startswith(("# [", "# peers", "# trust", "# prot"))
        else line
        for line in head.splitlines()
    ]
    config = parse("\n".join(lines))
    assert set(config.incoming) == {"8443", "default"}
    assert set(config.outgoing) == {"api.example.com:443", "default"}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "a = 1",
            "Enarx.toml:1: a: unknown key; expected args, at_expiry, env, files, limits, network",
        ),
        ("\nsteward = 1", "Enarx.toml:2: steward: wrong type; found 1; expected a string"),
        ("steward = 'http://a.example'", "Enarx.toml:1: steward: not an https URL"),
        ("steward = 'a.example'", "Enarx.toml:1: steward: not an https URL"),
        ("steward = 'https://'", "Enarx.toml:1: steward: not an https URL"),
        ("steward = 'https://a b'", "Enarx.toml:1: steward: not an https URL"),
        ("steward = 'https://[x'", "Enarx.toml:1: steward: not a URL"),
        ("steward = 'https://a:99999'", "Enarx.toml:1: steward: not a URL"),
        ("steward = 'https://a/?q'", "Enarx.toml:1: steward: has more than an address"),
        ("args = 'x'", "Enarx.toml:1: args: wrong type"),
        ("args = ['a', 1]", "Enarx.toml:1: args: wrong type"),
        ('args = ["\\u0000"]', "Enarx.toml:1: args: has a NUL character"),
        ("[env]\nA = 1", "Enarx.toml:2: env.A: wrong type; found 1; expected a string"),
        ("[env]\n'A=' = ''", 'Enarx.toml:2: env."A=": not an environment variable'),
        ("[env]\n'' = 'x'", 'Enarx.toml:2: env."": not an environment variable'),
        ('[env]\nA = "\\u0000"', "Enarx.toml:2: env.A: not an environment variable"),
        ("\n[env]\nFD_NAMES = 'x'", "Enarx.toml:2: env: is set by the keep; found FD_NAMES"),
        ("[[files]]", "Enarx.toml:1: files.0.kind: missing"),
        ("[[files]]\nkind = 'file'", "Enarx.toml:2: files.0.kind: unknown value; found 'file'"),
        ("[[files]]\nkind = 'stdin'\nport = 1", "Enarx.toml:3: files.0.port: unknown key"),
        ("[[files]]\nkind = 'null'\nname = 'a:b'", "Enarx.toml:3: files.0.name: not a name"),
        ("[[files]]\nkind = 'listen'", "Enarx.toml:1: files.0.name: missing"),
        (
            "[[files]]\nkind = 'listen'\nname = 'x'\nprot = 'udp'",
            "Enarx.toml:4: files.0.prot: is for rules of [network]",
        ),
        (
            "[[files]]\nkind = 'connect'\nhost = 'x'\nprot = 'udp'",
            "Enarx.toml:4: files.0.prot: is for rules of [network]",
        ),
        (
            "[[files]]\nkind = 'listen'\nname = 'x'\nprot = 'deny'",
            "Enarx.toml:4: files.0.prot: unk",
        ),
        ("[[files]]\nkind = 'listen'\nname = 'x'\nport = 0", "Enarx.toml:4: files.0.port: out of"),
        (
            "[[files]]\nkind = 'listen'\nname = 'x'\nhost = 'y'",
            "Enarx.toml:4: files.0.host: unknown",
        ),
        (
            "[[files]]\nkind = 'listen'\nname = 'x'\naddr = 'y'",
            "Enarx.toml:4: files.0.addr: not an",
        ),
        ("[[files]]\nkind = 'connect'", "Enarx.toml:1: files.0.host: missing"),
        ("[[files]]\nkind = 'connect'\nhost = '::1'", "Enarx.toml:1: files.0.name: missing"),
        ("[[files]]\nkind = 'connect'\nhost = 'a:80'", "Enarx.toml:3: files.0.host: not an IP"),
        ("[stdin]\nkind = 'x'", "Enarx.toml:2: stdin.kind: unknown value; found 'x'"),
        ("[stdin]\nname = 'x'", "Enarx.toml:2: stdin.name: unknown key; expected kind"),
        ("[network.x]", "Enarx.toml:1: network.x: unknown key; expected incoming, outgoing"),
        ("[network.incoming.http]", "Enarx.toml:1: network.incoming.http: not a port"),
        ("[network.incoming.0]", "Enarx.toml:1: network.incoming.0: not a port; found '0'"),
        ("[network.incoming]\n80 = 1", "Enarx.toml:2: network.incoming.80: wrong type"),
        ("[network.incoming.80]\nprot = 'sctp'", "Enarx.toml:2: network.incoming.80.prot: unknown"),
        (
            "[network.incoming.53]\nprot = 'udp'\npeers = ['any']",
            'Enarx.toml:3: network.incoming.53.peers: means nothing with prot = "udp"',
        ),
        (
            "[network.outgoing.'a.test:53']\nprot = 'udp'\ntrust = 'web'",
            'Enarx.toml:3: network.outgoing."a.test:53".trust: means nothing with prot = "udp"',
        ),
        (
            "[network.outgoing.default]\nprot = 'udp'\nalpn = ['doq']",
            'Enarx.toml:3: network.outgoing.default.alpn: means nothing with prot = "udp"',
        ),
        (
            "[network.incoming.80]\nhost = 'x'",
            "Enarx.toml:2: network.incoming.80.host: unknown key",
        ),
        ("[network.outgoing.'a b']", 'Enarx.toml:1: network.outgoing."a b": not a host'),
        ("[network.outgoing.'127.1']", 'Enarx.toml:1: network.outgoing."127.1": not an IP'),
        (
            "[network.outgoing.'a']\n[network.outgoing.'A']",
            "Enarx.toml:2: network.outgoing.A: named",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, error: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse(text)
    assert str(caught.value).startswith(error)


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ("peers = 'any'", "peers: wrong type"),
        ("peers = ['nobody']", "peers: not a rule for peers; found 'nobody'"),
        ("peers = ['a/b/c:']", "peers: not a version range"),
        ("peers = ['any']\nprot = 'tcp'", 'peers: means nothing with prot = "tcp"'),
        ("trust = 'web'\nprot = 'deny'", 'trust: means nothing with prot = "deny"'),
        ("trust = 'web'\npeers = ['any']", "trust: cannot go with peers"),
        ("trust = 'anybody'", "trust: unknown value; found 'anybody'"),
        ("trust = '-----BEGIN CERTIFICATE-----'", "trust: unknown value"),
        ("trust = ''", "trust: unknown value"),
    ],
)
def test_a_rule_that_cannot_be_enforced_is_refused(rule: str, error: str) -> None:
    for entry in ("[network.outgoing.'h:1']\n", "[[files]]\nkind = 'connect'\nhost = 'h'\n"):
        if "deny" in rule and "files" in entry:
            continue
        with pytest.raises(Malformed) as caught:
            parse(entry + rule)
        assert error in str(caught.value)


def test_a_listener_cannot_trust_the_web() -> None:
    with pytest.raises(Malformed, match="cannot go with a listener"):
        parse("[network.incoming.1]\ntrust = 'web'")


@pytest.mark.parametrize("other", ["[stdin]", "[stdout]", "[stderr]", "[network]"])
def test_the_schemas_do_not_mix(other: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse(f"[[files]]\nkind = 'null'\n{other}")
    assert caught.value.message == "two schemas in one file"
    assert caught.value.found == f"files and {other.strip('[]')}"


def test_a_password_in_a_url_is_not_shown() -> None:
    with pytest.raises(Malformed) as caught:
        parse("steward = 'https://jane:secret@steward.example.com'")
    assert "secret" not in str(caught.value)


def test_a_long_file_is_refused() -> None:
    with pytest.raises(Malformed, match="too long"):
        Config.from_bytes(b"#" * (MAX_SIZE + 1))


WORDS = st.sampled_from(
    [
        "steward",
        "args",
        "env",
        "files",
        "stdin",
        "network",
        "incoming",
        "outgoing",
        "default",
        "kind",
        "prot",
        "peers",
        "trust",
        "'h:1'",
        "80",
        "=",
        "[",
        "]",
        "[[",
        "]]",
        ".",
        "\n",
        "{",
        "}",
        ",",
        "'tls'",
        "'deny'",
        "['any']",
        "'host'",
        "'listen'",
        "name",
        "'x'",
        "1",
        "true",
    ]
)


@given(st.lists(WORDS, max_size=25).map("".join) | st.text(max_size=60))
def test_parsing_raises_malformed_only(text: str) -> None:
    try:
        config = parse(text)
    except Malformed:
        return
    assert set(config.stdio) == set(HOST)


VALUES = st.recursive(
    st.sampled_from(["'x'", "'tls'", "'listen'", "1", "true", "['any']", "[]", "2020-01-01"]),
    lambda inner: st.lists(
        st.tuples(st.sampled_from(["kind", "prot", "default", "80", "name", "incoming"]), inner),
        max_size=3,
        unique_by=lambda pair: pair[0],
    ).map(lambda pairs: "{" + ", ".join(f"{key} = {value}" for key, value in pairs) + "}"),
    max_leaves=6,
)


@given(st.sampled_from(["steward", "args", "env", "files", "stdin", "network", "x"]), VALUES)
def test_any_value_anywhere_is_read_or_malformed(key: str, value: str) -> None:
    for text in (f"{key} = {value}", f"{key} = [{value}]"):
        try:
            parse(text)
            field = "Enarx.toml:1: "
        except Malformed as error:
            field = str(error.field)
        assert field.startswith("Enarx.toml:1: ")


def test_a_configuration_without_certificates_does_not_load_the_library() -> None:
    code = (
        "import sys; from garrison.formats.enarx_toml import TEMPLATE, Config;"
        "Config.from_bytes(TEMPLATE.encode()); sys.exit('cryptography' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
