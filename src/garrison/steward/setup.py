"""Putting a steward together, from its directory and its policy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cryptography import x509

from garrison.endorsements.source import EndorsementSource
from garrison.errors import Malformed
from garrison.steward.appraisers import appraisers_of
from garrison.steward.authority import Authority
from garrison.steward.challenge import Challenges
from garrison.steward.issuance import Steward
from garrison.steward.keys import load_certificates
from garrison.steward.policy import Policy
from garrison.steward.registry import Drawbridges

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def with_certificate(steward: Steward, certificate: Path) -> Steward:
    """The same steward, serving with the TLS certificate that is in `certificate` now.

    Raises:
        Misuse: it cannot be read.
        Malformed: it is no certificate, or of a name that the policy gives to keeps.
    """
    names = _names(certificate)
    _check_names(names, steward.policy.dns_names, f"{certificate}: subjectAltName")
    return replace(steward, server_names=names)


def open_steward(
    directory: Path, policy_file: Path, certificate: Path, secret: bytes | None = None
) -> tuple[Steward, Drawbridges]:
    """Read keys and policy.

    Args:
        directory: what `garrison steward init` made.
        policy_file: what the steward admits.
        certificate: what it serves with.
        secret: what opens encrypted keys, or the token.

    Raises:
        Misuse: a file cannot be read, or a key can be read by others.
        Malformed: a file does not hold what it should, or the two do not fit each other.
        Unavailable: the token fails.
    """
    authority = Authority.load(directory, secret)
    return _assemble(authority, policy_file, _names(certificate), directory)


def _names(certificate: Path) -> frozenset[str]:
    try:
        names = load_certificates(certificate)[0].extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except x509.ExtensionNotFound:
        return frozenset()
    except ValueError as error:
        raise Malformed("unreadable extensions", field=str(certificate)) from error
    return frozenset(name.lower() for name in names.value.get_values_for_type(x509.DNSName))


def _assemble(
    authority: Authority, policy_file: Path, server_names: frozenset[str], directory: Path
) -> tuple[Steward, Drawbridges]:
    policy = Policy.load(policy_file, authority.trust_domain)
    _check_names(server_names, policy.dns_names, f"{policy_file}: certificates.dns_names")
    if policy.trust_domain != authority.trust_domain:
        raise Malformed(
            "not the trust domain of root.pem",
            field=f"{policy_file}: trust_domain",
            found=policy.trust_domain,
            expected=authority.trust_domain,
        )
    snp = policy.tees.snp
    source = EndorsementSource(
        policy.endorsements,
        () if snp is None else snp.endorsements,
        insecure_simulated=policy.tees.simulated_dcap,
    )
    appraisers = appraisers_of(policy.tees, source)
    challenges = Challenges(authority.challenge_key)
    steward = Steward(authority, policy, challenges, appraisers, server_names, source, directory)
    return steward, Drawbridges(
        policy.drawbridges,
        authority,
        oci_hosts=policy.oci_registries,
        tag_keys=policy.tag_keys,
        oci_tag_keys=policy.oci_tag_keys,
    )


def _check_names(server_names: frozenset[str], keeps: Sequence[str], field: str) -> None:
    # RFC 9525, section 6.3: a wildcard stands for one label, the first.
    taken = sorted(
        name for name in keeps if not server_names.isdisjoint((name, f"*.{name.partition('.')[2]}"))
    )
    if taken:
        raise Malformed(
            "a keep of that name could pose as this steward to other keeps",
            field=field,
            found=", ".join(taken),
            expected="no name of the steward's own TLS certificate",
        )
