"""Endorsements from directories: a vendor's certificates and revocation lists, kept as files.

A directory holds one product's: `ark`, `ask`, `asvk` (`.der` or `.pem`) and `crl.der`; of these
`ark` and one of the others must be there. Simulators write theirs in the same form.

Nothing is judged here. What the files hold, and what came with evidence, is only chosen by name;
the verifier holds it to the pinned roots. A file is preferred to what came with the evidence,
unless that is a later revocation list of the same root: the latest is what the vendor means.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.errors import Malformed, Misuse, Unavailable
from garrison.formats.snp_certificate import MAX_CERTIFICATE, MAX_CRL, load_certificate, load_crl
from garrison.formats.snp_evidence import SnpEndorsements

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from pathlib import Path

    from garrison.formats.snp_evidence import SnpEvidence

# Chains of all vendors are some dozens; which certificate fits which is found once, and for the
# chips that come again and again, what verifies them.
_REMEMBERED = 128
_REMEMBERED_CHIPS = 512
_KDS = "https://kdsintf.amd.com"


# Each is itself alone: what is remembered of one is never another's.
@dataclass(frozen=True, slots=True, eq=False)
class SnpEndorsementStore:
    """The certificates and revocation lists of all directories."""

    certificates: tuple[x509.Certificate, ...]
    crls: tuple[x509.CertificateRevocationList, ...]

    @classmethod
    def load(cls, directories: Iterable[Path]) -> SnpEndorsementStore:
        """Read `directories`.

        Raises:
            Misuse: one cannot be read, or lacks what it must have.
            Malformed: a file is not what its name says.
        """
        certificates: list[x509.Certificate] = []
        crls: list[x509.CertificateRevocationList] = []
        for directory in directories:
            ark = _read_certificate(directory, "ark")
            issuers = [_read_certificate(directory, name) for name in ("ask", "asvk")]
            if ark is None or not any(issuers):
                raise Misuse(
                    "not a directory of endorsements",
                    field=str(directory),
                    expected="ark.der and ask.der or asvk.der, or the same as .pem",
                    hint=f"get them from {_KDS}/vcek/v1/<product>/cert_chain",
                )
            certificates += [found for found in (ark, *issuers) if found is not None]
            data = _read(directory / "crl.der", MAX_CRL)
            if data is not None:
                crls.append(load_crl(data, str(directory / "crl.der")))
        return cls(tuple(certificates), tuple(crls))

    def for_evidence(self, evidence: SnpEvidence, crls: Sequence[bytes] = ()) -> SnpEndorsements:
        """Choose what verifies `evidence`.

        Args:
            evidence: the report, and the certificates that came with it.
            crls: revocation lists that came with it.

        Raises:
            Unavailable: a certificate is neither here nor with the evidence.
            Malformed: what came with the evidence cannot be read.
        """
        if not evidence.certificates:
            raise Unavailable(
                "the certificate of the key that signed the report is not there",
                field="SNP evidence: certificates",
                expected="the VCEK or VLEK certificate",
                hint=f"the host must provide it, from {_KDS}/vcek/v1/<product>/<chip id>",
            )
        return _chosen(self, evidence.certificates, tuple(crls))

    def has_current_crl(self, root: bytes, now: datetime) -> bool:
        """Whether a directory holds a list of `root` (DER) that has not ended at `now`.

        Raises:
            Malformed: `root` is not a certificate.
        """
        crl = _latest_here(self, root)
        return crl is not None and crl.next_update_utc is not None and now <= crl.next_update_utc

    def has_any_current_crl(self, now: datetime) -> bool:
        """Whether a directory holds a list, of whichever root, that has not ended at `now`."""
        return any(
            crl.next_update_utc is not None and now <= crl.next_update_utc for crl in self.crls
        )


@lru_cache(_REMEMBERED_CHIPS)
def _chosen(
    store: SnpEndorsementStore, certificates: tuple[bytes, ...], crls: tuple[bytes, ...]
) -> SnpEndorsements:
    leaf, *others = (load_certificate(der, "SNP evidence: certificates") for der in certificates)
    candidates = (*store.certificates, *others)
    issuer = _issuer_of(leaf, candidates, "ASK")
    root = _issuer_of(issuer, candidates, "ARK")
    lists = (*store.crls, *(load_crl(der, "SNP evidence: revocation list") for der in crls))
    crl = _latest(lists, root)
    return SnpEndorsements(
        leaf=certificates[0],
        issuer=issuer.public_bytes(Encoding.DER),
        root=root.public_bytes(Encoding.DER),
        crl=None if crl is None else crl.public_bytes(Encoding.DER),
    )


@lru_cache(_REMEMBERED)
def _latest_here(store: SnpEndorsementStore, root: bytes) -> x509.CertificateRevocationList | None:
    return _latest(store.crls, load_certificate(root, "ARK certificate"))


def _latest(
    crls: Sequence[x509.CertificateRevocationList], root: x509.Certificate
) -> x509.CertificateRevocationList | None:
    """Of the lists that seem to be the root's, the last that was issued; of equals, the first."""
    signed = (crl for crl in crls if _signed(crl.public_bytes(Encoding.DER), root))
    return max(signed, key=lambda crl: crl.last_update_utc, default=None)


def _read(path: Path, limit: int) -> bytes | None:
    """The content of `path`, None if there is no such file."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Misuse(f"cannot be read: {error.strerror}", field=str(path)) from error
    if len(data) > limit:
        raise Malformed("too long", field=str(path), expected=f"at most {limit} bytes")
    return data


def _read_certificate(directory: Path, name: str) -> x509.Certificate | None:
    path = directory / f"{name}.der"
    data = _read(path, MAX_CERTIFICATE)
    if data is None:
        path = directory / f"{name}.pem"
        pem = _read(path, MAX_CERTIFICATE)
        if pem is None:
            return None
        try:
            found = x509.load_pem_x509_certificates(pem)
        except ValueError as error:
            raise Malformed("not PEM of a certificate", field=str(path)) from error
        if len(found) != 1:
            raise Malformed("not one certificate", field=str(path), found=len(found), expected=1)
        data = found[0].public_bytes(Encoding.DER)
    return load_certificate(data, str(path))


def _issuer_of(
    certificate: x509.Certificate, candidates: Sequence[x509.Certificate], what: str
) -> x509.Certificate:
    """The certificate of the issuer: of several that have its name, the one whose key fits."""
    named = [found for found in candidates if found.subject == certificate.issuer]
    if not named:
        raise Unavailable(
            f"the {what} certificate is not there",
            field="SNP endorsements",
            expected=certificate.issuer.rfc4514_string(),
            hint=f"put it into a directory of endorsements, from {_KDS}",
        )
    if len(named) == 1:
        # Whether it signed is for the verifier to find, once.
        return named[0]
    return next((found for found in named if _issued(certificate, found)), named[0])


@lru_cache(_REMEMBERED)
def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


@lru_cache(_REMEMBERED)
def _signed(der: bytes, root: x509.Certificate) -> bool:
    """Whether a list seems to be the root's; the verifier checks."""
    crl = load_crl(der, "SNP evidence: revocation list")
    key = root.public_key()
    return (
        crl.issuer == root.subject
        and isinstance(key, rsa.RSAPublicKey)
        and crl.is_signature_valid(key)
    )
