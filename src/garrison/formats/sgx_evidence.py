"""SGX evidence as an original Enarx keep sends it: the value of its request's extension.

    SEQUENCE {
        quote OCTET STRING,
        crls SEQUENCE { SEQUENCE OF SEQUENCE { url UTF8String, CRL } },
        tcb SEQUENCE { SEQUENCE OF Certificate, OCTET STRING }
    }

Only the quote is taken. The collateral beside it has no QE identity, and its sender chose it: the
verifier has its own.
"""

from __future__ import annotations

from cryptography.hazmat import asn1

from garrison.formats._der import check_size, decode

# A quote of 5 KB, three revocation lists of at most 10 KB each, and 20 KB of TCB info.
MAX_ENARX_EVIDENCE = 96 * 1024


@asn1.sequence
class _Evidence:
    quote: bytes
    crls: asn1.TLV
    tcb: asn1.TLV


def quote_from_enarx(der: bytes) -> bytes:
    """The quote in the original's evidence.

    Raises:
        Malformed: `der` is anything else.
    """
    check_size(der, MAX_ENARX_EVIDENCE, "SGX evidence")
    return decode(_Evidence, der, "SGX evidence").quote
