"""What evidence says of itself, in words; nothing is verified here."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from garrison.formats.azure import HclReport, ReportType, RuntimeData
from garrison.formats.cose import CoseSign1
from garrison.formats.dcap_quote import Quote
from garrison.formats.snp import Report, Tcb
from garrison.formats.tdx_report import TdAttributes, TdReport
from garrison.formats.tpm import Quote as TpmQuote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from garrison.formats.azure import AzureEvidence
    from garrison.formats.cca import CcaToken
    from garrison.formats.nitro import NitroDocument
    from garrison.formats.sgx_report import SgxReport
    from garrison.formats.snp_certificate import VekCertificate


def snp_claims(report: Report) -> Iterator[tuple[str, str]]:
    """The fields of an SNP report, by name."""
    policy, platform = report.policy, report.platform_info
    yield "version", str(report.version)
    yield "guest SVN", str(report.guest_svn)
    yield "guest policy", f"{policy.bits:#x}"
    yield "guest policy: least ABI", f"{policy.abi[0]}.{policy.abi[1]}"
    yield "guest policy: multithreading", _allowed(yes=policy.smt)
    yield "guest policy: migration agent", _allowed(yes=policy.migrate_ma)
    yield "guest policy: debugging by the host", _allowed(yes=policy.debug)
    yield "guest policy: single socket only", "yes" if policy.single_socket else "no"
    yield "family ID", report.family_id.hex()
    yield "image ID", report.image_id.hex()
    yield "VMPL", str(report.vmpl)
    yield "platform", f"{platform.bits:#x}"
    yield "platform: multithreading", "on" if platform.smt else "off"
    yield "platform: TSME", "on" if platform.tsme else "off"
    yield "platform: ECC memory", "on" if platform.ecc else "off"
    yield "signed by", report.signing_key.name
    yield "report data", report.report_data.hex()
    yield "launch measurement", report.measurement.hex()
    yield "host data", report.host_data.hex()
    yield "identity key digest", report.id_key_digest.hex()
    yield "author key digest", report.author_key_digest.hex() if report.author_key_en else "none"
    yield "report ID", report.report_id.hex()
    yield "migration agent's report ID", report.report_id_ma.hex()
    yield "processor", "not told" if report.cpuid is None else str(report.cpuid)
    yield "chip ID", report.chip_id.hex() if any(report.chip_id) else "masked"
    for name, tcb in (
        ("reported", report.reported_tcb),
        ("current", report.current_tcb),
        ("committed", report.committed_tcb),
        ("launch", report.launch_tcb),
    ):
        product = None if report.cpuid is None else report.cpuid.product
        # How the bytes are laid out is the product's, which older reports do not tell.
        text = tcb.hex() if product is None else str(Tcb.from_bytes(tcb, product))
        yield f"{name} TCB version", text
    for name, version in (
        ("current", report.current_version),
        ("committed", report.committed_version),
    ):
        yield f"{name} firmware", f"{version.major}.{version.minor} build {version.build}"
    yield "launch mitigations", f"{report.launch_mit_vector:#x}"
    yield "current mitigations", f"{report.current_mit_vector:#x}"


def vek_claims(vek: VekCertificate) -> Iterator[tuple[str, str]]:
    """What the certificate of an SNP signing key says, by name."""
    yield "kind of key", vek.kind.name
    yield "product", vek.product_name
    yield "TCB version", str(vek.tcb)
    yield "chip ID", "none" if vek.hwid is None else vek.hwid.hex()
    yield "provider", vek.csp_id or "none"


def nitro_claims(document: NitroDocument) -> Iterator[tuple[str, str]]:
    """The fields of a Nitro document, by name."""
    yield "module", document.module_id
    yield "timestamp", str(document.timestamp)
    for index, pcr in enumerate(document.pcrs):
        yield f"PCR{index}", pcr.hex()
    for name, value in (
        ("public key", document.public_key),
        ("user data", document.user_data),
        ("nonce", document.nonce),
    ):
        yield name, "none" if value is None else value.hex()


def quote_claims(quote: Quote) -> Iterator[tuple[str, str]]:
    """The fields of an SGX or TDX quote, by name."""
    yield "version", str(quote.header.version)
    yield from _body_claims(quote.body)


def _body_claims(body: SgxReport | TdReport) -> Iterator[tuple[str, str]]:
    """The fields of a report body: bytes in their order, and numbers of flags in hex."""
    if not isinstance(body, TdReport):
        for name, text in _fields(body):
            yield name, text
            if name == "attributes":
                yield "attributes: debugging by the host", _allowed(yes=body.debug)
        return
    for name, text in _fields(body):
        if name not in {"td attributes", "xfam"}:
            yield name, text
            continue
        bits = body.td_attributes if name == "td attributes" else body.xfam
        yield name, f"{bits:#018x}"
        if name == "td attributes":
            yield f"{name}: debugging by the host", _allowed(yes=body.debug)
            yield f"{name}: migration", _allowed(yes=bool(bits & TdAttributes.MIGRATABLE))
            for flag in (TdAttributes.SEPT_VE_DISABLE, TdAttributes.PERFMON):
                yield f"{name}: {flag.name}", "on" if bits & flag else "off"


def cca_claims(token: CcaToken) -> Iterator[tuple[str, str]]:
    """The claims of a CCA token, by name, the platform's first."""
    for name, part in (("platform", token.platform), ("realm", token.realm)):
        for key, text in _fields(part):
            if key == "lifecycle":
                state = token.platform
                yield f"{name}: {key}", f"{state.state.value} ({state.lifecycle:#06x})"
            else:
                yield f"{name}: {key}", text


def azure_claims(evidence: AzureEvidence | HclReport) -> Iterator[tuple[str, str]]:
    """What the paravisor, the hardware and the TPM say, by name.

    Raises:
        Malformed: a part of it cannot be read.
    """
    blob = evidence if isinstance(evidence, HclReport) else HclReport.from_bytes(evidence.report)
    yield "hardware", blob.kind.name
    yield from _fields(RuntimeData.from_bytes(blob.runtime))
    if blob.kind is ReportType.SNP:
        yield from snp_claims(Report.from_bytes(blob.hardware))
    if isinstance(evidence, HclReport):
        return
    yield "quoted nonce", TpmQuote.from_bytes(evidence.message).extra_data.hex()
    for index, pcr in enumerate(evidence.pcrs):
        yield f"PCR{index}", pcr.hex()
    if evidence.td_quote is not None:
        yield from _body_claims(Quote.from_bytes(evidence.td_quote).body)


def _fields(value: Any) -> Iterator[tuple[str, str]]:
    for item in fields(value):
        text = _shown(getattr(value, item.name))
        if text is not None:
            yield item.name.replace("_", " "), text


def _shown(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return "none" if value is None else value
    if isinstance(value, bytes):
        return value.hex() or "none"
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, int):
        return str(value)
    if isinstance(value, tuple):
        return ", ".join(shown for item in value if (shown := _shown(item)) is not None) or "none"
    if isinstance(value, CoseSign1):
        # What is signed is told claim by claim.
        return None
    if is_dataclass(value):
        return " ".join(f"{name}={text}" for name, text in _fields(value))
    # Keys and the like, which the claims beside them tell.
    return None


def _allowed(*, yes: bool) -> str:
    return "allowed" if yes else "not allowed"
