"""The registers that the Nitro hypervisor will report of an enclave image.

Source: aws-nitro-enclaves-image-format, src/utils/mod.rs, `get_pcrs`, and the Nitro Enclaves user
guide, "Cryptographic attestation". PCR0 is all of the image that runs, PCR1 kernel, command line
and first ramdisk, PCR2 the other ramdisks, PCR8 the certificate that signed the image. Each is the
SHA-384 of a register of zeros and the SHA-384 of the content. Metadata is in none of them, and
neither is where one part ends and the next begins: see docs/reference/enclaves.md.

It refuses images with two kernels, command lines or signatures, or without a kernel, a command
line or a ramdisk: what AWS would make of such is written nowhere.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate

from garrison.errors import Malformed
from garrison.formats._cbor import decode
from garrison.formats.eif import Eif, EifSectionKind
from garrison.formats.evidence import Tee
from garrison.measure.prediction import Prediction, toml_list

if TYPE_CHECKING:
    from collections.abc import Mapping

# A certificate and a signature as lists of integers, of which each takes two bytes.
_MAX_SIGNATURE = 64 * 1024
_BOOT = (EifSectionKind.KERNEL, EifSectionKind.CMDLINE)
_ONCE = (*_BOOT, EifSectionKind.SIGNATURE)
_NEEDED = (*_BOOT, EifSectionKind.RAMDISK)


def registers(image: Eif) -> dict[str, bytes]:
    """PCR0, PCR1, PCR2, and PCR8 if the image is signed.

    Raises:
        Malformed: its signature section is not one, or it has not the sections of an image.
    """
    _check_sections(image)
    whole, boot, application = hashlib.sha384(), hashlib.sha384(), hashlib.sha384()
    ramdisks = 0
    found = {}
    for section in image.sections:
        if section.kind in _BOOT:
            whole.update(section.data)
            boot.update(section.data)
        elif section.kind is EifSectionKind.RAMDISK:
            whole.update(section.data)
            (application if ramdisks else boot).update(section.data)
            ramdisks += 1
        elif section.kind is EifSectionKind.SIGNATURE:
            found["PCR8"] = _extended(hashlib.sha384(_certificate(section.data)).digest())
    for name, state in (("PCR0", whole), ("PCR1", boot), ("PCR2", application)):
        found[name] = _extended(state.digest())
    return dict(sorted(found.items()))


def predict(image: Eif) -> Prediction:
    """Tell the registers of `image`.

    Raises:
        Malformed: its signature section is not one, or it has not the sections of an image.
    """
    return prediction(registers(image))


def prediction(found: Mapping[str, bytes]) -> Prediction:
    """Tell the registers `found`."""
    lines = ["[nitro.pcrs]"]
    lines += [f"{name[3:]} = {toml_list(value)}" for name, value in found.items()]
    lines += [
        '3 = "any"       # the role of the parent instance',
        '4 = "any"       # the parent instance',
        'others = "any"  # what the enclave locked at run time',
    ]
    return Prediction(Tee.NITRO, found, "\n".join(lines) + "\n")


def _check_sections(image: Eif) -> None:
    kinds = [section.kind for section in image.sections]
    for kind in EifSectionKind:
        count = kinds.count(kind)
        if (count > 1 and kind in _ONCE) or (count == 0 and kind in _NEEDED):
            raise Malformed(
                "cannot be",
                field=f"EIF: sections of kind {kind.name}",
                found=count,
                expected="one at least" if kind is EifSectionKind.RAMDISK else "one",
            )


def _extended(digest: bytes) -> bytes:
    return hashlib.sha384(bytes(48) + digest).digest()


def _certificate(section: bytes) -> bytes:
    """The signing certificate, DER, of a signature section: CBOR, a list of one map."""
    wrong = Malformed(
        "not a signature",
        field="EIF: signature section",
        expected="CBOR: a list of maps with signing_certificate",
    )
    match decode(section, "EIF: signature section", _MAX_SIGNATURE):
        case [{"signing_certificate": list(octets) | bytes(octets)}, *_]:
            pass
        case _:
            raise wrong
    try:
        return load_pem_x509_certificate(bytes(octets)).public_bytes(Encoding.DER)
    except (ValueError, TypeError) as error:
        raise wrong from error
