"""Simulated Nitro enclaves: byte-exact documents, under a simulated AWS.

INSECURE by nature: whoever can read the directory can claim anything. A steward believes it only
where its policy names the simulated root.

`create_insecure` makes the directory: `root.der`, `zone.der`, `instance.der` and `instance.key`
(what a hypervisor would hold), and `simulator.json`. The keys of root and zone are thrown away. As
on AWS each enclave has a key of its own, whose certificate the hypervisor issues for three hours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from garrison.attesters._evidence import check_report_data
from garrison.attesters.cose_insecure import sign
from garrison.attesters.simulator_directory_insecure import (
    LIFETIME,
    begin,
    make,
    process_measurement,
    read,
    read_key,
    registers,
    warn,
    write_key,
)
from garrison.errors import Malformed
from garrison.formats import _cbor
from garrison.formats.cose import Algorithm
from garrison.formats.evidence import Evidence, Tee
from garrison.formats.key_usage import key_usage
from garrison.formats.nitro import MIN_PCRS, NITRO_MEDIA_TYPE, PCR_SIZE
from garrison.formats.snp_certificate import load_certificate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

REGISTERS = tuple(f"PCR{index}" for index in range(MIN_PCRS))
_CHAIN = ("root", "zone", "instance")
# AWS: an enclave's certificate is good for three hours; clocks differ.
_LEAF_LIFETIME = timedelta(hours=3)
_LEAF_BACKDATE = timedelta(minutes=5)
# AWS: each certificate has at most 1 KB.
_MAX_CERTIFICATE = 1024

Keys = Callable[[str], ec.EllipticCurvePrivateKey]


def create_insecure(directory: Path, *, name: str, now: datetime | None = None) -> None:
    """Make the keys and certificates of a simulated AWS, and of one instance.

    Args:
        directory: where to; it must not exist yet, and appears only when it is whole.
        name: what the vendor is called, in its certificates.
        now: when its certificates become valid; None for the time by the clock.

    Raises:
        Misuse: `directory` exists or cannot be made.
    """
    organisation, start = begin(directory, name, now)
    shared: dict[str, Any] = {"organisation": organisation, "start": start, "lifetime": LIFETIME}
    keys = cache(lambda _name: ec.generate_private_key(ec.SECP384R1()))
    files = {
        "root.der": certificate("root", "root", keys, **shared),
        "zone.der": certificate("zone", "root", keys, path_length=1, **shared),
        "instance.der": certificate("instance", "zone", keys, path_length=0, **shared),
        "instance.key": write_key(keys("instance")),
    }
    make(directory, files, tee=Tee.NITRO, name=name, root_key=keys("root").public_key())


@dataclass(frozen=True, slots=True)
class SimulatedNitroInsecure:
    """Makes documents as a security module would, of whatever it is told.

    Attributes:
        key: the simulated hypervisor's key.
        bundle: its certificate's chain, DER, the root's first.
        pcrs: what the registers hold, from 0 on.
        clock: tells the time.
    """

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    bundle: tuple[bytes, ...]
    pcrs: tuple[bytes, ...]
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    tee: Tee = field(default=Tee.NITRO, init=False)
    curve: Literal["P-384"] = field(default="P-384", init=False)

    @classmethod
    def open(cls, directory: Path, measured: Mapping[str, bytes]) -> SimulatedNitroInsecure:
        """Use the directory that `create_insecure` made, and warn.

        Args:
            directory: the directory.
            measured: what to report: registers by the names of `garrison.measure`, all others
                zero.

        Raises:
            Misuse: the directory cannot be read, or there are no such registers.
            Malformed: it holds something else.
        """
        key = read_key(directory / "instance.key", ec.SECP384R1)
        bundle = tuple(read(directory / f"{each}.der", _MAX_CERTIFICATE) for each in _CHAIN)
        if load_certificate(bundle[-1], "instance.der").public_key() != key.public_key():
            raise Malformed(
                "not the certificate of instance.key", field=str(directory / "instance.der")
            )
        found = registers(measured, REGISTERS, PCR_SIZE)
        warn(directory)
        return cls(key, bundle, tuple(found[each] for each in REGISTERS))

    def attest(self, report_data: bytes) -> Evidence:
        """Make a document that is bound to `report_data`, and sign it.

        Raises:
            Misuse: `report_data` does not have 64 bytes.
        """
        check_report_data(report_data)
        now = self.clock()
        enclave = ec.generate_private_key(ec.SECP384R1())
        issuer = load_certificate(self.bundle[-1], "instance.der")
        keys = {"enclave": enclave, "instance": self.key}
        leaf = certificate(
            "enclave",
            "instance",
            keys.__getitem__,
            ca=False,
            organisation=_organisation_of(issuer),
            start=now.replace(microsecond=0) - _LEAF_BACKDATE,
            lifetime=_LEAF_LIFETIME,
        )
        payload = _cbor.encode(
            {
                "module_id": "i-00000000000000000-enc0000000000000000",
                "digest": "SHA384",
                "timestamp": int(now.timestamp() * 1000),
                "pcrs": dict(enumerate(self.pcrs)),
                "certificate": leaf,
                "cabundle": list(self.bundle),
                "public_key": None,
                "user_data": report_data,
                "nonce": None,
            }
        )
        document = sign(payload, enclave, Algorithm.ES384, tagged=False).to_bytes()
        return Evidence(NITRO_MEDIA_TYPE, document)


def process_registers() -> dict[str, bytes]:
    """What a simulator reports of a keep that is a process: in each register the code's digest."""
    measurement = process_measurement()
    return {f"PCR{index}": measurement for index in range(3)}


def certificate(subject: str, issuer: str, keys: Keys, **changes: Any) -> bytes:
    """A certificate, DER.

    Args:
        subject: whose it is: names of `keys`.
        issuer: who issues it.
        keys: the keys.
        changes: `organisation`, `ca`, `path_length`, `start`, `lifetime`, `hash`, `public_key`,
            `signer`, `issuer_name` and `critical`, an extension that nobody knows.
    """
    ca = changes.get("ca", True)
    company = changes.get("organisation")
    start = changes["start"]
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject, company))
        .issuer_name(_name(changes.get("issuer_name", issuer), company))
        .public_key(changes.get("public_key", keys(subject).public_key()))
        .serial_number(int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8], "big") >> 1)
        .not_valid_before(start)
        .not_valid_after(start + changes["lifetime"])
        .add_extension(
            x509.BasicConstraints(ca=ca, path_length=changes.get("path_length")), critical=True
        )
        .add_extension(key_usage(digital_signature=not ca, key_cert_sign=ca), critical=True)
    )
    if "critical" in changes:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
        builder = builder.add_extension(unknown, critical=True)
    signed = builder.sign(keys(changes.get("signer", issuer)), changes.get("hash", hashes.SHA384()))
    return signed.public_bytes(Encoding.DER)


def _organisation_of(certificate: x509.Certificate) -> str:
    found = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if len(found) != 1:
        raise Malformed("not a simulator's", field="instance.der: subject")
    return str(found[0].value)


def _name(common: str, company: str | None) -> x509.Name:
    names = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if company is not None:
        names.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, company))
    return x509.Name(names)
