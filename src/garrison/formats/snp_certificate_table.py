"""The certificates that a host hands to an SNP guest along with a report.

Source: AMD 56421, SEV-ES Guest-Hypervisor Communication Block Standardization, revision 2.03,
section 4.1.8.1: entries of a GUID (16 bytes, in the order of RFC 4122), an offset from the
table's start and a length (4 bytes each, little-endian), ended by an entry of zeros; then the
certificates themselves.

The host wrote it, so nothing in it is believed: the certificates are hints, which verification
holds to the vendor's root. Entries that overlap or leave the table are refused; GUIDs that are
not known are left out, for hosts may add what they like.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from garrison.errors import Malformed
from garrison.formats._cursor import Cursor
from garrison.formats._der import check_size

VCEK = UUID("63da758d-e664-4564-adc5-f4b93be8accd")
VLEK = UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1")
ASK = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782")
ARK = UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae")
CRL = UUID("92f81bc3-5811-4d3d-97ff-d19f88dc67ea")

# The order of a chain, leaf first; a host has one of the two leaves.
_CHAIN = (VCEK, VLEK, ASK, ARK)

_GUID_SIZE = 16
_NUMBER_SIZE = 4
_ENTRY_SIZE = _GUID_SIZE + 2 * _NUMBER_SIZE
_END = bytes(_ENTRY_SIZE)

# What the guest's kernel asks the host for at most (SEV_FW_BLOB_MAX_SIZE, four pages), doubled.
MAX_TABLE = 32 * 1024
_MAX_ENTRIES = 16


@dataclass(frozen=True, slots=True)
class CertificateTable:
    """What a host handed over: `entries` is content by GUID, in the table's order."""

    entries: tuple[tuple[UUID, bytes], ...]

    @classmethod
    def from_bytes(cls, data: bytes) -> CertificateTable:
        """Read a table; an empty one has no byte at all, or the ending entry alone.

        Raises:
            Malformed: `data` is anything else, or names a GUID twice.
        """
        check_size(data, MAX_TABLE, "certificate table")
        if not data:
            return cls(())
        cursor = Cursor(data, "certificate table")
        places: list[tuple[UUID, int, int]] = []
        while (guid := cursor.take(_GUID_SIZE, "GUID")) != _END[:_GUID_SIZE]:
            places.append(
                (
                    UUID(bytes=guid),
                    cursor.integer(_NUMBER_SIZE, "offset"),
                    cursor.integer(_NUMBER_SIZE, "length"),
                )
            )
            if len(places) > _MAX_ENTRIES:
                raise Malformed(
                    "too many entries", field="certificate table", expected=str(_MAX_ENTRIES)
                )
        cursor.take(2 * _NUMBER_SIZE, "last entry")
        if len({name for name, _, _ in places}) != len(places):
            raise Malformed("a GUID stands twice", field="certificate table")
        end = (len(places) + 1) * _ENTRY_SIZE
        for name, offset, length in sorted(places, key=lambda place: place[1]):
            if offset < end or offset + length > len(data):
                raise Malformed(
                    "an entry overlaps another or leaves the table",
                    field=f"certificate table: {name}",
                    found=f"{length} bytes at {offset}",
                    expected=f"within {end} and {len(data)}",
                )
            end = offset + length
        return cls(tuple((name, data[start : start + size]) for name, start, size in places))

    def to_bytes(self) -> bytes:
        """Write the table, the contents in the order of the entries."""
        start = (len(self.entries) + 1) * _ENTRY_SIZE
        heads = []
        for guid, content in self.entries:
            numbers = (start, len(content))
            heads.append(guid.bytes + b"".join(n.to_bytes(_NUMBER_SIZE, "little") for n in numbers))
            start += len(content)
        return b"".join((*heads, _END, *(content for _, content in self.entries)))

    def chain(self) -> tuple[bytes, ...]:
        """The certificates for a report's signature, DER, leaf first, as far as they are there."""
        found = dict(self.entries)
        return tuple(found[guid] for guid in _CHAIN if guid in found)
