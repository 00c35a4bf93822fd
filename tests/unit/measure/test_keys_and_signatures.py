"""Keys and signatures of images, against the original's test vectors and against attacks.

The numbers of the vectors are from the tests of the original (Apache-2.0), as scalars and digests.
"""

from __future__ import annotations

import hashlib
import json
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from garrison.cli.main import main
from garrison.errors import Malformed, Unverified
from garrison.formats.sgx_sigstruct import Sigstruct, SigstructBody, mrsigner
from garrison.formats.snp_id_block import IdAuth, IdBlock, IdKeySignature
from garrison.measure import sev_keys, sgx_keys
from garrison.measure.signatures import Signatures

if TYPE_CHECKING:
    from pathlib import Path

_AUTHOR = int(
    "7599c61c7b6a2f904619eccde7823b449d1a55c3d0933905c747bf3bb6019617d0aa8ada6a23196b0a33b670a94a0e7d",
    16,
)
_ID = int(
    "dd0ced82a1326326b9160f7ed2ecf4408ca5af96ca7d118aee7d09cfae1b6c531ea47d5acb3251cdd40c436e1b95c899",
    16,
)
_P = int(
    "e6d1e5ca519c9c097c07490f8c81efea33fbb02a6c0045dd9f58f54d5f30a1c691d136755341a073905fc4abc460f24e"
    "b90b12ecd282f65746362752f501ef3c040ee8517a2a2899b7a2785ce5bc8d0d19060d14a1686ae83424a67acdcf39ff"
    "732236626517c9cf62e13d8d63a21f660074773ea28e980185ff0a8b3598bc5324e9c8229cf985c7247d5a5ccb69e2e0"
    "924bafc29019431d33df7f0dd0a9b1e02fe12eb543e551c55bc271b16ca7c527e797efb1fcf60383801ec6df47b1aec5",
    16,
)
_Q = int(
    "e64fbda369b50bfce10d129ceac0b959a03c9f5e9ff9a75dd9064d93957b597e985f1caa4148d0af19dd70c74b24893f"
    "ac9538d3a6334985eff1a23dbd8cdca235e74e3c5cb28df7195784439af954fb0da3bb4d7d44e381e72c64f89c5c2f4a"
    "688cbc3400d96c54456c9732947699272286ed0b1601429a7a808dffbc60bf484757bcd67a268c038c6f2979e6918d3e"
    "dd3ebebba29f8acf2cdd9769aae2add0e3aaaad618717b07d839f153389e9bac18ea1a9c300926973d0a8cef68b7964f",
    16,
)
_ID_BLOCK = bytes.fromhex(
    "ffa5915db811e386a67c50634ad22c494efde1ffec98bd8ac26da29d46db51884f184659be2774795dec36d639dffcec"
    "010000000000000000000000000000000100000000000000000000000000000001000000010000000000030000000000"
)
_BODY = bytes.fromhex(
    "0000000000000000000000000000000000000000000000000000000004000000000000000300000000000000"
    "040000000000000003000000000000007cffc3b4f639db733b62f0d4af8fa66228eea02f8ce609b4f3f6c46ea99f707f"
    "000000000000000000000000000000000000000000000000000000000000000000ea0100"
)


def _author() -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(_AUTHOR, ec.SECP384R1())


def _id_key() -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(_ID, ec.SECP384R1())


def _sgx_key() -> rsa.RSAPrivateKey:
    d = pow(3, -1, (_P - 1) * (_Q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p=_P,
        q=_Q,
        d=d,
        dmp1=d % (_P - 1),
        dmq1=d % (_Q - 1),
        iqmp=pow(_Q, -1, _P),
        public_numbers=rsa.RSAPublicNumbers(3, _P * _Q),
    )
    return numbers.private_key()


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _signed() -> tuple[IdBlock, IdAuth]:
    block = IdBlock.from_bytes(_ID_BLOCK)
    author = sev_keys.sign_id_key(_author(), _id_key())
    return block, sev_keys.sign_id_block(block, _id_key(), author)


def test_key_digests_are_the_original_s() -> None:
    assert sev_keys.public(_author()).digest().hex() == (
        "0dd83a8c088945ea8577ff94c29ddda82488ddf8b5723299b5b01ef28f10be5388be7af8aa00b06dd9deaeddc74b487a"
    )
    assert sev_keys.public(_id_key()).digest().hex() == (
        "0ea04f87205f95585f8037850f37104470ac2d79ca42033057fa56926a8ee3f06313f6da3742e2115222d1205ca0a1fe"
    )
    assert mrsigner(_P * _Q).hex() == (
        "298037d88782e022e019b3020745b78aa40ed95c77da4bf7f3253d3a44c4fd7e"
    )


def test_signatures_are_the_original_s_byte_for_byte() -> None:
    author = sev_keys.sign_id_key(_author(), _id_key())
    assert hashlib.sha256(author.to_bytes()).hexdigest() == (
        "ea0bc4e558afac8711d8f41f7b595e627cdd898983f82dafb7f4a7e9ace22127"
    )
    block, auth = _signed()
    assert block.to_bytes() == _ID_BLOCK
    assert hashlib.sha256(auth.to_bytes()).hexdigest() == (
        "7e94e896e1e17d93235187750a9331fc34908d9b99a938c315816b5336e2612a"
    )
    signed = sgx_keys.sign(SigstructBody.from_bytes(_BODY), _sgx_key())
    assert hashlib.sha256(signed.to_bytes()).hexdigest() == (
        "aee7ea06d434fbeae7e3e322358b72eae1f34170a5841f66c417abf3c2e2f9ec"
    )


def test_what_parses_is_written_again_as_it_was() -> None:
    block, auth = _signed()
    assert IdAuth.from_bytes(auth.to_bytes()) == auth
    assert IdKeySignature.from_bytes(auth.author.to_bytes()) == auth.author
    signed = sgx_keys.sign(SigstructBody.from_bytes(_BODY), _sgx_key())
    assert Sigstruct.from_bytes(signed.to_bytes()) == signed
    assert signed.body.product_id == 0xEA00
    assert Signatures.from_json(Signatures("1", (block, auth), signed).to_json().encode()) == (
        Signatures("1", (block, auth), signed)
    )
    assert Signatures.from_json(b'{"version":"1","sev":{"id_block":[],"id_auth":[]},"sgx":[]}') == (
        Signatures("1")
    )


@pytest.mark.parametrize("cut", [0, 1, 95, 97])
def test_an_id_block_has_one_length(cut: int) -> None:
    with pytest.raises(Malformed, match="SNP ID block"):
        IdBlock.from_bytes((_ID_BLOCK + b"\0")[:cut])


def test_every_byte_of_the_id_authentication_counts() -> None:
    block, auth = _signed()
    data = auth.to_bytes()
    for offset in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[offset] ^= 1
        with pytest.raises((Malformed, Unverified)):
            sev_keys.check(block, IdAuth.from_bytes(bytes(flipped)))


def test_every_byte_of_a_sigstruct_counts() -> None:
    data = sgx_keys.sign(SigstructBody.from_bytes(_BODY), _sgx_key()).to_bytes()
    for offset in range(0, len(data), 5):
        flipped = bytearray(data)
        flipped[offset] ^= 1
        with pytest.raises((Malformed, Unverified)):
            sgx_keys.check(Sigstruct.from_bytes(bytes(flipped)))
    for wrong in (data[:-1], data + b"\0", b""):
        with pytest.raises(Malformed, match="SIGSTRUCT"):
            Sigstruct.from_bytes(wrong)


def test_another_image_has_no_signature() -> None:
    block, auth = _signed()
    with pytest.raises(Unverified, match="ID block: the signature is wrong"):
        sev_keys.check(replace(block, launch_digest=bytes(48)), auth)


def test_an_author_who_vouches_for_another_key_does_not_vouch() -> None:
    other = sev_keys.sign_id_key(_author(), _author())
    with pytest.raises(Unverified, match="ID key: the signature is wrong"):
        sev_keys.sign_id_block(IdBlock.from_bytes(_ID_BLOCK), _id_key(), other)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"[" * 60000,
        b'{"version":1,"sev":{"id_block":[],"id_auth":[]},"sgx":[]}',
        b'{"version":"1","sev":{"id_block":[],"id_auth":[]},"sgx":[256]}',
        b'{"version":"1","sev":{"id_block":[],"id_auth":[]},"sgx":[true]}',
        b'{"version":"1","sev":{"id_block":[0],"id_auth":[]},"sgx":[]}',
        b'{"version":"1","sev":{"id_block":[],"id_auth":[]},"sgx":[],"more":1}',
        b" " * 70000,
    ],
    ids=["empty", "list", "deep", "version", "octet", "boolean", "short", "unknown", "large"],
)
def test_other_files_are_no_signatures(text: bytes) -> None:
    with pytest.raises(Malformed):
        Signatures.from_json(text)


def test_keys_of_another_kind_are_refused() -> None:
    p256 = _pem(ec.generate_private_key(ec.SECP256R1()))
    rsa_f4 = _pem(rsa.generate_private_key(65537, 3072))
    for pem in (p256, rsa_f4, b"", b"-----BEGIN PRIVATE KEY-----\n", _pem(_sgx_key())):
        with pytest.raises(Malformed, match="not a key for SEV"):
            sev_keys.load(pem, "--id-key")
    for pem in (p256, rsa_f4, b"", _pem(_id_key())):
        with pytest.raises(Malformed, match="not a key for SGX"):
            sgx_keys.load(pem, "--sgx-key")


def test_the_commands_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    author, id_key, sgx_key = (str(tmp_path / name) for name in ("author", "id", "sgx"))
    assert main(["key", "sev", "create", "--out", author]) == 0
    assert main(["key", "sev", "create", "--out", id_key]) == 0
    assert main(["key", "sgx", "create", "--out", sgx_key]) == 0
    assert stat.S_IMODE((tmp_path / "author").stat().st_mode) == 0o600
    before = (tmp_path / "author").read_bytes()
    assert main(["key", "sev", "create", "--out", author]) == 2, "a key is never written over"
    assert (tmp_path / "author").read_bytes() == before
    signature, body, out = (str(tmp_path / name) for name in ("signature", "body", "out"))
    keys = ["--author-key", author, "--id-key", id_key]
    assert main(["key", "sev", "sign", *keys, "--out", signature]) == 0
    (tmp_path / "body").write_bytes(_BODY)
    sev = ["--sev-id-key", id_key, "--sev-id-key-signature", signature]
    sgx = ["--sgx-key", sgx_key, "--sgx-body", body]
    assert main(["sign", "--sev-measurement", "ab" * 48, *sev, *sgx, "--out", out]) == 0
    capsys.readouterr()
    assert main(["key", "sev", "digest", author]) == 0
    author_digest = capsys.readouterr().out.strip()
    assert main(["key", "sgx", "digest", sgx_key]) == 0
    signer = capsys.readouterr().out.strip()
    signed = Signatures.from_json((tmp_path / "out").read_bytes())
    assert signed.sev is not None
    assert signed.sgx is not None
    assert signed.sev[0].launch_digest == b"\xab" * 48
    assert signed.sev[0].policy == 0x30000
    assert signed.sev[1].author.author_key.digest().hex() == author_digest
    assert signed.sgx.mrsigner().hex() == signer
    assert set(json.loads((tmp_path / "out").read_text())) == {"version", "sev", "sgx"}
    # What was signed with a key can be signed anew with another: the body stays.
    (tmp_path / "sigstruct").write_bytes(signed.sgx.to_bytes())
    assert main(["key", "sgx", "create"]) == 0
    pem = capsys.readouterr().out.encode()
    assert isinstance(load_pem_private_key(pem, None), rsa.RSAPrivateKey)
    (tmp_path / "sgx2").write_bytes(pem)
    again = ["--key", str(tmp_path / "sgx2"), "--out", str(tmp_path / "again")]
    assert main(["key", "sgx", "sign", *again, str(tmp_path / "sigstruct")]) == 0
    assert Sigstruct.from_bytes((tmp_path / "again").read_bytes()).body == signed.sgx.body


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--sev-measurement", "00" * 48],
        ["--sgx-key", __file__],
    ],
    ids=["nothing", "measurement alone", "key alone"],
)
def test_sign_wants_all_that_goes_together(options: list[str]) -> None:
    assert main(["sign", *options]) == 2
