"""MRENCLAVE: of an enclave's pages, and of the SIGSTRUCT that a tool made for it.

Intel Software Developer's Manual, volume 3D, chapters "ECREATE", "EADD" and "EEXTEND": a SHA-256
over one block of 64 bytes for the enclave, one for each page, and one for each 256 bytes that are
measured. Gramine computes it over its own loader and the manifest and writes it into the SIGSTRUCT,
so for a Gramine enclave the SIGSTRUCT is what `predict` reads, after its signature was checked.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from garrison.errors import Misuse
from garrison.formats.evidence import Tee
from garrison.formats.ovmf import PAGE_SIZE
from garrison.measure import sgx_keys
from garrison.measure.prediction import EVALUATION, Prediction, toml_list

if TYPE_CHECKING:
    from garrison.formats.sgx_sigstruct import Sigstruct

_EXTEND_SIZE = 256
# SECINFO.FLAGS: permissions in bits 0 to 2, the page's type in bits 8 to 15.
READ, WRITE, EXECUTE = 1, 2, 4
TCS, REGULAR = 1 << 8, 2 << 8


class EnclaveHash:
    """The measurement of an enclave under construction, in the order of its construction."""

    def __init__(self, size: int, *, ssa_frame_pages: int = 1) -> None:
        """Begin with ECREATE.

        Raises:
            Misuse: `size` is no power of two.
        """
        if size < PAGE_SIZE or size & (size - 1):
            raise Misuse(
                "an enclave's size is a power of two", found=size, expected=f"{PAGE_SIZE} or more"
            )
        self._state = hashlib.sha256()
        head = b"ECREATE\0" + ssa_frame_pages.to_bytes(4, "little") + size.to_bytes(8, "little")
        self._state.update(head.ljust(64, b"\0"))

    def add(self, offset: int, pages: bytes, flags: int, *, measured: bool = True) -> None:
        """Add pages with EADD, and measure their content with EEXTEND if so wanted.

        Raises:
            Misuse: they are no whole pages.
        """
        if len(pages) % PAGE_SIZE or offset % PAGE_SIZE:
            raise Misuse("not whole pages", found=f"{len(pages)} bytes at {offset:#x}")
        for start in range(0, len(pages), PAGE_SIZE):
            info = b"EADD\0\0\0\0" + (offset + start).to_bytes(8, "little")
            self._state.update((info + flags.to_bytes(8, "little")).ljust(64, b"\0"))
            if not measured:
                continue
            for chunk in range(start, start + PAGE_SIZE, _EXTEND_SIZE):
                head = b"EEXTEND\0" + (offset + chunk).to_bytes(8, "little")
                self._state.update(head.ljust(64, b"\0") + pages[chunk : chunk + _EXTEND_SIZE])

    def mrenclave(self) -> bytes:
        """The measurement of what was added so far, 32 bytes."""
        return self._state.digest()


def predict(sigstruct: Sigstruct) -> Prediction:
    """Tell what the enclave of `sigstruct` will report.

    Raises:
        Unverified: its signature is wrong: the processor would not start it.
    """
    sgx_keys.check(sigstruct)
    body = sigstruct.body
    return prediction(body.mrenclave, sigstruct.mrsigner(), body.product_id, body.security_version)


def prediction(
    mrenclave: bytes, signer: bytes, product_id: int, security_version: int
) -> Prediction:
    """Tell an enclave's measurement, and what else a steward must admit of it."""
    lines = [
        "[sgx]",
        f"measurements = {toml_list(mrenclave)}",
        'config_ids = "any"',
        'tcb_statuses = ["UpToDate"]',
        "advisories = []",
        EVALUATION,
        "",
        "[[sgx.signers]]",
        f'mr_signer = "{signer.hex()}"',
        f"isv_prod_id = {product_id}",
        f"minimum_isv_svn = {security_version}",
    ]
    return Prediction(
        Tee.SGX,
        {"mrenclave": mrenclave},
        "\n".join(lines) + "\n",
        details={
            "mrsigner": signer.hex(),
            "isv_prod_id": str(product_id),
            "isv_svn": str(security_version),
        },
    )
