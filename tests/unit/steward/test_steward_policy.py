"""The steward's policy: what is missing refuses, what is unknown is named with its line."""

from __future__ import annotations

import shutil
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from garrison.errors import GarrisonError, Malformed, Misuse
from garrison.steward.policy import Policy

if TYPE_CHECKING:
    from pathlib import Path

SNP = """
[snp]
measurements = "any"
products = "any"
minimum_tcb = "any"
id_key_digests = "any"
author_key_digests = "any"
host_data = "any"
chip_ids = "any"
endorsements = []
"""
HEAD = """
trust_domain = "example.test"
freshness = "required"
"""
CERTIFICATES = """
[certificates]
lifetime_minutes = 60
dns_names = ["chat.example.test"]
"""
DRAWBRIDGES = """
[drawbridges."drawbridge.test"]
[drawbridges."other.test:8443"]
ca = "ca.pem"
"""
WHOLE = HEAD + CERTIFICATES + DRAWBRIDGES + SNP


def load(path: Path, text: str) -> Policy:
    (path / "policy.toml").write_text(text)
    return Policy.load(path / "policy.toml")


@pytest.fixture
def base(tmp_path: Path, directory: Path) -> Path:
    shutil.copy(directory / "root.pem", tmp_path / "ca.pem")
    return tmp_path


def test_whole_policy(base: Path) -> None:
    policy = load(base, WHOLE)
    assert policy.trust_domain == "example.test"
    assert policy.challenge_required
    assert policy.lifetime == timedelta(minutes=60)
    assert policy.dns_names == ("chat.example.test",)
    assert policy.drawbridges == {
        "drawbridge.test": None,
        "other.test:8443": (base / "ca.pem").read_text(),
    }
    assert not policy.local_workloads


def test_local_workloads_can_stand_for_drawbridges(base: Path) -> None:
    policy = load(base, HEAD + "local_workloads = true\n" + CERTIFICATES + SNP)
    assert policy.local_workloads
    assert policy.drawbridges == {}


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("", Malformed, "trust_domain: missing"),
        (WHOLE.replace('freshness = "required"', ""), Malformed, "freshness: missing"),
        (WHOLE.replace('"required"', '"sometimes"'), Malformed, "policy.toml:3: freshness"),
        (WHOLE.replace("example.test", "Example"), Malformed, "not a trust domain"),
        (HEAD + DRAWBRIDGES + SNP, Malformed, "certificates: missing"),
        (HEAD + CERTIFICATES + DRAWBRIDGES, Malformed, "snp: no TEE is admitted"),
        (HEAD + CERTIFICATES + SNP, Malformed, "no workload could have a certificate"),
        (WHOLE.replace("= 60", "= 1441"), Malformed, "out of range; found 1441"),
        (WHOLE.replace("= 60", "= 0"), Malformed, "out of range; found 0"),
        (WHOLE.replace("lifetime_minutes = 60", ""), Malformed, "lifetime_minutes: missing"),
        (WHOLE.replace("chat.", "*."), Malformed, "not a DNS name"),
        (WHOLE.replace("drawbridge.test", "Drawbridge.test"), Malformed, "not a valid name"),
        (WHOLE.replace("drawbridge.test", "drawbridge.test:443"), Malformed, "not a valid name"),
        (WHOLE.replace("ca.pem", "gone.pem"), Misuse, "gone.pem: cannot be read"),
        (WHOLE.replace("ca.pem", "policy.toml"), Malformed, "not certificates in PEM"),
        (WHOLE.replace('ca = "', 'cas = "'), Malformed, 'drawbridges."other.test:8443".cas'),
        (WHOLE + "[tdx]\n", Malformed, "tdx.mr_td: missing"),
        (HEAD + "local_workload = true\n" + WHOLE[len(HEAD) :], Malformed, "unknown key"),
        ("trust_domain = ", Malformed, "not TOML"),
        ("#" * (1 << 20) + "\n", Malformed, "too long"),
    ],
)
def test_other_policies_are_refused(
    base: Path, text: str, kind: type[GarrisonError], reason: str
) -> None:
    with pytest.raises(GarrisonError) as caught:
        load(base, text)
    assert caught.type is kind
    assert reason in str(caught.value)


def test_missing_policy_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(Misuse) as caught:
        Policy.load(tmp_path / "none.toml")
    assert "none.toml: cannot be read" in str(caught.value)
