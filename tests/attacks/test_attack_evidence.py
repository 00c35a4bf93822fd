"""Property: nobody gets a certificate for what was not verified in that request.

The steward is a real process; the attacker sends it certificate requests of his own making, with
evidence signed by a chip that the steward believes, unless the test is about that chip.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.attacks.conftest import OTHER_MEASUREMENT

from garrison.attesters.simulated_snp_insecure import SimulatedSnpInsecure
from garrison.errors import Rejected
from garrison.formats.csr import Request, build_request
from garrison.formats.identity import CertifiedIdentity
from garrison.formats.snp import GuestPolicy
from garrison.keep.identity import Refused, StewardClient
from garrison.testing.attacks import certificate_request
from garrison.testing.snp import FakePlatform, chip_key

if TYPE_CHECKING:
    from tests.attacks.conftest import Attack

pytestmark = [pytest.mark.xdist_group("attacks")]

# The guest policy of the simulator, with the debug bit (SEV-SNP ABI 1.55, table 9, bit 19).
_DEBUG = GuestPolicy(1 << 17 | 1 << 19 | 1 << 20)


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def _refusal(attack: Attack, request: bytes, url: str | None = None) -> str:
    """What the steward answers to `request`: its words, and every check that it tells of."""
    with pytest.raises(Refused) as refused:
        attack.steward(url).certify(request)
    return " | ".join([str(refused.value), *(str(check) for check in refused.value.checks)])


def _chip(platform: FakePlatform) -> SimulatedSnpInsecure:
    """The simulated chip of `platform`."""
    chain = platform.endorsements()
    certificates = (chain.leaf, chain.issuer, chain.root)
    return SimulatedSnpInsecure(chip_key(0), certificates, bytes.fromhex(OTHER_MEASUREMENT))


def test_without_an_attack_a_certificate_is_issued(attack: Attack) -> None:
    """What every other test here would see if the attack had worked."""
    steward = attack.steward()
    chain = steward.certify(certificate_request(attack.simulator(), steward.challenge()))
    identity = CertifiedIdentity.from_certificate(chain[0])
    assert identity is not None
    assert identity.workload.measurement.hex() == attack.stack.measurement
    chain = attack.steward(attack.second).certify(
        certificate_request(_chip(attack.platform), attack.steward(attack.second).challenge())
    )
    assert CertifiedIdentity.from_certificate(chain[0]) is not None


def test_evidence_bound_to_another_key(attack: Attack) -> None:
    """Evidence of a genuine keep is put into a request for the attacker's own key."""
    steward = attack.steward()
    request = certificate_request(attack.simulator(), steward.challenge(), bound_to=_key())
    assert "bound to another key or challenge" in _refusal(attack, request)


def test_evidence_for_an_older_challenge(attack: Attack) -> None:
    """Recorded evidence is sent with a fresh challenge beside it."""
    steward, key = attack.steward(), _key()
    recorded = certificate_request(attack.simulator(), steward.challenge(), key=key)
    evidence = Request.from_der(recorded).evidence
    replayed = build_request(
        key,
        evidence=evidence,  # type: ignore[arg-type]  # (made by this version: never the original's)
        challenge=steward.challenge(),
        workload=None,
    )
    assert "bound to another key or challenge" in _refusal(attack, replayed)


def test_a_challenge_of_another_steward(attack: Attack) -> None:
    """A steward of the attacker's own hands out the challenge."""
    other = attack.stack.directory / "host-steward"
    attack.stack.command("steward", "init", str(other), "--trust-domain", "demo.test")
    url = attack.start_steward(other, attack.stack.policy())
    challenge = StewardClient(url, (other / "root.pem").read_text()).challenge()
    words = _refusal(attack, certificate_request(attack.simulator(), challenge))
    assert "challenge" in words
    assert "not issued by this steward" in words


def test_a_challenge_of_the_attackers_own(attack: Attack) -> None:
    """The expiry of a genuine challenge is moved into the future."""
    challenge = bytearray(attack.steward().challenge())
    challenge[4] ^= 1
    words = _refusal(attack, certificate_request(attack.simulator(), bytes(challenge)))
    assert "not issued by this steward" in words


def test_no_challenge(attack: Attack) -> None:
    """Evidence is bound to the key alone, as the original binds it: it could be of any age."""
    words = _refusal(attack, certificate_request(attack.simulator(), None))
    assert "no challenge" in words


def test_a_request_that_is_sent_twice(attack: Attack) -> None:
    """A recorded request is sent again: all it yields is a certificate for the keep's own key."""
    steward, key = attack.steward(), _key()
    request = certificate_request(attack.simulator(), steward.challenge(), key=key)
    first, second = (steward.certify(request)[0] for _ in range(2))
    assert first.serial_number != second.serial_number
    assert first.public_key() == second.public_key() == key.public_key()


def test_a_request_that_is_changed_on_the_way(attack: Attack) -> None:
    """One bit of a genuine request is flipped, where the key or the evidence stands."""
    request = certificate_request(attack.simulator(), attack.steward().challenge())
    for position in (60, len(request) // 2, len(request) - 5):
        changed = bytearray(request)
        changed[position] ^= 1
        with pytest.raises(Rejected, match="400"):
            attack.steward().certify(bytes(changed))


def test_a_debug_guest(attack: Attack) -> None:
    """The guest's policy lets the hypervisor read its memory."""
    steward = attack.steward()
    request = certificate_request(attack.simulator(), steward.challenge(), policy=_DEBUG)
    assert "debug" in _refusal(attack, request)


def test_a_measurement_that_is_not_listed(attack: Attack) -> None:
    """The keep's image was changed by the host."""
    steward = attack.steward()
    changed = attack.simulator(OTHER_MEASUREMENT)
    words = _refusal(attack, certificate_request(changed, steward.challenge()))
    assert OTHER_MEASUREMENT in words
    assert attack.stack.measurement in words


def test_a_report_of_another_chip(attack: Attack) -> None:
    """The report says that another chip made it than the one of the certificate."""
    steward = attack.steward()
    request = certificate_request(attack.simulator(), steward.challenge(), chip_id=b"\x01" * 64)
    assert "chip" in _refusal(attack, request).lower()


def test_a_report_that_is_not_signed_by_the_chip(attack: Attack) -> None:
    """Another key signs the report, under the genuine chip's certificate."""
    attester = replace(attack.simulator(), key=_key())
    words = _refusal(attack, certificate_request(attester, attack.steward().challenge()))
    assert "signature" in words


def test_another_simulated_vendor(attack: Attack) -> None:
    """A vendor that the first steward's policy does not name, and the second's does."""
    steward = attack.steward()
    request = certificate_request(_chip(attack.platform), steward.challenge())
    assert "root" in _refusal(attack, request)


def test_a_vendors_name_with_another_key(attack: Attack) -> None:
    """A vendor of the same name in every certificate, with keys of the attacker's."""
    impostor = replace(attack.platform, ark=1, ask=0)
    steward = attack.steward(attack.second)
    words = _refusal(
        attack, certificate_request(_chip(impostor), steward.challenge()), attack.second
    )
    assert "signature" in words or "root" in words


def test_an_expired_chain(attack: Attack) -> None:
    """The certificate of the chip is no longer valid."""
    expired = replace(
        attack.platform, start=datetime(2020, 1, 1, tzinfo=UTC), lifetime=timedelta(days=30)
    )
    steward = attack.steward(attack.second)
    words = _refusal(
        attack, certificate_request(_chip(expired), steward.challenge()), attack.second
    )
    assert "VEK certificate: expired" in words
    assert "2020-01-31" in words


def test_a_revoked_intermediate(attack: Attack) -> None:
    """The vendor has revoked the intermediate that vouches for the chip."""
    vendor = attack.stack.directory / "vendor"
    revoking = attack.stack.directory / "vendor-that-revokes"
    revoking.mkdir()
    for name in ("ark.der", "ask.der"):
        (revoking / name).write_bytes((vendor / name).read_bytes())
    serial = attack.platform.vendor.ask().serial_number
    crl = attack.platform.endorsements(revoked=[serial]).crl
    assert crl is not None
    (revoking / "crl.der").write_bytes(crl)
    policy = attack.stack.policy().replace(attack.stack.measurement, OTHER_MEASUREMENT)
    url = attack.start_steward(
        attack.stack.directory / "steward",
        f"""{policy}
[snp.insecure_simulated_roots.test]
key_sha256 = "{attack.platform.root_key_sha256}"
endorsements = "{revoking}"
""",
    )
    steward = attack.steward(url)
    words = _refusal(attack, certificate_request(_chip(attack.platform), steward.challenge()), url)
    assert "revoked" in words


def test_a_name_without_its_files(attack: Attack) -> None:
    """A genuine keep's evidence, and a name whose workload it does not run."""
    steward = attack.steward()
    identity = attack.identity("connect:1.0.0")
    claimed = replace(identity, digest=b"\x01" * 32)
    words = _refusal(
        attack, certificate_request(attack.simulator(), steward.challenge(), workload=claimed)
    )
    assert "the drawbridge holds another workload under this name" in words


def test_a_local_workload_is_not_certified_by_default(attack: Attack) -> None:
    """A workload that no drawbridge holds asks for a name."""
    steward = attack.steward()
    local = replace(attack.identity("connect:1.0.0"), slug=None)
    words = _refusal(
        attack, certificate_request(attack.simulator(), steward.challenge(), workload=local)
    )
    assert "the policy does not admit local workloads" in words


def test_a_simulator_shows_in_the_certificate(
    attack: Attack, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a policy names a simulator, every peer can see that nothing stands behind it."""
    with caplog.at_level(logging.WARNING, logger="garrison"):
        certified = attack.certified()
    assert "INSECURE" in caplog.text
    assert certified.identity.workload.tcb_status == "InsecureSimulated"


def test_a_keep_in_no_tee(attack: Attack) -> None:
    """The host edits the launch request: no attester. The keep gets no certificate, no workload."""
    done = attack.run(attack.request("plain:1.0.0", attester={"kind": "nil"}))
    assert done.returncode == 77
    assert "401" in done.stderr
    assert done.stdout == ""


def test_an_attester_that_does_not_exist(attack: Attack) -> None:
    """The host edits the launch request: an attester of its own."""
    done = attack.run(attack.request("plain:1.0.0", attester={"kind": "mine", "say": "yes"}))
    assert done.returncode == 2
    assert "unknown attester" in done.stderr
    assert done.stdout == ""
