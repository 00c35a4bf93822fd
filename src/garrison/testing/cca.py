"""Fake Arm CCA platforms and their realms' tokens, genuine or with any defect."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from garrison.attesters.cose_insecure import sign
from garrison.formats import _cbor
from garrison.formats.cca import Tag, join
from garrison.formats.cose import Algorithm
from garrison.verification.cca import PlatformKey

REPORT_DATA = bytes(range(64))
INITIAL_MEASUREMENT = b"\xab" * 32
IMPLEMENTATION_ID = b"\x01" * 32
INSTANCE_ID = b"\x01" + b"\x02" * 32

_COSE_CURVES = {"secp256r1": 1, "secp384r1": 2, "secp521r1": 3}


@cache
def key(name: str, curve: type[ec.EllipticCurve] = ec.SECP384R1) -> ec.EllipticCurvePrivateKey:  # noqa: ARG001 - the name is what the cache goes by
    """The key called `name`, the same in all of the process."""
    return ec.generate_private_key(curve())


def point(private: ec.EllipticCurvePrivateKey) -> bytes:
    """The public key as the legacy profile has it."""
    return private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def cose_key(private: ec.EllipticCurvePrivateKey) -> bytes:
    """The public key as the newer profile has it."""
    coordinates = point(private)[1:]
    half = len(coordinates) // 2
    curve = _COSE_CURVES[private.curve.name]
    return _cbor.encode({1: 2, -1: curve, -2: coordinates[:half], -3: coordinates[half:]})


@dataclass(frozen=True, slots=True)
class FakeCca:
    """A simulated platform, and one realm on it.

    Attributes:
        legacy: whether the tokens are of the legacy profile.
        platform_key: the platform's: a name of `key`.
        realm_key: the realm's.
    """

    legacy: bool = False
    platform_key: str = "CPAK"
    realm_key: str = "RAK"

    def trusted(self, **changes: Any) -> PlatformKey:
        """What one who trusts this platform trusts; `changes` are fields of it."""
        fields: dict[str, Any] = {
            "name": "test",
            "implementation_id": IMPLEMENTATION_ID,
            "instance_id": INSTANCE_ID,
            "key": key(self.platform_key).public_key(),
            "simulated": True,
        }
        return PlatformKey(**(fields | changes))

    def token(
        self,
        tag: Tag = Tag.RMM_1,
        *,
        platform: dict[int, Any] | None = None,
        realm: dict[int, Any] | None = None,
        platform_signer: ec.EllipticCurvePrivateKey | None = None,
        realm_signer: ec.EllipticCurvePrivateKey | None = None,
        algorithm: Algorithm = Algorithm.ES384,
        realm_algorithm: Algorithm = Algorithm.ES384,
    ) -> bytes:
        """A token, signed.

        Args:
            tag: its form.
            platform: claims of the platform to change; None leaves one out.
            realm: the same of the realm.
            platform_signer: whose key signs the platform's, if not its own.
            realm_signer: whose key signs the realm's, if not its own.
            algorithm: what signs the platform's.
            realm_algorithm: what signs the realm's.
        """
        realm_claims = self.realm_claims() | (realm or {})
        platform_claims = self.platform_claims(realm_claims[44237]) | (platform or {})
        return join(
            tag,
            sign(_claims(platform_claims), platform_signer or key(self.platform_key), algorithm),
            sign(_claims(realm_claims), realm_signer or key(self.realm_key), realm_algorithm),
        )

    def platform_claims(self, realm_key: bytes) -> dict[int, Any]:
        """The platform's claims, bound to `realm_key` as it is encoded."""
        legacy = "http://arm.com/CCA-SSD/1.0.0"
        return {
            265: legacy if self.legacy else "tag:arm.com,2023:cca_platform#1.0.0",
            10: hashlib.sha256(realm_key).digest(),
            2396: IMPLEMENTATION_ID,
            256: INSTANCE_ID,
            2401: b"\xcf" * 4,
            2395: 0x3003,
            2402: "sha-256",
            2400: "https://verifier.example",
            2399: [
                {1: kind, 5: b"\x05" * 32, 2: hashlib.sha256(kind.encode()).digest(), 6: "sha-256"}
                for kind in ("BL2", "RMM")
            ],
        }

    def realm_claims(self) -> dict[int, Any]:
        """The realm's claims."""
        private = key(self.realm_key)
        return {
            265: None if self.legacy else "tag:arm.com,2023:realm#1.0.0",
            10: REPORT_DATA,
            44236: "sha-256",
            44240: "sha-256",
            44235: bytes(64),
            44237: point(private) if self.legacy else cose_key(private),
            44238: INITIAL_MEASUREMENT,
            44239: [bytes(32)] * 4,
        }


def _claims(claims: dict[int, Any]) -> bytes:
    return _cbor.encode({label: value for label, value in claims.items() if value is not None})
