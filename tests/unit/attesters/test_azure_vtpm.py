"""Evidence from the virtual TPM of a machine on Azure."""

from __future__ import annotations

import base64
import errno
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate

from garrison.attesters import detect
from garrison.attesters._tpm import Tpm
from garrison.attesters.azure_vtpm import AzureVtpm
from garrison.errors import Misuse, Unavailable
from garrison.formats.azure import (
    AZURE_MEDIA_TYPE,
    AzureEvidence,
    HclReport,
    ReportType,
    quote_nonce,
)
from garrison.formats.evidence import Tee
from garrison.formats.tpm import Quote
from garrison.testing.azure import PCRS, FakeAzure
from garrison.testing.snp import NOW
from garrison.testing.tpm import FakeTpm
from garrison.verification.azure import verify_snp

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DATA = bytes(range(64))
LEAF = FakeAzure().platform.endorsements().leaf


def _metadata(path: str, body: dict[str, str] | None) -> dict[str, Any]:
    assert (path, body) == ("/metadata/THIM/amd/certification", None)
    leaf = load_der_x509_certificate(LEAF)
    return {"vcekCert": leaf.public_bytes(Encoding.PEM).decode(), "tcbm": "0"}


def test_the_quote_is_bound_and_complete() -> None:
    tpm = FakeTpm(busy=1, unsteady=1)
    attester = AzureVtpm(Tpm(tpm.exchange), _metadata)
    evidence = attester.attest(DATA)
    assert (attester.tee, attester.curve) == (Tee.AZURE, "P-384")
    assert evidence.media_type == AZURE_MEDIA_TYPE
    parsed = AzureEvidence.from_bytes(evidence.payload)
    assert Quote.from_bytes(parsed.message).extra_data == quote_nonce(DATA)
    assert parsed.pcrs == PCRS
    assert parsed.report == tpm.blob
    assert parsed.vcek == LEAF
    platform = tpm.azure.platform
    verified = verify_snp(parsed, platform.endorsements(), platform.roots(), NOW)
    assert verified.value.quote.extra_data == quote_nonce(DATA)
    # The registers changed once, so that it was quoted again.
    assert tpm.commands.count(0x158) == 2


def test_a_td_s_report_is_quoted_by_the_platform() -> None:
    asked = {}

    def ask(path: str, body: dict[str, str] | None) -> dict[str, Any]:
        assert path == "/acc/tdquote"
        assert body is not None
        asked.update(body)
        return {"quote": base64.urlsafe_b64encode(b"quote of a TD").decode()}

    class OnTdx(FakeAzure):
        def blob(self, data: bytes | None = None, **report: Any) -> HclReport:
            made = super().blob(data, **report)
            return HclReport(
                made.version, ReportType.TDX, b"\x07" * 1024 + bytes(160),
                made.runtime, made.padding,
            )  # fmt: skip

    payload = AzureVtpm(Tpm(FakeTpm(OnTdx()).exchange), ask).attest(DATA).payload
    assert AzureEvidence.from_bytes(payload).td_quote == b"quote of a TD"
    report = asked["report"]
    assert base64.urlsafe_b64decode(report + "=" * (-len(report) % 4)) == b"\x07" * 1024


def test_a_tpm_of_another_machine_is_refused() -> None:
    with pytest.raises(Misuse, match="gives no evidence"):
        AzureVtpm(Tpm(FakeTpm(paravisor=False).exchange), _metadata).attest(DATA)


def test_registers_that_never_stand_still_give_nothing() -> None:
    with pytest.raises(Unavailable, match="change all the time"):
        AzureVtpm(Tpm(FakeTpm(unsteady=100).exchange), _metadata).attest(DATA)


def _cut(size: int) -> Callable[[bytes], bytes]:
    return lambda answer: answer[:size]


@pytest.mark.parametrize(
    "change",
    [
        _cut(0),
        _cut(9),
        lambda answer: answer[:-1],
        lambda answer: answer + b"\0",
        lambda answer: answer[:6] + b"\x00\x00\x01\x01" + answer[10:],
        lambda answer: b"\x80\x03" + answer[2:],
        lambda answer: answer[:10] + b"\xff" * (len(answer) - 10),
    ],
    ids=["empty", "no header", "short", "long", "error", "tag", "rubbish"],
)
@pytest.mark.parametrize("code", [0x169, 0x14E, 0x17E, 0x158], ids=hex)
def test_a_wrong_answer_to_any_command_is_unavailable(
    change: Callable[[bytes], bytes], code: int
) -> None:
    tpm = FakeTpm()

    def exchange(command: bytes) -> bytes:
        answer = tpm.exchange(command)
        return change(answer) if int.from_bytes(command[6:10], "big") == code else answer

    with pytest.raises(Unavailable, match="TPM"):
        AzureVtpm(Tpm(exchange), _metadata).attest(DATA)


@pytest.mark.parametrize(
    "answer",
    [{}, {"vcekCert": 1}, {"vcekCert": "none"}, {"vcekCert": "-----BEGIN CERTIFICATE-----\n*\nx"}],
    ids=["nothing", "number", "no PEM", "no base64"],
)
def test_a_metadata_service_without_a_certificate_is_unavailable(answer: dict[str, Any]) -> None:
    with pytest.raises(Unavailable, match="metadata service"):
        AzureVtpm(Tpm(FakeTpm().exchange), lambda *_: answer).attest(DATA)


def test_a_tpm_that_cannot_be_opened_is_unavailable() -> None:
    def exchange(_command: bytes) -> bytes:
        raise OSError(errno.EACCES, "Permission denied")

    with pytest.raises(Unavailable, match="Permission denied"):
        Tpm(exchange).pcrs()


def test_only_azure_s_tpm_counts_in_detection(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/tpmrm0").touch()
    with pytest.raises(Misuse, match="gives no evidence"):
        detect.present(tmp_path)
    tag = tmp_path / "sys/class/dmi/id/chassis_asset_tag"
    tag.parent.mkdir(parents=True)
    tag.write_text("another\n")
    with pytest.raises(Misuse, match="gives no evidence"):
        detect.present(tmp_path)
    tag.write_text("7783-7084-3265-9085-8269-3286-77\n")
    assert detect.present(tmp_path) == "azure-vtpm"
