"""Fake Nitro enclaves: a root, its chain and their documents, genuine or with any defect."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from garrison.attesters import simulated_nitro_insecure as simulated
from garrison.attesters.cose_insecure import sign
from garrison.formats import _cbor
from garrison.formats.cose import Algorithm
from garrison.verification.roots import Roots

# All chains here are valid at this time, at which the documents are made.
NOW = datetime(2026, 1, 1, tzinfo=UTC)
REPORT_DATA = bytes(range(64))


@cache
def key(name: str, curve: type[ec.EllipticCurve] = ec.SECP384R1) -> ec.EllipticCurvePrivateKey:  # noqa: ARG001 - the name is what the cache goes by
    """The key called `name`, the same in all of the process."""
    return ec.generate_private_key(curve())


def certificate(subject: str, issuer: str, **changes: Any) -> bytes:
    """A certificate, DER; `changes` are those of the simulator's."""
    right = {"start": NOW - timedelta(hours=1), "lifetime": timedelta(hours=3)}
    return simulated.certificate(subject, issuer, key, **(right | changes))


@dataclass(frozen=True, slots=True)
class FakeNitro:
    """A simulated AWS and one enclave.

    Attributes:
        root: what the root's key is called.
        now: when documents are made, and their certificates are valid.
    """

    root: str = "nitro root"
    now: datetime = NOW

    def roots(self) -> Roots:
        """The roots of one who trusts this one as the simulated root `test`."""
        spki = key(self.root).public_key()
        der = spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return Roots.load({"test": hashlib.sha256(der).hexdigest()})

    def chain(self) -> list[bytes]:
        """The certificates, root first, leaf last."""
        start = self.now - timedelta(hours=1)
        return [
            certificate(self.root, self.root, start=start),
            certificate("zone", self.root, path_length=1, start=start),
            certificate("instance", "zone", path_length=0, start=start),
            certificate("enclave", "instance", ca=False, start=start),
        ]

    def document(
        self,
        chain: list[bytes] | None = None,
        *,
        algorithm: Algorithm = Algorithm.ES384,
        signer: ec.EllipticCurvePrivateKey | None = None,
        tagged: bool = False,
        indefinite: bool = False,
        **changes: Any,
    ) -> bytes:
        """A document, signed.

        Args:
            chain: its certificates, if not those of `chain`.
            algorithm: what signs it.
            signer: whose key signs it, if not the enclave's.
            tagged: whether it has its tag.
            indefinite: whether its map has no length, as newer modules write it.
            changes: members to change; None leaves one out.
        """
        *bundle, leaf = chain or self.chain()
        fields = {
            "module_id": "i-0-enc0",
            "digest": "SHA384",
            "timestamp": int(self.now.timestamp() * 1000) - 500,
            "pcrs": {index: bytes([index]) * 48 for index in range(1, 17)} | {0: b"\xab" * 48},
            "certificate": leaf,
            "cabundle": bundle,
            "public_key": b"key",
            "user_data": REPORT_DATA,
            "nonce": b"nonce",
        } | changes
        payload = _cbor.encode({key: value for key, value in fields.items() if value is not None})
        if indefinite:
            payload = b"\xbf" + payload[1:] + b"\xff"
        return sign(payload, signer or key("enclave"), algorithm, tagged=tagged).to_bytes()
