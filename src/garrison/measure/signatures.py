"""The file of `garrison sign`, as the original's: signatures of one image for SEV and for SGX.

    {"version": "0.1.0", "sev": {"id_block": [96 of], "id_auth": [4096 of]}, "sgx": [1808 of]}

Bytes are lists of integers. A TEE for which nothing is signed has empty lists. Reading checks every
signature; it refuses files whose signatures are wrong, but not files of another version of
Garrison: what is signed is the image, which has a measurement of its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from garrison.errors import Malformed, Unverified
from garrison.formats.sgx_sigstruct import Sigstruct
from garrison.formats.snp_id_block import IdAuth, IdBlock
from garrison.measure import sev_keys, sgx_keys

# The original's writer takes at most 4 characters and a comma for each of 6000 bytes.
MAX_SIGNATURES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Signatures:
    """Signatures of one image; None for a TEE that it is not signed for."""

    version: str
    sev: tuple[IdBlock, IdAuth] | None = None
    sgx: Sigstruct | None = None

    @classmethod
    def from_json(cls, data: bytes) -> Signatures:
        """Read the file, and check what it holds.

        Raises:
            Malformed: it is not such a file.
            Unverified: a signature is wrong.
        """
        if len(data) > MAX_SIGNATURES:
            raise _malformed(f"{len(data)} bytes", f"at most {MAX_SIGNATURES}")
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise _malformed("no JSON", "an object") from error
        match document:
            case {"version": str(version), "sev": {"id_block": block, "id_auth": auth}, "sgx": sgx}:
                if len(document) != 3 or len(document["sev"]) != 2:
                    raise _malformed("unknown keys", "version, sev and sgx")
            case _:
                raise _malformed("something else", "an object with version, sev and sgx")
        block_bytes, auth_bytes, sgx_bytes = _octets(block), _octets(auth), _octets(sgx)
        found = cls(
            version,
            (IdBlock.from_bytes(block_bytes), IdAuth.from_bytes(auth_bytes))
            if block_bytes or auth_bytes
            else None,
            Sigstruct.from_bytes(sgx_bytes) if sgx_bytes else None,
        )
        if found.sev is not None:
            sev_keys.check(*found.sev)
        if found.sgx is not None:
            sgx_keys.check(found.sgx)
        return found

    def of_snp(self, launch_digest: bytes, policy: int) -> IdAuth:
        """What authenticates the image with this digest, launched with this guest policy.

        Raises:
            Unverified: the signature is for another image, for another guest policy, or for SGX.
        """
        if self.sev is None:
            raise Unverified("there is none", field="signature for SEV-SNP")
        block, auth = self.sev
        for field, signed, wanted in (
            ("launch digest", block.launch_digest.hex(), launch_digest.hex()),
            ("guest policy", hex(block.policy), hex(policy)),
        ):
            if signed != wanted:
                raise Unverified(
                    "another one is signed", field=field, found=signed, expected=wanted
                )
        return auth

    def to_json(self) -> str:
        """Write the file, as compactly as the original does."""
        block, auth = (
            (b"", b"")
            if self.sev is None
            else (
                self.sev[0].to_bytes(),
                self.sev[1].to_bytes(),
            )
        )
        document = {
            "version": self.version,
            "sev": {"id_block": list(block), "id_auth": list(auth)},
            "sgx": list(b"" if self.sgx is None else self.sgx.to_bytes()),
        }
        return json.dumps(document, separators=(",", ":"))


def _octets(value: object) -> bytes:
    if not isinstance(value, list) or not all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= 0xFF for item in value
    ):
        raise _malformed("something else", "lists of integers from 0 to 255")
    return bytes(value)


def _malformed(found: str, expected: str) -> Malformed:
    return Malformed("not a file of signatures", field="signatures", found=found, expected=expected)
