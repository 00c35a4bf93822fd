"""`Enarx.toml`: how a workload is configured, in either of the two schemas that exist.

- Released: `steward`, `args`, `[env]`, and `[[files]]`, the descriptors in order.
- FOSDEM: `steward`, `args`, `[env]`, `[stdin]`, `[stdout]`, `[stderr]` and `[network]`.

A file with any of `stdin`, `stdout`, `stderr` and `network` is of the second schema, any other
of the first. Each network entry of both may also say `peers` (who may be there), `trust` (whose
certificates count) and `alpn` (which protocols); a rule of `[network]` may say `prot = "deny"` or
`prot = "udp"`. `[limits]` is for both. The reference is `docs/reference/enarx-toml.md`.

Refused, with key and line: unknown keys, wrong types, a mix of the schemas, two spellings of one
host, and whatever could not be enforced, such as `peers` on a connection without TLS.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from garrison.errors import Malformed
from garrison.formats.endpoint import Endpoint, parse_address, parse_host, parse_port
from garrison.formats.limits import read_limits
from garrison.formats.peer_rule import PeerRule
from garrison.formats.strict_toml import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

# The limit of the original, for the same file.
MAX_SIZE = 1_000_000
# More than anybody offers; as many of the longest fit into the extension.
_MAX_ALPN = 32

Prot = Literal["tls", "tcp", "udp", "deny"]
Stdio = Literal["host", "null"]
AtExpiry = Literal["end", "stay"]
FileKind = Literal["null", "stdin", "stdout", "stderr", "listen", "connect"]

STREAMS = ("stdin", "stdout", "stderr")
_FOSDEM_KEYS = (*STREAMS, "network")
_FD_VARIABLES = ("FD_COUNT", "FD_NAMES")
_DEFAULT_PORTS: dict[Prot, int] = {"tls": 443, "tcp": 80, "udp": 443, "deny": 443}


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for the connections of one network entry.

    Attributes:
        prot: `tls`, `tcp` (plain, in the clear), `udp` (datagrams, likewise), or `deny`.
        peers: who may be there; None where the configuration does not ask.
        trust: `steward`, `web` or PEM certificates; None for the default of the direction.
        alpn: the protocols of which both sides must agree on one, the best first; none for no
            such demand.
    """

    prot: Prot = "tls"
    peers: tuple[PeerRule, ...] | None = None
    trust: str | None = None
    alpn: tuple[str, ...] = ()

    @property
    def default_port(self) -> int:
        """The port of a connection that names none; datagrams always name one."""
        return _DEFAULT_PORTS[self.prot]


@dataclass(frozen=True, slots=True)
class File:
    """One descriptor of the released schema.

    Attributes:
        kind: what it is.
        name: what `FD_NAMES` calls it.
        endpoint: where to listen or connect to; None for the other kinds.
        rule: what holds for its connections.
    """

    kind: FileKind
    name: str
    endpoint: Endpoint | None = None
    rule: Rule = Rule()


_STANDARD_FILES = (
    File("stdin", "stdin"),
    File("stdout", "stdout"),
    File("stderr", "stderr"),
)


def _all_host() -> Mapping[str, Stdio]:
    return dict.fromkeys(STREAMS, "host")


@dataclass(frozen=True, slots=True)
class Config:
    """A workload's configuration.

    Attributes:
        steward: the URL of the steward to use where nobody else names one.
        at_expiry: what becomes of open TLS connections when the keep's certificate expires
            because no steward renewed it; new ones stop in both cases.
        args: the arguments after `argv[0]`.
        env: environment variables, as written; `environment()` is what the workload gets.
        stdio: `stdin`, `stdout` and `stderr` to `host` or `null`.
        files: the descriptors in order (released schema); None in the FOSDEM schema.
        incoming: port (in decimal) or `default` to rule.
        outgoing: `host:port`, `host` or `default` to rule.
        limits: how much of the keep it may take, where it sets that (`garrison.formats.limits`).
    """

    steward: str | None = None
    at_expiry: AtExpiry = "end"
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    stdio: Mapping[str, Stdio] = field(default_factory=_all_host)
    files: tuple[File, ...] | None = _STANDARD_FILES
    incoming: Mapping[str, Rule] = field(default_factory=dict)
    outgoing: Mapping[str, Rule] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def default(cls) -> Config:
        """The configuration of a workload that has no `Enarx.toml`: standard streams, TLS."""
        return cls()

    @classmethod
    def from_bytes(cls, data: bytes, *, source: str = "Enarx.toml") -> Config:
        """Read an `Enarx.toml`; errors call it `source`.

        Raises:
            Malformed: it is not TOML, has an unknown key, or says what cannot be.
        """
        table = Table.parse(data, source=source, limit=MAX_SIZE)
        steward = _steward(table)
        stays = table.string("at_expiry", "end", choices=("end", "stay")) == "stay"
        at_expiry: AtExpiry = "stay" if stays else "end"
        args = tuple(table.strings("args", []))
        if any("\0" in argument for argument in args):
            raise table.malformed("args", "has a NUL character", expected="text")
        env = _env(table.table("env"))
        limits = read_limits(table.table("limits"))
        for key in ("files", *_FOSDEM_KEYS):
            # Known in every file, so that the error on an unknown key can list them all.
            table.value(key)
        fosdem = next((key for key in _FOSDEM_KEYS if key in table), None)
        if fosdem is None:
            files = _files(table)
            table.done()
            if "env" in table and any(name in env for name in _FD_VARIABLES):
                raise Malformed(
                    "is set by the keep",
                    field=table.where("env"),
                    found=" and ".join(name for name in _FD_VARIABLES if name in env),
                    expected="other variables",
                )
            return cls(steward, at_expiry, args, env, _stdio_of(files), files, limits=limits)
        if "files" in table:
            raise Malformed(
                "two schemas in one file",
                field=table.where("files"),
                found=f"files and {fosdem}",
                expected="one or the other",
                hint="give the standard streams and the network as [[files]], or drop [[files]]",
            )
        stdio = {name: _stream(table.table(name)) for name in STREAMS}
        network = table.table("network")
        incoming = incoming_rules(network.table("incoming"))
        outgoing = outgoing_rules(network.table("outgoing"))
        network.done()
        table.done()
        return cls(steward, at_expiry, args, env, stdio, None, incoming, outgoing, limits)

    @property
    def udp_rules(self) -> tuple[str, ...]:
        """The rules that allow datagrams, by their keys in the file."""
        return tuple(
            f"network.{direction}.{key if key.isalnum() else repr(key)}"
            for direction, rules in (("incoming", self.incoming), ("outgoing", self.outgoing))
            for key, rule in rules.items()
            if rule.prot == "udp"
        )

    def environment(self) -> dict[str, str]:
        """The workload's environment: `env`, and what tells it of its `files`."""
        if self.files is None:
            return dict(self.env)
        names = ":".join(file.name for file in self.files)
        return {**self.env, "FD_COUNT": str(len(self.files)), "FD_NAMES": names}


def _steward(table: Table) -> str | None:
    url = table.optional_string("steward")
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        good = parts.scheme == "https" and parts.hostname and parts.port != 0
    except ValueError:
        raise table.malformed("steward", "not a URL", expected="https://host[:port]") from None
    if not good or not url.isascii() or not url.isprintable() or " " in url:
        raise table.malformed("steward", "not an https URL", expected="https://host[:port]")
    if parts.username is not None or parts.query or parts.fragment:
        # The value is not shown: what stands before an @ may be a password.
        raise Malformed(
            "has more than an address", field=table.where("steward"), expected="https://host[:port]"
        )
    return url


def _env(table: Table) -> dict[str, str]:
    env = {}
    for name in list(table.keys()):
        env[name] = table.string(name)
        if not name or "=" in name or "\0" in name or "\0" in env[name]:
            raise Malformed(
                "not an environment variable",
                field=table.where(name),
                expected="a name without '=' and NUL, a value without NUL",
            )
    return env


def _stream(table: Table) -> Stdio:
    kind = table.string("kind", "null", choices=("host", "null"))
    table.done()
    return "host" if kind == "host" else "null"


def _stdio_of(files: tuple[File, ...]) -> dict[str, Stdio]:
    kinds = {file.kind for file in files}
    return {name: "host" if name in kinds else "null" for name in STREAMS}


def _files(table: Table) -> tuple[File, ...]:
    if "files" not in table:
        return _STANDARD_FILES
    return tuple(_file(entry) for entry in table.tables("files"))


def _file(table: Table) -> File:
    kind = table.string("kind", choices=("null", *STREAMS, "listen", "connect"))
    name = table.optional_string("name")
    if name is not None and (not name or ":" in name or "\0" in name):
        raise table.malformed("name", "not a name", expected="text without ':'")
    if kind == "listen":
        rule = _rule(table, incoming=True, prots=_of_files(table))
        address = table.string("addr", "::")
        port = table.integer("port", rule.default_port, low=1, high=65535)
        endpoint = Endpoint(parse_address(address, field=table.where("addr")), port)
        table.done()
        if name is None:
            raise Malformed("missing", field=table.where("name"), expected="a name for FD_NAMES")
        return File("listen", name, endpoint, rule)
    if kind == "connect":
        rule = _rule(table, incoming=False, prots=_of_files(table))
        host = _host(table)
        port = table.integer("port", rule.default_port, low=1, high=65535)
        table.done()
        if name is None and ":" in host:
            raise Malformed(
                "missing",
                field=table.where("name"),
                expected="a name, for an IPv6 address cannot stand in FD_NAMES",
            )
        return File("connect", name or host, Endpoint(host, port), rule)
    table.done()
    return File(_plain_kind(kind), name or kind)


def _of_files(table: Table) -> tuple[Prot, ...]:
    """What a descriptor of `[[files]]` may speak.

    Raises:
        Malformed: it is to speak UDP, which none can.
    """
    if table.value("prot") == "udp":
        raise table.malformed(
            "prot",
            "is for rules of [network]: a descriptor is a stream, and has no datagrams",
            expected='"tls" or "tcp"',
        )
    return ("tls", "tcp")


def _plain_kind(kind: str) -> FileKind:
    plain: dict[str, FileKind] = {
        "null": "null",
        "stdin": "stdin",
        "stdout": "stdout",
        "stderr": "stderr",
    }
    return plain[kind]


def _host(table: Table) -> str:
    """A host of the released schema: there, an IPv6 address has no brackets."""
    host = table.string("host")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    return parse_host(bare, field=table.where("host"))


def incoming_rules(table: Table) -> dict[str, Rule]:
    """Read `[network.incoming]`: a rule for each port, or `default`.

    Raises:
        Malformed: a key is no port, or a rule says what cannot be.
    """
    rules = {}
    for port in list(table.keys()):
        if port != "default":
            parse_port(port, field=table.where(port))
        entry = table.table(port)
        rules[port] = _rule(entry, incoming=True)
        entry.done()
    return rules


def outgoing_rules(table: Table) -> dict[str, Rule]:
    """Read `[network.outgoing]`: a rule for each `host:port`, `host`, or `default`.

    Raises:
        Malformed: a key is no endpoint or stands there twice, or a rule says what cannot be.
    """
    rules: dict[str, Rule] = {}
    for key in list(table.keys()):
        name = key if key == "default" else str(Endpoint.parse(key, field=table.where(key)))
        if name in rules:
            raise Malformed("named twice, in two spellings", field=table.where(key), found=name)
        entry = table.table(key)
        rules[name] = _rule(entry, incoming=False)
        entry.done()
    return rules


def _rule(
    table: Table, *, incoming: bool, prots: tuple[Prot, ...] = ("tls", "tcp", "udp", "deny")
) -> Rule:
    chosen = table.string("prot", "tls", choices=prots)
    prot = next(prot for prot in prots if prot == chosen)
    for key in ("peers", "trust", "alpn"):
        if key in table and prot != "tls":
            raise table.malformed(
                key, f'means nothing with prot = "{prot}"', expected='prot = "tls"'
            )
    peers = None
    if "peers" in table:
        where = table.where("peers")
        peers = tuple(PeerRule.parse(text, field=where) for text in table.strings("peers"))
    trust = table.optional_string("trust")
    if trust == "web" and (incoming or peers is not None):
        # No web certificate authority attests what runs anywhere.
        why = "a listener" if incoming else "peers"
        raise table.malformed("trust", f"cannot go with {why}", expected='"steward" or PEM')
    if trust is not None and trust not in ("steward", "web"):
        _check_pem(table, trust)
    return Rule(prot, peers, trust, _alpn(table) if "alpn" in table else ())


def _alpn(table: Table) -> tuple[str, ...]:
    """The names of protocols, in order (RFC 7301, section 3.1: 1 to 255 bytes each)."""
    names = tuple(table.strings("alpn"))
    if not 0 < len(names) <= _MAX_ALPN or len(set(names)) != len(names):
        raise table.malformed("alpn", "not a choice", expected=f"1 to {_MAX_ALPN} names, all other")
    if not all(0 < len(name) < 256 and name.isascii() and name.isprintable() for name in names):
        raise table.malformed("alpn", "not a protocol's name", expected="1 to 255 ASCII characters")
    return names


def _check_pem(table: Table, text: str) -> None:
    # Late: most configurations have no PEM, and cryptography takes 50 ms to import.
    from cryptography import x509

    try:
        x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        raise table.malformed(
            "trust", "unknown value", expected='"steward", "web", or certificates in PEM'
        ) from None


TEMPLATE = """\
# How Garrison runs this workload. Everything below is optional; what is commented out shows
# what else can be said. Unknown keys are errors. `garrison config check Enarx.toml` explains it.

# The steward to ask for a certificate where neither the keep nor its deployer names one.
# steward = "https://steward.example.com"

# What becomes of open connections if no steward renews the certificate before it expires: "end"
# (default) or "stay". New ones are refused in both cases.
# at_expiry = "stay"

# Arguments after the program's name, and environment variables.
args = []

[env]
# RUST_LOG = "info"

# How much of the keep the workload may take; the rest has defaults. A size may have a unit.
[limits]
# memory = "256MiB"
# run_seconds = 3600
# silence_seconds = 60   # for how long the steward may not say what it denies

# The standard streams: "host" connects one to the host, which can read and write it; "null" to
# nothing. Without this file all three are "host"; in a file of this schema they are "null".
[stdin]
kind = "host"

[stdout]
kind = "host"

[stderr]
kind = "host"

# The network. The workload opens /net/lis/<port> to listen and /net/con/<host:port> to connect.
# All connections are TLS 1.3, done by the keep, unless a rule says otherwise:
#   prot   "tls" (default), "tcp" (in the clear), "udp" (datagrams, in the clear, for components),
#          or "deny"
#   peers  who may be there: "host/user/repo:1.2.3", "host/user/repo:^1.2", "host/user/repo:*",
#          "host/user/*", "sha256:<digest>", or "any" attested workload, each perhaps with
#          "; tee=snp|tdx" and "; tcb=UpToDate"; an empty list admits nobody
#   trust  whose certificates count: "steward", "web" (outgoing only), or PEM text
#   alpn   the protocols of which both sides must agree on one: ["h2", "http/1.1"]
# The most exact rule holds: host:port before host before default, a port before default.

# [network.incoming.8443]
# peers = ["drawbridge.example.com/jane/chat-client:^1.0"]

# [network.incoming.default]
# prot = "deny"

# [network.outgoing."api.example.com:443"]
# trust = "web"

# [network.outgoing.default]
# prot = "deny"

# The other schema, that of Enarx's releases, takes the place of [stdin], [stdout], [stderr] and
# [network]: the workload's descriptors in order, from 0. FD_COUNT and FD_NAMES tell it of them.
# Its network entries know peers and trust too. One file has one schema.
#
# [[files]]
# kind = "stdin"
#
# [[files]]
# kind = "stdout"
#
# [[files]]
# kind = "stderr"
#
# [[files]]
# kind = "listen"
# name = "LISTEN"
# prot = "tls"
# port = 8443
#
# [[files]]
# kind = "connect"
# host = "example.com"
# port = 443
"""
