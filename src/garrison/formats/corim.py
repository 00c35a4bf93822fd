"""Reference values in a CoRIM (draft-ietf-rats-corim-10): what a vendor says its images measure.

    501({ 0: id, 1: [ 506(bytes of a CoMID), ... ], ? 3: profile, ? 4: validity, ? 5: entities })
    CoMID: { ? 0: language, 1: tag identity, ? 2: entities, 4: triples, ... }
    triples: { 0: [ [ environment, [ measurement, ... ] ], ... ], ... }   ; 0: reference triples

Of measurements, digests (member 2) and integrity registers (14) are read; versions, raw values
and the rest are not, nor are triples of other kinds: they say nothing that a policy here could
hold. Tags that are no CoMID are refused, since what they hold would be left out unseen, and so
are signed CoRIMs, whose signature nobody would have checked: verify it first, and take out the
payload. CBOR is read in its one encoding, see `garrison.formats._cbor`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from garrison.errors import Malformed
from garrison.formats import _cbor

if TYPE_CHECKING:
    from collections.abc import Iterator

# Some thousand images, at a hundred bytes each, with their names.
MAX_CORIM = 1 << 20
_MAX_TEXT = 256
# Before the year 9999, which is the last that Python knows.
_MAX_TIME = 253_402_300_799

# Section 4.1: the tags.
_CORIM, _COMID, _SIGN1 = 501, 506, 18
# Section 4.1, corim-map; section 4.1.5, validity; RFC 8949, 3.4.2: a time in seconds.
_TAGS, _VALIDITY, _NOT_AFTER, _EPOCH = 1, 4, 1, 1
# Section 5.1, concise-mid-tag; 5.1.4, triples; 5.1.4.1, environment and class.
_TRIPLES, _REFERENCE, _CLASS, _VENDOR, _MODEL = 4, 0, 0, 1, 2
# Section 5.1.4.1.4: measurement-map and its values.
_KEY, _VALUES, _DIGESTS, _REGISTERS = 0, 1, 2, 14
# IANA, Named Information Hash Algorithm Registry: identifier, name and size.
_ALGORITHMS = {1: ("sha-256", 32), 7: ("sha-384", 48), 8: ("sha-512", 64)}
_NAMES = dict(_ALGORITHMS.values())


@dataclass(frozen=True, slots=True)
class ReferenceValue:
    """A digest that is good, and of what.

    Attributes:
        vendor: who made it; empty if nobody is named.
        model: what it is for; empty if nothing is named.
        name: which of the measurements there: a name, a number, or hex; empty if it has none.
        algorithm: `sha-256`, `sha-384` or `sha-512`.
        digest: the digest.
    """

    vendor: str
    model: str
    name: str
    algorithm: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Corim:
    """The reference values of a CoRIM.

    Attributes:
        values: the values, in the order of the document.
        not_after: until when they may be used; None if it does not say.
    """

    values: tuple[ReferenceValue, ...]
    not_after: datetime | None

    @classmethod
    def from_bytes(cls, data: bytes) -> Corim:
        """Read an unsigned CoRIM.

        Raises:
            Malformed: it is anything else, or has no digest in it.
        """
        value = _cbor.decode(data, "CoRIM", MAX_CORIM)
        tag = value.tag if isinstance(value, _cbor.Tagged) else None
        if tag != _CORIM:
            hint = "verify its signature, and take the payload out" if tag == _SIGN1 else None
            raise Malformed(
                "not an unsigned CoRIM",
                field="CoRIM",
                found=f"tag {tag}",
                expected=f"tag {_CORIM}",
                hint=hint,
            )
        members = _cbor.Fields(value.value, "CoRIM")
        comids = members.take(_TAGS, list, "tags")
        validity = members.optional(_VALIDITY, dict, "validity")
        values = tuple(found for comid in comids for found in _comid(comid))
        if not values:
            raise Malformed("no reference values", field="CoRIM", expected="a digest, at least")
        return cls(values, None if validity is None else _not_after(validity))


def _comid(tag: object) -> Iterator[ReferenceValue]:
    if not isinstance(tag, _cbor.Tagged) or tag.tag != _COMID or type(tag.value) is not bytes:
        found = f"tag {tag.tag}" if isinstance(tag, _cbor.Tagged) else _cbor.name(tag)
        raise Malformed(
            "not a CoMID", field="CoRIM: tags", found=found, expected=f"tag {_COMID} of bytes"
        )
    members = _cbor.Fields(_cbor.decode(tag.value, "CoMID", MAX_CORIM), "CoMID")
    triples = _cbor.Fields(members.take(_TRIPLES, dict, "triples"), "CoMID triples")
    for triple in triples.optional(_REFERENCE, list, "reference triples") or []:
        environment, measurements = _pair(triple, "reference triple")
        vendor, model = _class(environment)
        # Earlier drafts have one measurement where there is a list now.
        for measurement in measurements if isinstance(measurements, list) else [measurements]:
            yield from _measurement(measurement, vendor, model)


def _class(environment: object) -> tuple[str, str]:
    """Vendor and model in an environment-map; its instance and group say nothing here."""
    named = _cbor.Fields(environment, "environment").optional(_CLASS, dict, "class")
    if named is None:
        return "", ""
    members = _cbor.Fields(named, "class")
    vendor, model = (members.optional(key, str) or "" for key in (_VENDOR, _MODEL))
    return _short(vendor), _short(model)


def _measurement(value: object, vendor: str, model: str) -> Iterator[ReferenceValue]:
    if not isinstance(value, dict):
        raise Malformed("wrong type", field="measurement", found=_cbor.name(value))
    name = _name(value[_KEY]) if _KEY in value else ""
    members = _cbor.Fields(value, "measurement")
    values = _cbor.Fields(members.take(_VALUES, dict, "values"), "measurement values")
    for item in values.optional(_DIGESTS, list, "digests") or []:
        yield ReferenceValue(vendor, model, name, *_digest(item))
    registers = values.optional(_REGISTERS, dict, "integrity registers") or {}
    for index, digests in registers.items():
        if not isinstance(digests, list):
            raise Malformed("not a list", field=f"integrity register {str(index)[:40]}")
        register = _short(str(index))
        for item in digests:
            yield ReferenceValue(vendor, model, f"{name} {register}".strip(), *_digest(item))


def _digest(value: object) -> tuple[str, bytes]:
    identifier, digest = _pair(value, "digest")
    algorithm, size = "", 0
    if type(identifier) is int and identifier in _ALGORITHMS:
        algorithm, size = _ALGORITHMS[identifier]
    elif isinstance(identifier, str) and identifier in _NAMES:
        algorithm, size = identifier, _NAMES[identifier]
    if not algorithm:
        raise Malformed(
            "unknown algorithm",
            field="digest",
            found=repr(identifier)[:80],
            expected=", ".join(_NAMES),
        )
    if type(digest) is not bytes or len(digest) != size:
        raise Malformed("wrong length", field="digest", expected=f"{size} bytes of {algorithm}")
    return algorithm, digest


def _name(key: object) -> str:
    """A measured element: text, a number, or a tagged UUID, OID or string of bytes, in hex."""
    if isinstance(key, _cbor.Tagged):
        key = key.value
    if isinstance(key, bytes):
        return _short(key.hex())
    if isinstance(key, str) or type(key) is int:
        return _short(str(key))
    raise Malformed("unknown kind of name", field="measurement: key", found=_cbor.name(key))


def _not_after(validity: dict[int | str, Any]) -> datetime:
    value = validity.get(_NOT_AFTER)
    if isinstance(value, _cbor.Tagged) and value.tag == _EPOCH and type(value.value) is int:
        seconds = value.value
        if 0 <= seconds <= _MAX_TIME:
            return datetime.fromtimestamp(seconds, UTC)
    raise Malformed("not a time", field="CoRIM: validity", expected="tag 1 of seconds")


def _pair(value: object, what: str) -> tuple[Any, Any]:
    if not isinstance(value, list) or len(value) != 2:
        raise Malformed("not an array of two", field=what, found=_cbor.name(value))
    return value[0], value[1]


def _short(text: str) -> str:
    if len(text) > _MAX_TEXT or not text.isprintable():
        raise Malformed(
            "not a name", field="CoRIM", found=repr(text[:80]), expected=f"at most {_MAX_TEXT}"
        )
    return text
