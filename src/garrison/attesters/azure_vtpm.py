"""Evidence of a confidential VM on Azure, from the virtual TPM of its paravisor.

What it is made of, and what it proves, is in `garrison.formats.azure`. The hardware's report was
made at boot and lies in the TPM; the quote is made now, over the report data. The chip's
certificate (or, on TDX, the quote of the report) comes from the platform's metadata service, over
plain HTTP: it is the host's, and is verified by whoever reads the evidence.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import urllib3

from garrison.attesters._evidence import check_report_data
from garrison.attesters._tpm import Tpm, transmit
from garrison.errors import Malformed, Unavailable
from garrison.formats.azure import (
    AZURE_MEDIA_TYPE,
    AzureEvidence,
    HclReport,
    ReportType,
    quote_nonce,
)
from garrison.formats.evidence import Evidence, Tee
from garrison.formats.tpm import Quote
from garrison.http_pools import pools, read_body

if TYPE_CHECKING:
    from collections.abc import Callable

DEVICE = Path("/dev/tpmrm0")

_HCL_INDEX = 0x01400001
_AK_HANDLE = 0x81000003
_METADATA = "http://169.254.169.254"
_VCEK_PATH = "/metadata/THIM/amd/certification"
_TD_QUOTE_PATH = "/acc/tdquote"
# A TDREPORT, in the front of the blob's place for the hardware's report.
_TD_REPORT_SIZE = 1024
_MAX_ANSWER = 64 * 1024
_TIMEOUT = 10.0
# Registers may be extended between the quote and their reading.
_TRIES = 5


def metadata(path: str, body: dict[str, str] | None) -> dict[str, Any]:
    """Ask the metadata service: GET, or POST with a body.

    Raises:
        Unavailable: it does not answer with a JSON object.
    """
    try:
        with pools(insecure_http=True, retries=False, timeout=_TIMEOUT) as pool:
            response = pool.request(
                "GET" if body is None else "POST",
                _METADATA + path,
                headers={"Metadata": "true"},
                json=body,
                preload_content=False,
                redirect=False,
            )
            data = read_body(response, _MAX_ANSWER)
            response.release_conn()
        if response.status != 200 or len(data) > _MAX_ANSWER:
            raise _no_metadata(path, f"status {response.status}, {len(data)} bytes")
        value = json.loads(data)
    except (urllib3.exceptions.HTTPError, ValueError, RecursionError) as error:
        raise _no_metadata(path, type(error).__name__) from error
    if not isinstance(value, dict):
        raise _no_metadata(path, "no object")
    return value


@dataclass(frozen=True, slots=True)
class AzureVtpm:
    """Obtains evidence from the TPM and the metadata service.

    Attributes:
        tpm: the TPM.
        ask: how the metadata service is asked.
    """

    tpm: Tpm
    ask: Callable[[str, dict[str, str] | None], dict[str, Any]] = metadata
    tee: Literal[Tee.AZURE] = Tee.AZURE
    curve: Literal["P-384"] = "P-384"

    @classmethod
    def open(cls) -> AzureVtpm:
        """Find out whether the TPM is a paravisor's.

        Raises:
            Misuse: it is not.
            Unavailable: there is no TPM, or it does not answer.
        """
        tpm = Tpm(transmit(DEVICE))
        tpm.nv_read(_HCL_INDEX)
        return cls(tpm)

    def attest(self, report_data: bytes) -> Evidence:
        """See `garrison.attesters.base.Attester.attest`."""
        check_report_data(report_data)
        blob = self.tpm.nv_read(_HCL_INDEX)
        try:
            report = HclReport.from_bytes(blob)
            message, signature, pcrs = self._quote(quote_nonce(report_data))
            on_snp = report.kind is ReportType.SNP
            evidence = AzureEvidence(
                report=blob,
                message=message,
                signature=signature,
                pcrs=pcrs,
                vcek=self._vcek() if on_snp else None,
                td_quote=None if on_snp else self._td_quote(report.hardware),
            )
            return Evidence(AZURE_MEDIA_TYPE, evidence.to_bytes())
        except Malformed as error:
            raise Unavailable(
                "the paravisor gives no evidence", field="TPM", found=str(error)
            ) from error

    def _quote(self, nonce: bytes) -> tuple[bytes, bytes, tuple[bytes, ...]]:
        for _ in range(_TRIES):
            message, signature = self.tpm.quote(_AK_HANDLE, nonce)
            pcrs = self.tpm.pcrs()
            if Quote.from_bytes(message).digest == hashlib.sha256(b"".join(pcrs)).digest():
                return message, signature, pcrs
        raise Unavailable(
            "the registers change all the time", field="TPM", found=f"{_TRIES} quotes"
        )

    def _vcek(self) -> bytes:
        pem = self.ask(_VCEK_PATH, None).get("vcekCert")
        lines = pem.strip().splitlines() if isinstance(pem, str) else []
        if len(lines) < 3 or lines[0] != "-----BEGIN CERTIFICATE-----":
            raise _no_metadata(_VCEK_PATH, "no vcekCert")
        return _decoded("".join(lines[1:-1]), _VCEK_PATH)

    def _td_quote(self, hardware: bytes) -> bytes:
        report = base64.urlsafe_b64encode(hardware[:_TD_REPORT_SIZE]).rstrip(b"=").decode()
        quote = self.ask(_TD_QUOTE_PATH, {"report": report}).get("quote")
        if not isinstance(quote, str):
            raise _no_metadata(_TD_QUOTE_PATH, "no quote")
        return _decoded(quote, _TD_QUOTE_PATH)


def _decoded(text: str, path: str) -> bytes:
    standard = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (ValueError, binascii.Error) as error:
        raise _no_metadata(path, "no base64") from error


def _no_metadata(path: str, found: str) -> Unavailable:
    return Unavailable(
        "the platform's metadata service gives nothing of use",
        field=path,
        found=found,
        hint="allow the machine to reach its metadata service",
    )
