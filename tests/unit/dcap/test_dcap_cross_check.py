"""Another verifier, dcap-qvl, on the quotes of the fake Intel.

The product does not depend on it: two verifiers that agree on genuine and on forged quotes are a
check of both.
"""

from __future__ import annotations

import json
from typing import Any

import dcap_qvl
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.errors import Unverified
from garrison.formats.dcap_collateral import DcapCollateral, Signed
from garrison.formats.dcap_quote import TeeType
from garrison.formats.sgx_report import SgxReport
from garrison.testing.dcap import (
    NOW,
    PCK_SERIAL,
    FakeIntel,
    FakeQuoter,
    level,
    platform_level,
    sgx_report,
    td_report,
)
from garrison.verification.dcap import verify

other: Any = dcap_qvl

INTEL = FakeIntel()
TD15 = td_report(tee_tcb_svn2=td_report().tee_tcb_svn, mr_service_td=bytes(48))


def other_status(quote: bytes, collateral: DcapCollateral) -> tuple[str, list[str]]:
    info = Signed.from_bytes(collateral.tcb_info, "tcbInfo")
    identity = Signed.from_bytes(collateral.qe_identity, "enclaveIdentity")
    found = {
        "pck_crl_issuer_chain": INTEL.pem("ca", "root").decode(),
        "root_ca_crl": collateral.root_crl.hex(),
        "pck_crl": collateral.pck_crl.hex(),
        "tcb_info_issuer_chain": collateral.tcb_info_chain.decode(),
        "tcb_info": info.data.decode(),
        "tcb_info_signature": info.signature.hex(),
        "qe_identity_issuer_chain": collateral.qe_identity_chain.decode(),
        "qe_identity": identity.data.decode(),
        "qe_identity_signature": identity.signature.hex(),
    }
    root = INTEL.certificate("root").public_bytes(Encoding.DER)
    result = other.verify_with_root_ca(
        quote,
        other.QuoteCollateralV3.from_json(json.dumps(found)),
        root,
        int(NOW.timestamp()),
    )
    return result.status, sorted(result.advisory_ids)


@pytest.mark.parametrize(
    ("body", "version"),
    [(sgx_report(), 3), (td_report(), 4), (td_report(), 5), (TD15, 5)],
)
@pytest.mark.parametrize("status", ["UpToDate", "SWHardeningNeeded", "OutOfDate"])
@pytest.mark.parametrize("qe", ["UpToDate", "OutOfDate"])
def test_both_say_the_same(body: Any, version: int, status: str, qe: str) -> None:
    tee = TeeType.SGX if isinstance(body, SgxReport) else TeeType.TDX
    collateral = INTEL.collateral(
        tee,
        {"tcbLevels": [platform_level(status, "INTEL-SA-00001")]},
        {"tcbLevels": [level(qe, "INTEL-SA-00002", isvsvn=8)]},
    )
    quote = FakeQuoter(INTEL).quote(body, version)
    tcb = verify(quote, collateral, INTEL.roots(), NOW).value.platform.tcb
    assert other_status(quote, collateral) == (tcb.status, list(tcb.advisories))


@pytest.mark.parametrize(
    ("signature", "changes"),
    [
        ({"signature": bytes(64)}, {}),
        ({"qe_signature": bytes(64)}, {}),
        ({"qe_auth_data": b""}, {}),
        ({}, {"pck_crl": INTEL.crl("ca", [PCK_SERIAL])}),
        ({}, {"identity": {"mrsigner": 64 * "0"}}),
        ({}, {"info": {"nextUpdate": "2025-12-31T23:59:59Z"}}),
        ({}, {"info": {"tcbLevels": [platform_level("UpToDate", pce_svn=99)]}}),
    ],
)
def test_both_refuse(signature: dict[str, Any], changes: dict[str, Any]) -> None:
    collateral = INTEL.collateral(TeeType.SGX, **changes)
    quote = FakeQuoter(INTEL).quote(sgx_report(), 3, **signature)
    with pytest.raises(Unverified):
        verify(quote, collateral, INTEL.roots(), NOW)
    with pytest.raises(ValueError, match=r"."):
        other_status(quote, collateral)
