"""PCR 11 of a unified kernel image: what systemd's stub measures before it starts the kernel.

systemd-stub(7), "TPM PCR Notes", and UAPI Group Specifications, "Linux TPM PCR Registry": for each
section of the image that is there, in the order below, the register is extended by the section's
name with a zero byte, and by its content. A keep image has nothing that extends the register later.

It is the TPM's register. Where the firmware has no TPM but the registers of a TD, the stub
measures into RTMR2 instead, and the kernel does so, too: that is not told here.
"""

from __future__ import annotations

import hashlib

from garrison.formats.pe import sections

# systemd, src/fundamental/uki.c; `.pcrsig` is not measured.
_ORDER = (
    *(".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname"),
    *(".sbat", ".pcrpkey", ".profile", ".dtbauto", ".hwids"),
)


def pcr11(image: bytes, algorithm: str = "sha256") -> bytes:
    """The register, in the bank of `algorithm`.

    Raises:
        Malformed: it is no PE image.
    """
    found = sections(image)
    register = bytes(hashlib.new(algorithm).digest_size)
    for name in _ORDER:
        if name not in found:
            continue
        for measured in (name.encode() + b"\0", found[name]):
            digest = hashlib.new(algorithm, measured).digest()
            register = hashlib.new(algorithm, register + digest).digest()
    return register
