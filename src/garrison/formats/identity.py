"""What a steward's certificate says of a keep and its workload.

Three kinds of certificate, told apart by what their `WorkloadIdentity` fills in:

========  ======  ======  =============================================================
kind      slug    digest  SPIFFE ID
========  ======  ======  =============================================================
keep      -       -       `spiffe://<trust domain>/keep/<tee>`
local     -       yes     `spiffe://<trust domain>/local/<digest in hex>`
workload  yes     yes     `spiffe://<trust domain>/<host>/<user>/<repo>/<tag>`
========  ======  ======  =============================================================

SPIFFE allows `[A-Za-z0-9._-]` in a path segment (SPIFFE-ID, section 2.2). In a segment here,
every byte outside `[A-Za-z0-9.-]`, the underscore too, is written `_xx`, two lower-case hex
digits: `localhost:8080` is `localhost_3a8080`, tag `1.0.0+b1` is `1.0.0_2bb1`. Nothing else is
ever escaped, so each name has one spelling and the rule can be reversed. The path of a workload
in an OCI registry begins with `oci:`, which no host is: `oci://host/a/b:1` is `/oci_3a/host/a/b/1`.

The same extension, with what the steward finds left empty, stands in a CSR to ask for a name:
slug, digest, and the digest of the tenant's policy if the keep was given one. A certificate is
believed only after its chain was verified: this module reads, it does not judge.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from cryptography import x509
from cryptography.hazmat import asn1

from garrison.errors import Malformed
from garrison.formats.digest import SHA256_SIZE, digest_text, digest_url_text
from garrison.formats.oci_name import Name, OciName, parse_name

# Under 2.25.<UUID> (ITU-T X.667) of 36510742-53d0-42fd-b779-1c97337a034b: ours alone, unregistered.
WORKLOAD_IDENTITY_OID = x509.ObjectIdentifier("2.25.72199035049791758419942033496913609547")
VERSION = 1

# X.520's upper bound for a common name.
_MAX_COMMON_NAME = 64
# SPIFFE-ID, section 2.3: implementations must support 2048 bytes and may refuse more.
_MAX_SPIFFE_ID = 2048
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
# The first segment of the path of a name in an OCI registry.
_OCI = "oci:"
_ESCAPE = re.compile(r"_([0-9a-f]{2})")

Kind = Literal["keep", "local", "workload"]


@asn1.sequence
class _WorkloadIdentity:
    version: int
    slug: str
    digest: bytes
    tee: str
    measurement: bytes
    tcb_status: str
    policy: Annotated[bytes | None, asn1.Explicit(0)]
    platform: Annotated[bytes | None, asn1.Explicit(1)]


@dataclass(frozen=True, slots=True)
class WorkloadIdentity:
    """What runs in a keep, and in which TEE; DER SEQUENCE in certificate and CSR.

    Attributes:
        slug: the workload's name, or None for a local workload and for a keep.
        digest: SHA-256 of the workload's root entry (32 bytes), or None for a keep.
        tee: the kind of evidence that the steward verified (`snp`, ...), empty in a request.
        measurement: launch measurement in that evidence; empty in a request.
        tcb_status: what the steward found of the platform's TCB; empty in a request.
        policy: SHA-256 of the deployment's policy (`garrison.formats.deployment_policy`), which
            the keep enforces beside the workload's configuration; None if it has none.
        platform: the steward's own name for the machine (16 bytes), by which it can be denied; it
            says nothing to others. None in a request, and where evidence does not tell.
    """

    slug: Name | None
    digest: bytes | None
    tee: str = ""
    measurement: bytes = b""
    tcb_status: str = ""
    policy: bytes | None = None
    platform: bytes | None = None

    def __post_init__(self) -> None:
        if self.slug is not None and self.digest is None:
            raise Malformed("a slug without a digest", field="WorkloadIdentity", found=self.slug)
        for name, value in (("digest", self.digest), ("policy", self.policy)):
            if value is not None and len(value) != SHA256_SIZE:
                raise Malformed(
                    "wrong length",
                    field=f"WorkloadIdentity {name}",
                    found=f"{len(value)} bytes",
                    expected=f"{SHA256_SIZE} bytes",
                )
        if self.policy is not None and self.digest is None:
            raise Malformed("a policy without a workload", field="WorkloadIdentity policy")

    @property
    def kind(self) -> Kind:
        """Which of the three kinds of certificate this stands in."""
        if self.digest is None:
            return "keep"
        return "local" if self.slug is None else "workload"

    @classmethod
    def from_der(cls, data: bytes) -> WorkloadIdentity:
        """Read the extension's value.

        Raises:
            Malformed: `data` is not exactly one identity of version 1.
        """
        try:
            raw = asn1.decode_der(_WorkloadIdentity, data)
        except ValueError as error:
            raise Malformed("not DER of the right form", field="WorkloadIdentity") from error
        if raw.version != VERSION:
            raise Malformed(
                "unknown version",
                field="WorkloadIdentity version",
                found=raw.version,
                expected=VERSION,
            )
        return cls(
            slug=parse_name(raw.slug) if raw.slug else None,
            digest=raw.digest or None,
            tee=raw.tee,
            measurement=raw.measurement,
            tcb_status=raw.tcb_status,
            policy=raw.policy,
            platform=raw.platform,
        )

    def to_der(self) -> bytes:
        """Write the extension's value."""
        return asn1.encode_der(
            _WorkloadIdentity(
                version=VERSION,
                slug="" if self.slug is None else str(self.slug),
                digest=self.digest or b"",
                tee=self.tee,
                measurement=self.measurement,
                tcb_status=self.tcb_status,
                policy=self.policy,
                platform=self.platform,
            )
        )

    def common_name(self) -> str | None:
        """`slug@digest` (digest in URL-safe base64), where peers of the original look for it.

        None where it is longer than a common name may be, or where there is no digest.
        """
        if self.digest is None:
            return None
        name = f"{self.slug or 'localhost'}@{digest_url_text(self.digest)}"
        return name if len(name) <= _MAX_COMMON_NAME else None

    def spiffe_id(self, trust_domain: str) -> str:
        """The SPIFFE ID of this identity in `trust_domain`.

        Raises:
            Malformed: `trust_domain` has characters that SPIFFE does not allow, or the ID
                would be longer than SPIFFE allows.
        """
        check_trust_domain(trust_domain)
        if isinstance(self.slug, OciName):
            name = self.slug
            parts = (_OCI, name.host, *name.path.split("/"), name.tag)
            path = [escape_segment(part) for part in parts]
        elif self.slug is not None:
            slug = self.slug
            path = [escape_segment(part) for part in (slug.host, slug.user, slug.repo, slug.tag)]
        elif self.digest is not None:
            path = ["local", self.digest.hex()]
        else:
            path = ["keep", escape_segment(self.tee)]
        uri = f"spiffe://{trust_domain}/{'/'.join(path)}"
        if len(uri) > _MAX_SPIFFE_ID:
            raise Malformed(
                "too long",
                field="SPIFFE ID",
                found=f"{len(uri)} bytes",
                expected=f"at most {_MAX_SPIFFE_ID}",
            )
        return uri

    def __str__(self) -> str:
        if self.digest is None:
            return f"keep on {self.tee}"
        return f"{self.slug or 'local'}@{digest_text(self.digest)}"


@dataclass(frozen=True, slots=True)
class CertifiedIdentity:
    """What a keep's certificate says, after its parts were found to agree with each other."""

    workload: WorkloadIdentity
    trust_domain: str
    spiffe_id: str

    @classmethod
    def from_certificate(cls, certificate: x509.Certificate) -> CertifiedIdentity | None:
        """Read the identity in `certificate`, whose chain the caller has verified.

        Returns:
            The identity, or None where the certificate has no `WorkloadIdentity` at all.

        Raises:
            Malformed: the extension is broken, or the SPIFFE ID does not say the same.
        """
        try:
            extension = certificate.extensions.get_extension_for_oid(WORKLOAD_IDENTITY_OID)
        except x509.ExtensionNotFound:
            return None
        except ValueError as error:
            raise Malformed("unreadable extensions", field="certificate") from error
        if not isinstance(extension.value, x509.UnrecognizedExtension):
            raise Malformed("unreadable", field="WorkloadIdentity")
        workload = WorkloadIdentity.from_der(extension.value.value)
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
        except x509.ExtensionNotFound:
            uris = []
        if len(uris) != 1:
            raise Malformed(
                "wrong number of URIs",
                field="certificate subject alternative name",
                found=len(uris),
                expected="one SPIFFE ID",
            )
        scheme, _, rest = uris[0].partition("://")
        trust_domain = rest.partition("/")[0]
        if scheme != "spiffe" or uris[0] != workload.spiffe_id(trust_domain):
            raise Malformed(
                "does not agree with WorkloadIdentity",
                field="certificate SPIFFE ID",
                found=repr(uris[0][:300]),
                expected=workload.spiffe_id(trust_domain or "unknown"),
            )
        return cls(workload, trust_domain, uris[0])


def check_trust_domain(name: str) -> str:
    """Return `name` if SPIFFE allows it as a trust domain.

    Raises:
        Malformed: it does not.
    """
    if _TRUST_DOMAIN.fullmatch(name) is None:
        raise Malformed(
            "not a trust domain",
            field="trust domain",
            found=repr(name[:80]),
            expected="1 to 255 of a-z, 0-9, '.', '-' and '_'",
        )
    return name


def escape_segment(text: str) -> str:
    """Write `text` as one segment of a SPIFFE path, by the rule of this module."""
    return "".join(
        chr(byte)
        if chr(byte).isascii() and (chr(byte).isalnum() or byte in b".-")
        else f"_{byte:02x}"
        for byte in text.encode()
    )


def unescape_segment(segment: str) -> str:
    """Undo `escape_segment`.

    Raises:
        Malformed: `segment` is not what `escape_segment` writes for any text.
    """
    try:
        text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), segment).encode("latin-1").decode()
    except ValueError:
        text = ""
    if escape_segment(text) != segment:
        raise Malformed("not an escaped name", field="SPIFFE path", found=repr(segment[:300]))
    return text
