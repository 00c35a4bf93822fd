"""The attestation token of an Arm CCA realm.

Arm, Realm Management Monitor specification (DEN0137), section "Realm attestation token", and
draft-ffm-rats-cca-token. Two forms of the same collection of two signed tokens:

    #6.399({ 44234: bstr .cbor COSE_Sign1, 44241: bstr .cbor COSE_Sign1 })          ; RMM 1.0
    #6.907({ 44234: [263, bstr .cbor ...], 44241: [263, bstr .cbor ...] })          ; RMM 2.0

The platform's is signed by the CCA platform attestation key (CPAK), the realm's by the realm
attestation key (RAK), which is in it. Their claims are those of the profiles below and no others.
The legacy profile has the RAK as a point, the other as a COSE_Key.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum

from cryptography.hazmat.primitives.asymmetric import ec

from garrison.errors import Malformed
from garrison.formats import _cbor
from garrison.formats.cose import CoseSign1

# The token as it is, without any envelope of ours.
CCA_MEDIA_TYPE = "application/vnd.garrison.cca-token.v1+cbor"

# Twice what a platform with dozens of software components needs.
MAX_TOKEN = 32 * 1024
_MAX_COMPONENTS = 64
_MAX_CONFIGURATION = 4096

CHALLENGE_SIZE = 64
IMPLEMENTATION_ID_SIZE = 32
INSTANCE_ID_SIZE = 33
EXTENSIBLE_MEASUREMENTS = 4
PERSONALIZATION_SIZE = 64
# SHA-256, SHA-384 and SHA-512.
HASH_SIZES = (32, 48, 64)

_PLATFORM, _REALM = 44234, 44241
# RFC 9711, section 10.3: the content format of application/eat+cwt.
_EAT_CWT = 263
_PROFILE, _CHALLENGE = 265, 10

_PLATFORM_PROFILES = ("http://arm.com/CCA-SSD/1.0.0", "tag:arm.com,2023:cca_platform#1.0.0")
_REALM_PROFILE = "tag:arm.com,2023:realm#1.0.0"

# RFC 9053, section 7.1: COSE_Key.
_KTY, _KEY_ALG, _CRV, _X, _Y, _EC2 = 1, 3, -1, -2, -3, 2
_CURVES: dict[int, ec.EllipticCurve] = {1: ec.SECP256R1(), 2: ec.SECP384R1(), 3: ec.SECP521R1()}
# SEC 1, section 2.3.3: an uncompressed point on P-384.
_POINT_SIZE = 97


class Tag(Enum):
    """The CBOR tag of the collection."""

    RMM_1 = 399
    RMM_2 = 907


class Lifecycle(StrEnum):
    """The platform's security lifecycle (Arm DEN0096: the high byte of the claim)."""

    UNKNOWN = "unknown"
    ASSEMBLY_AND_TEST = "assembly and test"
    PROVISIONING = "provisioning"
    SECURED = "secured"
    NON_CCA_DEBUG = "non-CCA platform debug"
    RECOVERABLE_DEBUG = "recoverable CCA platform debug"
    DECOMMISSIONED = "decommissioned"


_LIFECYCLES = dict(enumerate(Lifecycle))


@dataclass(frozen=True, slots=True)
class Component:
    """A piece of the platform's firmware.

    Attributes:
        kind: what it is; empty if the token does not say.
        measurement: its digest.
        version: its version; None if the token does not say.
        signer: the digest of the key that signed it.
        algorithm: how it was measured; None stands for the platform's algorithm.
    """

    kind: str
    measurement: bytes
    version: str | None
    signer: bytes
    algorithm: str | None


@dataclass(frozen=True, slots=True)
class PlatformToken:
    """What the platform says of itself.

    Attributes:
        message: the signed message.
        challenge: the digest of the realm's key, which binds the two tokens.
        implementation_id: the kind of platform.
        instance_id: this platform.
        configuration: how it is set up.
        lifecycle: the claim's number.
        algorithm: how it measures.
        components: its firmware.
        verification_service: where somebody may verify it; a hint.
    """

    message: CoseSign1
    challenge: bytes
    implementation_id: bytes
    instance_id: bytes
    configuration: bytes
    lifecycle: int
    algorithm: str
    components: tuple[Component, ...]
    verification_service: str | None

    @property
    def state(self) -> Lifecycle:
        """The lifecycle by name: the low byte is the implementation's."""
        return _LIFECYCLES[self.lifecycle >> 12]

    @classmethod
    def from_bytes(cls, data: bytes) -> PlatformToken:
        """Read the platform's token.

        Raises:
            Malformed: it is anything else.
        """
        what = "CCA platform token"
        message, claims = _message(data, what)
        profile = claims.take(_PROFILE, str, "profile")
        if profile not in _PLATFORM_PROFILES:
            raise _unknown(f"{what}: profile", profile, _PLATFORM_PROFILES)
        instance_id = _sized(claims.take(256, bytes, "instance ID"), what, INSTANCE_ID_SIZE)
        if instance_id[0] != 1:
            raise _unknown(f"{what}: instance ID", f"type {instance_id[0]}", ("type 1",))
        configuration = claims.take(2401, bytes, "configuration")
        if len(configuration) > _MAX_CONFIGURATION:
            raise _unknown(f"{what}: configuration", f"{len(configuration)} bytes", ("fewer",))
        lifecycle = claims.take(2395, int, "lifecycle")
        if not 0 <= lifecycle <= 0xFFFF or lifecycle & 0x0F00 or lifecycle >> 12 not in _LIFECYCLES:
            raise _unknown(f"{what}: lifecycle", hex(lifecycle), ("0x0000 to 0x60ff",))
        components = claims.take(2399, list, "software components")
        if not 1 <= len(components) <= _MAX_COMPONENTS:
            raise _unknown(
                f"{what}: software components", len(components), (f"1 to {_MAX_COMPONENTS}",)
            )
        token = cls(
            message=message,
            challenge=_sized(claims.take(_CHALLENGE, bytes, "challenge"), what, *HASH_SIZES),
            implementation_id=_sized(
                claims.take(2396, bytes, "implementation ID"), what, IMPLEMENTATION_ID_SIZE
            ),
            instance_id=instance_id,
            configuration=configuration,
            lifecycle=lifecycle,
            algorithm=claims.take(2402, str, "hash algorithm"),
            components=tuple(_component(item) for item in components),
            verification_service=claims.optional(2400, str, "verification service"),
        )
        claims.done()
        return token


@dataclass(frozen=True, slots=True)
class RealmToken:
    """What the realm manager says of the realm.

    Attributes:
        message: the signed message.
        challenge: what the realm asked to have in it.
        personalization: what the host bound to the realm at its creation.
        algorithm: how the realm is measured.
        initial_measurement: what it began with (RIM).
        extensible_measurements: what it measured since (REM 0 to 3).
        encoded_key: the realm's key as the token has it, over which the platform's challenge is.
        key: the realm's key.
        key_algorithm: the hash in the platform's challenge.
    """

    message: CoseSign1
    challenge: bytes
    personalization: bytes
    algorithm: str
    initial_measurement: bytes
    extensible_measurements: tuple[bytes, ...]
    encoded_key: bytes
    key: ec.EllipticCurvePublicKey
    key_algorithm: str

    @classmethod
    def from_bytes(cls, data: bytes) -> RealmToken:
        """Read the realm's token.

        Raises:
            Malformed: it is anything else.
        """
        what = "CCA realm token"
        message, claims = _message(data, what)
        profile = claims.optional(_PROFILE, str, "profile")
        if profile not in (None, _REALM_PROFILE):
            raise _unknown(f"{what}: profile", profile, (_REALM_PROFILE, "none"))
        encoded_key = claims.take(44237, bytes, "public key")
        extensible = claims.take(44239, list, "extensible measurements")
        if len(extensible) != EXTENSIBLE_MEASUREMENTS:
            raise _unknown(f"{what}: extensible measurements", len(extensible), ("4",))
        token = cls(
            message=message,
            challenge=_sized(claims.take(_CHALLENGE, bytes, "challenge"), what, CHALLENGE_SIZE),
            personalization=_sized(
                claims.take(44235, bytes, "personalization value"), what, PERSONALIZATION_SIZE
            ),
            algorithm=claims.take(44236, str, "hash algorithm"),
            initial_measurement=_sized(
                claims.take(44238, bytes, "initial measurement"), what, *HASH_SIZES
            ),
            extensible_measurements=tuple(_sized(item, what, *HASH_SIZES) for item in extensible),
            encoded_key=encoded_key,
            key=_point(encoded_key) if profile is None else _cose_key(encoded_key),
            key_algorithm=claims.take(44240, str, "key's hash algorithm"),
        )
        claims.done()
        return token


@dataclass(frozen=True, slots=True)
class CcaToken:
    """The token of a realm.

    Attributes:
        tag: its form.
        platform: the platform's.
        realm: the realm's.
    """

    tag: Tag
    platform: PlatformToken
    realm: RealmToken

    @classmethod
    def from_bytes(cls, data: bytes) -> CcaToken:
        """Read a token.

        Raises:
            Malformed: it is anything else than the module says.
        """
        value = _cbor.decode(data, "CCA token", MAX_TOKEN)
        tags = {tag.value: tag for tag in Tag}
        if not isinstance(value, _cbor.Tagged) or value.tag not in tags:
            found = value.tag if isinstance(value, _cbor.Tagged) else _cbor.name(value)
            raise _unknown("CCA token: tag", found, tuple(map(str, tags)))
        tag = tags[value.tag]
        members = _cbor.Fields(value.value, "CCA token")
        platform, realm = (
            _member(members, key, label, tag)
            for key, label in ((_PLATFORM, "platform"), (_REALM, "realm"))
        )
        members.done()
        token = cls(tag, PlatformToken.from_bytes(platform), RealmToken.from_bytes(realm))
        if token.to_bytes() != data:
            raise _unknown("CCA token", "the realm's before the platform's", ("the other order",))
        return token

    def to_bytes(self) -> bytes:
        """Write the token."""
        return join(self.tag, self.platform.message, self.realm.message)


def join(tag: Tag, platform: CoseSign1, realm: CoseSign1) -> bytes:
    """Write the collection of two signed messages."""
    parts = {_PLATFORM: platform.to_bytes(), _REALM: realm.to_bytes()}
    if tag is Tag.RMM_1:
        return _cbor.encode(_cbor.Tagged(tag.value, parts))
    wrapped = {key: [_EAT_CWT, part] for key, part in parts.items()}
    return _cbor.encode(_cbor.Tagged(tag.value, wrapped))


def _member(members: _cbor.Fields, key: int, label: str, tag: Tag) -> bytes:
    if tag is Tag.RMM_1:
        return members.take(key, bytes, label)
    match members.take(key, list, label):
        case [int(kind), bytes(token)] if kind == _EAT_CWT:
            return token
    raise _unknown(f"CCA token: {label}", "another record", (f"[{_EAT_CWT}, bytes]",))


def _message(data: bytes, what: str) -> tuple[CoseSign1, _cbor.Fields]:
    message = CoseSign1.from_bytes(data, what, MAX_TOKEN)
    return message, _cbor.Fields(_cbor.decode(message.payload, what, MAX_TOKEN), what)


def _component(item: object) -> Component:
    what = "CCA software component"
    fields = _cbor.Fields(item, what)
    component = Component(
        kind=fields.optional(1, str, "type") or "",
        measurement=_sized(fields.take(2, bytes, "measurement"), what, *HASH_SIZES),
        version=fields.optional(4, str, "version"),
        signer=_sized(fields.take(5, bytes, "signer ID"), what, *HASH_SIZES),
        algorithm=fields.optional(6, str, "hash algorithm"),
    )
    fields.done()
    return component


def _point(data: bytes) -> ec.EllipticCurvePublicKey:
    """Read the legacy form of the realm's key."""
    if len(data) != _POINT_SIZE:
        raise _unknown(_KEY, f"{len(data)} bytes", (f"{_POINT_SIZE}",))
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), data)
    except ValueError as error:
        raise _unknown(_KEY, data[:8].hex(), ("a point on P-384",)) from error


def _cose_key(data: bytes) -> ec.EllipticCurvePublicKey:
    """Read the realm's key as a COSE_Key."""
    fields = _cbor.Fields(_cbor.decode(data, _KEY, len(data)), _KEY)
    kty, crv = fields.take(_KTY, int, "kty"), fields.take(_CRV, int, "crv")
    if kty != _EC2 or crv not in _CURVES:
        raise _unknown(_KEY, f"kty {kty}, crv {crv}", ("kty 2 and crv 1, 2 or 3",))
    fields.ignore(_KEY_ALG)
    curve = _CURVES[crv]
    size = (curve.key_size + 7) // 8
    x, y = (_sized(fields.take(key, bytes), _KEY, size) for key in (_X, _Y))
    fields.done()
    return public_key(curve, x, y, _KEY)


def public_key(
    curve: ec.EllipticCurve, x: bytes, y: bytes, field: str
) -> ec.EllipticCurvePublicKey:
    """Make a key of its coordinates.

    Raises:
        Malformed: they are no point on `curve`.
    """
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + x + y)
    except ValueError as error:
        raise _unknown(field, f"x {x.hex()}", (f"a point on {curve.name}",)) from error


_KEY = "CCA realm token: public key"


def _sized(value: object, field: str, *sizes: int) -> bytes:
    if type(value) is not bytes or len(value) not in sizes:
        found = f"{len(value)} bytes" if type(value) is bytes else _cbor.name(value)
        raise Malformed(
            "wrong size",
            field=field,
            found=found,
            expected=f"{' or '.join(map(str, sizes))} bytes",
        )
    return value


def _unknown(field: str, found: object, known: tuple[str, ...]) -> Malformed:
    return Malformed(
        "not what it must be", field=field, found=str(found)[:120], expected=" or ".join(known)
    )
