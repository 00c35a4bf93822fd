"""Simulated SGX enclaves and TDX guests: byte-exact quotes, under a simulated Intel.

INSECURE by nature: whoever can read the directory can claim anything. A steward believes it only
where its policy names the simulated root.

`create_insecure` makes the directory: `root.der`, `pck.pem` and `pck.key` (what the provisioning
of a machine would yield), `collateral.json` (what Intel would serve of it, for the steward, and for
`garrison verify --collateral`), and `simulator.json`. The keys of root, intermediate and signer are
thrown away. SGX quotes are of version 3, TDX quotes of version 4 and TDX module 1.5.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from garrison.attesters._evidence import check_report_data
from garrison.attesters.intel_vendor_insecure import (
    PCE_SVN,
    QE_ATTRIBUTES,
    QE_SIGNER,
    QE_SVN,
    InsecureIntel,
    raw_signature,
)
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
from garrison.formats.dcap_bundle import write_bundle
from garrison.formats.dcap_quote import CertificationKind, Header, Quote, SignatureData, TeeType
from garrison.formats.evidence import SGX_MEDIA_TYPE, TDX_MEDIA_TYPE, Evidence, Tee
from garrison.formats.sgx_certificate import PckCertificate, load_chain
from garrison.formats.sgx_report import SgxReport
from garrison.formats.tdx_report import REGISTER_SIZE, RTMRS, TdAttributes, TdReport

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

# The file of a directory that holds the collateral.
COLLATERAL = "collateral.json"
SGX_REGISTERS = ("mrenclave", "mrsigner")
TDX_REGISTERS = ("mrtd", *(f"rtmr{index}" for index in range(RTMRS)))
_SGX_SIZE = 32
# Who would have signed the enclave, which a simulator measures nothing of.
_SIGNER = hashlib.sha256(b"Garrison INSECURE simulator: signer of enclaves").digest()
# SGX: INIT and MODE64BIT; x87, SSE, AVX. TDX: security version, major version, loader; with AMX.
_ATTRIBUTES = bytes.fromhex("0500000000000000e700000000000000")
_TEE_TCB_SVN = bytes((5, 1, 2)).ljust(16, b"\0")
_XFAM = 0x600E7
# Where 32 bytes of the quoting enclave's own choice stand.
_AUTH_SIZE = 32
# A PCK chain has three certificates of some 2 KB.
_MAX_CHAIN = 16 * 1024


def create_insecure(tee: Tee, directory: Path, *, name: str, now: datetime | None = None) -> None:
    """Make the keys and certificates of a simulated Intel, and of one machine.

    Args:
        tee: SGX or TDX: whose collateral it is.
        directory: where to; it must not exist yet, and appears only when it is whole.
        name: what the vendor is called, in its certificates.
        now: when its certificates become valid; None for the time by the clock.

    Raises:
        Misuse: `directory` exists or cannot be made.
    """
    organisation, start = begin(directory, name, now)
    end = start + LIFETIME
    intel = InsecureIntel(
        keys=cache(lambda _name: ec.generate_private_key(ec.SECP256R1())),
        organisation=organisation,
        start=start,
        end=end,
        issued=start,
        expires=end,
        ppid=secrets.token_bytes(16),
    )
    kind = TeeType.SGX if tee is Tee.SGX else TeeType.TDX
    files = {
        "root.der": intel.certificate("root").public_bytes(Encoding.DER),
        "pck.pem": intel.pem("pck", "ca", "root"),
        "pck.key": write_key(intel.keys("pck")),
        COLLATERAL: write_bundle(intel.collateral(kind)),
    }
    make(directory, files, tee=tee, name=name, root_key=intel.keys("root").public_key())


@dataclass(frozen=True, slots=True)
class SimulatedDcapInsecure:
    """Makes quotes as a quoting enclave would, of whatever it is told.

    Attributes:
        tee: SGX or TDX.
        pck_key: the simulated machine's key.
        pck_chain: its certificate's chain, PEM, leaf first.
        body: what it reports, but for the report data.
    """

    tee: Tee
    pck_key: ec.EllipticCurvePrivateKey = field(repr=False)
    pck_chain: bytes = field(repr=False)
    body: SgxReport | TdReport
    curve: Literal["P-256"] = field(default="P-256", init=False)

    @classmethod
    def open(
        cls, tee: Tee, directory: Path, measured: Mapping[str, bytes]
    ) -> SimulatedDcapInsecure:
        """Use the directory that `create_insecure` made, and warn.

        Args:
            tee: SGX or TDX.
            directory: the directory.
            measured: what to report: registers by the names of `garrison.measure`, all others
                zero.

        Raises:
            Misuse: the directory cannot be read, or there are no such registers.
            Malformed: it holds something else.
        """
        key = read_key(directory / "pck.key", ec.SECP256R1)
        chain = read(directory / "pck.pem", _MAX_CHAIN)
        leaf = PckCertificate.from_certificate(load_chain(chain, "pck.pem")[0]).certificate
        if leaf.public_key() != key.public_key():
            raise Malformed("not the certificate of pck.key", field=str(directory / "pck.pem"))
        body = _enclave(measured) if tee is Tee.SGX else _guest(measured)
        warn(directory)
        return cls(tee, key, chain, body)

    def attest(self, report_data: bytes) -> Evidence:
        """Make a quote that is bound to `report_data`, and sign it.

        Raises:
            Misuse: `report_data` does not have 64 bytes.
        """
        check_report_data(report_data)
        body = replace(self.body, report_data=report_data)
        made = quote(
            body,
            3 if self.tee is Tee.SGX else 4,
            pck_key=self.pck_key,
            # A quoting enclave keeps its key; nobody sees a difference.
            attestation_key=ec.generate_private_key(ec.SECP256R1()),
            chain=self.pck_chain + b"\0",
            auth=bytes(range(_AUTH_SIZE)),
        )
        return Evidence(SGX_MEDIA_TYPE if self.tee is Tee.SGX else TDX_MEDIA_TYPE, made)


def process_registers(tee: Tee) -> dict[str, bytes]:
    """What a simulator reports of a keep that is a process: in each register the code's digest."""
    measurement = process_measurement()
    if tee is Tee.SGX:
        return {"mrenclave": measurement[:_SGX_SIZE], "mrsigner": _SIGNER}
    return {"mrtd": measurement} | {f"rtmr{index}": measurement for index in range(RTMRS - 1)}


def _enclave(measured: Mapping[str, bytes]) -> SgxReport:
    found = registers(measured, SGX_REGISTERS, _SGX_SIZE)
    return SgxReport(
        cpu_svn=bytes(16),
        misc_select=bytes(4),
        isv_ext_prod_id=bytes(16),
        attributes=_ATTRIBUTES,
        mr_enclave=found["mrenclave"],
        mr_signer=found["mrsigner"],
        config_id=bytes(64),
        isv_prod_id=0,
        isv_svn=0,
        config_svn=0,
        isv_family_id=bytes(16),
        report_data=bytes(64),
    )


def _guest(measured: Mapping[str, bytes]) -> TdReport:
    found = registers(measured, TDX_REGISTERS, REGISTER_SIZE)
    return TdReport(
        tee_tcb_svn=_TEE_TCB_SVN,
        mr_seam=hashlib.sha384(b"Garrison INSECURE simulator: TDX module").digest(),
        mr_signer_seam=bytes(REGISTER_SIZE),
        seam_attributes=bytes(8),
        td_attributes=int(TdAttributes.SEPT_VE_DISABLE),
        xfam=_XFAM,
        mr_td=found["mrtd"],
        mr_config_id=bytes(REGISTER_SIZE),
        mr_owner=bytes(REGISTER_SIZE),
        mr_owner_config=bytes(REGISTER_SIZE),
        rtmrs=tuple(found[f"rtmr{index}"] for index in range(RTMRS)),
        report_data=bytes(64),
    )


def quote(
    body: SgxReport | TdReport,
    version: int,
    *,
    pck_key: ec.EllipticCurvePrivateKey,
    attestation_key: ec.EllipticCurvePrivateKey,
    chain: bytes,
    auth: bytes,
    qe: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> bytes:
    """A quote of `body`, as the simulated quoting enclave makes it.

    Args:
        body: what it is of.
        version: 3, 4 or 5.
        pck_key: signs the report of the quoting enclave.
        attestation_key: signs the quote.
        chain: of the PCK certificate.
        auth: the quoting enclave's authentication data.
        qe: what to change in its report: fields of `SgxReport`.
        changes: what to change in `SignatureData`.
    """
    enclave = isinstance(body, SgxReport)
    point = attestation_key.public_key().public_bytes(
        Encoding.X962, PublicFormat.UncompressedPoint
    )[1:]
    report = replace(
        _enclave({"mrenclave": b"\xab" * _SGX_SIZE, "mrsigner": QE_SIGNER}),
        isv_prod_id=1,
        isv_svn=QE_SVN,
        attributes=QE_ATTRIBUTES,
        report_data=hashlib.sha256(point + auth).digest().ljust(64, b"\0"),
    )
    signed_report = replace(report, **(qe or {})).to_bytes()
    unsigned = SignatureData(
        signature=bytes(64),
        attestation_key=point,
        qe_report=signed_report,
        qe_signature=raw_signature(pck_key, signed_report),
        qe_auth_data=auth,
        kind=CertificationKind.PCK_CHAIN,
        certification=chain,
    )
    tee, svns = (TeeType.SGX, (QE_SVN, PCE_SVN)) if enclave else (TeeType.TDX, (0, 0))
    made = Quote(Header(version, tee, *svns, bytes(20)), body, unsigned)
    signature = {"signature": raw_signature(attestation_key, made.signed)}
    signed = replace(unsigned, **(signature | dict(changes or {})))
    return replace(made, signature=signed).to_bytes()
