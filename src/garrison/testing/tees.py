"""What a steward that trusts simulated vendors is configured with: policy and endorsements.

The sections admit all that a policy may admit, but of TCBs those that are up to date. Keys are
given as TOML, in place of what stands here or beside it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from garrison.endorsements import pcs
from garrison.endorsements.cache import Cache, Entry
from garrison.endorsements.pcs import Ca, IntelTee
from garrison.endorsements.resource import Document
from garrison.formats.dcap_quote import TeeType

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from garrison.formats.dcap_collateral import DcapCollateral
    from garrison.formats.snp_evidence import SnpEndorsements
    from garrison.testing.dcap import FakeIntel
    from garrison.testing.nitro import FakeNitro
    from garrison.testing.snp import FakePlatform

_ANY = '"any"'
_INTEL = {"tcb_statuses": '["UpToDate"]', "advisories": "[]", "minimum_tcb_evaluation": _ANY}
_SGX = dict.fromkeys(("measurements", "signers", "config_ids"), _ANY) | _INTEL
_TDX = (
    dict.fromkeys(
        ("mr_td", "mr_seam", "mr_config_id", "mr_owner", "mr_owner_config", "mr_service_td"), _ANY
    )
    | _INTEL
    | {"rtmrs": f"{{ others = {_ANY} }}"}
)
_SNP = dict.fromkeys(
    (
        "measurements",
        "products",
        "minimum_tcb",
        "id_key_digests",
        "author_key_digests",
        "host_data",
        "chip_ids",
    ),
    _ANY,
) | {"endorsements": "[]"}


def _section(name: str, keys: Mapping[str, str]) -> str:
    return "\n".join((f"[{name}]", *(f"{key} = {value}" for key, value in keys.items()), ""))


def snp_section(platform: FakePlatform, **keys: str) -> str:
    """The section `[snp]`; certificates are in the directory `amd`, see `write_amd`."""
    root = f'{{ test = {{ key_sha256 = "{platform.root_key_sha256}", endorsements = "amd" }} }}'
    return _section("snp", {**_SNP, **keys, "insecure_simulated_roots": root})


def nitro_section(nitro: FakeNitro, **keys: str) -> str:
    """The section `[nitro]`."""
    root = f'{{ test = "{next(iter(nitro.roots().simulated))}" }}'
    pcrs = f"{{ others = {_ANY} }}"
    return _section("nitro", {"pcrs": pcrs, **keys, "insecure_simulated_roots": root})


def sgx_section(intel: FakeIntel, **keys: str) -> str:
    """The section `[sgx]`; collateral comes from a cache, see `fill_cache`."""
    return _intel_section("sgx", _SGX | keys, intel)


def tdx_section(intel: FakeIntel, **keys: str) -> str:
    """The section `[tdx]`, likewise."""
    return _intel_section("tdx", _TDX | keys, intel)


def _intel_section(name: str, keys: Mapping[str, str], intel: FakeIntel) -> str:
    root = f'{{ test = {{ key_sha256 = "{intel.root_key_sha256}" }} }}'
    return _section(name, {**keys, "insecure_simulated_roots": root})


def write_amd(directory: Path, chain: SnpEndorsements) -> None:
    """Write a simulated AMD's directory of endorsements, with a revocation list if there is one."""
    directory.mkdir()
    for name, der in (("ark", chain.root), ("ask", chain.issuer), ("crl", chain.crl)):
        if der is not None:
            (directory / f"{name}.der").write_bytes(der)


def fill_cache(directory: Path, intel: FakeIntel, now: datetime, *tees: TeeType) -> None:
    """Put a simulated Intel's collateral into a steward's cache, as if it was fetched at `now`."""
    cache = Cache(directory)
    for tee in tees:
        name = IntelTee.SGX if tee is TeeType.SGX else IntelTee.TDX
        made = intel.collateral(tee)
        for resource, body, chain in (
            (pcs.root_crl(), made.root_crl, b""),
            (pcs.pck_crl(Ca.PLATFORM), made.pck_crl, intel.pem("ca", "root")),
            (pcs.tcb_info(name, intel.fmspc.hex()), made.tcb_info, made.tcb_info_chain),
            (pcs.qe_identity(name), made.qe_identity or b"", made.qe_identity_chain),
        ):
            cache.write(Entry(resource.url, resource.kind, now, Document(body, chain)))


def collateral_json(made: DcapCollateral, **changes: str) -> bytes:
    """Collateral in one JSON object, as tools hand it on."""
    return json.dumps(
        {
            "root_ca_crl": made.root_crl.hex(),
            "pck_crl": made.pck_crl.hex(),
            "tcb_info": made.tcb_info.decode(),
            "tcb_info_issuer_chain": made.tcb_info_chain.decode(),
            "qe_identity": (made.qe_identity or b"").decode(),
            "qe_identity_issuer_chain": made.qe_identity_chain.decode(),
            **changes,
        }
    ).encode()
