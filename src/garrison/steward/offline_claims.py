"""What SNP reports and Nitro documents say of themselves, in words; nothing is verified here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from garrison.formats.snp import Tcb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from garrison.formats.nitro import NitroDocument
    from garrison.formats.snp import Report
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


def _allowed(*, yes: bool) -> str:
    return "allowed" if yes else "not allowed"
