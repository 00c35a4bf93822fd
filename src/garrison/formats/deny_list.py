"""What a steward tells running keeps that it no longer admits: `GET /deny`, JSON.

    {
      "poll_seconds": 10,                how soon to ask again
      "measurements": ["<hex>"],         keep images
      "slugs": ["host/user/repo:1.0.0", "host/user/repo"],
      "serials": ["<hex>"],              certificates
      "platforms": ["<hex>"]             machines, as `WorkloadIdentity.platform` names them
    }

It comes over TLS under the steward's own root, and so it is not signed again. A slug without a
tag stands for every tag.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from garrison.errors import Malformed, Rejected

if TYPE_CHECKING:
    from garrison.formats.identity import CertifiedIdentity
    from garrison.formats.oci_name import Name

# Some ten thousand entries.
MAX_SIZE = 1 << 20
LONGEST_POLL = 300
_LISTS = ("measurements", "slugs", "serials", "platforms")


@dataclass(frozen=True, slots=True)
class DenyList:
    """What is denied.

    Attributes:
        poll_seconds: how soon to ask again.
        measurements: launch measurements.
        slugs: workloads, with a tag or, for all tags, without.
        serials: serial numbers of certificates.
        platforms: machines.
    """

    poll_seconds: int
    measurements: frozenset[bytes] = frozenset()
    slugs: frozenset[str] = frozenset()
    serials: frozenset[int] = frozenset()
    platforms: frozenset[bytes] = frozenset()

    @classmethod
    def from_json(cls, data: bytes) -> DenyList:
        """Read the document.

        Raises:
            Malformed: it is anything else.
        """
        what = "deny list"
        if len(data) > MAX_SIZE:
            raise Malformed("too long", field=what, expected=f"at most {MAX_SIZE} bytes")
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Malformed("not JSON", field=what) from error
        if not isinstance(fields, dict) or fields.keys() != {"poll_seconds", *_LISTS}:
            raise Malformed("wrong fields", field=what, expected=", ".join(_LISTS))
        poll = fields["poll_seconds"]
        if type(poll) is not int or not 0 < poll <= LONGEST_POLL:
            raise Malformed(
                "not a time", field=f"{what}: poll_seconds", expected=f"1 to {LONGEST_POLL}"
            )
        for name in _LISTS:
            values = fields[name]
            if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
                raise Malformed("not a list of strings", field=f"{what}: {name}")
        try:
            return cls(
                poll,
                measurements=frozenset(map(bytes.fromhex, fields["measurements"])),
                slugs=frozenset(fields["slugs"]),
                serials=frozenset(int(text, 16) for text in fields["serials"]),
                platforms=frozenset(map(bytes.fromhex, fields["platforms"])),
            )
        except ValueError as error:
            raise Malformed("not hex digits", field=what) from error

    def to_json(self) -> bytes:
        """Write the document; the same list always gives the same bytes."""
        return json.dumps(
            {
                "poll_seconds": self.poll_seconds,
                "measurements": sorted(value.hex() for value in self.measurements),
                "slugs": sorted(self.slugs),
                "serials": sorted(f"{serial:x}" for serial in self.serials),
                "platforms": sorted(value.hex() for value in self.platforms),
            }
        ).encode()

    def check(self, certified: CertifiedIdentity, serial: int) -> None:
        """Refuse a peer that is denied.

        Args:
            certified: what its certificate says.
            serial: the certificate's serial number.

        Raises:
            Rejected: it is.
        """
        workload = certified.workload
        slug = workload.slug
        found = None
        if serial in self.serials:
            found = "serial number", f"{serial:x}"
        elif workload.measurement in self.measurements:
            found = "measurement", workload.measurement.hex()
        elif workload.platform is not None and workload.platform in self.platforms:
            found = "platform", workload.platform.hex()
        elif slug is not None and not self.slugs.isdisjoint((str(slug), _all_tags(slug))):
            found = "slug", str(slug)
        if found is not None:
            raise Rejected(
                "the steward denies it",
                field=f"the peer's {found[0]}",
                found=found[1],
                expected="none of the steward's deny list",
            )


def _all_tags(slug: Name) -> str:
    return str(slug.repository)
