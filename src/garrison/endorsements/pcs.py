"""The names of what Intel's Provisioning Certification Service (PCS), API version 4, serves.

"Intel SGX and Intel TDX Provisioning Certification Service API", version 4: Get Revocation
List, Get TCB Info, Get (TDX) Enclave Identity. The root's list has an address of its own: the
distribution point in the root certificate. Who keeps a PCCS, Intel's caching service, names
it as the mirror of both (see `mirrors`).
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

from garrison.endorsements.resource import Kind, Resource
from garrison.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ORIGIN = "https://api.trustedservices.intel.com"
ROOT_CRL_URL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"

_PATH = "certification/v4"
# The headers have these names for both TEEs.
_CRL_CHAIN = "SGX-PCK-CRL-Issuer-Chain"
_TCB_CHAIN = "TCB-Info-Issuer-Chain"
_QE_CHAIN = "SGX-Enclave-Identity-Issuer-Chain"
# Names of documents of some dozens of platforms.
_REMEMBERED = 64
_FMSPC = re.compile(r"[0-9a-f]{12}")


class Ca(StrEnum):
    """Who issued a platform's PCK certificate."""

    PROCESSOR = "processor"
    PLATFORM = "platform"


class IntelTee(StrEnum):
    """Whose TCB info and quoting enclave."""

    SGX = "sgx"
    TDX = "tdx"


@lru_cache(_REMEMBERED)
def pck_crl(ca: Ca) -> Resource:
    """The revocation list of PCK certificates."""
    url = f"{ORIGIN}/sgx/{_PATH}/pckcrl?ca={ca}&encoding=der"
    return Resource(url, Kind.CRL, _CRL_CHAIN)


@lru_cache(_REMEMBERED)
def root_crl() -> Resource:
    """The revocation list of the root."""
    return Resource(ROOT_CRL_URL, Kind.CRL)


@lru_cache(_REMEMBERED)
def tcb_info(tee: IntelTee, fmspc: str) -> Resource:
    """The TCB levels of a platform.

    Args:
        tee: which TEE of it.
        fmspc: the platform, 12 hex digits.

    Raises:
        Malformed: `fmspc` is anything else.
    """
    lower = fmspc.lower()
    if not _FMSPC.fullmatch(lower):
        raise Malformed(
            "not a platform", field="FMSPC", found=repr(fmspc[:32]), expected="12 hex digits"
        )
    return Resource(f"{ORIGIN}/{tee}/{_PATH}/tcb?fmspc={lower}", Kind.TCB_INFO, _TCB_CHAIN)


@lru_cache(_REMEMBERED)
def qe_identity(tee: IntelTee) -> Resource:
    """The identity of the quoting enclave."""
    return Resource(f"{ORIGIN}/{tee}/{_PATH}/qe/identity", Kind.QE_IDENTITY, _QE_CHAIN)


def shared(fmspc: str) -> Sequence[Resource]:
    """All that any quote of the platform `fmspc` needs.

    Raises:
        Malformed: it is not 12 hex digits.
    """
    tees = (IntelTee.SGX, IntelTee.TDX)
    return [
        root_crl(),
        *(pck_crl(ca) for ca in Ca),
        *(tcb_info(tee, fmspc) for tee in tees),
        *(qe_identity(tee) for tee in tees),
    ]


def mirrors(pccs: str) -> Mapping[str, str]:
    """What a PCCS at the origin `pccs` stands for."""
    return {ORIGIN: pccs, ROOT_CRL_URL: f"{pccs}/sgx/{_PATH}/rootcacrl"}
