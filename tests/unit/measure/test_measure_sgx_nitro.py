"""What enclaves will report: SGX and Nitro, against other implementations and against attacks."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.cli.main import main
from garrison.errors import Malformed, Misuse, Unverified
from garrison.formats._cbor import encode
from garrison.formats.eif import Eif, EifSection, EifSectionKind
from garrison.formats.sgx_sigstruct import SigstructBody
from garrison.measure import nitro, sgx, sgx_keys
from garrison.testing.tls import Authority

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = Eif(
    (
        EifSection(EifSectionKind.KERNEL, b"kernel" * 100),
        EifSection(EifSectionKind.CMDLINE, b"console=ttyS0"),
        EifSection(EifSectionKind.RAMDISK, b"init" * 50),
        EifSection(EifSectionKind.RAMDISK, b"app" * 70),
        EifSection(EifSectionKind.METADATA, b"{}"),
    )
)


def test_mrenclave_is_another_implementation_s() -> None:
    """As the crate sgx 0.6.1 computes it; with Linux' selftest enclave it agrees as well."""
    first = bytes(index % 251 for index in range(4096))
    second = bytes(index % 241 for index in range(8192))
    enclave = sgx.EnclaveHash(65536, ssa_frame_pages=2)
    enclave.add(0, first, sgx.TCS)
    enclave.add(4096, second, sgx.REGULAR | sgx.READ | sgx.EXECUTE)
    enclave.add(16384, second, sgx.REGULAR | sgx.READ | sgx.WRITE, measured=False)
    assert enclave.mrenclave().hex() == (
        "7824c8c1f14be2180c1bca3a80b57f85385b5724ec527ee2bbbe7be5466a4fe4"
    )


@pytest.mark.parametrize("size", [0, 4095, 12288])
def test_an_enclave_s_size_is_a_power_of_two(size: int) -> None:
    with pytest.raises(Misuse, match="power of two"):
        sgx.EnclaveHash(size)


def test_pages_are_whole() -> None:
    for offset, length in ((1, 4096), (0, 4095)):
        with pytest.raises(Misuse, match="whole pages"):
            sgx.EnclaveHash(65536).add(offset, bytes(length), sgx.REGULAR)


def test_a_sigstruct_becomes_a_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = SigstructBody.from_bytes(bytes(60) + b"\x5a" * 32 + bytes(32) + b"\x07\0\x03\0")
    signed = sgx_keys.sign(body, sgx_keys.load(sgx_keys.create(), "key"))
    (tmp_path / "sig").write_bytes(signed.to_bytes())
    command = ["image", "measure", "--tee", "sgx", "--sigstruct", str(tmp_path / "sig")]
    assert main(command) == 0
    assert capsys.readouterr().out.strip() == "5a" * 32
    assert main([*command, "--policy"]) == 0
    text = capsys.readouterr().out
    assert f'mr_signer = "{signed.mrsigner().hex()}"' in text
    assert "isv_prod_id = 7\nminimum_isv_svn = 3" in text
    (tmp_path / "policy.toml").write_text(text)
    assert main(["steward", "policy", "check", str(tmp_path / "policy.toml")]) == 0
    # A SIGSTRUCT that no processor would take becomes none.
    wrong = replace(signed, body=replace(body, mrenclave=bytes(32)))
    with pytest.raises(Unverified, match="SIGNATURE"):
        sgx.predict(wrong)


def test_registers_are_those_of_the_vendor_s_tool() -> None:
    """As aws-nitro-enclaves-image-format 0.8.1 computes them of the same file."""
    assert {name: value.hex() for name, value in nitro.registers(IMAGE).items()} == {
        "PCR0": "e9085e5d4301816936d214690294fa3037cb7ce8152d516ac7afd7a64f455ef9"
        "6a63e6004b4e564d96f9e7bfe22756b7",
        "PCR1": "5a62ab5860b969c683776fdadd01a82c3844515911fbcea9a2f0770faec98f8b"
        "0b8add534882bfa6d2d2fcbad0c83f97",
        "PCR2": "cc63ad3a8bf566207e8df15cb495d89b4c034c633637df5f94f0e847c3e64820"
        "9fb516f846a808a835fd0c91e3650d78",
    }


def test_the_signing_certificate_is_in_pcr8() -> None:
    certificate = Authority("signer").root
    pem = certificate.public_bytes(Encoding.PEM)
    section = encode([{"signing_certificate": list(pem), "signature": [0]}])
    signed = replace(
        IMAGE, sections=(*IMAGE.sections, EifSection(EifSectionKind.SIGNATURE, section))
    )
    digest = hashlib.sha384(certificate.public_bytes(Encoding.DER)).digest()
    found = nitro.registers(signed)
    assert found["PCR8"] == hashlib.sha384(bytes(48) + digest).digest()
    assert {name: found[name] for name in ("PCR0", "PCR1", "PCR2")} == nitro.registers(IMAGE)


@pytest.mark.parametrize(
    "section",
    [b"", b"\xff", encode([]), encode([{"signature": [0]}]), encode([{"signing_certificate": [1]}]),
     encode([{"signing_certificate": [256]}]), encode([{"signing_certificate": ["a"]}])],
    ids=["empty", "no CBOR", "none", "no certificate", "no PEM", "no octet", "text"],
)  # fmt: skip
def test_a_wrong_signature_section_is_malformed(section: bytes) -> None:
    wrong = Eif((*IMAGE.sections, EifSection(EifSectionKind.SIGNATURE, section)))
    with pytest.raises(Malformed, match="signature section"):
        nitro.registers(wrong)


def test_an_image_that_could_be_read_in_two_ways_has_no_registers() -> None:
    pem = Authority("signer").root.public_bytes(Encoding.PEM)
    section = encode([{"signing_certificate": pem, "signature": b""}])
    signature = EifSection(EifSectionKind.SIGNATURE, section)
    kernel, line, *rest = IMAGE.sections
    for sections, said in (
        ((kernel, kernel, line, *rest), "KERNEL: .*found 2"),
        ((line, *rest), "KERNEL: .*found 0"),
        ((kernel, *rest), "CMDLINE: .*found 0"),
        ((kernel, line, line, *rest), "CMDLINE: .*found 2"),
        ((kernel, line), "RAMDISK: .*found 0"),
        ((*IMAGE.sections, signature, signature), "SIGNATURE: .*found 2"),
    ):
        with pytest.raises(Malformed, match=said):
            nitro.registers(Eif(sections))
    assert "PCR8" in nitro.registers(Eif((*IMAGE.sections, signature)))


def test_registers_do_not_say_where_a_part_ends() -> None:
    """AWS's, not ours: so nothing may depend on how an enclave's command line begins."""
    kernel, line, *rest = IMAGE.sections
    moved = Eif((replace(kernel, data=kernel.data + line.data), replace(line, data=b""), *rest))
    assert nitro.registers(moved) == nitro.registers(IMAGE)


def test_an_image_is_read_as_it_was_written() -> None:
    data = IMAGE.to_bytes()
    assert Eif.from_bytes(data) == IMAGE
    assert Eif.from_bytes(replace(IMAGE, arm64=True).to_bytes()).arm64


def test_every_bit_of_an_image_is_under_its_checksum() -> None:
    data = IMAGE.to_bytes()
    for offset in range(len(data)):
        changed = bytearray(data)
        changed[offset] ^= 1
        with pytest.raises(Malformed):
            Eif.from_bytes(bytes(changed))
    for wrong in (b"", data[:-1], data[:547], data + b"\0"):
        with pytest.raises(Malformed):
            Eif.from_bytes(wrong)


def test_the_command_makes_a_policy_of_an_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "image.eif").write_bytes(IMAGE.to_bytes())
    command = ["image", "measure", "--tee", "nitro", "--eif", str(tmp_path / "image.eif")]
    assert main([*command, "--policy"]) == 0
    (tmp_path / "policy.toml").write_text(capsys.readouterr().out)
    assert main(["steward", "policy", "check", str(tmp_path / "policy.toml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"tees": ["nitro"], "openings": []}
    # An option for another TEE would seem to count.
    assert main([*command, "--append=quiet"]) == 2
