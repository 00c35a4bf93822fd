"""Where the steward's keys are: under an offline root, encrypted, or in a PKCS#11 token."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.verification import PolicyBuilder, Store
from tests.unit.steward.conftest import DIGEST, NOW, SLUG, FakeRegistry, Keep
from tests.unit.steward.test_steward_http import PROBLEM, ask_app

from garrison.cli.steward import command
from garrison.errors import GarrisonError, Malformed, Misuse, Unavailable
from garrison.formats.csr import PKCS10_MEDIA_TYPE, decode_pki_path
from garrison.formats.identity import WorkloadIdentity
from garrison.formats.leaf import spki_of
from garrison.steward import token as token_module
from garrison.steward.authority import Authority
from garrison.steward.certificates import issue_certificate, issue_client_certificate
from garrison.steward.http import application
from garrison.steward.init import Custody, create
from garrison.steward.keys import (
    SECRET_DESCRIPTOR,
    load_certificate,
    load_certificates,
    read_secret,
)
from garrison.steward.published import revocation_list
from garrison.steward.token import TokenReference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from garrison.steward.issuance import Steward

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
PIN = b"sesame-7"
PASSPHRASE = b"correct horse battery staple"


def make(directory: Path, custody: Custody) -> Authority:
    create(directory, trust_domain="example.test", hosts=["localhost"], now=NOW, custody=custody)
    return Authority.load(directory, custody.secret)


def leaf_of(authority: Authority) -> x509.Certificate:
    return issue_certificate(
        authority,
        spki_of(ec.generate_private_key(ec.SECP384R1()).public_key()),
        WorkloadIdentity(SLUG, DIGEST, "snp", b"m" * 48, "UpToDate"),
        dns_names=(),
        lifetime=timedelta(minutes=5),
        now=NOW,
    )


def check_chain(authority: Authority, leaf: x509.Certificate) -> list[x509.Certificate]:
    """Verify `leaf` by the root alone, with what the steward sends along."""
    verifier = PolicyBuilder().store(Store([authority.roots[0]])).time(NOW).build_client_verifier()
    return list(verifier.verify(leaf, list(authority.path[1:])).chain)


def refused(kind: type[GarrisonError], reason: str, directory: Path, secret: bytes | None) -> None:
    with pytest.raises(GarrisonError) as caught:
        Authority.load(directory, secret)
    assert caught.type is kind, caught.value
    assert reason in str(caught.value)


def test_intermediate_under_an_offline_root(tmp_path: Path) -> None:
    custody = Custody(offline_root=tmp_path / "root")
    authority = make(tmp_path / "steward", custody)
    root, issuer = authority.path
    assert root == load_certificate(tmp_path / "root" / "root.pem")
    assert root.not_valid_after_utc == NOW + timedelta(days=3650)
    assert issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    # The root's key is with the root alone.
    assert not (tmp_path / "steward" / "root.key").exists()
    (tmp_path / "root").rename(tmp_path / "safe")
    leaf = leaf_of(Authority.load(tmp_path / "steward"))
    assert check_chain(authority, leaf) == [leaf, issuer, root]
    server = load_certificates(tmp_path / "steward" / "server.pem")
    assert server[1:] == [issuer]
    chain, _ = issue_client_certificate(authority, NOW)
    assert x509.load_pem_x509_certificates(chain)[1:] == [issuer]
    crl = x509.load_der_x509_crl(revocation_list(authority.issuer, [7], [], NOW))
    assert crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]  # our own: EC


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_verifies_the_chain(tmp_path: Path) -> None:
    authority = make(tmp_path / "steward", Custody(offline_root=tmp_path / "root"))
    for name, certificate in (("leaf", leaf_of(authority)), ("issuer", authority.certificate)):
        (tmp_path / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    options = ("-x509_strict", "-purpose", "sslclient", "-attime", str(int(NOW.timestamp())))
    roots = ("-CAfile", tmp_path / "steward" / "root.pem", "-untrusted", tmp_path / "issuer.pem")
    done = subprocess.run(
        ["openssl", "verify", *options, *roots, tmp_path / "leaf.pem"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip().endswith(": OK"), done.stderr


def test_second_steward_under_the_same_root(tmp_path: Path) -> None:
    custody = Custody(offline_root=tmp_path / "root")
    first, second = (make(tmp_path / name, custody) for name in ("a", "b"))
    assert first.roots == second.roots
    assert first.certificate != second.certificate
    with pytest.raises(Malformed, match="the root of another trust domain"):
        create(tmp_path / "c", trust_domain="other.test", hosts=["x"], now=NOW, custody=custody)
    make(tmp_path / "alone", Custody())
    with pytest.raises(Malformed, match="may not have an intermediate"):
        make(tmp_path / "c", Custody(offline_root=tmp_path / "alone"))
    assert not (tmp_path / "c").exists()


def test_intermediate_of_another_root_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a", Custody(offline_root=tmp_path / "root-a"))
    make(tmp_path / "b", Custody(offline_root=tmp_path / "root-b"))
    shutil.copy(tmp_path / "b" / "root.pem", tmp_path / "a" / "root.pem")
    refused(Malformed, "not issued by the root", tmp_path / "a", None)


def test_answers_hold_the_whole_chain(steward: Steward, tmp_path: Path) -> None:
    """Over HTTP, as the original's clients read it: issuer first, leaf last."""
    authority = make(tmp_path / "steward", Custody(offline_root=tmp_path / "root"))
    under = replace(steward, authority=authority)
    app = application(under, FakeRegistry(), clock=lambda: NOW)
    headers = {"Content-Type": PKCS10_MEDIA_TYPE, "Accept": PROBLEM}
    body = Keep().request(under, WorkloadIdentity(SLUG, DIGEST))
    answer = asyncio.run(ask_app(app, "POST", "/", headers, body))
    *path, leaf = decode_pki_path(answer.body)
    assert tuple(path) == authority.path
    check_chain(authority, leaf)
    bundle = asyncio.run(ask_app(app, "GET", "/bundle", {}, b""))
    assert x509.load_pem_x509_certificates(bundle.body) == [authority.path[0]]


def test_encrypted_keys(tmp_path: Path) -> None:
    custody = Custody(offline_root=tmp_path / "root", secret=PASSPHRASE)
    authority = make(tmp_path / "steward", custody)
    check_chain(authority, leaf_of(authority))
    for path in (tmp_path / "root/root.key", *(tmp_path / "steward").glob("[ir]*.key")):
        assert b"ENCRYPTED" in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    refused(Misuse, "there is no passphrase", tmp_path / "steward", None)
    refused(Misuse, "cannot be opened with this passphrase", tmp_path / "steward", b"wrong")


def test_results_have_a_key_of_their_own(tmp_path: Path) -> None:
    authority = make(tmp_path / "steward", Custody())
    assert authority.result_keys == (authority.issuer.result_key.public_key(),)
    assert authority.result_keys[0] != authority.certificate.public_key()
    shutil.copy(tmp_path / "steward" / "root.key", tmp_path / "steward" / "result.key")
    refused(Malformed, "a key of its own for results", tmp_path / "steward", None)


def test_secret_is_one_line_of_a_private_file_or_of_a_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(PASSPHRASE + b"\n")
    path.chmod(0o600)
    assert read_secret(path, {}) == PASSPHRASE
    assert read_secret(None, {}) is None
    path.chmod(0o604)
    with pytest.raises(Misuse, match="others can read"):
        read_secret(path, {})
    path.chmod(0o600)
    for content in (b"", b"\n", b"two\nlines", b"x" * 1025):
        path.write_bytes(content)
        with pytest.raises(Malformed, match="not one line"):
            read_secret(path, {})
    reader, writer = os.pipe()
    os.write(writer, PASSPHRASE)
    os.close(writer)
    assert read_secret(None, {SECRET_DESCRIPTOR: str(reader)}) == PASSPHRASE
    for number in ("", "-1", "x", "99999", "9" * 30):
        with pytest.raises(Misuse, match="not a descriptor"):
            read_secret(None, {SECRET_DESCRIPTOR: number})


def test_command_makes_an_encrypted_intermediate(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(PASSPHRASE)
    secret.chmod(0o600)
    arguments = ["init", str(tmp_path / "steward"), "--trust-domain", "example.test"]
    arguments += ["--offline-root", str(tmp_path / "root"), "--secret-file", str(secret)]
    done = CliRunner().invoke(command, arguments)
    assert done.exception is None, done.output
    assert PASSPHRASE.decode() not in done.output
    assert len(Authority.load(tmp_path / "steward", PASSPHRASE).path) == 2


@pytest.fixture(scope="session")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A token of SoftHSM, for this process and those that it starts."""
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
    if not Path(MODULE).exists():
        pytest.skip("SoftHSM is not installed: apt-get install softhsm2")
    base = tmp_path_factory.mktemp("softhsm")
    (base / "tokens").mkdir()
    (base / "softhsm2.conf").write_text(f"directories.tokendir = {base / 'tokens'}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(base / "softhsm2.conf"))
        labels = ("--label", "garrison", "--pin", PIN.decode(), "--so-pin", "12345678")
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", *labels], check=True, capture_output=True
        )
        yield "garrison"


def test_key_in_a_token(softhsm: str, tmp_path: Path) -> None:
    reference = TokenReference(MODULE, softhsm, "plain")
    authority = make(tmp_path / "steward", Custody(token=reference, secret=PIN))
    check_chain(authority, leaf_of(authority))
    assert not (tmp_path / "steward" / "root.key").exists()
    for never in (
        authority.key.private_numbers,
        lambda: authority.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        lambda: authority.key.exchange(ec.ECDH(), authority.result_keys[0]),
    ):
        with pytest.raises(RuntimeError, match="the key stays in its token"):
            never()
    with pytest.raises(TypeError):
        authority.key.sign(bytes(48), ec.ECDSA(Prehashed(hashes.SHA384())))
    with pytest.raises(Misuse, match="exists already"):
        make(tmp_path / "again", Custody(token=reference, secret=PIN))
    assert not (tmp_path / "again").exists()


def test_intermediate_in_a_token(softhsm: str, tmp_path: Path) -> None:
    reference = TokenReference(MODULE, softhsm, "intermediate")
    custody = Custody(offline_root=tmp_path / "root", token=reference, secret=PIN)
    authority = make(tmp_path / "steward", custody)
    assert len(check_chain(authority, leaf_of(authority))) == 3
    # Another key's label in its place.
    make(tmp_path / "other", Custody(token=TokenReference(MODULE, softhsm, "other"), secret=PIN))
    shutil.copy(tmp_path / "other" / "issuer.toml", tmp_path / "steward" / "issuer.toml")
    refused(Malformed, "not the key of the issuing certificate", tmp_path / "steward", PIN)


def test_what_a_token_refuses(softhsm: str, tmp_path: Path) -> None:
    make(tmp_path / "steward", Custody(token=TokenReference(MODULE, softhsm, "mine"), secret=PIN))
    path = tmp_path / "steward" / "issuer.toml"
    refused(Misuse, "no PIN for the token", tmp_path / "steward", None)
    for name, value, kind, reason in (
        ("token", "nobody", Misuse, "not one token of this label"),
        ("key", "nobody", Misuse, "not one key of this label"),
        ("key", "a" * 33, Malformed, "not a label"),
        ("module", "/nowhere.so", Misuse, "the module cannot be loaded"),
        ("module", "relative.so", Malformed, "not an absolute path"),
        ("extra", "x", Malformed, "unknown"),
    ):
        values = {"module": MODULE, "token": softhsm, "key": "mine"} | {name: value}
        path.write_text("".join(f'{key} = "{text}"\n' for key, text in values.items()))
        refused(kind, reason, tmp_path / "steward", PIN)


def test_wrong_pin(softhsm: str, tmp_path: Path) -> None:
    """In a process of its own: a login is the whole process's."""
    make(tmp_path / "steward", Custody(token=TokenReference(MODULE, softhsm, "pin"), secret=PIN))
    program = (
        "import sys, pathlib; from garrison.steward.authority import Authority;"
        "Authority.load(pathlib.Path(sys.argv[1]), sys.argv[2].encode())"
    )
    for pin, text in (("wrong-1", "the token refuses the PIN"), (PIN.decode(), "")):
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "steward"), pin],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) == (text == "")
        assert text in done.stderr


def test_token_that_fails_is_unavailable(
    softhsm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pkcs11

    reference = TokenReference(MODULE, softhsm, "fails")
    authority = make(tmp_path / "steward", Custody(token=reference, secret=PIN))

    class Broken:
        def sign(self, *_: object, **__: object) -> bytes:
            raise pkcs11.DeviceError

    assert isinstance(authority.key, token_module.TokenKey)
    monkeypatch.setattr(authority.key, "_handle", Broken())
    with pytest.raises(Unavailable, match="the token fails: DeviceError"):
        leaf_of(authority)


def test_without_the_extra_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What importing a module gives that is not installed.
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(Misuse, match="the library for PKCS#11 is not installed") as caught:
        make(tmp_path / "steward", Custody(token=TokenReference(MODULE, "t", "k"), secret=PIN))
    assert caught.value.hint == "pip install 'garrison[pkcs11]'"
    assert list(tmp_path.iterdir()) == []
