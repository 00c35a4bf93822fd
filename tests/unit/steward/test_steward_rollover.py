"""Rollover: at no moment, and at no crash, is a good certificate refused."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from tests.unit.steward.conftest import NOW, FakeRegistry
from tests.unit.steward.test_steward_custody import PASSPHRASE, leaf_of
from tests.unit.steward.test_steward_http import Answer, ask_app

from garrison.cli.steward import command
from garrison.errors import Malformed, Misuse
from garrison.steward import ear
from garrison.steward.authority import Authority
from garrison.steward.http import application
from garrison.steward.init import Custody, create
from garrison.steward.keys import load_certificates
from garrison.steward.rollover import activate, prepare, retire, state

if TYPE_CHECKING:
    from garrison.steward.issuance import Steward

PLAIN = Custody()
LATER = NOW + timedelta(days=2)


@pytest.fixture
def home(directory: Path, tmp_path: Path) -> Path:
    shutil.copytree(directory, tmp_path / "steward")
    return tmp_path / "steward"


def roots(home: Path) -> list[x509.Certificate]:
    return load_certificates(home / "root.pem")


def accepted(home: Path, authority: Authority, leaf: x509.Certificate) -> bool:
    """Whether one who trusts `root.pem` accepts what `authority` issued."""
    verifier = PolicyBuilder().store(Store(roots(home))).time(NOW).build_client_verifier()
    try:
        verifier.verify(leaf, list(authority.path[1:]))
    except VerificationError:
        return False
    return True


def test_every_certificate_is_good_until_its_issuer_retires(home: Path) -> None:
    first = Authority.load(home)
    old_leaf = leaf_of(first)
    assert state(home) == "plain"

    prepare(home, PLAIN, NOW)
    assert state(home) == "prepared"
    prepared = Authority.load(home)
    assert prepared.certificate == first.certificate
    assert len(prepared.roots) == 2
    assert prepared.roots[0] == first.certificate

    activate(home, NOW)
    assert state(home) == "active"
    second = Authority.load(home)
    assert second.certificate == prepared.roots[1]
    assert set(second.roots) == set(prepared.roots)
    assert second.old is not None
    assert second.old.certificate == first.certificate
    new_leaf = leaf_of(second)
    assert accepted(home, first, old_leaf)
    assert accepted(home, second, new_leaf)
    # Whoever took the roots while it was prepared accepts both, too.
    assert set(roots(home)) == set(prepared.roots)

    retire(home, LATER)
    assert state(home) == "plain"
    last = Authority.load(home)
    assert last.roots == (second.certificate,)
    assert last.old is None
    assert accepted(home, second, new_leaf)
    assert not accepted(home, first, old_leaf)
    assert last.challenge_key == first.challenge_key


def test_keys_of_the_retired_are_gone(home: Path) -> None:
    before = {(home / name).read_bytes() for name in ("root.key", "result.key")}
    prepare(home, PLAIN, NOW)
    activate(home, NOW)
    retire(home, NOW, early=True)
    left = {path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert not before & left
    assert sorted(path.name for path in home.iterdir()) == [
        "generation-4",
        "live",
        "root.pem",
        "server.key",
        "server.pem",
    ]
    for path in home.rglob("*.key"):
        assert path.stat().st_mode & 0o077 == 0


def test_retiring_waits_for_the_last_certificate(home: Path) -> None:
    prepare(home, PLAIN, NOW)
    activate(home, NOW)
    with pytest.raises(Misuse, match="may still be good"):
        retire(home, NOW + timedelta(hours=23, minutes=59))
    retire(home, NOW + timedelta(days=1))


def test_steps_out_of_order_change_nothing(home: Path) -> None:
    def refuses(*steps: str) -> None:
        before = Authority.load(home).roots
        for step in steps:
            with pytest.raises(Misuse, match="not the next step"):
                {
                    "prepare": lambda: prepare(home, PLAIN, NOW),
                    "activate": lambda: activate(home, NOW),
                    "retire": lambda: retire(home, LATER),
                }[step]()
        assert Authority.load(home).roots == before

    refuses("activate", "retire")
    prepare(home, PLAIN, NOW)
    refuses("prepare", "retire")
    activate(home, NOW)
    refuses("prepare", "activate")


def test_a_new_intermediate_needs_no_new_root(tmp_path: Path) -> None:
    home, custody = tmp_path / "steward", Custody(tmp_path / "root", secret=PASSPHRASE)
    create(home, trust_domain="example.test", hosts=["localhost"], now=NOW, custody=custody)
    first = Authority.load(home, PASSPHRASE)
    leaf = leaf_of(first)
    prepare(home, custody, NOW)
    activate(home, NOW)
    second = Authority.load(home, PASSPHRASE)
    assert second.roots == first.roots
    assert second.certificate != first.certificate
    assert accepted(home, first, leaf)
    assert accepted(home, second, leaf_of(second))
    retire(home, LATER)
    assert Authority.load(home, PASSPHRASE).roots == first.roots


def test_from_one_root_to_an_offline_one(home: Path, tmp_path: Path) -> None:
    prepare(home, Custody(offline_root=tmp_path / "root"), NOW)
    activate(home, NOW)
    active = Authority.load(home)
    assert len(active.path) == 2
    assert accepted(home, active, leaf_of(active))
    server = load_certificates(home / "server.pem")
    assert server[1:] == [active.certificate]


def test_a_rollover_to_another_trust_domain_is_refused(home: Path, tmp_path: Path) -> None:
    create(
        tmp_path / "other",
        trust_domain="other.test",
        hosts=["x"],
        now=NOW,
        custody=Custody(offline_root=tmp_path / "root"),
    )
    with pytest.raises(Malformed, match="the root of another trust domain"):
        prepare(home, Custody(offline_root=tmp_path / "root"), NOW)
    assert state(home) == "plain"
    assert len(Authority.load(home).roots) == 1


@pytest.mark.parametrize("step", ["prepare", "activate", "retire"])
def test_a_crash_at_any_change_leaves_a_steward(
    home: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change of a name on the disk is made to fail once; the step is then done again."""
    if step != "prepare":
        prepare(home, PLAIN, NOW)
    if step == "retire":
        activate(home, NOW)
    steps = {
        "prepare": lambda: prepare(home, PLAIN, NOW),
        "activate": lambda: activate(home, NOW),
        "retire": lambda: retire(home, LATER),
    }
    goal = {"prepare": "prepared", "activate": "active", "retire": "plain"}[step]
    trusted = set(roots(home))
    real = {name: getattr(Path, name) for name in ("rename", "replace", "unlink")}
    failures = 0
    for count in range(100):
        left = [count]

        def failing(name: str, left: list[int] = left) -> object:
            def call(self: Path, *arguments: object, **more: object) -> object:
                if left[0] == 0:
                    left[0] -= 1
                    raise OSError(5, "Input/output error")
                left[0] -= 1
                return real[name](self, *arguments, **more)

            return call

        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(Path, name, failing(name))
            # An outside reason, told as one; anything else fails the test.
            try:
                steps[step]()
            except Misuse:
                failures += 1
        # Whatever failed, what there is can be read, and trusts nothing less than it must.
        authority = Authority.load(home)
        assert set(roots(home)) >= (trusted if step != "retire" else {authority.roots[0]})
        if state(home) == goal:
            break
    assert state(home) == goal
    assert failures >= 2


def get(app: object, path: str, **headers: str) -> Answer:
    return asyncio.run(ask_app(app, "GET", path, headers, b""))


def test_what_is_published_on_the_way(home: Path, steward: Steward) -> None:
    def app() -> object:
        authority = Authority.load(home)
        return application(replace(steward, authority=authority), FakeRegistry(), clock=lambda: NOW)

    first = Authority.load(home)
    assert len(json.loads(get(app(), "/jwks").body)["keys"]) == 1
    prepare(home, PLAIN, NOW)
    pem = x509.load_pem_x509_certificates(get(app(), "/bundle").body)
    assert get(app(), "/bundle.pem").body == get(app(), "/bundle").body
    svids = get(app(), "/bundle", Accept="application/json")
    assert get(app(), "/bundle.json").body == svids.body
    assert [key["use"] for key in json.loads(svids.body)["keys"]] == ["x509-svid"] * 2
    assert len({key["x"] for key in json.loads(svids.body)["keys"]}) == len(set(pem)) == 2
    known = {key["kid"] for key in json.loads(get(app(), "/jwks").body)["keys"]}
    activate(home, NOW)
    second = Authority.load(home)
    assert ear.jwk(second.issuer.result_key.public_key())["kid"] in known
    assert {key["kid"] for key in json.loads(get(app(), "/jwks").body)["keys"]} == known
    for issuer in (first.issuer, second.issuer):
        crl = x509.load_der_x509_crl(get(app(), f"/crl/{issuer.identifier}").body)
        assert crl.issuer == issuer.certificate.subject
        assert crl.is_signature_valid(issuer.key.public_key())
    assert x509.load_der_x509_crl(get(app(), "/crl").body).is_signature_valid(
        second.key.public_key()
    )
    retire(home, LATER)
    assert get(app(), f"/crl/{first.issuer.identifier}").status == 404
    assert len(json.loads(get(app(), "/jwks").body)["keys"]) == 1


def test_commands(tmp_path: Path) -> None:
    home = str(tmp_path / "steward")

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(command, arguments)
        assert done.exception is None, done.exception
        return done.stdout.strip()

    run("init", home, "--trust-domain", "example.test")
    for step, then in (("prepare", "prepared"), ("activate", "active")):
        run("rollover", step, home)
        assert run("rollover", "status", home) == then
    early = CliRunner().invoke(command, ["rollover", "retire", home])
    assert isinstance(early.exception, Misuse)
    run("rollover", "retire", home, "--early")
    assert run("rollover", "status", home) == "plain"
