"""The steward's keys: made once by `garrison steward init`, read at each start and on SIGHUP.

A directory, readable by the steward alone:

=================  ====================================================================
`root.pem`         the roots: what keeps, peers and drawbridges trust; the one in use first
`root.key`         its private key, PKCS#8 PEM (P-256 or P-384), unless another issues:
`issuer.pem`       the intermediate that issues, under an offline root; with `issuer.key`
`issuer.toml`      instead of either key: where it is in a token, see `garrison.steward.token`
`result.key`       what signs attestation results, and never a certificate
`server.pem`       the certificate of the steward's own HTTPS service, under the root
`server.key`       its private key
`challenge.key`    what challenges are authenticated with, 32 bytes in hex; replicas share it
`next`, `old`      during a rollover: such directories, see `garrison.steward.rollover`
`live`             after a rollover: the directory that all of this is in
=================  ====================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from garrison import ecdsa
from garrison.errors import Malformed
from garrison.formats.identity import check_trust_domain
from garrison.steward.keys import (
    load_certificate,
    load_certificates,
    load_key,
    read_file,
    read_secret_file,
)
from garrison.steward.token import TokenKey, TokenReference, open_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROOT_PEM = "root.pem"
ROOT_KEY = "root.key"
ISSUER_PEM = "issuer.pem"
ISSUER_KEY = "issuer.key"
ISSUER_TOKEN = "issuer.toml"  # noqa: S105 - a file's name
RESULT_KEY = "result.key"
SERVER_PEM = "server.pem"
SERVER_KEY = "server.key"
CHALLENGE_KEY = "challenge.key"
NEXT = "next"
OLD = "old"
LIVE = "live"

# A clock a little behind ours must not take a new certificate for one of the future.
BACKDATE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who signs certificates, and under which root.

    Attributes:
        root: the root.
        certificate: the certificate that signs: the root itself, or an intermediate under it.
        key: its key.
        result_key: the key that signs attestation results.
        sign: signs with `key` and `hash_algorithm`; gives DER.
    """

    root: x509.Certificate
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    result_key: ec.EllipticCurvePrivateKey = field(repr=False)
    sign: Callable[[bytes], bytes] = field(repr=False)

    @classmethod
    def load(cls, directory: Path, root: x509.Certificate, secret: bytes | None) -> Issuer:
        """Read its files in `directory`.

        Args:
            directory: where they are.
            root: the root.
            secret: what opens encrypted keys, or the token.

        Raises:
            Misuse: a file is missing, a key can be read by others, or cannot be opened.
            Malformed: a file does not hold what it should, or key and certificate differ.
            Unavailable: the token fails.
        """
        certificate, name = root, ROOT_PEM
        if (directory / ISSUER_PEM).exists():
            certificate, name = load_certificate(directory / ISSUER_PEM), ISSUER_PEM
            try:
                certificate.verify_directly_issued_by(root)
            except (ValueError, TypeError, InvalidSignature) as error:
                raise Malformed(
                    "not issued by the root", field=str(directory / ISSUER_PEM)
                ) from error
            if trust_domain_of(certificate) != trust_domain_of(root):
                raise Malformed("not of the root's trust domain", field=str(directory / ISSUER_PEM))
        public = certificate.public_key()
        key: ec.EllipticCurvePrivateKey
        reference = directory / ISSUER_TOKEN
        if reference.exists() and isinstance(public, ec.EllipticCurvePublicKey):
            key = open_key(
                TokenReference.from_bytes(read_file(reference), str(reference)), secret, public
            )
        else:
            path = directory / (ROOT_KEY if name == ROOT_PEM else ISSUER_KEY)
            key = load_key(path, secret)
            if key.public_key() != public:
                raise Malformed(f"not the key of {name}", field=str(path))
        result_key = load_key(directory / RESULT_KEY, secret)
        if result_key.public_key() == public:
            raise Malformed(
                "the key that issues certificates",
                field=str(directory / RESULT_KEY),
                expected="a key of its own for results",
            )
        return cls(root, certificate, key, result_key, signer(key))

    @property
    def identifier(self) -> str:
        """The subject key identifier of the certificate that signs, hex."""
        extension = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        return extension.value.digest.hex()

    @property
    def path(self) -> tuple[x509.Certificate, ...]:
        """The certificates from the root to the one that signs."""
        same = self.certificate == self.root
        return (self.root,) if same else (self.root, self.certificate)

    @property
    def hash_algorithm(self) -> hashes.SHA256 | hashes.SHA384:
        """The hash that goes with the key's curve."""
        return hash_for(self.key)


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority: what it signs with, and what it is known by.

    Attributes:
        issuer: who signs now.
        challenge_key: authenticates challenges.
        trust_domain: the SPIFFE trust domain that it certifies.
        roots: all roots to be trusted, the issuer's first.
        old: during a rollover, who signed before; its certificates are still trusted.
        next_result_key: during a rollover, the key that will sign results.
    """

    issuer: Issuer
    challenge_key: bytes = field(repr=False)
    trust_domain: str
    roots: tuple[x509.Certificate, ...]
    old: Issuer | None = None
    next_result_key: ec.EllipticCurvePublicKey | None = None

    @classmethod
    def load(cls, directory: Path, secret: bytes | None = None) -> Authority:
        """Read the directory that `garrison.steward.init.create` made.

        Args:
            directory: the directory.
            secret: what opens encrypted keys, or the token.

        Raises:
            Misuse: a file is missing, a key can be read by others, or cannot be opened.
            Malformed: a file does not hold what it should, or key and certificate differ.
            Unavailable: the token fails.
        """
        home = home_of(directory)
        roots = load_certificates(home / ROOT_PEM)
        if len(set(roots)) != len(roots):
            raise Malformed("a certificate is given twice", field=str(home / ROOT_PEM))
        domains = {trust_domain_of(root) for root in roots}
        if len(domains) != 1:
            raise Malformed("not the roots of one trust domain", field=str(home / ROOT_PEM))
        issuer = Issuer.load(home, roots[0], secret)
        old = None
        if (home / OLD).exists():
            old = Issuer.load(home / OLD, load_certificate(home / OLD / ROOT_PEM), secret)
        upcoming = None
        if (home / NEXT).exists():
            upcoming = load_key(home / NEXT / RESULT_KEY, secret).public_key()
        try:
            challenge_key = bytes.fromhex(read_secret_file(home / CHALLENGE_KEY).decode().strip())
        except ValueError as error:
            raise Malformed("not hex", field=str(home / CHALLENGE_KEY)) from error
        return cls(issuer, challenge_key, domains.pop(), tuple(roots), old, upcoming)

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate that signs."""
        return self.issuer.certificate

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        """The key that signs certificates."""
        return self.issuer.key

    @property
    def path(self) -> tuple[x509.Certificate, ...]:
        """The certificates from the root to the one that signs."""
        return self.issuer.path

    @property
    def hash_algorithm(self) -> hashes.SHA256 | hashes.SHA384:
        """The hash that goes with the key's curve."""
        return self.issuer.hash_algorithm

    @property
    def result_keys(self) -> tuple[ec.EllipticCurvePublicKey, ...]:
        """The public keys that results may be verified with, the one in use first."""
        keys = [self.issuer.result_key.public_key()]
        if self.next_result_key is not None:
            keys.append(self.next_result_key)
        if self.old is not None:
            keys.append(self.old.result_key.public_key())
        return tuple(keys)


def home_of(directory: Path) -> Path:
    """Where the files are: one look at `live`, so that they are all of one moment."""
    live = directory / LIVE
    return live.resolve() if live.is_symlink() else directory


def signer(key: ec.EllipticCurvePrivateKey) -> Callable[[bytes], bytes]:
    """What signs with `key` and the hash of its curve, where the key is: here, or in a token."""
    if isinstance(key, TokenKey):
        return lambda data: key.sign(data, ec.ECDSA(hash_for(key)))
    return ecdsa.signer(key, hash_for(key).name)


def hash_for(key: ec.EllipticCurvePrivateKey) -> hashes.SHA256 | hashes.SHA384:
    """The hash that goes with the curve of `key`."""
    return hashes.SHA384() if isinstance(key.curve, ec.SECP384R1) else hashes.SHA256()


def authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The authority key identifier of what `issuer` signs."""
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def trust_domain_of(certificate: x509.Certificate) -> str:
    """The trust domain that a certificate authority certifies.

    Raises:
        Malformed: it is not one that `garrison steward init` makes.
    """
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise Malformed("not a root that `garrison steward init` makes", field=ROOT_PEM) from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if not constraints.ca or len(uris) != 1 or not uris[0].startswith("spiffe://"):
        raise Malformed("not the root of one trust domain", field=ROOT_PEM)
    return check_trust_domain(uris[0].removeprefix("spiffe://"))
