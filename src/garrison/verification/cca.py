"""Verification of an Arm CCA token: from the realm's signature to a platform key that is trusted.

There is no root that all vendors share, and no platform key is trusted by default: whoever
verifies names the keys (CPAK) of the platforms that it trusts. It refuses a key of another
platform, and a realm that the platform's token does not vouch for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from hmac import compare_digest
from typing import TYPE_CHECKING

from garrison.errors import Unverified
from garrison.formats.cca import CcaToken
from garrison.verification.cose import check_signature
from garrison.verification.verified import Verified, mint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric import ec

# The names of RFC 9393 that the profiles admit.
_HASHES = {"sha-256": hashlib.sha256, "sha-384": hashlib.sha384, "sha-512": hashlib.sha512}


@dataclass(frozen=True, slots=True)
class PlatformKey:
    """The key of a platform that is trusted (CPAK).

    Attributes:
        name: what results call it.
        implementation_id: the kind of platform.
        instance_id: the platform.
        key: its public key.
        simulated: whether the private key is known, as a simulator's is: then it proves nothing.
    """

    name: str
    implementation_id: bytes
    instance_id: bytes
    key: ec.EllipticCurvePublicKey
    simulated: bool


@dataclass(frozen=True, slots=True)
class CcaClaims:
    """What a genuine token shows.

    Attributes:
        token: the token.
        anchor: the platform's key.
    """

    token: CcaToken
    anchor: PlatformKey


def verify(token: bytes, keys: Sequence[PlatformKey]) -> Verified[CcaClaims]:
    """Verify a token.

    1. The token has the form it must have.
    2. The platform's instance and implementation are those of a trusted key.
    3. The platform's token is signed by it.
    4. The platform's challenge is the digest of the realm's key, by the algorithm that the realm
       names for that (44240, not the one of its measurements).
    5. The algorithm that the realm names for its measurements is known.
    6. The realm's token is signed by the realm's key.

    Left out: the size of the measurements against the algorithm that the realm names for them.
    The profile ties neither to the other (realm managers pad the registers of a shorter one),
    and a policy compares whole values.

    A token has no time in it: that it is fresh is for the challenge to show.

    Args:
        token: the token, as the realm manager returned it.
        keys: the keys that are trusted.

    Raises:
        Malformed: step 1 fails.
        Unverified: another step fails.
    """
    # 1. Form.
    parsed = CcaToken.from_bytes(token)
    platform, realm = parsed.platform, parsed.realm
    # 2. Platform.
    anchor = _anchor(parsed, keys)
    # 3. Platform's signature.
    check_signature(platform.message, anchor.key, "CCA platform token")
    # 4. Binding.
    field = "CCA platform token: challenge"
    digest = _hash(realm.key_algorithm, realm.encoded_key, "CCA realm token: key's hash algorithm")
    if not compare_digest(platform.challenge, digest):
        raise Unverified(
            "the platform vouches for another realm's key",
            field=field,
            found=platform.challenge.hex(),
            expected=digest.hex(),
        )
    # 5. Measurements.
    _hash(realm.algorithm, b"", "CCA realm token: hash algorithm")
    # 6. Realm's signature.
    check_signature(realm.message, realm.key, "CCA realm token")
    return mint(CcaClaims(parsed, anchor))


def _anchor(token: CcaToken, keys: Sequence[PlatformKey]) -> PlatformKey:
    platform = token.platform
    for key in keys:
        if (key.implementation_id, key.instance_id) == (
            platform.implementation_id,
            platform.instance_id,
        ):
            return key
    raise Unverified(
        "not a trusted platform",
        field="CCA platform token: instance ID",
        found=f"{platform.instance_id.hex()}, implementation {platform.implementation_id.hex()}",
        expected=", ".join(f"{key.instance_id.hex()} ({key.name})" for key in keys) or "none",
        hint="the policy names the platforms whose keys are trusted",
    )


def _hash(algorithm: str, data: bytes, field: str) -> bytes:
    if algorithm not in _HASHES:
        raise Unverified(
            "unknown hash algorithm",
            field=field,
            found=repr(algorithm[:40]),
            expected=", ".join(_HASHES),
        )
    return _HASHES[algorithm](data).digest()
