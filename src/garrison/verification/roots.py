"""The roots of trust: the vendors', pinned in `roots.toml`, and simulated ones that were named.

A root that evidence came with is only ever compared with these, by its key, and whoever follows a
chain checks that this key has signed the root itself: so a certificate that is not pinned is still
the vendor's own. Certificates are pinned besides, all that are known, each of a pinned key; but
they do not decide. Vendors sign a key anew, and say so nowhere: Intel's root has three certificates
in evidence that is public. To refuse a fourth would refuse what is genuine, and keep nobody out who
has not the root's key already. Which one came is told in each result, as `root_certificate`.

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
    """A trusted root.

    Attributes:
        name: its name.
        simulated: whether it is a simulated one, which proves nothing.
        certificate_sha256: of the certificate that came, of the several that a key may have; hex.
    """

    name: str
    simulated: bool
    certificate_sha256: str


@dataclass(frozen=True, slots=True)
class Pin:
    """A vendor's root as it was published.

    Attributes:
        name: what results call it.
        vendor: whose it is.
        certificates_sha256: all known certificates of the key, the one at `source` first.
        key_sha256: its key (SPKI, DER), which is what is trusted.
        source: where it was published.
    """

    name: str
    vendor: str
    certificates_sha256: tuple[str, ...]
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
        key, whole = _fingerprints(certificate)
        for pin in self.pins:
            if (pin.vendor, pin.key_sha256) == (vendor, key):
                return Anchor(pin.name, simulated=False, certificate_sha256=whole)
        if key in self.simulated:
            return Anchor(self.simulated[key], simulated=True, certificate_sha256=whole)
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
def _fingerprints(certificate: x509.Certificate) -> tuple[str, str]:
    """SHA-256 of the key and of the whole of a root, which all evidence of its vendor brings."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    whole = certificate.public_bytes(Encoding.DER)
    return hashlib.sha256(spki).hexdigest(), hashlib.sha256(whole).hexdigest()


def _pins() -> tuple[Pin, ...]:
    data = resources.files(__package__).joinpath("roots.toml").read_bytes()
    document = Table.parse(data, source="roots.toml")
    pins = []
    for table in document.tables("root"):
        pins.append(
            Pin(
                name=table.string("name"),
                vendor=table.string("vendor", choices=("amd", "intel", "aws")),
                certificates_sha256=tuple(table.strings("certificate_sha256")),
                key_sha256=table.string("key_sha256"),
                source=table.string("source"),
            )
        )
        table.done()
    document.done()
    return tuple(pins)
