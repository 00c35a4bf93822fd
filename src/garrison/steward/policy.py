"""What a steward admits: one TOML document, read strictly.

    trust_domain = "example.com"
    freshness = "required"            # or "optional": admits keeps of the original, see below
    local_workloads = false           # true: names for workloads that no drawbridge holds

    [certificates]
    lifetime_minutes = 60             # at most a day
    dns_names = ["chat.example.com"]  # what keeps may be called beside their SPIFFE ID

    [drawbridges."drawbridge.example.com"]
    ca = "drawbridge-ca.pem"          # absent: the web's roots
    tag_keys = "publishers.pem"       # absent: tags need no signature; else by one of these keys

    [oci_registries."registry.example.com"]
    ca = "registry-ca.pem"            # absent: the web's roots
    tag_keys = "publishers.pem"       # as of a drawbridge

    [snp]                             # see garrison.appraisal.snp
    [nitro]                           # see garrison.appraisal.nitro
    [sgx]                             # see garrison.appraisal.sgx
    [tdx]                             # see garrison.appraisal.tdx
    [azure]                           # see garrison.appraisal.azure; needs [snp] or [tdx] besides
    [cca]                             # see garrison.appraisal.cca
    [endorsements]                    # see garrison.endorsements.source

    [deny]                            # see garrison.steward.deny

A TEE that has no section is not admitted, and an empty section is an error. A key that is missing
refuses, a key that is unknown is an error. The original's `steward.toml` is read, too, see
`garrison.steward.enarx_policy`. With `freshness = "optional"`
evidence without a challenge is admitted, bound to the key alone: it may be
as old as the platform's certificates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding

from garrison.appraisal.azure import AzurePolicy
from garrison.appraisal.cca import CcaPolicy
from garrison.appraisal.nitro import NitroPolicy
from garrison.appraisal.sgx import SgxPolicy
from garrison.appraisal.snp import SnpPolicy
from garrison.appraisal.tdx import TdxPolicy
from garrison.endorsements.pcs import IntelTee
from garrison.endorsements.source import Settings
from garrison.errors import Malformed, Misuse
from garrison.formats.identity import check_trust_domain
from garrison.formats.signed_tag import load_tag_keys
from garrison.formats.slug import check_host
from garrison.formats.strict_toml import Table
from garrison.steward import enarx_policy
from garrison.steward.deny import Deny
from garrison.steward.keys import load_certificates

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from garrison.formats.signed_tag import TagKey

# A leaf cannot be revoked: its lifetime is how long a platform found bad stays trusted.
_MAX_LIFETIME_MINUTES = 24 * 60
_MAX_FILE = 1 << 20
_DNS_NAME = re.compile(
    r"(?=.{1,253}$)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*"
)


@dataclass(frozen=True, slots=True)
class TeePolicies:
    """What is admitted of each TEE; None where the policy does not speak of it.

    `azure` is held to evidence besides `snp` or `tdx`, which judge the hardware's part.
    """

    snp: SnpPolicy | None = None
    nitro: NitroPolicy | None = None
    sgx: SgxPolicy | None = None
    tdx: TdxPolicy | None = None
    azure: AzurePolicy | None = None
    cca: CcaPolicy | None = None

    @classmethod
    def from_table(cls, table: Table, base: Path) -> TeePolicies:
        """Take the TEEs' sections out of a document; paths are relative to `base`.

        Raises:
            Malformed: a section is not as its module says, or there is none.
        """
        found = cls(
            snp=SnpPolicy.from_table(table.table("snp"), base) if "snp" in table else None,
            nitro=NitroPolicy.from_table(table.table("nitro")) if "nitro" in table else None,
            sgx=SgxPolicy.from_table(table.table("sgx"), base) if "sgx" in table else None,
            tdx=TdxPolicy.from_table(table.table("tdx"), base) if "tdx" in table else None,
            azure=AzurePolicy.from_table(table.table("azure")) if "azure" in table else None,
            cca=CcaPolicy.from_table(table.table("cca")) if "cca" in table else None,
        )
        if found == cls():
            raise Malformed(
                "no TEE is admitted",
                field=table.where("snp"),
                expected="[snp], [nitro], [sgx], [tdx] or [cca]",
            )
        if found.azure is not None and found.snp is None and found.tdx is None:
            raise Malformed(
                "nothing is said of the hardware beneath",
                field=table.where("azure"),
                expected="[snp] or [tdx] besides",
            )
        return found

    def tees(self) -> list[str]:
        """The TEEs that the policy speaks of."""
        return [item.name for item in fields(self) if getattr(self, item.name) is not None]

    @property
    def simulated_dcap(self) -> dict[IntelTee, dict[str, Path]]:
        """The directories of simulated Intels, by what they simulate and what they are called."""
        sections = {IntelTee.SGX: self.sgx, IntelTee.TDX: self.tdx}
        return {
            tee: dict(section.platform.simulated_endorsements)
            for tee, section in sections.items()
            if section is not None
        }

    @property
    def simulated_roots(self) -> tuple[str, ...]:
        """The names of the simulated TEE vendors, and platforms, that are trusted."""
        intel = (section.platform for section in (self.sgx, self.tdx) if section is not None)
        named = [
            name
            for section in (self.snp, self.nitro, *intel)
            if section is not None
            for name in section.simulated_roots
        ]
        platforms = () if self.cca is None else self.cca.platforms
        named += [platform.name for platform in platforms if platform.simulated]
        return tuple(dict.fromkeys(named))


@dataclass(frozen=True, slots=True)
class Policy:
    """What a steward admits, and what it certifies.

    Attributes:
        trust_domain: the SPIFFE trust domain of all its certificates.
        challenge_required: whether evidence must answer a challenge.
        lifetime: how long a certificate is good.
        dns_names: the DNS names that a certificate may have.
        drawbridges: the drawbridges whose names it certifies: host, and the PEM of its CA, or
            None for the web's roots.
        tag_keys: the drawbridges whose tags must be signed, and the keys of which one must have.
        oci_registries: the OCI registries whose names it certifies, as `drawbridges`.
        oci_tag_keys: as `tag_keys`, for OCI registries.
        local_workloads: whether it certifies workloads by their digest alone.
        tees: what it admits of each TEE.
        endorsements: where vendors' certificates come from, beside directories and evidence.
        deny: what it no longer admits, whatever the rest says.
    """

    trust_domain: str
    challenge_required: bool
    lifetime: timedelta
    dns_names: tuple[str, ...]
    drawbridges: Mapping[str, str | None]
    local_workloads: bool
    tees: TeePolicies
    deny: Deny = field(default_factory=Deny)
    endorsements: Settings = field(default_factory=Settings)
    oci_registries: Mapping[str, str | None] = field(default_factory=dict)
    tag_keys: Mapping[str, tuple[TagKey, ...]] = field(default_factory=dict)
    oci_tag_keys: Mapping[str, tuple[TagKey, ...]] = field(default_factory=dict)

    @property
    def simulated_roots(self) -> tuple[str, ...]:
        """The names of the simulated TEE vendors that it trusts."""
        return self.tees.simulated_roots

    @classmethod
    def load(cls, path: Path, trust_domain: str | None = None) -> Policy:
        """Read the policy in the file `path`; files that it names are relative to it.

        Args:
            path: the file.
            trust_domain: what an original's `steward.toml`, which names none, is read with;
                None: such a file is none.

        Raises:
            Misuse: the file, or one that it names, cannot be read.
            Malformed: it is not a policy.
        """
        table = read_policy_file(path, trust_domain)
        policy = cls._read(table, path.parent)
        table.done()
        return policy

    @classmethod
    def _read(cls, table: Table, base: Path) -> Policy:
        trust_domain = check_trust_domain(table.string("trust_domain"))
        freshness = table.string("freshness", choices=("required", "optional"))
        local_workloads = table.boolean("local_workloads", False)  # noqa: FBT003 - the default
        _require(table, "certificates")
        certificates = table.table("certificates")
        minutes = certificates.integer("lifetime_minutes", low=1, high=_MAX_LIFETIME_MINUTES)
        dns_names = certificates.strings("dns_names", [])
        for name in dns_names:
            if _DNS_NAME.fullmatch(name) is None:
                raise certificates.malformed(
                    "dns_names", "not a DNS name", expected="lower-case names without wildcards"
                )
        certificates.done()
        drawbridges, tag_keys = _registries(table.table("drawbridges"), base)
        oci_registries, oci_tag_keys = _registries(table.table("oci_registries"), base)
        if not drawbridges and not oci_registries and not local_workloads:
            raise Malformed(
                "no workload could have a certificate",
                field=table.where("drawbridges"),
                expected="a drawbridge, an OCI registry, or local_workloads = true",
            )
        return cls(
            trust_domain=trust_domain,
            challenge_required=freshness == "required",
            lifetime=timedelta(minutes=minutes),
            dns_names=tuple(dns_names),
            drawbridges=drawbridges,
            tag_keys=tag_keys,
            oci_registries=oci_registries,
            oci_tag_keys=oci_tag_keys,
            local_workloads=local_workloads,
            tees=TeePolicies.from_table(table, base),
            deny=Deny.from_table(table.table("deny")),
            endorsements=Settings.from_table(table.table("endorsements"), base),
        )


def read_policy_file(path: Path, trust_domain: str | None = None) -> Table:
    """The document in the file `path`, for one reader or another of policies.

    Args:
        path: the file.
        trust_domain: if given, an original's `steward.toml` is converted to a policy of it.

    Raises:
        Misuse: it cannot be read.
        Malformed: it is not TOML, or an original's that contradicts itself.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise Misuse(f"cannot be read: {error.strerror}", field=str(path)) from error
    table = Table.parse(data, source=str(path), limit=_MAX_FILE)
    if trust_domain is None or not enarx_policy.is_original(table):
        return table
    text = enarx_policy.convert(data, str(path), trust_domain=trust_domain)
    return Table.parse(text, source=f"{path}, converted")


def _require(table: Table, key: str) -> None:
    if key not in table:
        raise Malformed("missing", field=table.where(key), expected="a table")


def _registries(
    table: Table, base: Path
) -> tuple[dict[str, str | None], dict[str, tuple[TagKey, ...]]]:
    cas: dict[str, str | None] = {}
    keys: dict[str, tuple[TagKey, ...]] = {}
    for host in table.keys():  # noqa: SIM118 - not a mapping
        check_host(host, field=table.where(host))
        entry = table.table(host)
        ca, tag_keys = entry.optional_string("ca"), entry.optional_string("tag_keys")
        entry.done()
        cas[host] = None if ca is None else _ca_pem(base / ca)
        if tag_keys is not None:
            keys[host] = load_tag_keys(_read(base / tag_keys), field=str(base / tag_keys))
    return cas, keys


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE)
    except OSError as error:
        raise Misuse(f"cannot be read: {error.strerror}", field=str(path)) from error


def _ca_pem(path: Path) -> str:
    certificates = load_certificates(path)
    return b"".join(item.public_bytes(Encoding.PEM) for item in certificates).decode("ascii")
