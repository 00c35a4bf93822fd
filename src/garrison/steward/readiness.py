"""Whether a steward can do its work now: sign, and have the endorsements that its policy needs.

Endorsements of one chip are not looked at: which chips will ask is not known. Where the policy
trusts simulated SNP roots their lists count too.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from garrison.endorsements.pcs import IntelTee
from garrison.errors import Unavailable
from garrison.formats.snp import Product

if TYPE_CHECKING:
    from datetime import datetime

    from garrison.steward.authority import Authority
    from garrison.steward.issuance import Steward


def check(steward: Steward, now: datetime) -> None:
    """Check `steward`; what is missing may be fetched, where its policy lets it.

    Raises:
        Unavailable: it cannot issue certificates now, and why.
    """
    _check_key(steward.authority, now)
    tees, source = steward.policy.tees, steward.endorsements
    if source is None:
        return
    if tees.snp is not None and tees.snp.crl_required:
        source.check_snp(tees.snp.products or tuple(Product))
    # Without that, the collateral that the original's keeps bring along does.
    if tees.sgx is not None and tees.sgx.platform.qe_identity_required:
        source.check_dcap(IntelTee.SGX)
    if tees.tdx is not None:
        source.check_dcap(IntelTee.TDX)


def _check_key(authority: Authority, now: datetime) -> None:
    certificate = authority.certificate
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise Unavailable(
            "not valid now",
            field="steward certificate",
            found=f"valid from {certificate.not_valid_before_utc.isoformat()}"
            f" to {certificate.not_valid_after_utc.isoformat()}",
            expected=f"valid at {now.isoformat()}",
        )
    words = secrets.token_bytes(32)
    try:
        signature = authority.issuer.sign(words)
        public = authority.key.public_key()
        public.verify(signature, words, ec.ECDSA(authority.hash_algorithm))
    except InvalidSignature as error:
        raise Unavailable("gives wrong signatures", field="steward key") from error
