"""The original's `steward.toml`, read as it is, and written as a policy of ours.

    [snp]
    signer = ["<96 hex digits>"]            # author keys; of signer, hash and hash_blacklist one
    hash = ["<96 hex digits>"]              # must be there
    hash_blacklist = ["<96 hex digits>"]
    id_key_digest = ["<96 hex digits>"]
    id_key_digest_blacklist = ["<96 hex digits>"]
    abi = ">=1.51"                          # of the guest's policy
    policy_flags = ["SingleSocket", "SMT"]  # what the guest's policy may, and must, say
    platform_info_flags = "SME"             # or "TSME": the very value of PLATFORM_INFO

    [sgx]                                   # signer, hash, hash_blacklist: 64 hex digits each
    features = ["CET", "KSS"]
    enclave_security_version = 1
    enclave_product_id = 0
    misc_select = ["EXINFO"]
    allowed_advisories = ["INTEL-SA-00615"]

Each is enforced, also `policy_flags`, which the original reads and forgets. An unknown key is an
error, where the original ignores it; so is a value both allowed and denied. Where the original is
laxer than a host must be trusted for, this is not: guests and enclaves that the host may debug
are never admitted, and a platform that Intel revoked is not, whatever the advisories.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from garrison.errors import Malformed
from garrison.formats.identity import check_trust_domain
from garrison.formats.slug import check_host
from garrison.formats.strict_toml import Table
from garrison.formats.version_range import VersionRange

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_FILE = 1 << 20
_SECTIONS = ("snp", "sgx")
_MEASURED = ("signer", "hash", "hash_blacklist")
_POLICY_FLAGS = ("Debug", "SingleSocket", "SMT")
# PLATFORM_INFO as the original names its bits, of which no other may be set.
_PLATFORM_INFO = {"SME": 1, "TSME": 2}
_FEATURES = ("CET", "Debug", "EInitKey", "KSS", "ProvisioningKey")
_ADVISORY = re.compile(r"INTEL-[A-Z]{2}-[0-9]{5}")
# All of Intel's but Revoked.
_STATUSES = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
)


@dataclass(frozen=True, slots=True)
class _Measurements:
    """What both sections say of keeps."""

    signer: list[str]
    hash: list[str]
    denied: list[str]


def is_original(table: Table) -> bool:
    """Whether a document is the original's: its sections alone, and its words in one of them."""
    keys = set(table.keys())
    if not keys or not keys <= set(_SECTIONS):
        return False
    sections = [table.value(key) for key in keys]
    return any(
        isinstance(section, dict) and not section.keys().isdisjoint(_MEASURED)
        for section in sections
    )


def convert(
    data: bytes | str, source: str, *, trust_domain: str, drawbridges: Sequence[str] = ()
) -> str:
    """Write a policy of ours that admits what a `steward.toml` admits.

    Args:
        data: the original's document.
        source: what it is called in errors.
        trust_domain: of the certificates, which the original does not know.
        drawbridges: hosts whose workloads are certified; without one, local workloads are.

    Returns:
        The policy, TOML with comments.

    Raises:
        Malformed: `data` is not a `steward.toml`, or contradicts itself.
    """
    check_trust_domain(trust_domain)
    for host in drawbridges:
        check_host(host, field="drawbridge")
    table = Table.parse(data, source=source, limit=_MAX_FILE)
    if not any(name in table for name in _SECTIONS):
        raise Malformed("no TEE is admitted", field=source, expected="[snp] or [sgx]")
    denied_keys: list[str] = []
    denied: list[str] = []
    lines = [
        f'trust_domain = "{trust_domain}"',
        "# Keeps of the original send no challenge.",
        'freshness = "optional"',
        f"local_workloads = {_boolean(not drawbridges)}",
        "",
        "[certificates]",
        "# The original's live for 28 days; a day is the most here, and keeps renew.",
        "lifetime_minutes = 1440",
    ]
    for host in drawbridges:
        lines += ["", f'[drawbridges."{host}"]']
    if "snp" in table:
        section = table.table("snp")
        found = _measurements(section, 96)
        denied += found.denied
        allowed_keys = _digests(section, "id_key_digest", 96)
        denied_keys = _digests(section, "id_key_digest_blacklist", 96)
        _no_overlap(section, "id_key_digest_blacklist", allowed_keys, denied_keys)
        lines += ["", "[snp]", *_snp(section, found, allowed_keys)]
        section.done()
    if "sgx" in table:
        section = table.table("sgx")
        found = _measurements(section, 64)
        denied += found.denied
        lines += ["", "[sgx]", *_sgx(section, found)]
        section.done()
    table.done()
    if denied or denied_keys:
        lines += ["", "[deny]"]
        lines += [f"measurements = {_list(denied)}"] if denied else []
        lines += [f"id_key_digests = {_list(denied_keys)}"] if denied_keys else []
    return "\n".join(lines) + "\n"


def _snp(section: Table, found: _Measurements, allowed_keys: list[str]) -> list[str]:
    abi = section.optional_string("abi")
    if abi is not None:
        try:
            abi = str(VersionRange.parse(abi))
        except Malformed as error:
            raise section.malformed(
                "abi", error.message, expected='a range like ">=1.51, <2"'
            ) from error
    info = section.optional_string("platform_info_flags")
    if info is not None and info not in _PLATFORM_INFO:
        raise section.malformed("platform_info_flags", "unknown value", expected="SME | TSME")
    flags = None
    if "policy_flags" in section:
        flags = _names(section, "policy_flags", _POLICY_FLAGS)
    return [
        f"measurements = {_any(found.hash)}",
        'products = ["Milan", "Genoa"]',
        "# The original does not look at the versions of firmware and microcode: better say them.",
        'minimum_tcb = "any"',
        'abi_minimum = "any"',
        f"id_key_digests = {_any(allowed_keys)}",
        f"author_key_digests = {_any(found.signer)}",
        "# The original's keeps have none.",
        f'host_data = ["{"00" * 32}"]',
        'chip_ids = "any"',
        "vmpl = [0]",
        "# Never for a guest that the host may debug, as the original.",
        "debug = false",
        f"smt = {_boolean(flags is None or 'SMT' in flags)}",
        f"single_socket = {_boolean(flags is not None and 'SingleSocket' in flags)}",
        f'guest_abi = "{abi or "any"}"',
        f"platform_info = {_quoted_any() if info is None else [_PLATFORM_INFO[info]]}",
        "# ark, ask and revocation list of each product, unless evidence or a cache has them.",
        "endorsements = []",
    ]


def _sgx(section: Table, found: _Measurements) -> list[str]:
    product = version = None
    if "enclave_product_id" in section:
        product = section.integer("enclave_product_id", low=0, high=0xFFFF)
    if "enclave_security_version" in section:
        version = section.integer("enclave_security_version", low=0, high=0xFFFF)
    features = misc = None
    if "features" in section:
        features = [name for name in _names(section, "features", _FEATURES) if name != "Debug"]
    if "misc_select" in section:
        misc = _names(section, "misc_select", ("EXINFO",))
    advisories = section.strings("allowed_advisories", [])
    if not all(_ADVISORY.fullmatch(name) for name in advisories):
        raise section.malformed("allowed_advisories", "wrong entry", expected="INTEL-SA-00000")
    signers = _quoted_any()
    if found.signer or product is not None or version is not None:
        number = _quoted_any() if product is None else product
        rest = f"isv_prod_id = {number}, minimum_isv_svn = {version or 0}"
        each = [f'{{ mr_signer = "{one}", {rest} }}' for one in found.signer or ["any"]]
        signers = f"[{', '.join(each)}]"
    return [
        f"measurements = {_any(found.hash)}",
        f"signers = {signers}",
        'config_ids = "any"',
        "# Never for an enclave that the host may debug.",
        "debug = false",
        # One that is there and empty admits none beside those that all enclaves have.
        f"features = {_quoted_any() if features is None else _list(features)}",
        f"misc_select = {_any(misc)}",
        f"tcb_statuses = {_list(_STATUSES if advisories else _STATUSES[:1])}",
        f"advisories = {_any(advisories)}",
        'minimum_tcb_evaluation = "any"',
        "# The original's keeps send collateral that has none.",
        'qe_identity = "optional"',
    ]


def _measurements(section: Table, digits: int) -> _Measurements:
    signer, allowed, denied = (_digests(section, key, digits) for key in _MEASURED)
    if not (signer or allowed or denied):
        raise Malformed(
            "nothing is said of keeps", field=section.where("hash"), expected=", ".join(_MEASURED)
        )
    _no_overlap(section, "hash_blacklist", allowed, denied)
    return _Measurements(signer, allowed, denied)


def _digests(section: Table, key: str, digits: int) -> list[str]:
    values = section.strings(key, [])
    for value in values:
        if re.fullmatch(rf"[0-9A-Fa-f]{{{digits}}}", value) is None:
            raise section.malformed(key, "not a digest", expected=f"{digits} hex digits each")
    return [value.lower() for value in values]


def _no_overlap(section: Table, key: str, allowed: list[str], denied: list[str]) -> None:
    both = sorted(set(allowed) & set(denied))
    if both:
        raise Malformed(
            "both allowed and denied", field=section.where(key), found=both[0], expected="one"
        )


def _names(section: Table, key: str, known: Sequence[str]) -> list[str]:
    names = section.strings(key)
    if not set(names) <= set(known):
        raise section.malformed(key, "unknown name", expected=" | ".join(known))
    return names


def _list(values: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"


def _any(values: Sequence[str] | None) -> str:
    return _list(values) if values else _quoted_any()


def _quoted_any() -> str:
    return '"any"'


def _boolean(value: bool) -> str:
    return "true" if value else "false"
