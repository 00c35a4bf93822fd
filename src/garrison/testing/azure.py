"""Fake confidential VMs on Azure: a paravisor's runtime data and virtual TPM, on fake SNP."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from garrison.formats.azure import AzureEvidence, HclReport, ReportType
from garrison.formats.tpm import PCR_COUNT, Quote
from garrison.testing.snp import FakePlatform

NONCE = b"\x5c" * 48
PCRS = tuple(bytes([index]) * 32 for index in range(PCR_COUNT))


@cache
def key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:  # noqa: ARG001 - the name is what the cache goes by
    """The RSA key called `name`, the same in all of the process."""
    return rsa.generate_private_key(65537, bits)


def runtime(private: rsa.RSAPrivateKey, **machine: Any) -> bytes:
    """Runtime data with the key `private`; `machine` changes the VM's configuration."""
    numbers = private.public_key().public_numbers()
    jwk = {
        "kid": "HCLAkPub",
        "key_ops": ["sign"],
        "kty": "RSA",
        "e": _base64(numbers.e),
        "n": _base64(numbers.n),
    }
    configuration = {
        "console-enabled": False,
        "secure-boot": True,
        "tpm-enabled": True,
        "vmUniqueId": "00000000-0000-0000-0000-000000000000",
    } | machine
    return json.dumps(
        {"keys": [jwk], "vm-configuration": configuration, "user-data": "00" * 64},
        separators=(",", ":"),
    ).encode()


@dataclass(frozen=True, slots=True)
class FakeAzure:
    """One VM.

    Attributes:
        platform: the machine it is on.
        ak: the virtual TPM's key: a name of `key`.
    """

    platform: FakePlatform = field(default_factory=FakePlatform)
    ak: str = "AK"

    def blob(self, data: bytes | None = None, **report: Any) -> HclReport:
        """The blob.

        Args:
            data: the runtime data, if not those of `runtime`.
            report: what to change in the SNP report.
        """
        data = runtime(key(self.ak)) if data is None else data
        bound = {"report_data": hashlib.sha256(data).digest().ljust(64, b"\0")}
        hardware = self.platform.report(**(bound | report))
        return HclReport(1, ReportType.SNP, hardware, data, padding=100)

    def quote(self, **changes: Any) -> bytes:
        """The TPM's quote, with `changes` to its fields."""
        quote = Quote(
            signer=b"\x00\x0b" + bytes(32),
            extra_data=NONCE,
            clock=1,
            reset_count=2,
            restart_count=3,
            safe=True,
            firmware_version=4,
            selection=tuple(range(PCR_COUNT)),
            digest=hashlib.sha256(b"".join(PCRS)).digest(),
        )
        return replace(quote, **changes).to_bytes()

    def evidence(
        self,
        blob: HclReport | None = None,
        *,
        signer: rsa.RSAPrivateKey | None = None,
        hash_algorithm: hashes.HashAlgorithm | None = None,
        **quote: Any,
    ) -> AzureEvidence:
        """Evidence.

        Args:
            blob: its blob, if not that of `blob`.
            signer: whose key signs the quote, if not the TPM's.
            hash_algorithm: the hash in the signature, if not SHA-256.
            quote: what to change in the quote.
        """
        message = self.quote(**quote)
        private = signer or key(self.ak)
        return AzureEvidence(
            report=(blob or self.blob()).to_bytes(),
            message=message,
            signature=private.sign(message, padding.PKCS1v15(), hash_algorithm or hashes.SHA256()),
            pcrs=PCRS,
            vcek=self.platform.endorsements().leaf,
            td_quote=None,
        )


def _base64(number: int) -> str:
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return urlsafe_b64encode(data).rstrip(b"=").decode()
