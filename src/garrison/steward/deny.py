"""What a steward no longer admits, however good its evidence: the `[deny]` section of a policy.

    [deny]
    serials = ["<hex>"]               # certificates that are revoked: they stand in GET /crl
    measurements = ["<hex>"]          # keep images
    chip_ids = ["<hex>"]              # processors of SEV-SNP
    id_key_digests = ["<hex>"]        # of keys that sign identity blocks of SEV-SNP
    slugs = ["drawbridge.example.com/jane/chat:1.0.0", "drawbridge.example.com/jane/old"]
    poll_seconds = 10                 # how soon running keeps ask again (GET /deny)

All may be left out. A slug without a tag stands for every tag. Where chips are denied, evidence
that does not tell its chip is refused too: a host can mask it. Keeps that run already learn of it
within `poll_seconds`, and end their connections with whom it denies.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from garrison.appraisal.result import Check
from garrison.errors import Rejected
from garrison.formats.deny_list import LONGEST_POLL
from garrison.formats.evidence import Tee
from garrison.formats.oci_name import parse_name

if TYPE_CHECKING:
    from garrison.appraisal.result import AttestationResult
    from garrison.formats.oci_name import Name
    from garrison.formats.strict_toml import Table

# RFC 5280, section 4.1.2.2: a serial number has at most 20 bytes, and is positive.
_SERIAL_DIGITS = 40
_SERIAL_BITS = 159
# The longest measurement or chip identifier has 64 bytes.
_MAX_DIGITS = 128
_POLL_SECONDS = 10
_KEY_DIGEST_DIGITS = 96


@dataclass(frozen=True, slots=True)
class Deny:
    """What is denied; nothing, if not told otherwise.

    Attributes:
        serials: serial numbers of certificates that the revocation list names.
        measurements: launch measurements, lower-case hex.
        chip_ids: processors, lower-case hex.
        id_key_digests: keys that sign identity blocks, lower-case hex.
        slugs: workloads, with a tag or, for all tags, without.
        poll_seconds: how soon running keeps ask again.
    """

    serials: tuple[int, ...] = ()
    measurements: tuple[str, ...] = ()
    chip_ids: tuple[str, ...] = ()
    slugs: tuple[str, ...] = ()
    poll_seconds: int = _POLL_SECONDS
    id_key_digests: tuple[str, ...] = ()

    @classmethod
    def from_table(cls, table: Table) -> Deny:
        """Read the section.

        Raises:
            Malformed: it is anything else than shown above.
        """
        serials = _serials(table)
        slugs = table.strings("slugs", [])
        for text in slugs:
            # With a tag in its last part, or without one.
            parse_name(text if ":" in text.rpartition("/")[2] else f"{text}:0.0.0")
        deny = cls(
            serials=serials,
            measurements=_hex(table, "measurements", _MAX_DIGITS),
            chip_ids=_hex(table, "chip_ids", _MAX_DIGITS),
            slugs=tuple(slugs),
            poll_seconds=table.integer("poll_seconds", _POLL_SECONDS, low=1, high=LONGEST_POLL),
            id_key_digests=_hex(table, "id_key_digests", _KEY_DIGEST_DIGITS),
        )
        table.done()
        return deny

    def judge(self, result: AttestationResult) -> AttestationResult:
        """The result with one more check, that failed, if it shows what is denied."""
        try:
            self.check(result, None)
        except Rejected as error:
            denied = Check(
                name="deny list",
                found=error.message if error.found is None else f"{error.field}: {error.found}",
                wanted="nothing that the policy denies",
                passed=False,
                remedy=error.hint,
            )
            return replace(result, checks=(*result.checks, denied))
        return result

    def check(self, result: AttestationResult, slug: Name | None) -> None:
        """Refuse what is denied.

        Args:
            result: what the evidence shows.
            slug: the workload whose name is asked for, if any.

        Raises:
            Rejected: measurement, chip or workload is denied, or the chip is not told.
        """
        measurement = result.measurement.hex()
        if measurement in self.measurements:
            raise _denied("launch measurement", measurement)
        signer = result.claims.get("id_key_digest", "")
        if signer in self.id_key_digests:
            raise _denied("identity key digest", signer)
        if self.chip_ids and result.tee is Tee.SNP:
            # Turin's chips have identifiers of 8 bytes, which reports pad with zeros.
            chip = result.claims.get("chip_id", "")
            if not chip:
                raise Rejected(
                    "the policy denies some chips, and the evidence does not tell which it is",
                    field="chip",
                    found="masked, or signed by a provider's key",
                    expected="a chip identifier",
                    hint="switch masking off on the host, or empty deny.chip_ids",
                )
            if any(_same_chip(chip, denied) for denied in self.chip_ids):
                raise _denied("chip", chip)
        if slug is not None:
            text = str(slug)
            if text in self.slugs or text.rpartition(":")[0] in self.slugs:
                raise _denied("slug", text)


def _same_chip(chip: str, denied: str) -> bool:
    return chip.ljust(_MAX_DIGITS, "0") == denied.ljust(_MAX_DIGITS, "0")


def _denied(field: str, found: str) -> Rejected:
    return Rejected("the policy denies it", field=field, found=found, expected="none under [deny]")


def _hex(table: Table, key: str, most: int) -> tuple[str, ...]:
    values = table.strings(key, [])
    for value in values:
        if len(value) > most or re.fullmatch("(?:[0-9A-Fa-f]{2})+", value) is None:
            raise table.malformed(key, "not hex", expected=f"at most {most} hex digits each")
    return tuple(value.lower() for value in values)


def _serials(table: Table) -> tuple[int, ...]:
    """Numbers, and not bytes: peers and lists tell them without a leading zero."""
    numbers = []
    for text in table.strings("serials", []):
        if len(text) > _SERIAL_DIGITS or re.fullmatch("[0-9A-Fa-f]+", text) is None:
            raise table.malformed(
                "serials", "not hex", expected=f"at most {_SERIAL_DIGITS} hex digits each"
            )
        number = int(text, 16)
        if number == 0 or number.bit_length() > _SERIAL_BITS:
            raise table.malformed(
                "serials", "no certificate has it", expected=f"more than 0, of {_SERIAL_BITS} bits"
            )
        numbers.append(number)
    return tuple(dict.fromkeys(numbers))
