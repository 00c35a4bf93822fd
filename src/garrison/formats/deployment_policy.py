"""A tenant's policy for one deployment: what of the workload's configuration holds here.

TOML, with the tables of `Enarx.toml`'s second schema and the same rules:

    [network.incoming.8443]
    peers = ["drawbridge.example.com/jane/chat-client:^1.0; tee=snp"]

    [network.outgoing."db.example.com:5432"]

    [limits]
    memory = "256MiB"

It narrows and never widens. A connection needs a rule in the workload's configuration (or its
defaults) and one here, and both must admit the peer; what has no rule here is denied. An empty
file denies all. `prot = "tls"`, the default, refuses a connection that the workload would have in
the clear; `prot = "tcp"` leaves that to the workload, and `prot = "udp"` allows datagrams, if the
workload's rule is for them, and nothing else. `trust` holds where the workload names
none; another than the workload's is a refusal, not a choice. Of `alpn` only what both name is left.
Of two values of a limit the lower one holds. `at_expiry = "end"` ends what a workload would let
stay when the keep's time is over.

Its SHA-256, over exactly the bytes of the file, stands in the keep's certificate: a host that
leaves the file out, or gives another, shows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from garrison.formats.enarx_toml import Rule, incoming_rules, outgoing_rules
from garrison.formats.limits import read_limits
from garrison.formats.strict_toml import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from garrison.formats.enarx_toml import AtExpiry

# Some thousands of rules.
MAX_SIZE = 256 * 1024


@dataclass(frozen=True, slots=True)
class DeploymentPolicy:
    """What a deployment may do on the network, and take of its keep.

    Attributes:
        digest: SHA-256 of the file.
        incoming: port (in decimal) or `default` to rule.
        outgoing: `host:port`, `host` or `default` to rule.
        limits: the most that the workload may take of its keep.
        at_expiry: `end` to end open connections when the keep's time is over; `stay`, the
            default, leaves that to the workload.
    """

    digest: bytes
    incoming: Mapping[str, Rule]
    outgoing: Mapping[str, Rule]
    limits: Mapping[str, int] = field(default_factory=dict)
    at_expiry: AtExpiry = "stay"

    @classmethod
    def from_bytes(cls, data: bytes, *, source: str = "deployment policy") -> DeploymentPolicy:
        """Read the file; errors call it `source`.

        Raises:
            Malformed: it is not TOML, has an unknown key, or says what cannot be.
        """
        table = Table.parse(data, source=source, limit=MAX_SIZE)
        ends = table.string("at_expiry", "stay", choices=("end", "stay")) == "end"
        network = table.table("network")
        incoming = incoming_rules(network.table("incoming"))
        outgoing = outgoing_rules(network.table("outgoing"))
        network.done()
        limits = read_limits(table.table("limits"))
        table.done()
        return cls(
            hashlib.sha256(data).digest(), incoming, outgoing, limits, "end" if ends else "stay"
        )
