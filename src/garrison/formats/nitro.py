"""The attestation document of an AWS Nitro enclave, as the Nitro Secure Module returns it.

AWS, Nitro Enclaves, "Verifying the root of trust": a COSE_Sign1 message whose payload is a map

    { "module_id": tstr, "digest": "SHA384", "timestamp": uint (ms), "pcrs": { 0..31: bstr },
      "certificate": bstr, "cabundle": [ 1* bstr ],
      ? "public_key": bstr / null, ? "user_data": bstr / null, ? "nonce": bstr / null }

The sizes are those that AWS states. Newer modules write the map with an indefinite length. The
message and the payload are kept as they came.
"""

from __future__ import annotations

from dataclasses import dataclass

from garrison.errors import Malformed
from garrison.formats import _cbor
from garrison.formats.cose import CoseSign1

# The document (a bstr) as it is, without any envelope of ours.
NITRO_MEDIA_TYPE = "application/vnd.garrison.nitro-document.v1+cbor"

PCR_SIZE = 48
# AWS's modules have 16, of which enclaves may extend those from 16 on to 32.
MIN_PCRS, MAX_PCRS = 16, 32
# AWS, "Attestation process" (aws-nitro-enclaves-nsm-api, docs/attestation_process.md), 2.2: each
# certificate has 1 to 1024 bytes; public key, user data and nonce are of one type, of at most 1024.
# Its 3.2.2.2 would have verifiers stop at 512 for the latter two, which modules do not: genuine
# documents have 1024.
_MAX_CERTIFICATE = 1024
MAX_USER_DATA = 1024
# Root, region, zone and instance; twice that leaves room for a change.
_MAX_BUNDLE = 8
# The sum of all of the above, with room for the rest.
MAX_DOCUMENT = 16 * 1024
# Milliseconds that a date of four digits can hold.
_MAX_TIMESTAMP = 253_402_300_799_999


@dataclass(frozen=True, slots=True)
class NitroDocument:
    """A document.

    Attributes:
        message: the signed message, whose payload this is.
        module_id: the enclave's module.
        timestamp: when it was made, in milliseconds since 1970.
        pcrs: the platform configuration registers, from 0 on.
        certificate: the signing key's, DER.
        cabundle: its issuers', DER, the root's first.
        public_key: what the enclave asked to have in it; None if nothing.
        user_data: the same.
        nonce: the same.
    """

    message: CoseSign1
    module_id: str
    timestamp: int
    pcrs: tuple[bytes, ...]
    certificate: bytes
    cabundle: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None

    @classmethod
    def from_bytes(cls, data: bytes) -> NitroDocument:
        """Read a document.

        Raises:
            Malformed: it is anything else than the module says.
        """
        message = CoseSign1.from_bytes(data, _WHAT, MAX_DOCUMENT)
        payload = _cbor.decode(message.payload, _WHAT, MAX_DOCUMENT, indefinite=True)
        _check_kind(payload)
        fields = _cbor.Fields(payload, _WHAT)
        digest = fields.take("digest", str)
        if digest != "SHA384":
            raise _malformed("digest", "unknown digest", digest[:40], "SHA384")
        module_id = fields.take("module_id", str)
        if not module_id:
            raise _malformed("module_id", "empty", "nothing", "a name")
        timestamp = fields.take("timestamp", int)
        if not 0 < timestamp <= _MAX_TIMESTAMP:
            raise _malformed("timestamp", "no time", timestamp, "milliseconds since 1970")
        bundle = fields.take("cabundle", list)
        if not 1 <= len(bundle) <= _MAX_BUNDLE:
            raise _malformed("cabundle", "wrong size", len(bundle), f"1 to {_MAX_BUNDLE}")
        document = cls(
            message=message,
            module_id=module_id,
            timestamp=timestamp,
            pcrs=_pcrs(fields.take("pcrs", dict)),
            certificate=_sized(
                fields.take("certificate", bytes), "certificate", 1, _MAX_CERTIFICATE
            ),
            cabundle=tuple(_sized(item, "cabundle", 1, _MAX_CERTIFICATE) for item in bundle),
            public_key=_optional(fields, "public_key", MAX_USER_DATA),
            user_data=_optional(fields, "user_data", MAX_USER_DATA),
            nonce=_optional(fields, "nonce", MAX_USER_DATA),
        )
        fields.done()
        return document

    def to_bytes(self) -> bytes:
        """Write the document."""
        return self.message.to_bytes()

    @property
    def debug(self) -> bool:
        """Whether the enclave ran in debug mode: then its console is open, and PCR0 is zero."""
        return not any(self.pcrs[0])


_WHAT = "Nitro document"


def _check_kind(payload: object) -> None:
    """Refuse what else is in COSE messages, by what it is: all of it begins alike."""
    names = payload if isinstance(payload, dict) else {}
    if "nitrotpm_pcrs" in names:
        # AWS, EC2 user guide, "NitroTPM Attestation Document".
        raise _malformed("pcrs", "of a NitroTPM, which is an instance's", "nitrotpm_pcrs", "pcrs")
    if names and not {"module_id", "digest"} & set(names):
        raise Malformed(
            "a COSE message of another kind",
            field=_WHAT,
            found=f"claims {', '.join(map(str, names))}"[:120],
            expected="module_id, digest, timestamp, pcrs and so on",
        )


def _pcrs(values: dict[int | str, object]) -> tuple[bytes, ...]:
    count = len(values)
    if not MIN_PCRS <= count <= MAX_PCRS or set(values) != set(range(count)):
        raise _malformed(
            "pcrs",
            "wrong registers",
            str(list(values))[:120],
            f"0 to {MIN_PCRS - 1}, or more without a gap, at most {MAX_PCRS}",
        )
    return tuple(_sized(values[index], f"PCR{index}", PCR_SIZE, PCR_SIZE) for index in range(count))


def _optional(fields: _cbor.Fields, key: str, most: int) -> bytes | None:
    value = fields.nullable(key, bytes)
    return None if value is None else _sized(value, key, 0, most)


def _sized(value: object, field: str, least: int, most: int) -> bytes:
    if type(value) is not bytes or not least <= len(value) <= most:
        found = f"{len(value)} bytes" if type(value) is bytes else _cbor.name(value)
        expected = f"{least} to {most} bytes" if least < most else f"{least} bytes"
        raise _malformed(field, "wrong size", found, expected)
    return value


def _malformed(field: str, message: str, found: object, expected: str) -> Malformed:
    return Malformed(message, field=f"{_WHAT}: {field}", found=found, expected=expected)
