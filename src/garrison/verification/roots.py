"""The roots of trust: the vendors', pinned in `roots.toml`, and simulated ones that were named.

A root that evidence came with is only ever compared with these, by its key: vendors have made
more than one certificate for the same key (Intel's first one ends in 2033, and is in the quotes
of older platforms), and whoever follows a chain checks that the key has signed its root itself.
A simulated root is one whose key the configuration names; whatever it vouches for says so.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Literal

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from garrison.errors import Misuse, Unverified
from garrison.formats.strict_toml import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography import x509

Vendor = Literal["amd", "intel", "aws"]


@dataclass(frozen=True, slots=True)
class Anchor:
    """A trusted root: its name, and whether it is a simulated one, which proves nothing."""

    name: str
    simulated: bool


@dataclass(frozen=True, slots=True)
class Pin:
    """A vendor's root as it was published.

    Attributes:
        name: what results call it.
        vendor: whose it is.
        certificate_sha256: the certificate at `source`, to compare it with; trust is in the key.
        key_sha256: its key (SPKI, DER), which is what is trusted.
        source: where it was published.
    """

    name: str
    vendor: str
    certificate_sha256: str
    key_sha256: str
    source: str


# Each is itself alone: what was found by one set of roots is never taken for another's.
@dataclass(frozen=True, slots=True, eq=False)
class Roots:
    """The roots that are trusted.

    Attributes:
        pins: the vendors'.
        simulated: the simulated ones: SHA-256 of the key (SPKI, DER; lower-case hex), and name.
    """

    pins: tuple[Pin, ...]
    simulated: Mapping[str, str]

    @classmethod
    def load(cls, insecure_simulated: Mapping[str, str] | None = None) -> Roots:
        """The vendors' roots, and the simulated ones that are named.

        Args:
            insecure_simulated: name of each simulated root, and SHA-256 of its key in hex.

        Raises:
            Misuse: two names are given to one key, or a vendor's key is called simulated.
        """
        pins = _pins()
        keys = {pin.key_sha256: pin.name for pin in pins}
        simulated: dict[str, str] = {}
        for name, key in (insecure_simulated or {}).items():
            if key in keys:
                raise Misuse(
                    "the key is already that of another root",
                    field=f"simulated root {name}",
                    found=keys[key],
                )
            keys[key] = simulated[key] = name
        return cls(pins, simulated)

    def anchor(self, certificate: x509.Certificate, vendor: Vendor, field: str) -> Anchor:
        """Find `certificate` among the roots of `vendor` and the simulated ones, by its key.

        That it is signed by that key is for the caller to check, as of any certificate.

        Raises:
            Unverified: it is none of them.
        """
        key = _fingerprint(certificate)
        for pin in self.pins:
            if (pin.vendor, pin.key_sha256) == (vendor, key):
                return Anchor(pin.name, simulated=False)
        if key in self.simulated:
            return Anchor(self.simulated[key], simulated=True)
        raise Unverified(
            "not a trusted root",
            field=field,
            found=f"{certificate.subject.rfc4514_string()}, key SHA-256 {key}",
            expected=", ".join(
                [pin.name for pin in self.pins if pin.vendor == vendor]
                + [f"simulated {name}" for name in self.simulated.values()]
            ),
        )


@lru_cache(64)
def _fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the key of a root, which all evidence of its vendor brings."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def _pins() -> tuple[Pin, ...]:
    data = resources.files(__package__).joinpath("roots.toml").read_bytes()
    document = Table.parse(data, source="roots.toml")
    pins = []
    for table in document.tables("root"):
        pins.append(
            Pin(
                name=table.string("name"),
                vendor=table.string("vendor", choices=("amd", "intel", "aws")),
                certificate_sha256=table.string("certificate_sha256"),
                key_sha256=table.string("key_sha256"),
                source=table.string("source"),
            )
        )
        table.done()
    document.done()
    return tuple(pins)
