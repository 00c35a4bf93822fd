"""Which rule holds for a connection, and whether it admits the peer that came. Pure.

The most exact rule holds: host and port before host before default; for a listener its port
before default; TLS where there is none. What a rule asks of the peer's certificate:

=========  =====================  ==================  =========  ========================
direction  rule                   certificate under   host name  who is admitted
=========  =====================  ==================  =========  ========================
outgoing   nothing, or `web`      web roots           checked    that host, as anonymous
outgoing   `steward`              the steward         checked    that host, with identity
outgoing   PEM                    those roots         checked    that host, as anonymous
outgoing   `peers`                the steward, PEM    no         whom `peers` admits
incoming   nothing, or `steward`  the steward         no         all; none is anonymous
incoming   PEM                    those roots         no         all, as anonymous
incoming   `peers`                the steward, PEM    no         whom `peers` admits
=========  =====================  ==================  =========  ========================

An identity is believed under the steward's roots, and under PEM roots only where `peers` asks
for one: a certificate authority of another trade has no say in what runs in a keep. A keep
that is certified as such, and for no workload, is refused wherever identities are believed.

A rule is for connections (`tls`, `tcp`) or for datagrams (`udp`), never for both: where it says the
one there is none of the other, and where there is no rule there are no datagrams.

A tenant's policy (`garrison.formats.deployment_policy`) is a second rule for each connection,
found in the same way. Both must allow it and admit the peer; where the policy has no rule, nothing
is allowed. Its `peers` are judged under the steward's roots or those that it names itself, never
under a PEM that is the package's choice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from garrison.errors import Malformed, Rejected
from garrison.formats.digest import digest_text
from garrison.formats.enarx_toml import Rule
from garrison.formats.endpoint import Endpoint, is_address
from garrison.formats.identity import CertifiedIdentity

if TYPE_CHECKING:
    from cryptography import x509

    from garrison.formats.deployment_policy import DeploymentPolicy
    from garrison.formats.enarx_toml import Config
    from garrison.formats.identity import WorkloadIdentity

ANONYMOUS: dict[str, Any] = {"kind": "anonymous"}
_DENY = Rule("deny")


@dataclass(frozen=True, slots=True)
class Policy:
    """A rule, as it holds for one connection or listener.

    Attributes:
        name: what logs and errors call the rule.
        rule: the rule.
        incoming: whether it is for a listener.
        tenant: the rule of the tenant's policy for it; None where there is no such policy.
    """

    name: str
    rule: Rule
    incoming: bool
    tenant: Rule | None = None

    @property
    def trust(self) -> str:
        """Whose certificates count: `steward`, `web` or PEM text."""
        if self.rule.trust is not None:
            return self.rule.trust
        if self.tenant is not None and self.tenant.trust is not None:
            return self.tenant.trust
        return "steward" if self.incoming or self._asks_for_peers else "web"

    @property
    def alpn(self) -> tuple[str, ...]:
        """The protocols of which one must be agreed on, the best first; none if any will do."""
        tenant = () if self.tenant is None else self.tenant.alpn
        if not tenant or not self.rule.alpn:
            return self.rule.alpn or tenant
        return tuple(name for name in self.rule.alpn if name in tenant)

    @property
    def _asks_for_peers(self) -> bool:
        tenant = None if self.tenant is None else self.tenant.peers
        return self.rule.peers is not None or tenant is not None

    @property
    def checks_host(self) -> bool:
        """Whether the peer's certificate has to be for the host that was asked for."""
        return not self.incoming and not self._asks_for_peers

    @property
    def needs_certificate(self) -> bool:
        """Whether a peer without a certificate is refused."""
        return not self.incoming or self._asks_for_peers

    @property
    def believes_identity(self) -> bool:
        """Whether what the peer's certificate says of a workload counts."""
        return self.trust == "steward" or self._asks_for_peers

    @property
    def wanted(self) -> str:
        """Whom the rule admits, for logs and errors."""
        asked = [self.rule.peers, None if self.tenant is None else self.tenant.peers]
        lists = [" or ".join(map(str, peers)) or "nobody" for peers in asked if peers is not None]
        if lists:
            return "; and by the tenant ".join(lists)
        roots = {"steward": "the steward's", "web": "a web"}.get(self.trust, "a configured")
        return f"a certificate under {roots} root" if self.needs_certificate else "any workload"

    def check_allowed(self, target: str, *, datagrams: bool = False) -> None:
        """Refuse what the configuration, or the tenant, denies.

        Args:
            target: what is asked for, for errors.
            datagrams: whether that is datagrams, and no connection.

        Raises:
            Rejected: a rule is `deny` or for the other of the two, or the two rules contradict
                each other.
        """
        if self.rule.prot == "deny":
            raise Rejected(
                "denied by the workload's configuration",
                field=self.name,
                found=target,
                hint="only a change of Enarx.toml, and so of the workload's digest, allows it",
            )
        if (self.rule.prot == "udp") != datagrams:
            raise Rejected(
                "no rule allows UDP there" if datagrams else "the rule there allows UDP alone",
                field=self.name,
                found=target,
                expected='prot = "udp"' if datagrams else 'prot = "tls", or "tcp"',
            )
        if self.tenant is None:
            return
        demanded = self.tenant.trust or (self.trust if self.tenant.peers is None else "steward")
        if self.tenant.prot == "deny":
            why, expected = "denied by the tenant's policy", "a rule there that allows it"
        elif (self.tenant.prot == "udp") != datagrams:
            why = f"the tenant's policy allows {'no UDP' if datagrams else 'UDP alone'}"
            expected = 'there prot = "udp"' if datagrams else 'there prot = "tls", or "tcp"'
        elif self.tenant.prot == "tls" and self.rule.prot == "tcp":
            why, expected = "the tenant's policy demands TLS", 'prot = "tls"'
        elif self.rule.prot == "tls" and self.trust != demanded:
            why = "the tenant's policy demands certificates that the workload does not"
            expected = "trust as there, or none in Enarx.toml"
        elif self.rule.alpn and not self.alpn:
            why = "the tenant's policy demands other protocols"
            expected = f"in alpn one of {', '.join(self.tenant.alpn)}"
        else:
            return
        raise Rejected(why, field=f"{self.name} and the tenant's", found=target, expected=expected)

    def admit(self, certificate: x509.Certificate | None) -> dict[str, Any]:
        """Judge the peer by its certificate, whose chain was verified, and describe the peer.

        Args:
            certificate: the peer's, or None if it has none.

        Returns:
            The peer, as the workload reads it.

        Raises:
            Rejected: the rule does not admit it.
            Malformed: what the certificate says of a workload contradicts itself.
        """
        if certificate is None:
            if self.needs_certificate:
                raise self._refusal("no certificate (anonymous)")
            return ANONYMOUS
        if not self.believes_identity:
            return ANONYMOUS
        certified = CertifiedIdentity.from_certificate(certificate)
        workload = None if certified is None else certified.workload
        if workload is not None and workload.digest is None:
            raise self._refusal(f"{workload}, certified for no workload")
        tenant = None if self.tenant is None else self.tenant.peers
        for peers in (self.rule.peers, tenant):
            if peers is not None and not any(peer.admits(workload) for peer in peers):
                raise self._refusal(_presented(workload))
        return ANONYMOUS if certified is None else describe(certified, certificate)

    def _refusal(self, presented: object) -> Rejected:
        return Rejected(
            "the peer is not admitted", field=self.name, found=presented, expected=self.wanted
        )


def narrowed(policy: Policy, tenant: DeploymentPolicy | None, endpoint: Endpoint) -> Policy:
    """Add the tenant's rule for `endpoint`, whose port is known, to `policy`."""
    if tenant is None:
        return policy
    rules = tenant.incoming if policy.incoming else tenant.outgoing
    exact = [endpoint.port] if policy.incoming else [endpoint, Endpoint(endpoint.host)]
    keys = (*map(str, exact), "default")
    return replace(policy, tenant=next((rules[key] for key in keys if key in rules), _DENY))


def check_host(target: Endpoint) -> None:
    """Refuse `0.0.0.0` and `::`: to connect there is another way to say `127.0.0.1` or `::1`.

    Raises:
        Malformed: it is one of them.
    """
    if is_address(target.host) and ip_address(target.host).is_unspecified:
        raise Malformed("stands for no host", field="connection", found=str(target))


def outgoing(config: Config, target: Endpoint) -> tuple[Policy, Endpoint]:
    """Find the rule for a connection to `target`, and fill in the port.

    A port that the rule's default fills in counts as if it had been named: a rule for
    `host:443` cannot be evaded by leaving 443 out.

    Raises:
        Malformed: `target` is no host.
    """
    check_host(target)
    rules = config.outgoing
    by_host = next((key for key in (str(Endpoint(target.host)), "default") if key in rules), None)
    rule = Rule() if by_host is None else rules[by_host]
    endpoint = Endpoint(target.host, target.port or rule.default_port)
    if str(endpoint) in rules:
        name = _name("outgoing", f'"{endpoint}"')
        return Policy(name, rules[str(endpoint)], incoming=False), endpoint
    name = _name("outgoing", by_host if by_host in (None, "default") else f'"{by_host}"')
    return Policy(name, rule, incoming=False), endpoint


def incoming(config: Config, port: int) -> Policy:
    """Find the rule for a listener on `port`."""
    key = next((key for key in (str(port), "default") if key in config.incoming), None)
    rule = Rule() if key is None else config.incoming[key]
    return Policy(_name("incoming", key), rule, incoming=True)


def describe(certified: CertifiedIdentity, certificate: x509.Certificate) -> dict[str, Any]:
    """Describe an attested workload, as its peer reads it.

    The kind, the workload's slug and digest, the digest of its deployment's policy where it has
    one, TEE, measurement (hex) and TCB status, the SPIFFE ID, and of the certificate the serial
    number (hex) and the end of its validity (RFC 3339).
    """
    workload = certified.workload
    peer = {"kind": "local" if workload.slug is None else "keep"}
    if workload.slug is not None:
        peer["workload"] = str(workload.slug)
    if workload.digest is not None:
        peer["digest"] = digest_text(workload.digest)
    if workload.policy is not None:
        peer["policy"] = digest_text(workload.policy)
    return {
        **peer,
        "tee": workload.tee,
        "measurement": workload.measurement.hex(),
        "tcb_status": workload.tcb_status,
        "spiffe_id": certified.spiffe_id,
        "serial": f"{certificate.serial_number:x}",
        "expires": certificate.not_valid_after_utc.isoformat().replace("+00:00", "Z"),
    }


def _presented(workload: WorkloadIdentity | None) -> str:
    """Name a peer with everything that a rule can ask for."""
    if workload is None:
        return "a certificate without identity"
    policy = "" if workload.policy is None else f", policy {digest_text(workload.policy)}"
    return (
        f"{workload} (tee {workload.tee}, TCB {workload.tcb_status or 'not told'},"
        f" measurement {workload.measurement.hex()}{policy})"
    )


def _name(direction: str, key: str | None) -> str:
    return f"network.{direction}.{key}" if key else f"network.{direction} (no rule)"
