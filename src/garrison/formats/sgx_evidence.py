"""SGX evidence as an original Enarx keep sends it: the value of its request's extension.

    SEQUENCE {
        quote OCTET STRING,
        crls SEQUENCE { SEQUENCE OF SEQUENCE { url UTF8String, CRL } },
        tcb SEQUENCE { SEQUENCE OF Certificate, OCTET STRING }     ; TCB info, as Intel serves it
    }

The collateral beside the quote was chosen by its sender, and has no QE identity: a verifier that
has its own takes that. Nothing of it is believed here.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.errors import Malformed, Unavailable
from garrison.formats._der import check_size, decode
from garrison.formats.dcap_collateral import DcapCollateral
from garrison.formats.snp_certificate import common_name, load_crl

# A quote of 5 KB, three revocation lists of at most 10 KB each, and 20 KB of TCB info.
MAX_ENARX_EVIDENCE = 96 * 1024
# The original sends the root's list, and those of both of Intel's issuers of PCK certificates.
_MAX_CRLS = 8
_MAX_CERTIFICATES = 4
_WHAT = "SGX evidence"
_ROOT = "Intel SGX Root CA"


@asn1.sequence
class _Crl:
    url: str
    crl: asn1.TLV


@asn1.sequence
class _Crls:
    items: list[_Crl]


@asn1.sequence
class _Tcb:
    signers: list[x509.Certificate]
    info: bytes


@asn1.sequence
class _Evidence:
    quote: bytes
    crls: _Crls
    tcb: _Tcb


@dataclass(frozen=True, slots=True)
class EnarxSgxEvidence:
    """The evidence.

    Attributes:
        quote: the quote.
        crls: where each revocation list is from, and the list, DER.
        signers: the chain of the signer of the TCB info, DER.
        tcb_info: JSON `{"tcbInfo": ..., "signature": ...}`.
    """

    quote: bytes
    crls: tuple[tuple[str, bytes], ...]
    signers: tuple[bytes, ...]
    tcb_info: bytes

    @classmethod
    def from_der(cls, der: bytes) -> EnarxSgxEvidence:
        """Read the evidence.

        Raises:
            Malformed: `der` is anything else.
        """
        check_size(der, MAX_ENARX_EVIDENCE, _WHAT)
        found = decode(_Evidence, der, _WHAT)
        for name, count, most in (
            ("revocation lists", len(found.crls.items), _MAX_CRLS),
            ("certificates", len(found.tcb.signers), _MAX_CERTIFICATES),
        ):
            if count > most:
                raise Malformed(
                    f"too many {name}", field=_WHAT, found=count, expected=f"at most {most}"
                )
        return cls(
            quote=found.quote,
            crls=tuple((item.url, asn1.encode_der(item.crl)) for item in found.crls.items),
            signers=tuple(item.public_bytes(Encoding.DER) for item in found.tcb.signers),
            tcb_info=found.tcb.info,
        )

    def to_der(self) -> bytes:
        """Write the evidence; `signers` must be certificates."""
        return asn1.encode_der(
            _Evidence(
                quote=self.quote,
                crls=_Crls(
                    items=[
                        _Crl(url=url, crl=decode(asn1.TLV, crl, _WHAT)) for url, crl in self.crls
                    ]
                ),
                tcb=_Tcb(
                    signers=[x509.load_der_x509_certificate(der) for der in self.signers],
                    info=self.tcb_info,
                ),
            )
        )

    def collateral(self, pck_issuer: str) -> DcapCollateral:
        """What the sender says is Intel's collateral for its platform: without a QE identity.

        Args:
            pck_issuer: the common name of the issuer of its PCK certificate.

        Raises:
            Malformed: a revocation list cannot be read.
            Unavailable: one is not there.
        """
        lists = {}
        for _, der in self.crls:
            field = f"{_WHAT}: revocation list"
            lists[common_name(load_crl(der, field).issuer, field)] = der
        for name in (_ROOT, pck_issuer):
            if name not in lists:
                raise Unavailable(
                    "a revocation list is not there",
                    field=_WHAT,
                    found=", ".join(lists) or "none",
                    expected=name,
                )
        chain = b"".join(
            x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in self.signers
        )
        return DcapCollateral(
            root_crl=lists[_ROOT],
            pck_crl=lists[pck_issuer],
            tcb_info=self.tcb_info,
            tcb_info_chain=chain,
            qe_identity=None,
            qe_identity_chain=b"",
        )
