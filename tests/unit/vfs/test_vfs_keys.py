"""`/key` and `/attest`, node by node: what a workload may do there, and what it may not."""

from __future__ import annotations

import json
import threading
import uuid
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from hypothesis import given
from hypothesis import strategies as st

from garrison.attesters.nil import NilAttester
from garrison.attesters.simulated_snp_insecure import SimulatedSnpInsecure, create_insecure
from garrison.errors import Malformed
from garrison.formats import cmw, jwk
from garrison.formats.evidence import bound_report_data, workload_report_data
from garrison.formats.snp import Report
from garrison.formats.snp_evidence import SnpEvidence
from garrison.keep.bearer import Bearer
from garrison.keep.identity import Credentials, StewardClient
from garrison.keep.keyring import IDENTITY_PREFIX
from garrison.keep.vfs import errno
from garrison.keep.vfs.errno import Errno
from garrison.keep.vfs.keys import attest_directory, key_directory
from garrison.keep.vfs.nodes import Directory
from garrison.testing.tls import Authority, workload

if TYPE_CHECKING:
    from pathlib import Path

    from garrison.attesters.base import Attester

AUTHORITY = Authority()
LEAF = AUTHORITY.issue(workload())


def at(directory: Directory, path: str) -> Directory:
    for name in path.split("/"):
        found = directory.lookup(name)
        assert isinstance(found, Directory)
        directory = found
    return directory


def ask(directory: Directory, name: str, *question: bytes) -> bytes:
    """Write each piece, and read all."""
    node = directory.lookup(name)
    assert node is not None
    opened = node.open(read=True, write=True)
    for piece in question:
        assert opened.write(memoryview(piece)) == len(piece)
    answer = b""
    buffer = memoryview(bytearray(7))
    while count := opened.read(buffer):
        answer += buffer[:count]
    return answer


def refused(directory: Directory, name: str, *question: bytes) -> int:
    with pytest.raises(Errno) as caught:
        ask(directory, name, *question)
    return caught.value.number


def bearer(attester: Attester | None = None) -> Bearer:
    steward = StewardClient("https://steward.test", AUTHORITY.root_pem)
    credentials = Credentials(LEAF.key, attester or NilAttester(), steward)
    return Bearer(credentials, workload(), lambda: LEAF.chain)


@pytest.mark.parametrize("algorithm", jwk.ALGORITHMS)
def test_a_pair_signs_and_what_it_shares_verifies(algorithm: str) -> None:
    ours, theirs = key_directory(None, 8), key_directory(None, 8)
    name = ask(ours, "generate", algorithm.encode()).decode()
    assert str(uuid.UUID(name)) == name
    pair = at(ours, name)
    public = ask(pair, "share")
    assert json.loads(public)["alg"] == algorithm
    assert not {"d", "p", "q"} & set(json.loads(public))
    other = at(theirs, ask(theirs, "trust", public).decode())
    assert ask(other, "share") == public
    assert other.lookup("sign") is None

    signature = ask(pair, "sign", b"hel", b"lo")
    for key in (pair, other):
        assert ask(key, "verify", signature + b"hello") == b"verified\n"
        assert ask(key, "verify", signature[:5], signature[5:] + b"he", b"llo") == b"verified\n"
        for wrong in (signature + b"hallo", signature, signature[:-1], b"\0" * 8192):
            assert refused(key, "verify", wrong) == errno.BADMSG
        flipped = bytes([signature[0] ^ 1]) + signature[1:]
        assert refused(key, "verify", flipped + b"hello") == errno.BADMSG


def test_a_file_answers_one_question_after_the_other() -> None:
    keys = key_directory(None, 8)
    pair = at(keys, ask(keys, "generate", b"ES256\n").decode())
    node = pair.lookup("verify")
    assert node is not None
    opened = node.open(read=True, write=True)
    view = memoryview(bytearray(100))
    with pytest.raises(Errno) as caught:
        opened.read(view)
    assert caught.value.number == errno.INVAL
    for message in (b"one", b"two"):
        signature = ask(pair, "sign", message)
        opened.write(memoryview(signature + message))
        assert (opened.read(view[:4]), bytes(view[:4])) == (4, b"veri")
        assert opened.read(view[:0]) == 0
        assert (opened.read(view), opened.read(view)) == (5, 0)
        opened.write(memoryview(b"x"))
        with pytest.raises(Errno):
            opened.read(view)
    # The signature of nothing is one, too.
    assert ask(pair, "verify", ask(pair, "sign")) == b"verified\n"


def test_what_is_no_question(caplog: pytest.LogCaptureFixture) -> None:
    keys = key_directory(None, 8)
    for wrong in (b"HS256", b"none", b"", b"\xff"):
        assert refused(keys, "generate", wrong) == errno.INVAL
    assert refused(keys, "generate", b"E" * 17) == errno.MSGSIZE
    assert refused(keys, "trust", b"{}") == errno.INVAL
    assert refused(keys, "trust", b"x" * (jwk.MAX_SIZE + 1)) == errno.MSGSIZE
    for missing in ("", str(uuid.uuid4()), "identity", "../key"):
        assert keys.lookup(missing) is None
    assert "refused to the workload: /key/generate: " in caplog.text
    for change in (
        lambda: keys.create_file("x"),
        lambda: keys.remove("generate"),
        lambda: keys.create_directory("x"),
    ):
        with pytest.raises(Errno) as caught:
            change()
        assert caught.value.number == errno.ROFS


def test_keys_are_bounded_and_listed(caplog: pytest.LogCaptureFixture) -> None:
    keys = key_directory(None, 3)
    names = [ask(keys, "generate", b"ES256").decode() for _ in range(3)]
    for _ in range(2):
        assert refused(keys, "generate", b"ES256") == errno.NOSPC
    assert [name for name, _, _ in keys.listing()] == ["generate", "trust", *names]
    assert caplog.text.count("limits.keys is 3") == 1


def test_the_identity_is_shown_and_signs_with_a_prefix() -> None:
    identity = at(key_directory(bearer(), 8), "identity")
    chain = x509.load_pem_x509_certificates(ask(identity, "chain"))
    assert tuple(chain) == LEAF.chain
    algorithm, public = jwk.decode(ask(identity, "share"))
    assert public == chain[0].public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    signature = ask(identity, "sign", b"hello")
    assert ask(identity, "verify", signature + b"hello") == b"verified\n"
    half = len(signature) // 2
    encoded = utils.encode_dss_signature(
        int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    )
    used = {"ES256": hashes.SHA256(), "ES384": hashes.SHA384()}[algorithm]
    public.verify(encoded, IDENTITY_PREFIX + b"hello", ec.ECDSA(used))
    # Never the bare message, which could be a certificate request or a handshake.
    with pytest.raises(InvalidSignature):
        public.verify(encoded, b"hello", ec.ECDSA(used))


def test_evidence_is_bound_to_the_workload_and_what_it_asks(tmp_path: Path) -> None:
    create_insecure(tmp_path / "snp", name="keys")
    attest = attest_directory(bearer(SimulatedSnpInsecure.open(tmp_path / "snp")))
    digest = workload().digest
    assert digest is not None
    for nonce in (b"n", b"\0" * 64):
        evidence = cmw.decode(ask(attest, "report", nonce))
        report = Report.from_bytes(SnpEvidence.from_bytes(evidence.payload).report)
        assert report.report_data == workload_report_data(digest, nonce)
    assert refused(attest, "report", b"\0" * 65) == errno.MSGSIZE
    assert refused(attest, "report") == errno.INVAL


def test_without_a_tee_there_is_no_evidence() -> None:
    assert refused(attest_directory(bearer()), "report", b"nonce") == errno.NOTSUP


@given(st.binary(max_size=64), st.binary(min_size=32, max_size=32), st.binary(max_size=256))
def test_no_question_is_a_certificate_request(
    nonce: bytes, digest: bytes, challenge: bytes
) -> None:
    spki = b"\x30" + digest
    assert workload_report_data(digest, nonce) != bound_report_data(spki, challenge)
    assert not (IDENTITY_PREFIX + nonce).startswith((b"\x30", b" ", b"ey"))


def _ec(**changed: object) -> bytes:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return json.dumps({**json.loads(jwk.encode("ES256", public)), **changed}).encode()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (b"", "not a JSON Web Key"),
        (b"[" * 5000, "not a JSON Web Key"),
        (b"\xff{}", "not a JSON Web Key"),
        (_ec(alg="ES384"), "not a key for ES384"),
        (_ec(alg="none"), "unknown algorithm"),
        (_ec(alg=["ES256"]), "unknown algorithm"),
        (_ec(alg=None), "unknown algorithm"),
        (_ec(d="AA"), "not a public key"),
        (_ec(x="AA"), "wrong size"),
        (_ec(x="A" * 43 + "="), "not base64url"),
        (_ec(x="\u00e4"), "not base64url"),
        (_ec(x=1), "not base64url"),
        (_ec(x="A" * 43), "not a key for ES256"),
        (_ec(kty="RSA", alg="RS256", crv=None, n="AQAB", e="AQAB"), "not an RSA key"),
        (_ec(kty="RSA", alg="RS256", crv=None, n="AA" + "x" * 402, e="AQAB"), "not an RSA key"),
        (_ec(kty="RSA", alg="RS256", crv=None, n="_" * 400, e="Ag"), "not a key for RS256"),
        (_ec(kty="RSA", alg="RS256", crv=None, n="_" * 4000, e="AQAB"), "not an RSA key"),
    ],
    ids=[
        "empty", "deep", "not-utf8", "curve", "none", "list", "no-alg", "private", "short",
        "padded", "not-ascii", "number", "off-curve", "tiny", "zeros", "even", "huge",
    ],
)  # fmt: skip
def test_what_is_no_public_key(key: bytes, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        jwk.decode(key)


_MEMBERS = st.dictionaries(
    st.sampled_from(["kty", "alg", "crv", "x", "y", "n", "e"]),
    st.none() | st.sampled_from(["EC", "RSA", "P-256", "ES256", "RS256", "AQAB"]) | st.text(),
)


@given(st.binary(max_size=300) | _MEMBERS.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_key_or_malformed(data: bytes) -> None:
    try:
        algorithm, key = jwk.decode(data)
    except Malformed:
        return
    assert jwk.decode(jwk.encode(algorithm, key)) == (algorithm, key)


def test_evidence_is_made_for_one_after_the_other() -> None:
    class Slow(NilAttester):
        """It would mix up two requests at once."""

        asked: bytes | None = None

        def attest(self, report_data: bytes) -> None:
            assert self.asked is None
            self.asked = report_data
            threading.Event().wait(0.01)
            self.asked = None

    asking = bearer(Slow())
    failed: list[int] = []

    def ask_often() -> None:
        for _ in range(5):
            with pytest.raises(Errno) as caught:
                asking.report(b"nonce")
            failed.append(caught.value.number)

    threads = [threading.Thread(target=ask_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == [errno.NOTSUP] * 20
